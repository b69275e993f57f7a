// All slides: small pictures with the truth, what the networks say, and how often they are wrong or differ.

import { reason } from "./api.js";
import { button, el, field } from "./dom.js";
import { slideLink } from "./link.js";
import { networkTitle, splitTitle, t } from "./texts.js";
import { percent } from "./units.js";

const TASKS = ["classifier", "segmenter"];
const share = (part, whole) => (whole ? part / whole : 0);
const most = (value) => (a, b) => value(b) - value(a);

/** Ways to sort, by name; the slides come in the session's order. */
const ORDERS = {
  session: null,
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
  wrong: most((s) => share(Math.max(...TASKS.map((task) => s[`${task}_wrong`] ?? 0)), s.tiles)),
  disagree: most((s) => share(s.disagree ?? 0, s.tiles)),
  tumor: most((s) => share(s.tumor_tiles ?? 0, s.tiles)),
};

/** What may be filtered for, by name. */
const ERRORS = {
  any: () => true,
  wrong: (s) => TASKS.some((task) => s[`${task}_wrong`] > 0),
  both: (s) => TASKS.every((task) => s[`${task}_wrong`] > 0),
  disagree: (s) => s.disagree > 0,
  right: (s) => s.tiles > 0 && TASKS.every((task) => !s[`${task}_wrong`]),
};

/** The wall. */
export class Wall {
  constructor(app, link) {
    this.app = app;
    this.slides = app.session.slides;
    this.asked = Object.fromEntries(link.values);
    delete this.asked.slide;
  }

  async open() {
    this.count = el("p", { class: "count", role: "status" });
    this.grid = el("ul", { class: "wall" });
    const filters = this.filters();
    this.app.main.replaceChildren(
      el("div", { class: "wall-page" },
        el("div", { class: "wall-head" }, el("h1", { text: t("wall.title") }), this.count), filters, this.grid));
    this.app.keys.table = [
      { keys: ["/"], shown: ["/"], text: "key.search", down: () => this.search.focus() },
      { keys: ["Escape"], shown: ["Esc"], text: "key.clear", down: () => this.clear() },
      { keys: ["?"], shown: ["?"], text: "key.keys", down: () => this.app.keys.show() },
    ];
    this.cards = new Map(this.slides.map((slide) => [slide.id, this.card(slide)]));
    this.fill();
  }

  shows() {
    return false;
  }

  close() {}

  choice(name, text, options) {
    const select = el("select", { onchange: () => this.ask(name, select.value) },
      ...options.map(([value, label]) => el("option", { value, text: label, selected: value === (this.asked[name] ?? options[0][0]) })));
    return field(text, select);
  }

  filters() {
    this.search = el("input", { type: "search", value: this.asked.q ?? "", placeholder: t("wall.search.hint"),
      oninput: () => this.ask("q", this.search.value) });
    const parts = [field(t("wall.search"), this.search)];
    const splits = [...new Set(this.slides.map((slide) => slide.split).filter(Boolean))];
    if (splits.length) parts.push(this.choice("split", t("wall.split"), [["", t("all")], ...splits.map((each) => [each, splitTitle(each)])]));
    const names = [...new Set(this.slides.flatMap((slide) => Object.keys(slide.groups ?? {})))];
    for (const name of names) {
      const values = [...new Set(this.slides.map((slide) => slide.groups?.[name]).filter(Boolean))].sort();
      if (values.length) parts.push(this.choice(`group.${name}`, name, [["", t("all")], ...values.map((each) => [each, each])]));
    }
    if (this.slides.some((slide) => slide.tiles)) {
      parts.push(this.choice("errors", t("wall.errors"), Object.keys(ERRORS).map((name) => [name, t(`wall.errors.${name}`)])));
    }
    const orders = Object.keys(ORDERS).filter((name) => ["session", "name"].includes(name) || this.slides.some((slide) => slide.tiles));
    parts.push(this.choice("sort", t("wall.sort"), orders.map((name) => [name, t(`wall.sort.${name}`)])));
    return el("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() }, ...parts);
  }

  ask(name, value) {
    this.asked[name] = value;
    const values = new URLSearchParams(Object.entries(this.asked).filter(([, each]) => each));
    history.replaceState(null, "", `#${values}`);
    this.fill();
  }

  clear() {
    this.asked = {};
    history.replaceState(null, "", "#");
    this.open();
  }

  fits(slide) {
    const { asked } = this;
    const words = (asked.q ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    const text = [slide.name, slide.patient, slide.split, ...Object.values(slide.groups ?? {})].join(" ").toLowerCase();
    return words.every((word) => text.includes(word))
      && (!asked.split || slide.split === asked.split)
      && (ERRORS[asked.errors] ?? ERRORS.any)(slide)
      && Object.entries(asked).every(([name, value]) => !name.startsWith("group.") || !value || slide.groups?.[name.slice(6)] === value);
  }

  fill() {
    const shown = this.slides.filter((slide) => this.fits(slide));
    const order = ORDERS[this.asked.sort];
    if (order) shown.sort(order);
    this.grid.replaceChildren(...shown.map((slide) => this.cards.get(slide.id)));
    this.count.textContent = t("wall.count", { shown: shown.length, all: this.slides.length });
    if (!shown.length) {
      this.grid.append(el("li", { class: "nothing" }, el("p", { text: t("wall.nothing") }), button(t("wall.clear"), () => this.clear())));
    }
  }

  card(slide) {
    const facts = [slide.patient && slide.patient !== slide.name ? t("wall.patient", { name: slide.patient }) : null,
      ...Object.values(slide.groups ?? {})].filter(Boolean);
    const picture = el("img", { src: `thumbnail/${slide.id}.jpg`, alt: "", loading: "lazy", decoding: "async" });
    const frame = el("div", { class: "thumb" }, picture);
    picture.addEventListener("error", () => this.unreadable(slide, frame));
    const notes = [slide.split ? splitTitle(slide.split) : null, slide.mapped ? t("wall.mapped") : null, slide.explained ? t("wall.explained") : null];
    return el(
      "li", { class: "card" },
      el("a", { href: slideLink(slide.id) },
        frame,
        el("div", { class: "card-text" },
          el("h2", { text: slide.name }),
          el("p", { class: "facts", text: facts.join(" \u00b7 ") }),
          slide.tiles ? this.scores(slide) : el("p", { class: "facts", text: t("wall.unscored") }),
          el("p", { class: "notes" }, ...notes.filter(Boolean).map((text) => el("span", { class: "note", text })),
            slide.layered ? null : el("span", { class: "note", text: t("wall.unmapped") }))),
      ),
    );
  }

  scores(slide) {
    const row = (name, count, kind, wrong) =>
      el("tr", {},
        el("th", { scope: "row", text: name }),
        el("td", { class: "meter-cell" }, el("span", { class: `meter ${kind}` }, el("span", { style: `width:${100 * share(count, slide.tiles)}%` }))),
        el("td", { class: "figure", text: percent(share(count, slide.tiles)) }),
        el("td", { class: "figure", text: wrong === null ? "" : percent(share(wrong, slide.tiles)) }));
    const rows = TASKS.filter((task) => `${task}_tumor` in slide)
      .map((task) => row(networkTitle(task, true), slide[`${task}_tumor`], task, slide[`${task}_wrong`]));
    return el("div", {},
      el("table", { class: "scores" },
        el("thead", {}, el("tr", {}, el("td"), el("td"), el("th", { scope: "col", text: t("wall.tumor") }), el("th", { scope: "col", text: t("wall.wrong") }))),
        el("tbody", {}, row(t("wall.truth"), slide.tumor_tiles, "truth", null), ...rows)),
      "disagree" in slide
        ? el("p", { class: "facts", text: t("wall.disagree", { share: percent(share(slide.disagree, slide.tiles)), tiles: slide.tiles }) }) : null);
  }

  /** Says why a slide has no picture. */
  async unreadable(slide, frame) {
    const error = await reason(`thumbnail/${slide.id}.jpg`, t("error.slide"));
    frame.classList.add("unreadable");
    frame.replaceChildren(el("p", {}, el("strong", { text: t("wall.unreadable") }), " ", error.message));
  }
}
