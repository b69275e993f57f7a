// Why the networks say so at one place: scores, maps of the tile, what is alike, and what if a part of it were gone.

import { getJson, postJson } from "./api.js";
import { Brush } from "./brush.js";
import { announce, button, el } from "./dom.js";
import { methodTitle, networkTitle, className, t } from "./texts.js";
import { paintMap, tilePicture } from "./tile_picture.js";
import { coordinates, number, probability } from "./units.js";

const TASKS = ["classifier", "segmenter"];
const MAP_PX = 224;
const PAUSE = 400; // ms after which waiting is worth a word

/** Shows that something is awaited, and for how long already. */
export function waiting(text) {
  const seconds = el("span", { class: "figure" });
  const began = performance.now();
  const element = el("p", { class: "waiting-line", role: "status" }, el("span", { class: "spinner", "aria-hidden": "true" }), text, " ", seconds);
  const timer = setInterval(() => {
    if (!element.isConnected) clearInterval(timer);
    else seconds.textContent = t("seconds", { seconds: Math.round((performance.now() - began) / 1000) });
  }, 500);
  return element;
}

/** The panel on the right. */
export class Why {
  constructor(page) {
    this.page = page;
    this.asked = null;
    this.heading = el("h2", { tabindex: "-1", text: t("why") });
    this.place = el("p", { class: "facts" });
    this.body = el("div", { class: "why-body" });
    this.flashed = el("p", { class: "flash", role: "status", hidden: true });
    page.stage.append(this.flashed);
    this.element = el("aside", { class: "why", "aria-label": t("why.label") },
      el("div", { class: "panel-head" }, this.heading, button("\u00d7", () => page.closeWhy(), { class: "quiet", label: t("why.close"), title: `${t("why.close")} (Esc)` })),
      this.place, this.body);
  }

  get path() {
    return `api/slides/${this.page.facts.id}`;
  }

  focus() {
    this.heading.focus();
  }

  /** Says a line over the slide for a moment. */
  flash(text) {
    this.flashed.textContent = text;
    this.flashed.hidden = false;
    clearTimeout(this.flashing);
    this.flashing = setTimeout(() => (this.flashed.hidden = true), 3500);
  }

  close() {
    this.control?.abort();
    this.asked = null;
    this.body.replaceChildren();
  }

  /** Asks about the tile at a place. */
  async ask(x, y) {
    this.control?.abort();
    const control = (this.control = new AbortController());
    this.asked = { x, y };
    const { page } = this;
    this.place.textContent = coordinates(x, y, page.slide.mpp);
    if (!Object.keys(page.app.session.networks).length) {
      this.body.replaceChildren(el("p", { text: t("why.no_network") }));
      return;
    }
    this.body.replaceChildren(waiting(t("why.waiting")));
    const began = performance.now();
    let answer;
    try {
      answer = await postJson(`${this.path}/explain`, { x, y }, control.signal);
      this.picture = await tilePicture(page.slide, answer.tile, MAP_PX);
    } catch (error) {
      if (error.name !== "AbortError") this.body.replaceChildren(this.problem(error));
      return;
    }
    if (control.signal.aborted) return;
    page.shared.tile = answer.tile;
    page.reveal(answer.tile);
    page.styled();
    this.seconds = (performance.now() - began) / 1000;
    this.show(answer, control.signal);
    if (this.seconds * 1000 > PAUSE) announce(t("why.ready"));
  }

  problem(error) {
    return el("p", { class: "problem", role: "alert", text: `${t("error")}: ${error.message}` });
  }

  show(answer, signal) {
    const { tile, networks } = answer;
    this.place.textContent = `${coordinates(tile.x, tile.y, this.page.slide.mpp)} \u00b7 ${t("why.side", {
      side: number(tile.side * (this.page.slide.mpp || 1)), unit: this.page.slide.mpp ? "\u00b5m" : "px" })}`;
    const tasks = TASKS.filter((task) => networks[task]);
    const signed = tasks.some((task) => networks[task].maps.some((map) => map.signed));
    this.maps = el("div", { class: "maps" });
    this.addMaps(answer, tasks);
    this.body.replaceChildren(
      el("section", { class: "said" }, el("h3", { text: t("why.said") }), ...tasks.map((task) => this.score(task, networks[task]))),
      el("section", {}, el("h3", { text: t("why.maps") }), signed ? el("p", { class: "facts", text: t("why.colours") }) : null, this.maps, this.slow(answer, tasks, signal)),
      new Brush(this.page, this.path, tile, tasks, signal).element,
      this.nearest(tile, signal),
      el("p", { class: "facts", text: t("why.seconds", { seconds: number(this.seconds, 2) }) }),
    );
  }

  score(task, { score, stands_for: standsFor }) {
    const { classes } = this.page.shared;
    const { threshold } = this.page.app.session;
    const called = classes.find((each) => each.key === (score >= threshold ? "tumor" : "non_tumor"));
    return el("div", { class: "score" },
      el("div", { class: "score-line" }, el("span", { text: networkTitle(task, true) }), el("strong", { class: "figure", text: probability(score) })),
      el("div", { class: `meter ${task}`, "aria-hidden": "true" }, el("span", { style: `width:${100 * score}%` }), el("i", { style: `left:${100 * threshold}%` })),
      el("p", { class: "facts", text: t("why.called", { called: className(called) }) }),
      standsFor ? el("p", { class: "facts", text: t("why.stands_for", { number: standsFor[0], all: standsFor[1] }) }) : null);
  }

  /** Adds a row for each method: the tile, and each network's map at the same size. */
  addMaps(answer, tasks) {
    const methods = [...new Set(tasks.flatMap((task) => answer.networks[task].maps.map((map) => map.method)))];
    for (const method of methods) {
      const maps = tasks.map((task) => answer.networks[task].maps.find((map) => map.method === method));
      const r = answer.agreement[method];
      const cells = maps.map((map, i) => this.mapFigure(map, tasks[i]));
      const picture = Object.assign(document.createElement("canvas"), { width: MAP_PX, height: MAP_PX });
      picture.getContext("2d").drawImage(this.picture, 0, 0);
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", t("why.tile"));
      this.maps.append(el("div", { class: "map-row", "data-method": method },
        el("div", { class: "map-head" }, el("h4", { text: methodTitle(method, maps.find(Boolean).title) }),
          tasks.length > 1 && r !== undefined ? el("span", { class: "facts", text: r === null ? t("why.agreement.none") : t("why.agreement", { r: probability(r) }) }) : null),
        el("div", { class: "map-cells" }, el("figure", {}, picture, el("figcaption", { text: t("why.tile") })), ...cells)));
    }
  }

  mapFigure(map, task) {
    const canvas = el("canvas", { role: "img" });
    const caption = el("figcaption", { text: networkTitle(task, true) });
    if (!map) return el("figure", { class: "no-map" }, el("div", { class: "blank" }), caption);
    const values = paintMap(canvas, this.picture, map);
    const most = [...values].reduce((best, value, i) => (Math.abs(value) > Math.abs(values[best]) ? i : best), 0);
    canvas.setAttribute("aria-label", t("why.map.label", {
      method: methodTitle(map.method, map.title), network: networkTitle(task), low: number(map.low, 2), high: number(map.high, 2),
      x: Math.round((100 * ((most % map.width) + 0.5)) / map.width), y: Math.round((100 * (Math.floor(most / map.width) + 0.5)) / map.height),
    }));
    const flat = values.every((value) => value === values[0]);
    const rest = flat ? t("why.map.flat") : map.signed ? `\u00b1${number(map.high, 2)}` : `${number(map.low, 2)} \u2026 ${number(map.high, 2)}`;
    const line = el("span", { class: "figure", text: rest });
    caption.append(line);
    canvas.addEventListener("pointermove", (event) => {
      const x = Math.min(map.width - 1, Math.max(0, Math.floor((event.offsetX / canvas.clientWidth) * map.width)));
      const y = Math.min(map.height - 1, Math.max(0, Math.floor((event.offsetY / canvas.clientHeight) * map.height)));
      line.textContent = number(values[y * map.width + x]);
    });
    canvas.addEventListener("pointerleave", () => (line.textContent = rest));
    return el("figure", {}, canvas, caption);
  }

  /** Makes buttons for the methods that take longer. */
  slow(answer, tasks, signal) {
    const shown = new Set(tasks.flatMap((task) => answer.networks[task].maps.map((map) => map.method)));
    const others = new Map(tasks.flatMap((task) => answer.networks[task].methods).filter((method) => !shown.has(method.name)).map((method) => [method.name, method.title]));
    if (!others.size) return null;
    const line = el("div");
    const part = el("div", { class: "slow" });
    const buttons = [...others].map(([name, title]) => button(methodTitle(name, title), async (event) => {
      const pressed = event.currentTarget;
      pressed.disabled = true;
      line.replaceChildren(waiting(t("why.method.waiting", { method: methodTitle(name, title) })));
      try {
        const more = await postJson(`${this.path}/explain`, { ...this.asked, methods: [name] }, signal);
        line.replaceChildren();
        this.addMaps(more, tasks);
        pressed.remove();
        if (!part.querySelector("button")) part.remove();
        announce(t("why.ready"));
      } catch (error) {
        if (error.name === "AbortError") return;
        line.replaceChildren(this.problem(error));
        pressed.disabled = false;
      }
    }));
    part.append(el("p", { class: "facts", text: t("why.slow") }), el("div", { class: "buttons" }, ...buttons), line);
    return part;
  }

  /** Shows training tiles that the classifier holds for alike, once they are there. */
  nearest(tile, signal) {
    const list = el("ul", { class: "nearest" });
    const section = el("section", {}, el("h3", { text: t("near") }), waiting(t("near.waiting")), list);
    const middle = { x: tile.x + tile.side / 2, y: tile.y + tile.side / 2 };
    getJson(`${this.path}/nearest?x=${middle.x}&y=${middle.y}`, signal).then(({ tiles }) => {
      const { classes } = this.page.shared;
      section.querySelector(".waiting-line").remove();
      list.append(...tiles.map(({ row, slide, label, similarity }) => {
        const name = className(classes.find((each) => each.key === label) ?? { key: label, title: label });
        return el("li", {}, el("img", { src: `tile/${row}.jpg`, alt: t("near.alt", { slide, label: name }), loading: "lazy" }),
          el("span", { class: "near-label", text: name }), el("span", { class: "facts", text: slide }), el("span", { class: "facts", text: t("near.like", { value: probability(similarity) }) }));
      }));
      if (!tiles.length) list.append(el("li", { text: t("near.none") }));
    }).catch((error) => {
      if (error.name !== "AbortError") section.querySelector(".waiting-line").replaceWith(this.problem(error));
    });
    return section;
  }
}
