// What an address shares: after "#" which slide, where, and what lies over it in each view; or what the wall is asked for.

import { palettesOf } from "./palettes.js";

/** Returns the look of a layer that nobody has changed. */
export function plainStyle(layer, before = {}) {
  const kind = layer?.kind;
  return {
    layer: layer?.key ?? "", opacity: before.opacity ?? 0.65, contour: before.contour ?? false,
    threshold: kind === "unsigned" ? layer.low : 0, sign: "both", palette: palettesOf(kind)[0] ?? "", off: ["background"],
  };
}

/** Reads what stands after "#". */
export function readLink() {
  const values = new URLSearchParams(location.hash.slice(1));
  const numbers = (name) => (values.get(name) ?? "").split(",").map(Number);
  const [x, y, scale] = numbers("at");
  const [tileX, tileY] = numbers("tile");
  return {
    slide: values.get("slide"), values,
    at: [x, y, scale].every(Number.isFinite) && scale > 0 ? { x, y, scale } : null,
    tile: values.has("tile") && Number.isFinite(tileX + tileY) ? { x: tileX, y: tileY } : null,
    outlined: values.get("outlines") !== "0", linked: values.get("linked") !== "0",
    views: values.getAll("view").map((text) => text.split("~")),
  };
}

/** Returns the styles of the views of a link for a slide; what does not fit it is left out. */
export function readStyles(link, slide) {
  return link.views.slice(0, 4).map(([key, opacity, threshold, sign, palette, look, off]) => {
    const layer = slide.layers.find((each) => each.key === key);
    const style = plainStyle(layer);
    const share = Number(opacity), least = Number(threshold);
    if (opacity && share >= 0 && share <= 1) style.opacity = share;
    if (layer && threshold && Number.isFinite(least)) style.threshold = least;
    if (["for", "against"].includes(sign) && layer?.kind === "signed") style.sign = sign;
    if (palettesOf(layer?.kind).includes(palette)) style.palette = palette;
    if (off !== undefined) style.off = off.split(".").filter(Boolean);
    return { ...style, contour: look === "contour" };
  });
}

const short = (value) => String(Number(value.toPrecision(5)));

/** Writes the address of a slide. */
export function slideLink(id, { at, tile, styles, outlined, linked } = {}) {
  const values = new URLSearchParams({ slide: id });
  if (at) values.set("at", [at.x.toFixed(1), at.y.toFixed(1), short(at.scale)].join(","));
  for (const style of styles ?? []) {
    const { layer, opacity, threshold, sign, palette, contour, off } = style;
    const parts = [layer, short(opacity), short(threshold), sign, palette, contour ? "contour" : "fill", off.join(".")];
    values.append("view", parts.join("~"));
  }
  if (outlined === false) values.set("outlines", "0");
  if (linked === false) values.set("linked", "0");
  if (tile) values.set("tile", [tile.x, tile.y].map((value) => value.toFixed(1)).join(","));
  return `#${values}`.replaceAll("%2C", ",").replaceAll("%7E", "~");
}
