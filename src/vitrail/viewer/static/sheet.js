// All squares of a map that are in sight, as one picture: no seams between them, and one place to colour them.

import { classBorder, isoline } from "./contours.js";
import { levelSizes, SQUARE, squareSize, squaresWithin } from "./levels.js";
import { painter, strongest } from "./palettes.js";

const THIRDS = [1 / 3, 2 / 3]; // where contours run if no threshold says so

/** The visible part of one layer. */
export class Sheet {
  constructor(layer, squares, classes) {
    Object.assign(this, { layer, squares, classes });
    this.levels = levelSizes(layer.width, layer.height);
    this.canvas = document.createElement("canvas");
    this.covers = this.coloured = this.lined = "";
    this.lines = [];
  }

  /** Returns the finest level of which a pixel covers `least` pixels of the screen, if `scale` of them are a pixel of the slide. */
  levelFor(scale, least = 1) {
    const level = Math.ceil(Math.log2(least / (this.layer.cell * scale)));
    return Math.max(0, Math.min(this.levels.length - 1, level));
  }

  /** Gathers the squares that touch a rectangle in level-0 pixels of the slide. */
  gather(level, left, top, right, bottom) {
    const cell = this.layer.cell * 2 ** level;
    const within = squaresWithin(this.levels[level], left / cell, top / cell, right / cell, bottom / cell);
    const { c0, c1, r0, r1 } = within;
    if (c1 < c0 || r1 < r0) return false;
    const parts = [];
    let covers = `${level}/`;
    for (let row = r0; row <= r1; row++) {
      for (let column = c0; column <= c1; column++) {
        const part = this.square(level, column, row);
        parts.push(part);
        covers += `${column}_${row}:${part ? part.up : "-"} `;
      }
    }
    if (covers !== this.covers) {
      Object.assign(this, { level, cell, covers, column: c0 * SQUARE, row: r0 * SQUARE });
      this.put(parts.filter(Boolean), within);
      this.coloured = this.lined = "";
    }
    return true;
  }

  /** Returns a square, or what a coarser one says of its place until it comes. */
  square(level, column, row) {
    for (let up = 0; level + up < this.levels.length; up++) {
      const values = this.squares.get(this.layer, level + up, column >> up, row >> up, up === 0);
      if (values) return { values, up, column, row, level };
    }
    return null;
  }

  put(parts, { c0, c1, r0, r1 }) {
    const [width, height] = this.levels[this.level];
    this.width = Math.min((c1 + 1) * SQUARE, width) - c0 * SQUARE;
    this.height = Math.min((r1 + 1) * SQUARE, height) - r0 * SQUARE;
    const number = this.layer.kind === "class" ? Uint8Array : Float32Array;
    this.values = new number(this.width * this.height).fill(this.layer.kind === "class" ? 255 : NaN);
    for (const { values, up, column, row } of parts) {
      const [w, h] = squareSize(this.levels[this.level], column, row);
      const [stride] = squareSize(this.levels[this.level + up], column >> up, row >> up);
      const left = ((column * SQUARE) >> up) % SQUARE;
      const top = ((row * SQUARE) >> up) % SQUARE;
      const start = ((row - r0) * this.width + (column - c0)) * SQUARE;
      for (let y = 0; y < h; y++) {
        const from = (top + (y >> up)) * stride + left;
        const to = start + y * this.width;
        if (up === 0) this.values.set(values.subarray(from, from + w), to);
        else for (let x = 0; x < w; x++) this.values[to + x] = values[from + (x >> up)];
      }
    }
  }

  /** Colours what was gathered, if that or the style has changed. */
  colour(style) {
    const key = [style.threshold, style.sign, style.palette, style.off].join();
    if (key === this.coloured) return;
    this.coloured = key;
    Object.assign(this.canvas, { width: this.width, height: this.height });
    const picture = new ImageData(this.width, this.height);
    painter(this.layer, style, this.classes)(this.values, new Uint32Array(picture.data.buffer));
    this.canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  /** Draws lines through what was gathered, if that or the style has changed: [path, colour, thick]. */
  contour(style) {
    const key = [style.threshold, style.sign, style.palette, style.off].join();
    if (key === this.lined) return;
    this.lined = key;
    const { values, width, height, layer } = this;
    if (layer.kind === "class") {
      // the first class, tumor, is drawn last
      this.lines = this.classes
        .map((each, i) => ({ each, i }))
        .filter(({ each }) => each.key !== "background" && !style.off.includes(each.key))
        .reverse()
        .map(({ each, i }) => [classBorder(values, width, height, i), each.rgb, true]);
      return;
    }
    const signed = layer.kind === "signed";
    const from = signed ? 0 : layer.low;
    const chosen = style.threshold > from ? [style.threshold]
      : layer.kind === "share" ? [0.5] : THIRDS.map((share) => from + share * (layer.high - from));
    const sides = signed ? [-1, 1].filter((sign) => style.sign === "both" || (style.sign === "for") === sign > 0) : [1];
    this.lines = sides.flatMap((sign) =>
      chosen.map((value, i) => [
        isoline(values, width, height, value, sign), strongest(layer, style, sign), i === chosen.length - 1,
      ]),
    );
  }
}
