// A queue of cases: one at a time, one key an answer, saved before the next one comes; the networks speak afterwards.

import { getJson, postJson } from "./api.js";
import { isoline } from "./contours.js";
import { announce, button, el, field } from "./dom.js";
import { palettesOf, strongest } from "./palettes.js";
import { networkTitle, t } from "./texts.js";
import { paintMap, tilePicture } from "./tile_picture.js";
import { number, probability } from "./units.js";
import { View } from "./view.js";

const SHARE = 0.5; // of the stage that the tile takes: the rest is what lies around it
const STEP = 0.15; // of the view that an arrow key moves
const ZOOM = 1.35;
const MAP_PX = 512;
const THIRDS = [1 / 3, 2 / 3];
const SKIP = "skip";
const RATER = "vitrail.rater"; // in the browser's memory
const JUDGED = "vitrail.judged"; // tells other tabs what was judged in this one

/** Seconds that a case was looked at: those count in which the page can be seen. */
class Stopwatch {
  constructor() {
    this.passed = 0;
    this.since = null;
    this.sync = () => {
      if (document.hidden) this.pause();
      else if (this.running && this.since === null) this.since = performance.now();
    };
    document.addEventListener("visibilitychange", this.sync);
  }

  start() {
    this.passed = 0;
    this.running = true;
    this.since = document.hidden ? null : performance.now();
  }

  pause() {
    if (this.since !== null) this.passed += performance.now() - this.since;
    this.since = null;
  }

  get seconds() {
    return (this.passed + (this.since === null ? 0 : performance.now() - this.since)) / 1000;
  }

  close() {
    document.removeEventListener("visibilitychange", this.sync);
  }
}

/** The page of a queue; nothing on it, and nothing that it asks for, says what the networks think of a case to come. */
export class ReviewPage {
  constructor(app, queueName) {
    Object.assign(this, { app, queueName });
    this.watch = new Stopwatch();
    this.rater = localStorage.getItem(RATER) ?? "";
    this.case = this.last = this.view = null;
    this.busy = this.hidden = this.closed = false;
    this.path = `api/review/${encodeURIComponent(queueName)}`;
    this.elsewhere = (event) => this.judgedElsewhere(event);
    window.addEventListener("storage", this.elsewhere);
  }

  shows() {
    return false;
  }

  async open() {
    const { app } = this;
    app.main.replaceChildren(el("p", { class: "waiting", text: t("waiting") }));
    try {
      ({ queues: this.queues } = await getJson("api/review"));
    } catch (error) {
      app.main.replaceChildren();
      app.say(error);
      return;
    }
    if (this.closed) return;
    this.queue = this.queues.find((each) => each.name === this.queueName);
    document.title = `${t("review.title")} \u00b7 Vitrail`;
    this.bind();
    if (!this.queue) this.choose();
    else if (this.rater) await this.begin();
    else this.askRater();
  }

  /** Lists the queues, where the address names none. */
  choose() {
    if (this.queueName) this.app.say(new Error(t("review.unknown", { name: this.queueName })));
    this.app.main.replaceChildren(el("div", { class: "text-page" }, el("h1", { text: t("review.queues") }),
      this.queues.length ? queueList(this.queues) : el("p", { text: t("review.queues.none") })));
  }

  askRater() {
    const input = el("input", { type: "text", maxlength: 60, autocomplete: "name", required: true, value: this.rater });
    const take = (name) => {
      this.rater = name.trim();
      localStorage.setItem(RATER, this.rater);
      this.begin();
    };
    const others = Object.keys(this.queue.raters).filter((name) => name !== this.rater);
    this.case = null;
    this.closeView();
    this.app.bar.replaceChildren(el("h1", { class: "slide-name", text: t("review.queue", { name: this.queueName }) }));
    this.app.main.replaceChildren(el("form", { class: "text-page rater", onsubmit: (event) => {
      event.preventDefault();
      if (input.value.trim()) take(input.value);
    } },
    el("h2", { class: "page-title", text: t("review.rater.ask") }), el("p", { text: t("review.rater.why") }),
    field(t("review.rater.name"), input),
    others.length ? el("div", { class: "buttons" }, ...others.map((name) => button(t("review.rater.again", { name }), () => take(name)))) : null,
    el("button", { type: "submit", class: "primary", text: t("review.begin") })));
    input.focus();
  }

  async begin() {
    this.frame();
    await this.next();
  }

  /** Lays out the page; cases fill it. */
  frame() {
    const { queue, app } = this;
    app.bar.replaceChildren(
      el("h1", { class: "slide-name", text: t("review.queue", { name: queue.name }) }),
      el("span", { class: "rater-name", text: t("review.as", { name: this.rater }) }),
      button(t("review.rater.change"), () => this.askRater(), { class: "quiet" }),
      el("a", { class: "quiet", href: `#results=${queue.name}`, text: t("results") }));
    this.stage = el("div", { class: "review-stage" });
    this.answers = new Map(queue.answers.map((answer, i) => [answer, el("button", {
      type: "button", class: "answer", onclick: () => this.answer(answer) },
    el("kbd", { text: String(i + 1) }), el("span", { text: answerTitle(queue, answer) }))]));
    this.question = el("h2", { class: "question", tabindex: "-1", text: t(`review.question.${queue.question}`) });
    this.note = el("p", { class: "facts note-line", role: "status" });
    this.comment = el("textarea", { rows: 2, maxlength: 2000 });
    this.meter = el("progress", { max: queue.cases, value: 0, "aria-label": t("review.progress.label") });
    this.progress = el("p", { class: "facts figure" });
    this.lastLine = el("p", { class: "last-line" });
    const extra = (key, text, action) => el("button", { type: "button", onclick: action }, el("kbd", { text: key }), ` ${text}`);
    this.side = el("aside", { class: "review-side", "aria-label": t("review.title") },
      this.question, this.note,
      el("div", { class: "answers" }, ...this.answers.values()),
      el("div", { class: "buttons" },
        extra(t("key.space"), t("review.skip"), () => this.skip()), extra("z", t("review.undo"), () => this.undo()),
        this.reviseButton = extra("r", t("review.revise"), () => this.revise())),
      field(t("review.comment"), this.comment),
      el("div", { class: "progress" }, this.meter, this.progress), this.lastLine);
    app.main.replaceChildren(el("div", { class: `review-page of-${queue.question}` }, this.stage, this.side));
  }

  async next() {
    this.case = null;
    this.revising = false;
    try {
      const shown = await getJson(`${this.path}/next?rater=${encodeURIComponent(this.rater)}`);
      if (!this.closed) await this.show(shown);
    } catch (error) {
      this.app.say(error);
      this.closeView();
      const again = button(t("review.again"), () => this.next(), { class: "primary" });
      this.stage.replaceChildren(el("div", { class: "review-end" }, again));
      again.focus();
    }
  }

  /** Shows a case. */
  async show(shown, note = "") {
    this.app.say(null);
    if (shown.judged !== undefined) this.count = shown;
    const { judged, cases, seconds } = this.count;
    this.meter.value = judged;
    this.progress.textContent = seconds === null ? t("review.progress", { judged, cases })
      : t("review.progress.seconds", { judged, cases, seconds: number(seconds, 2) });
    this.showLast();
    if (shown.case === null) {
      this.end();
      return;
    }
    this.side.hidden = false;
    this.note.textContent = note || t("review.case", { number: shown.case + 1 });
    this.comment.value = "";
    this.setHidden(false);
    for (const each of this.answers.values()) each.removeAttribute("aria-disabled");
    if (document.activeElement === document.body || this.side.contains(document.activeElement)) this.question.focus({ preventScroll: true });
    if (shown.problem) {
      this.closeView();
      this.stage.replaceChildren(el("p", { class: "problem", role: "alert", text: `${t("error")}: ${shown.problem}` }));
    } else await this.draw(shown);
    this.case = shown;
    this.watch.start();
    announce(`${this.note.textContent} ${this.question.textContent}`);
  }

  /** Draws a case's tile with what lies around it, and beside it the map that is asked about. */
  async draw(shown) {
    const slide = { id: shown.slide, levels: shown.levels, mpp: shown.mpp, layers: [] };
    let figures = [];
    if (shown.map) {
      const picture = await tilePicture(slide, shown.tile, MAP_PX);
      this.maps = mapFigures(picture, shown.map);
      figures = this.maps.map(({ canvas, title }) => el("figure", {}, canvas, el("figcaption", { text: title })));
    }
    if (this.view && this.shared.slide.id !== slide.id) this.closeView();
    if (!this.view) {
      this.shared = { slide, classes: [], outlines: [], outlined: false, tile: shown.tile, hidden: false, squares: null };
      const opened = new Promise((resolve, reject) => {
        this.view = new View(this.shared, { layer: "" }, 0, {
          onmove: () => {}, onclick: () => {}, onhover: () => {}, onactive: () => {}, onready: resolve, onerror: (error) => {
            this.app.say(error);
            reject(error);
          },
        });
      });
      this.around = el("div", { class: "review-view" }, this.view.element);
      this.stage.replaceChildren(...figures, this.around);
      this.view.start();
      this.view.osd.canvas.setAttribute("aria-label", t("review.view"));
      await opened;
    } else {
      this.stage.replaceChildren(...figures, this.around);
    }
    this.shared.tile = shown.tile;
    this.center(shown.tile);
    this.view.draw();
  }

  center(tile) {
    const { clientWidth, clientHeight } = this.view.stage;
    const scale = (SHARE * Math.min(clientWidth, clientHeight)) / tile.side;
    this.view.go({ x: tile.x + tile.side / 2, y: tile.y + tile.side / 2, scale }, true);
  }

  /** Saves an answer and goes on; where it cannot be saved, the case stays. */
  async answer(answer) {
    if (this.busy || !this.case) return;
    this.busy = true;
    const { case: number } = this.case;
    const judgement = { case: number, rater: this.rater, answer, seconds: this.watch.seconds, shown: Boolean(this.revising) };
    if (this.comment.value.trim()) judgement.comment = this.comment.value.trim();
    this.answers.get(answer)?.classList.add("chosen");
    try {
      const said = await postJson(`${this.path}/judge`, judgement);
      if (said.networks) this.last = { ...said, shownCase: this.case };
      localStorage.setItem(JUDGED, JSON.stringify([this.queueName, this.rater, number, Date.now()]));
      await this.next();
    } catch (error) {
      this.app.say(error);
    }
    this.answers.get(answer)?.classList.remove("chosen");
    this.busy = false;
  }

  skip() {
    if (this.revising) this.next();
    else if (this.case) this.answer(SKIP);
  }

  async undo() {
    if (this.busy || !this.count) return;
    this.busy = true;
    try {
      const back = await postJson(`${this.path}/undo`, { rater: this.rater });
      this.revising = false;
      if (back.case === null) this.flash(t("review.undo.none"));
      else {
        if (this.last?.case === back.case) this.last = null;
        await this.show(back, t("review.undone", { number: back.case + 1 }));
      }
    } catch (error) {
      this.app.say(error);
    }
    this.busy = false;
  }

  /** Shows the last case again; an answer to it is written down as one that was given after the networks had spoken. */
  async revise() {
    if (this.busy || !this.last) return;
    this.busy = true;
    this.revising = true;
    try {
      await this.show(this.last.shownCase, t("review.revising", { number: this.last.case + 1 }));
    } catch (error) {
      this.app.say(error);
    }
    this.busy = false;
  }

  /** Goes on where another tab has judged the case that is shown here. */
  judgedElsewhere(event) {
    if (event.key !== JUDGED || !event.newValue || !this.case || this.busy || this.revising) return;
    const [queue, rater, number] = JSON.parse(event.newValue);
    if (queue === this.queueName && rater === this.rater && number === this.case.case) this.next();
  }

  showLast() {
    const { last, queue } = this;
    this.reviseButton.hidden = !last;
    if (!last) {
      this.lastLine.replaceChildren();
      return;
    }
    const scores = Object.entries(last.networks).map(([task, score]) => `${networkTitle(task)} ${probability(score)}`);
    this.lastLine.textContent = t("review.last", { answer: answerTitle(queue, last.answer), scores: scores.join(", ") });
  }

  end() {
    this.closeView();
    this.side.hidden = true;
    const { judged } = this.count;
    const others = this.queues.filter((each) => each.name !== this.queueName);
    const heading = el("h2", { class: "page-title", tabindex: "-1", text: t("review.thanks", { name: this.rater }) });
    this.stage.replaceChildren(el("div", { class: "review-end" }, heading,
      el("p", { text: t("review.done", { judged }) }), el("p", { class: "last-line", text: this.lastLine.textContent }),
      el("div", { class: "buttons" }, el("a", { class: "button primary", href: `#results=${this.queueName}`, text: t("results") }),
        button(`${t("review.undo")} (z)`, () => this.undo())),
      others.length ? el("h3", { text: t("review.queues.other") }) : null, others.length ? queueList(others) : null));
    heading.focus();
  }

  /** Shows the tissue alone while a key is held. */
  setHidden(hidden) {
    this.hidden = hidden;
    if (this.shared) {
      this.shared.hidden = hidden;
      this.view?.draw();
    }
    for (const each of this.maps ?? []) each.paint(hidden);
  }

  flash(text) {
    this.note.textContent = text;
    announce(text);
  }

  bind() {
    const seen = (action) => () => this.view?.ready && action(this.view.osd.viewport);
    const pan = (x, y) => seen((viewport) => {
      const { width, height } = viewport.getBounds(false);
      viewport.panBy(new OpenSeadragon.Point(x * STEP * width, y * STEP * height));
    });
    const zoom = (by) => seen((viewport) => viewport.zoomBy(by));
    const count = this.queue?.answers.length ?? 0;
    this.app.keys.table = [
      { keys: [..."123456789"].slice(0, count), shown: ["1", "\u2026", String(count)], text: "key.answer", once: true, down: (key) => this.answer(this.queue.answers[Number(key) - 1]) },
      { keys: [" "], shown: [t("key.space")], text: "key.skip", once: true, down: () => {
        // of a button that has the focus it is the way to press it
        if (document.activeElement?.matches("button, a, summary")) document.activeElement.click();
        else this.skip();
      } },
      { keys: ["z"], shown: ["z"], text: "key.undo", once: true, down: () => this.undo() },
      { keys: ["r"], shown: ["r"], text: "key.revise", once: true, down: () => this.revise() },
      { keys: ["h"], shown: ["h"], text: "key.hide", once: true, down: () => this.setHidden(true), up: () => this.setHidden(false) },
      { keys: ["ArrowLeft"], shown: ["\u2190"], text: "key.left", down: pan(-1, 0) },
      { keys: ["ArrowRight"], shown: ["\u2192"], text: "key.right", down: pan(1, 0) },
      { keys: ["ArrowUp"], shown: ["\u2191"], text: "key.up", down: pan(0, -1) },
      { keys: ["ArrowDown"], shown: ["\u2193"], text: "key.down", down: pan(0, 1) },
      { keys: ["+", "="], shown: ["+"], text: "key.in", down: zoom(ZOOM) },
      { keys: ["-", "_"], shown: ["\u2212"], text: "key.out", down: zoom(1 / ZOOM) },
      { keys: ["f", "Home"], shown: ["f"], text: "key.center", down: () => this.view?.ready && this.case && this.center(this.case.tile) },
      { keys: ["c"], shown: ["c"], text: "key.comment", once: true, down: () => this.comment?.focus() },
      { keys: ["Escape"], shown: ["Esc"], text: "key.leave", down: () => {
        if (document.activeElement === this.comment) this.question.focus();
        else if (this.revising) this.next();
      } },
      { keys: ["?"], shown: ["?"], text: "key.keys", down: () => this.app.keys.show() },
    ];
  }

  closeView() {
    this.view?.close();
    this.view = this.shared = null;
    this.maps = [];
  }

  close() {
    this.closed = true;
    this.watch.close();
    window.removeEventListener("storage", this.elsewhere);
    this.closeView();
  }
}

/** Returns what an answer is called. */
export function answerTitle(queue, answer) {
  return t(`review.answer.${queue.question}.${answer}`);
}

/** Lists queues with links. */
export function queueList(queues) {
  return el("ul", { class: "queue-list" }, ...queues.map(({ name, cases, raters }) => el("li", {},
    el("a", { href: `#review=${name}`, text: name }),
    el("span", { class: "facts", text: [t("review.cases", { cases }), ...Object.entries(raters).map(([rater, judged]) => `${rater} ${judged}`)].join(" \u00b7 ") }))));
}

/** Makes the pictures of a question about a map, all of one size: the tile, contours upon it, and the map. */
function mapFigures(picture, map) {
  const { width } = picture;
  const make = (title, paint) => {
    const canvas = el("canvas", { role: "img", "aria-label": title, width, height: width });
    const draw = (hidden) => {
      canvas.getContext("2d").drawImage(picture, 0, 0);
      if (!hidden) paint(canvas);
    };
    draw(false);
    return { canvas, title, paint: draw };
  };
  return [
    make(t("review.map.tile"), () => {}),
    make(t("review.map.contours"), (canvas) => contour(canvas, map)),
    make(t("review.map.colours"), (canvas) => paintMap(canvas, picture, map)),
  ];
}

/** Draws contours at a third and two thirds of a map's strongest value. */
function contour(canvas, map) {
  const values = map.numbers ?? (map.numbers = paintMap(document.createElement("canvas"), canvas, map));
  if (!(map.high > map.low)) return; // the same everywhere
  const kind = map.signed ? "signed" : "unsigned";
  const style = { palette: palettesOf(kind)[0] };
  const context = canvas.getContext("2d");
  const unit = canvas.width / map.width;
  const from = map.signed ? 0 : map.low;
  for (const sign of map.signed ? [-1, 1] : [1]) {
    const rgb = strongest({ kind }, style, sign);
    THIRDS.forEach((share, i) => {
      const path = isoline(values, map.width, map.height, from + share * (map.high - from), sign);
      context.setTransform(unit, 0, 0, unit, 0, 0);
      for (const [colour, px] of [["rgb(255 255 255 / 0.8)", 3], [`rgb(${rgb.join(" ")})`, 1.5]]) {
        context.lineWidth = ((1 + i) * px) / unit;
        context.strokeStyle = colour;
        context.stroke(path);
      }
    });
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
}
