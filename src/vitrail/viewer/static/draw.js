// Outlines drawn and corrected: polygons, a brush that adds or takes away, regions of the network's map of classes.
//
// Drawn on a canvas of its own, not by a library of annotations: outlines have holes and many parts, a brush needs exact
// unions and differences, and corners that nobody touched must stay to the last bit. The geometry is the server's.

import { getJson, postJson } from "./api.js";
import { announce, button, el, field } from "./dom.js";
import { readOutlines } from "./outlines.js";
import { className, language, t } from "./texts.js";
import { number } from "./units.js";

const TOOLS = { select: "s", polygon: "p", brush: "b", erase: "e", magic: "m" };
const CLASSES = { t: "tumor", n: "non_tumor" };
const KEPT = new Set(["layer", "nolayer", "hide", "contour", "left", "right", "up", "down", "in", "out", "fit", "panel", "keys"].map((name) => `key.${name}`));
const NEAR = 8; // pixels of the screen within which two places are the same
const MOST_HISTORY = 200;
const MOST_STROKE = 1500; // points of a brush
const ZOOM = 1.2;

const round = (value) => Math.round(value * 100) / 100;
const polygonsOf = ({ type, coordinates }) => (type === "Polygon" ? [coordinates] : coordinates);

/** Drawing on a slide's page. */
export class Draw {
  constructor(page) {
    Object.assign(this, { page, on: false, tool: "polygon", label: "tumor", selected: null, corners: [], stroke: null, at: null });
    this.key = `vitrail.outlines.${page.app.session.title}.${page.facts.id}`;
    this.path = `api/slides/${page.facts.id}`;
    this.paths = new WeakMap();
    this.work = Promise.resolve();
    this.canvas = el("canvas", { class: "draw-canvas", "aria-hidden": "true" });
    this.listen();
    this.opener = button(t("draw"), () => this.toggle(), { class: "quiet", pressed: false, title: t("draw.open") });
    page.app.bar.append(this.opener);
    this.pageKeys = page.app.keys.table;
    this.pageKeys.splice(-1, 0, { keys: ["d"], shown: ["d"], text: "key.draw", once: true, down: () => this.toggle() });
    this.redraw = () => this.draw();
  }

  get features() {
    return this.history[this.now];
  }

  toggle() {
    if (this.on) this.leave();
    else this.enter();
  }

  async enter() {
    const { page } = this;
    if (this.on || !page.view?.ready) return;
    page.closeWhy();
    let read;
    try {
      read = await getJson(`${this.path}/outlines`);
    } catch (error) {
      page.app.say(error);
      return;
    }
    if (this.on || page.closed) return;
    this.on = true;
    const drawn = read.features.filter(({ properties }) => !properties.found); // tissue outside them follows from them
    this.history = [drawn.map(({ properties, geometry }) => ({ class: properties.class, geometry }))];
    this.now = this.saved = 0;
    this.selected = null;
    this.radius ??= round(0.03 * Math.min(...page.slide.levels[0]));
    page.shared.drawn = true; // they are drawn here
    if (page.views.length > 1) page.setCount(1);
    this.panel = this.makePanel();
    page.why.element.hidden = true;
    page.frame.append(this.panel);
    page.frame.classList.add("with-why");
    page.app.keys.table = [...this.ownKeys(), ...this.pageKeys.filter((entry) => KEPT.has(entry.text))];
    this.opener.setAttribute("aria-pressed", "true");
    this.attach();
    page.refresh();
    this.offerDraft();
    announce(this.state.textContent);
  }

  /** Shows the outlines as they are saved. */
  leave() {
    const { page } = this;
    this.close();
    this.panel.remove();
    page.why.element.hidden = false;
    page.frame.classList.remove("with-why");
    page.app.keys.table = this.pageKeys;
    this.opener.setAttribute("aria-pressed", "false");
    page.focusView();
    readOutlines(page.facts.id, page.shared.classes).then((outlines) => {
      Object.assign(page.shared, { outlines, drawn: this.on });
      page.refresh();
    }).catch((error) => page.app.say(error));
  }

  close() {
    this.on = false;
    this.corners = [];
    this.stroke = null;
    this.view?.osd?.removeHandler("update-viewport", this.redraw);
    this.canvas.remove();
  }

  /** Lies over the view that is shown now. */
  attach() {
    if (!this.on) return;
    this.view?.osd?.removeHandler("update-viewport", this.redraw);
    this.view = this.page.views[0];
    this.view.element.append(this.canvas);
    this.view.osd.addHandler("update-viewport", this.redraw);
    this.draw();
  }

  makePanel() {
    const { page } = this;
    const labelled = (key, text, action, more = {}) => el("button", { type: "button", onclick: action, ...more }, el("kbd", { text: key }), ` ${text}`);
    const classed = (name) => className(page.shared.classes.find((each) => each.key === name));
    this.titleOf = classed;
    this.labels = new Map(Object.entries(CLASSES).map(([key, name]) => [name, labelled(key, classed(name), () => this.setLabel(name), { "aria-pressed": "false" })]));
    const able = page.slide.layers.some((layer) => layer.key === "classes");
    this.tools = new Map(Object.entries(TOOLS).map(([name, key]) => [name, labelled(key, t(`draw.tool.${name}`), () => this.setTool(name), { "aria-pressed": "false", disabled: name === "magic" && !able })]));
    this.hint = el("p", { class: "facts" });
    this.slider = el("input", { type: "range", min: 0, max: 100, oninput: () => this.setRadius(this.largest * (Number(this.slider.value) / 100) ** 2 || 1) });
    this.output = el("output", { class: "figure" });
    this.undoButton = labelled("z", t("draw.undo"), () => this.step(-1));
    this.redoButton = labelled("y", t("draw.redo"), () => this.step(1));
    this.deleteButton = labelled("Del", t("draw.delete"), () => this.remove());
    this.saveButton = labelled("w", t("draw.save"), () => this.save(), { class: "primary" });
    this.state = el("p", { class: "facts draw-state" });
    this.message = el("p", { class: "draw-message", role: "status" });
    this.draft = el("div", { class: "draft", hidden: true });
    const panel = el("aside", { class: "why draw-panel", "aria-label": t("draw.label") },
      el("div", { class: "panel-head" }, el("h2", { text: t("draw") }), button("\u00d7", () => this.leave(), { class: "quiet", label: t("draw.close"), title: t("draw.close") })),
      this.draft,
      el("section", {}, el("h3", { text: t("draw.class") }), el("div", { class: "buttons", role: "group", "aria-label": t("draw.class") }, ...this.labels.values())),
      el("section", {}, el("h3", { text: t("draw.tools") }), el("div", { class: "tools", role: "group", "aria-label": t("draw.tools") }, ...this.tools.values()),
        this.hint, el("p", { class: "facts", text: t("draw.hint.pan") }), field(t("draw.radius"), this.slider, this.output)),
      el("section", {}, this.state, el("div", { class: "buttons" }, this.undoButton, this.redoButton, this.deleteButton)),
      el("section", {}, el("div", { class: "buttons" }, this.saveButton), this.message));
    this.panel = panel;
    this.setRadius(this.radius);
    this.sync();
    return panel;
  }

  get largest() {
    return 0.25 * Math.min(...this.page.slide.levels[0]);
  }

  /** Shows what is chosen and what can be done. */
  sync() {
    for (const [name, each] of this.labels) each.setAttribute("aria-pressed", String(name === this.label));
    for (const [name, each] of this.tools) each.setAttribute("aria-pressed", String(name === this.tool));
    this.hint.textContent = t(`draw.hint.${this.tool}`);
    this.undoButton.disabled = this.now === 0;
    this.redoButton.disabled = this.now === this.history.length - 1;
    this.deleteButton.disabled = !this.selected;
    this.saveButton.disabled = this.now === this.saved;
    const count = this.features.length;
    this.state.textContent = this.selected ? t("draw.state.selected", { count, name: this.titleOf(this.selected.class) }) : t("draw.state", { count });
    this.draw();
  }

  say(text, isProblem = false) {
    this.message.textContent = text;
    this.message.classList.toggle("problem", isProblem);
  }

  setTool(name) {
    if (this.tools.get(name).disabled) return;
    this.tool = name;
    this.corners = [];
    this.sync();
    announce(t(`draw.tool.${name}`));
  }

  /** Sets the class of what is drawn next, and of what is selected. */
  setLabel(name) {
    this.label = name;
    const before = this.selected;
    if (before && before.class !== name) {
      this.then(async () => {
        const own = { ...before, class: name };
        const after = await this.without(this.under(before.geometry, name), before.geometry);
        this.replace(this.features, after.set(before, own), own);
      });
    } else this.sync();
    announce(this.titleOf(name));
  }

  setRadius(radius) {
    const mpp = this.page.slide.mpp;
    this.radius = Math.max(1, Math.min(this.largest, radius));
    this.slider.value = String(100 * Math.sqrt(this.radius / this.largest));
    this.output.textContent = `${number(this.radius * (mpp || 1), 2)} ${mpp ? "\u00b5m" : "px"}`;
    this.slider.setAttribute("aria-valuetext", this.output.textContent);
    this.draw();
  }

  /** Takes further outlines; those of before can be brought back. */
  change(features, selected) {
    this.history = [...this.history.slice(0, this.now + 1), features].slice(-MOST_HISTORY);
    if (this.saved > this.now) this.saved = -1; // what was saved cannot be reached any more
    this.saved -= this.now + 2 - this.history.length; // the oldest may have been dropped
    this.now = this.history.length - 1;
    this.selected = selected;
    this.say("");
    this.remember();
    this.sync();
  }

  step(by) {
    if (this.corners.length && by < 0) {
      this.corners = this.corners.slice(0, -1);
      this.draw();
      return;
    }
    if (!this.history[this.now + by]) return;
    this.now += by;
    this.selected = null;
    this.say("");
    this.remember();
    this.sync();
  }

  remove() {
    if (this.selected) this.change(this.features.filter((each) => each !== this.selected), null);
  }

  /** Keeps what is not saved in the browser, until it is. */
  remember() {
    try {
      if (this.now === this.saved) localStorage.removeItem(this.key);
      else localStorage.setItem(this.key, JSON.stringify({ time: Date.now(), features: this.features }));
    } catch {
      this.say(t("draw.draft.none"), true); // its memory is full, or closed
    }
  }

  offerDraft() {
    const text = localStorage.getItem(this.key);
    if (!text) return;
    const { time, features } = JSON.parse(text);
    const done = (action) => () => {
      this.draft.hidden = true;
      action();
    };
    const restore = button(t("draw.draft.restore"), done(() => this.change(features, null)), { class: "primary" });
    this.draft.replaceChildren(el("p", { text: t("draw.draft", { time: new Date(time).toLocaleString(language()) }) }),
      el("div", { class: "buttons" }, restore, button(t("draw.draft.discard"), done(() => localStorage.removeItem(this.key)))));
    this.draft.hidden = false;
    restore.focus();
  }

  async save() {
    await this.work;
    if (this.now === this.saved) return;
    const { now } = this;
    const features = this.features.map(({ class: label, geometry }) => ({ type: "Feature", properties: { class: label }, geometry }));
    try {
      const { version } = await postJson(`${this.path}/outlines`, { features });
      this.saved = now;
      this.remember();
      this.sync();
      this.say(t("draw.saved", { version }));
    } catch (error) {
      this.say(`${t("error")}: ${error.message}`, true);
    }
  }

  /** Does one thing after the other: each needs the outlines that the one before has left. */
  then(action) {
    this.work = this.work.then(action).catch((error) => this.say(`${t("error")}: ${error.message}`, true));
    return this.work;
  }

  async combine(outline, drawn, radius, by = "add") {
    return (await postJson(`${this.path}/combine`, { outline, drawn, radius, by })).geometry;
  }

  /** Takes an area in, as a part of `grown` or an outline of its own; it is taken from outlines of the other class. */
  async put(geometry, grown = null) {
    if (!geometry.coordinates.length) {
      this.say(t("draw.nothing"), true);
      return;
    }
    const { label } = this;
    const own = { class: label, geometry: grown ? await this.combine(grown.geometry, geometry) : geometry };
    const after = await this.without(this.under(geometry, label), geometry);
    if (grown) after.set(grown, own);
    else after.set(own, own);
    this.replace(grown ? this.features : [...this.features, own], after, own);
  }

  /** Returns the outlines of the other class that may lie under an area. */
  under(geometry, label) {
    const reach = bounds(geometry);
    return this.features.filter((each) => each.class !== label && overlap(bounds(each.geometry), reach));
  }

  /** Returns outlines without what was drawn, by what they were. */
  async without(outlines, drawn, radius = 0) {
    const after = new Map();
    for (const each of outlines) after.set(each, { ...each, geometry: await this.combine(each.geometry, drawn, radius, "subtract") });
    return after;
  }

  /** Puts others in the place of some outlines; empty ones go. */
  replace(features, after, selected) {
    const next = features.map((each) => after.get(each) ?? each).filter((each) => each.geometry.coordinates.length);
    this.change(next, next.includes(selected) ? selected : null);
  }

  finishPolygon() {
    const corners = this.corners;
    this.corners = [];
    this.draw();
    if (corners.length >= 3) this.then(async () => this.put(await this.combine(null, corners, 0)));
  }

  finishStroke() {
    const { stroke, radius, tool } = this;
    this.stroke = null;
    if (!stroke) return;
    this.then(async () => {
      if (tool === "brush") {
        const grown = this.selected?.class === this.label ? this.selected : null;
        await this.put(await this.combine(null, stroke, radius), grown);
        return;
      }
      const [left, top, right, bottom] = extremes(stroke);
      const reach = [left - radius, top - radius, right + radius, bottom + radius];
      const touched = this.selected ? [this.selected] : this.features.filter((each) => overlap(bounds(each.geometry), reach));
      const after = await this.without(touched, stroke, radius);
      if (touched.length) this.replace(this.features, after, after.get(this.selected));
      else this.draw();
    });
  }

  /** Uses the tool at a place of the slide. */
  act(x, y) {
    const place = [round(x), round(y)];
    this.say("");
    if (this.tool === "select") {
      const context = this.canvas.getContext("2d");
      context.setTransform(1, 0, 0, 1, 0, 0);
      const over = this.features.filter((each) => context.isPointInPath(this.pathOf(each.geometry), x, y, "evenodd"));
      this.selected = over.sort((a, b) => extent(a.geometry) - extent(b.geometry))[0] ?? null;
      if (this.selected) this.label = this.selected.class;
      this.sync();
      announce(this.state.textContent);
    } else if (this.tool === "polygon") {
      const near = (other) => other && Math.hypot(other[0] - place[0], other[1] - place[1]) * this.view.frame.scale < NEAR;
      if (this.corners.length > 2 && near(this.corners[0])) this.finishPolygon();
      else if (!near(this.corners.at(-1))) this.corners = [...this.corners, place];
      this.draw();
    } else if (this.tool === "magic") {
      this.then(async () => this.put((await getJson(`${this.path}/region?x=${place[0]}&y=${place[1]}`)).geometry));
    } else {
      this.stroke = [...(this.stroke ?? []), place];
      this.draw();
    }
  }

  /** Uses the tool in the middle of the view. */
  actInMiddle() {
    this.page.setByKey(true);
    const { x, y } = this.view.goal;
    this.act(x, y);
    this.finishStroke();
  }

  selectNext() {
    const next = (this.features.indexOf(this.selected) + 1) % Math.max(this.features.length, 1);
    this.selected = this.features[next] ?? null;
    if (this.selected) {
      this.label = this.selected.class;
      const [x, y] = polygonsOf(this.selected.geometry)[0][0][0];
      this.view.go({ ...this.view.goal, x, y });
    }
    this.sync();
    announce(this.state.textContent);
  }

  cancel() {
    if (this.corners.length) this.corners = [];
    else if (this.selected) this.selected = null;
    else {
      this.leave();
      return;
    }
    this.sync();
  }

  ownKeys() {
    const pressed = () => document.activeElement?.matches("button, a, summary");
    return [
      { keys: Object.values(TOOLS), shown: Object.values(TOOLS), text: "key.draw.tool", once: true, down: (key) => this.setTool(Object.keys(TOOLS).find((name) => TOOLS[name] === key)) },
      { keys: Object.keys(CLASSES), shown: Object.keys(CLASSES), text: "key.draw.class", once: true, down: (key) => this.setLabel(CLASSES[key]) },
      { keys: [" "], shown: [t("key.space")], text: "key.draw.act", down: () => (pressed() ? document.activeElement.click() : this.actInMiddle()) },
      { keys: ["Enter"], shown: ["Enter"], text: "key.draw.finish", once: true, down: () => this.finishPolygon() },
      { keys: ["x"], shown: ["x"], text: "key.draw.next", down: () => this.selectNext() },
      { keys: ["Delete", "Backspace"], shown: ["Del"], text: "key.draw.delete", once: true, down: () => this.remove() },
      { keys: ["j", "["], shown: ["j"], text: "key.draw.smaller", down: () => this.setRadius(this.radius / 1.15) },
      { keys: ["k", "]"], shown: ["k"], text: "key.draw.larger", down: () => this.setRadius(this.radius * 1.15) },
      { keys: ["z"], shown: ["z"], text: "key.draw.undo", down: () => this.step(-1) },
      { keys: ["y"], shown: ["y"], text: "key.draw.redo", down: () => this.step(1) },
      { keys: ["w"], shown: ["w"], text: "key.draw.save", once: true, down: () => this.save() },
      { keys: ["Escape"], shown: ["Esc"], text: "key.draw.cancel", once: true, down: () => this.cancel() },
      { keys: ["d"], shown: ["d"], text: "key.draw.leave", once: true, down: () => this.leave() },
    ];
  }

  listen() {
    const { canvas } = this;
    const place = (event) => this.view.place(event.offsetX, event.offsetY);
    canvas.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.page.focusView();
      canvas.setPointerCapture(event.pointerId);
      if (event.button !== 0) this.panning = [event.clientX, event.clientY];
      else this.act(...place(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.panning) {
        const { viewport } = this.view.osd;
        const moved = new OpenSeadragon.Point(this.panning[0] - event.clientX, this.panning[1] - event.clientY);
        viewport.panBy(viewport.deltaPointsFromPixels(moved), true);
        this.panning = [event.clientX, event.clientY];
        return;
      }
      this.at = place(event);
      this.page.hover(...this.at);
      const last = this.stroke?.at(-1);
      if (last && Math.hypot(last[0] - this.at[0], last[1] - this.at[1]) > this.radius / 4) this.stroke.push(this.at.map(round));
      if (this.stroke?.length >= MOST_STROKE) { // what the server takes at once; it goes on from there
        this.finishStroke();
        this.stroke = [last];
      }
      this.draw();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => {
        this.panning = null;
        this.finishStroke();
      });
    }
    canvas.addEventListener("pointerleave", () => {
      this.at = null;
      this.draw();
    });
    canvas.addEventListener("dblclick", () => this.finishPolygon());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { viewport } = this.view.osd;
      viewport.zoomBy(event.deltaY < 0 ? ZOOM : 1 / ZOOM, viewport.pointFromPixel(new OpenSeadragon.Point(event.offsetX, event.offsetY)));
      viewport.applyConstraints();
    }, { passive: false });
  }

  pathOf(geometry) {
    let path = this.paths.get(geometry);
    if (path) return path;
    path = new Path2D();
    for (const ring of polygonsOf(geometry).flat()) {
      ring.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
      path.closePath();
    }
    this.paths.set(geometry, path);
    return path;
  }

  /** Draws all outlines, and what is being drawn. */
  draw() {
    if (!this.on || !this.view?.ready || !this.canvas.isConnected) return;
    const { canvas, view } = this;
    const ratio = window.devicePixelRatio || 1;
    const size = { width: Math.round(view.stage.clientWidth * ratio), height: Math.round(view.stage.clientHeight * ratio) };
    if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (this.page.shared.hidden) return;
    const { x, y, scale } = view.frame;
    context.setTransform(scale * ratio, 0, 0, scale * ratio, x * ratio, y * ratio);
    const px = 1 / scale; // a pixel of the screen
    const rgbOf = (name) => this.page.shared.classes.find((each) => each.key === name).rgb.join(" ");
    const line = (path, rgb, width, dashed = false) => {
      context.setLineDash([]);
      context.lineWidth = (width + 2) * px;
      context.strokeStyle = "rgb(255 255 255 / 0.8)";
      context.stroke(path);
      if (dashed) context.setLineDash([9 * px, 5 * px]);
      context.lineWidth = width * px;
      context.strokeStyle = `rgb(${rgb})`;
      context.stroke(path);
      context.setLineDash([]);
    };
    for (const each of this.features) {
      const path = this.pathOf(each.geometry);
      context.fillStyle = `rgb(${rgbOf(each.class)} / ${each === this.selected ? 0.25 : 0.08})`;
      context.fill(path, "evenodd");
      line(path, rgbOf(each.class), each === this.selected ? 4 : 2, each.class !== "tumor");
    }
    const rgb = rgbOf(this.label);
    if (this.corners.length) {
      const path = new Path2D();
      this.corners.forEach(([left, top], i) => (i ? path.lineTo(left, top) : path.moveTo(left, top)));
      if (this.at) path.lineTo(...this.at);
      line(path, rgb, 2);
      for (const [left, top] of this.corners) {
        context.fillStyle = "#ffffff";
        context.strokeStyle = "#101418";
        context.lineWidth = 1.5 * px;
        context.beginPath();
        context.rect(left - 4 * px, top - 4 * px, 8 * px, 8 * px);
        context.fill();
        context.stroke();
      }
    }
    const isBrush = this.tool === "brush" || this.tool === "erase";
    if (this.stroke) {
      context.lineCap = context.lineJoin = "round";
      context.lineWidth = 2 * this.radius;
      context.strokeStyle = this.tool === "brush" ? `rgb(${rgb} / 0.4)` : "rgb(255 255 255 / 0.6)";
      context.beginPath();
      const [first] = this.stroke;
      context.moveTo(...first);
      for (const each of [first, ...this.stroke]) context.lineTo(...each);
      context.stroke();
    }
    if (isBrush && this.at) {
      const circle = new Path2D();
      circle.arc(...this.at, this.radius, 0, 2 * Math.PI);
      line(circle, "16 20 24", 1.5, this.tool === "erase");
    }
  }
}

/** Returns left, top, right and bottom of places. */
function extremes(places) {
  return places.reduce(([l, o, r, u], [x, y]) => [Math.min(l, x), Math.min(o, y), Math.max(r, x), Math.max(u, y)], [Infinity, Infinity, -Infinity, -Infinity]);
}

const bounds = (geometry) => extremes(polygonsOf(geometry).flat(2));

const overlap = (one, other) => one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];

function extent(geometry) {
  const [left, top, right, bottom] = bounds(geometry);
  return (right - left) * (bottom - top);
}
