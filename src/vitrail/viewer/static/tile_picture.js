// A tile's pixels as a picture, put together from the squares of its slide, and a map over its shadow.

import { decodeFloats } from "./api.js";
import { SQUARE, squareSize, squaresWithin } from "./levels.js";
import { painter, palettesOf } from "./palettes.js";
import { t } from "./texts.js";

const SHADOW = 0.3; // contrast of the tissue beneath a map, as in the report

function load(address) {
  return new Promise((resolve, reject) => {
    const picture = new Image();
    picture.onload = () => resolve(picture);
    picture.onerror = () => reject(new Error(t("error.square")));
    picture.src = address;
  });
}

/** Returns a canvas of `px` by `px` pixels with a tile {x, y, side} in level-0 pixels of its slide. */
export async function tilePicture(slide, tile, px) {
  const level = Math.max(0, Math.min(slide.levels.length - 1, Math.floor(Math.log2(tile.side / px))));
  const unit = 2 ** level;
  const size = slide.levels[level];
  const left = tile.x / unit, top = tile.y / unit, side = tile.side / unit;
  const { c0, c1, r0, r1 } = squaresWithin(size, left, top, left + side, top + side);
  const canvas = Object.assign(document.createElement("canvas"), { width: px, height: px });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const scale = px / side;
  const parts = [];
  for (let row = r0; row <= r1; row++) {
    for (let column = c0; column <= c1; column++) {
      parts.push(load(`slide/${slide.id}/${level}/${column}_${row}.jpg`).then((picture) => ({ picture, column, row })));
    }
  }
  context.setTransform(scale, 0, 0, scale, -left * scale, -top * scale);
  for (const { picture, column, row } of await Promise.all(parts)) {
    const [w, h] = squareSize(size, column, row);
    context.drawImage(picture, column * SQUARE, row * SQUARE, w, h);
  }
  return canvas;
}

/** Paints a map of the server over the grey shadow of a tile's picture onto a canvas of the same size. */
export function paintMap(canvas, picture, map) {
  const { width, height } = picture;
  Object.assign(canvas, { width, height });
  const shadow = picture.getContext("2d").getImageData(0, 0, width, height);
  const { data } = shadow;
  for (let i = 0; i < data.length; i += 4) {
    const light = 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2];
    data[i] = data[i + 1] = data[i + 2] = 255 - (255 - light) * SHADOW;
  }
  const context = canvas.getContext("2d");
  context.putImageData(shadow, 0, 0);
  const values = decodeFloats(map.values);
  if (!(map.high > map.low)) return values; // the same everywhere: nothing to paint
  const kind = map.signed ? "signed" : "unsigned";
  const style = { threshold: map.signed ? 0 : map.low, sign: "both", palette: palettesOf(kind)[0] };
  const small = new ImageData(map.width, map.height);
  painter({ kind, low: map.low, high: map.high }, style, [])(values, new Uint32Array(small.data.buffer));
  const sheet = Object.assign(document.createElement("canvas"), { width: map.width, height: map.height });
  sheet.getContext("2d").putImageData(small, 0, 0);
  context.drawImage(sheet, 0, 0, width, height);
  return values;
}
