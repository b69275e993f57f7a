// What if: a brush takes a part of the tile away, and the networks are asked again.

import { postJson } from "./api.js";
import { announce, button, el, field } from "./dom.js";
import { networkTitle, t } from "./texts.js";
import { tilePicture } from "./tile_picture.js";
import { decimals, number, percent } from "./units.js";

const PX = 352;
const STEP = 1 / 24; // of the tile that an arrow key moves the brush
const MOST = 900; // discs that the server takes at once

/** The tile under a brush. */
export class Brush {
  constructor(page, path, tile, tasks, signal) {
    Object.assign(this, { page, path, tile, tasks, signal });
    this.strokes = []; // each a list of discs in level-0 pixels
    this.at = { x: 0.5, y: 0.5 };
    this.radius = 0.12; // of the tile's side
    this.canvas = el("canvas", { class: "brush", tabindex: "0", role: "application", "aria-label": t("brush.label"), width: PX, height: PX });
    this.results = el("div", { class: "results", role: "status" });
    const mpp = page.slide.mpp;
    const write = () => `${number(this.radius * tile.side * (mpp || 1), 2)} ${mpp ? "\u00b5m" : "px"}`;
    const output = el("output", { class: "figure", text: write() });
    const radius = el("input", { type: "range", min: 2, max: 40, value: 12, "aria-valuetext": write(), oninput: () => {
      this.radius = Number(radius.value) / 100;
      output.textContent = write();
      radius.setAttribute("aria-valuetext", write());
      this.draw();
    } });
    this.by = el("select", { onchange: () => this.strokes.length && this.ask() },
      ...["tissue", "blur"].map((name) => el("option", { value: name, text: t(`brush.by.${name}`) })));
    this.element = el("section", { class: "what-if" },
      el("h3", { text: t("brush") }), el("p", { class: "facts", text: t("brush.hint") }), this.canvas,
      field(t("brush.radius"), radius, output), field(t("brush.by"), this.by),
      el("div", { class: "buttons" },
        button(t("brush.ask"), () => this.ask(), { class: "primary" }),
        button(t("brush.undo"), () => this.undo()), button(t("brush.clear"), () => this.clear())),
      this.results);
    this.listen();
    tilePicture(page.slide, tile, PX).then((picture) => {
      this.picture = picture;
      this.draw();
    }).catch((error) => this.fail(error));
  }

  listen() {
    const { canvas } = this;
    const move = (event) => {
      this.at = { x: event.offsetX / canvas.clientWidth, y: event.offsetY / canvas.clientHeight };
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      move(event);
      this.strokes.push([]);
      this.painting = true;
      this.stamp();
    });
    canvas.addEventListener("pointermove", (event) => {
      move(event);
      this.inside = true;
      if (this.painting) this.stamp();
      else this.draw();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => {
        if (this.painting) this.ask();
        this.painting = false;
      });
    }
    canvas.addEventListener("pointerleave", () => {
      this.inside = false;
      this.draw();
    });
    for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => this.draw());
    canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (moves[event.key]) {
        const [x, y] = moves[event.key];
        const within = (value) => Math.max(0, Math.min(1, value));
        this.at = { x: within(this.at.x + x * STEP), y: within(this.at.y + y * STEP) };
        this.draw();
      } else if (event.key === " ") {
        this.strokes.push([]);
        this.stamp();
      } else if (event.key === "Enter") this.ask();
      else if (event.key === "Backspace") this.undo();
      else return;
      event.preventDefault();
    });
  }

  get discs() {
    return this.strokes.flat();
  }

  stamp() {
    const { tile } = this;
    const round = (value) => Math.round(value * 10) / 10;
    const disc = { x: round(tile.x + this.at.x * tile.side), y: round(tile.y + this.at.y * tile.side), r: round(this.radius * tile.side) };
    const stroke = this.strokes.at(-1);
    const before = stroke.at(-1);
    const far = !before || Math.hypot(disc.x - before.x, disc.y - before.y) > disc.r / 4;
    if (far && this.discs.length < MOST) stroke.push(disc);
    this.draw();
  }

  draw() {
    if (!this.picture) return;
    const context = this.canvas.getContext("2d");
    const { tile } = this;
    const scale = PX / tile.side;
    context.drawImage(this.picture, 0, 0);
    const brushed = new Path2D();
    for (const { x, y, r } of this.discs) {
      brushed.moveTo((x - tile.x + r) * scale, (y - tile.y) * scale);
      brushed.arc((x - tile.x) * scale, (y - tile.y) * scale, r * scale, 0, 2 * Math.PI);
    }
    context.fillStyle = "rgb(244 236 240 / 0.88)";
    context.fill(brushed);
    if (!this.inside && document.activeElement !== this.canvas) return;
    for (const [colour, width] of [["#ffffff", 4], ["#101418", 1.5]]) {
      context.beginPath();
      context.arc(this.at.x * PX, this.at.y * PX, this.radius * PX, 0, 2 * Math.PI);
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.stroke();
    }
  }

  undo() {
    this.strokes.pop();
    this.draw();
    if (this.strokes.length) this.ask();
    else this.results.replaceChildren();
  }

  clear() {
    this.strokes = [];
    this.asking?.abort();
    this.results.replaceChildren();
    this.draw();
  }

  fail(error) {
    if (error.name !== "AbortError") this.results.replaceChildren(el("p", { class: "problem", text: `${t("error")}: ${error.message}` }));
  }

  async ask() {
    if (!this.strokes.length) {
      this.results.replaceChildren(el("p", { class: "facts", text: t("brush.nothing") }));
      return;
    }
    this.asking?.abort();
    this.asking = new AbortController();
    const { tile, asking } = this;
    const question = { x: tile.x + tile.side / 2, y: tile.y + tile.side / 2, discs: this.discs, by: this.by.value };
    this.element.setAttribute("aria-busy", "true");
    this.results.classList.add("old");
    try {
      const answer = await postJson(`${this.path}/what_if`, question, AbortSignal.any([asking.signal, this.signal]));
      this.show(answer);
    } catch (error) {
      this.fail(error);
    }
    if (asking === this.asking) {
      this.element.removeAttribute("aria-busy");
      this.results.classList.remove("old");
    }
  }

  show({ networks, share }) {
    const rows = this.tasks.map((task) => {
      const { before, after } = networks[task];
      const difference = after - before;
      const sign = difference < 0 ? "\u2212" : "+";
      return el("div", { class: "result", "data-task": task }, el("span", { text: networkTitle(task) }),
        el("span", { class: "figure" }, el("span", { class: "before", text: decimals(before, 3) }), " \u2192 ", el("strong", { text: decimals(after, 3) }), ` (${sign}${decimals(Math.abs(difference), 3)})`));
    });
    this.results.replaceChildren(...rows, el("p", { class: "facts", text: t("brush.share", { share: percent(share) }) }));
    announce(this.results.textContent);
  }
}
