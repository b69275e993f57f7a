// One slide in one, two or four views that move together, with its layers on the left and the reasons on the right.

import { getJson } from "./api.js";
import { Controls } from "./controls.js";
import { announce, button, el } from "./dom.js";
import { Draw } from "./draw.js";
import { plainStyle, readStyles, slideLink } from "./link.js";
import { readOutlines } from "./outlines.js";
import { slideKeys } from "./slide_keys.js";
import { Squares } from "./squares.js";
import { splitTitle, t } from "./texts.js";
import { coordinates, scaleBar } from "./units.js";
import { View } from "./view.js";
import { Why } from "./why.js";

const COUNTS = [1, 2, 4];

/** Which layers are worth seeing side by side, where a slide has them. */
const PRESETS = {
  networks: [["classifier"], ["segmenter", "segmenter_tiles"]],
  cams: [["classifier_gradcam"], ["classifier_hrcam"]],
  both: [["classifier_gradcam"], ["segmenter_gradcam"]],
  four: [["classifier"], ["segmenter", "segmenter_tiles"], ["classifier_gradcam"], ["classifier_hrcam"]],
};

/** A slide's page. */
export class SlidePage {
  constructor(app, facts, link) {
    Object.assign(this, { app, facts, link });
    this.views = [];
    this.active = this.leader = 0;
    this.linked = link.linked;
    this.last = [null, null]; // where the pointer is
    this.closed = false;
  }

  shows(link) {
    return link.slide === this.facts.id && this.views.length > 0;
  }

  async open() {
    const { app } = this;
    app.main.replaceChildren(el("p", { class: "waiting", text: t("waiting.slide", { name: this.facts.name }) }));
    this.bar();
    app.keys.table = slideKeys(this, COUNTS);
    try {
      this.slide = await getJson(`api/slides/${this.facts.id}`);
    } catch (error) {
      if (this.closed) return;
      app.main.replaceChildren(el("p", { class: "waiting", text: t("slide.unreadable") }));
      app.say(error);
      return;
    }
    if (this.closed) return;
    const onerror = (error) => app.say(error);
    this.shared = {
      slide: this.slide, classes: app.session.classes, outlines: [], outlined: this.link.outlined, tile: null, hidden: false,
      squares: new Squares(this.facts.id, () => this.refresh(), onerror),
    };
    this.grid = el("div", { class: "views" });
    this.scale = el("div", { class: "scale", "aria-hidden": "true" }, el("span", { class: "scale-line" }), el("span", { class: "scale-text" }));
    this.coordinates = el("div", { class: "coordinates" });
    this.stage = el("div", { class: "stage-area" }, this.grid, el("div", { class: "corner" }, this.scale, this.coordinates));
    this.controls = new Controls(this);
    this.why = new Why(this);
    if (app.session.run) this.drawn = new Draw(this);
    this.frame = el("div", { class: "slide-page" }, this.controls.element, this.stage, this.why.element);
    app.main.replaceChildren(this.frame);
    if (this.slide.problems.length) app.say(new Error(this.slide.problems.join("; ")));
    else if (!this.slide.layers.length) announce(t("layers.none"));
    const styles = readStyles(this.link, this.slide);
    this.setViews(styles.length ? styles : [plainStyle(this.first())]);
    if (this.slide.outlined) {
      this.shared.outlines = await readOutlines(this.facts.id, this.shared.classes);
      this.refresh();
    }
  }

  /** What is shown first: classes where there are some, else the first map. */
  first() {
    const { layers } = this.slide;
    return layers.find((layer) => layer.key === "segmenter") ?? layers[0];
  }

  bar() {
    const { slides } = this.app.session;
    const here = slides.findIndex((slide) => slide.id === this.facts.id);
    const step = (by, key, sign) => {
      const other = slides[here + by];
      return el("a", { class: "quiet", href: other ? slideLink(other.id) : null, "aria-label": t(key), title: t(key),
        "aria-disabled": other ? null : "true", role: "link", text: sign });
    };
    const groups = [this.facts.patient, this.facts.split && splitTitle(this.facts.split), ...Object.values(this.facts.groups ?? {})];
    this.counts = el("div", { class: "segments", role: "group", "aria-label": t("views.count") });
    this.app.bar.replaceChildren(
      el("a", { class: "quiet", href: "#", text: t("slide.back") }),
      step(-1, "slide.previous", "\u2190"), step(1, "slide.next", "\u2192"),
      el("h1", { class: "slide-name", text: this.facts.name }),
      el("span", { class: "slide-facts", text: groups.filter(Boolean).join(" \u00b7 ") }),
      this.counts,
      button(t("slide.share"), () => this.share(), { class: "quiet" }),
    );
    this.other = (by) => slides[here + by] && (location.hash = slideLink(slides[here + by].id));
  }

  fillCounts() {
    this.counts.replaceChildren(...COUNTS.map((count) =>
      button(String(count), () => this.setCount(count), { pressed: this.views.length === count, label: t("views.n", { count }) })));
  }

  async share() {
    this.save(true);
    try {
      await navigator.clipboard.writeText(location.href);
      announce(t("slide.shared"));
      this.why.flash(t("slide.shared"));
    } catch {
      this.why.flash(t("slide.share.bar"));
    }
  }

  /** Shows views of these styles, each at the place that is shown now, or at the link's. */
  setViews(styles) {
    const before = this.views[this.active];
    const at = before?.ready ? (before.whole ? null : before.goal) : before ? this.by : this.link.at;
    this.views.forEach((view) => view.close());
    this.active = this.leader = 0;
    this.by = at;
    const hooks = {
      onmove: (view) => this.moved(view), onready: () => this.ready(),
      onclick: (view, x, y) => this.explain(x, y), onhover: (x, y) => this.hover(x, y),
      onactive: (view) => this.activate(this.views.indexOf(view)), onerror: (error) => this.app.say(error),
    };
    this.opened = 0;
    this.views = styles.map((style, i) => new View(this.shared, style, i, hooks));
    this.grid.className = `views views-${styles.length}`;
    this.grid.replaceChildren(...this.views.map((view) => view.element));
    this.views.forEach((view) => view.start());
    this.fillCounts();
    this.activate(0);
    this.drawn?.attach();
  }

  /** Once all views are open they go where the link, or the view before, was. */
  ready() {
    this.opened += 1;
    if (this.opened < this.views.length) return;
    if (this.by) this.views.forEach((view) => view.go(this.by, true));
    this.refresh();
    if (this.link.tile && !this.why.asked) this.explain(this.link.tile.x, this.link.tile.y);
  }

  setCount(count) {
    const styles = this.views.map((view) => view.style);
    const { layers } = this.slide;
    while (styles.length < count) {
      const used = styles.map((style) => style.layer);
      const free = layers.find((layer) => !used.includes(layer.key));
      styles.push(plainStyle(free, styles[0]));
    }
    this.setViews(styles.slice(0, count));
  }

  /** Lists the presets that this slide has the layers for: [name, layers]. */
  presets() {
    return Object.entries(PRESETS).map(([name, choices]) => [
      name, choices.map((keys) => keys.map((key) => this.slide.layers.find((layer) => layer.key === key)).find(Boolean)),
    ]).filter(([, layers]) => layers.every(Boolean));
  }

  activate(number) {
    this.active = this.leader = number;
    this.views.forEach((view, i) => view.element.classList.toggle("active", i === number && this.views.length > 1));
    this.controls.show();
  }

  get view() {
    return this.views[this.active];
  }

  moved(view) {
    if (this.linked && view === this.views[this.leader]) {
      for (const other of this.views) if (other !== view && other.ready) other.follow(view);
    }
    if (view !== this.view) return;
    const mpp = this.slide.mpp;
    const [pixels, text] = scaleBar((mpp || 1) / view.frame.scale);
    this.scale.firstChild.style.width = `${pixels}px`;
    this.scale.lastChild.textContent = mpp ? text : text.replace(/\D+$/, " px");
    if (this.byKey) this.read();
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.save(), 250);
  }

  hover(x, y) {
    this.last = [x, y];
    if (x !== null) this.setByKey(false);
    this.read();
  }

  /** After a key the middle of the view is what is read, after the pointer has moved its place. */
  setByKey(byKey) {
    this.byKey = byKey;
    this.grid.classList.toggle("by-key", byKey);
  }

  read() {
    if (!this.view?.ready) return;
    const { x, y } = this.view.goal;
    const at = this.byKey ? [x, y] : this.last;
    for (const view of this.views) view.read(...at);
    const [width, height] = this.slide.levels[0];
    const within = at[0] !== null && at[0] >= 0 && at[1] >= 0 && at[0] < width && at[1] < height;
    const kind = this.slide.layers.find((layer) => layer.kind === "class");
    const called = within && kind && !this.shared.hidden ? ` \u00b7 ${this.view.describe(kind, ...at)}` : "";
    this.coordinates.textContent = within ? coordinates(...at, this.slide.mpp) + called : "";
    clearTimeout(this.telling);
    // who moves by keys may not see where to: what is in the middle is said once the view rests
    if (this.byKey) this.telling = setTimeout(() => announce(`${this.view.title.textContent} ${this.view.value.textContent} ${this.coordinates.textContent}`), 700);
  }

  /** Draws all views again before the next frame. */
  refresh() {
    if (this.drawing) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = 0;
      if (this.closed) return;
      this.views.forEach((view) => view.draw());
      this.read();
    });
  }

  /** After a style was changed. */
  styled() {
    this.refresh();
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.save(), 250);
  }

  choose(layer) {
    this.view.style = plainStyle(layer, this.view.style);
    this.controls.show();
    this.styled();
    announce(layer ? this.controls.titleOf(layer) : t("layer.none"));
  }

  setHidden(hidden) {
    if (!this.shared || this.shared.hidden === hidden) return;
    this.shared.hidden = hidden;
    this.controls.sync();
    this.views.forEach((view) => view.draw());
  }

  setOutlined(outlined) {
    this.shared.outlined = outlined;
    this.controls.sync();
    this.styled();
  }

  explain(x, y) {
    const [width, height] = this.slide.levels[0];
    if (this.drawn?.on || x < 0 || y < 0 || x >= width || y >= height) return;
    this.frame.classList.add("with-why");
    this.why.ask(x, y);
  }

  /** Moves the views so that a tile is seen. */
  reveal(tile) {
    const [x, y] = [tile.x + tile.side / 2, tile.y + tile.side / 2];
    const [left, top] = this.view.place(0, 0);
    const [right, bottom] = this.view.place(this.view.stage.clientWidth, this.view.stage.clientHeight);
    if (x < left || y < top || x > right || y > bottom) this.view.go({ ...this.view.goal, x, y });
  }

  closeWhy() {
    if (!this.frame?.classList.contains("with-why")) return;
    this.frame.classList.remove("with-why");
    this.why.close();
    this.shared.tile = null;
    this.styled();
    this.focusView();
  }

  focusView() {
    this.view?.osd?.canvas.focus({ preventScroll: true });
  }

  /** Writes what is seen into the address. */
  save() {
    if (this.closed || !this.view?.ready) return;
    history.replaceState(null, "", slideLink(this.facts.id, {
      at: this.view.goal, tile: this.why.asked, styles: this.views.map((view) => view.style),
      outlined: this.shared.outlined, linked: this.linked,
    }));
  }

  /** Shows what another link to this slide shares. */
  restore(link) {
    this.link = link;
    this.linked = link.linked;
    this.shared.outlined = link.outlined;
    this.closeWhy();
    this.views.forEach((view) => view.close());
    this.views = [];
    const styles = readStyles(link, this.slide);
    this.setViews(styles.length ? styles : [plainStyle(this.first())]);
  }

  close() {
    this.closed = true;
    this.drawn?.close();
    clearTimeout(this.saving);
    clearTimeout(this.telling);
    this.why?.close();
    this.views.forEach((view) => view.close());
    this.views = [];
  }
}
