// Numbers and lengths as they are written in the page's language.

import { language } from "./texts.js";

/** Writes a number with three digits that count. */
export function number(value, digits = 3) {
  const size = Math.abs(value);
  const options = size !== 0 && (size < 1e-3 || size >= 1e6)
    ? { notation: "scientific", maximumSignificantDigits: digits } : { maximumSignificantDigits: digits };
  return value.toLocaleString(language(), options).replace("-", "\u2212");
}

/** Writes a number with as many decimals. */
export function decimals(value, count) {
  return value.toLocaleString(language(), { minimumFractionDigits: count, maximumFractionDigits: count }).replace("-", "\u2212");
}

/** Writes a probability or a correlation, always with two decimals. */
export const probability = (value) => decimals(value, 2);

/** Writes a share as percent. */
export function percent(share) {
  return `${(100 * share).toLocaleString(language(), { maximumFractionDigits: share < 0.1 ? 1 : 0 })} %`;
}

/** Writes a place on a slide in um, or in pixels where its resolution is not known. */
export function coordinates(x, y, mpp) {
  const write = (value) => (value * (mpp || 1)).toLocaleString(language(), { maximumFractionDigits: 1, minimumFractionDigits: 1 });
  return `x ${write(x)}  y ${write(y)} ${mpp ? "\u00b5m" : "px"}`;
}

/** Returns the longest round length that is no longer than `most` pixels of the screen: [pixels, text]. */
export function scaleBar(umPerPixel, most = 150) {
  const longest = most * umPerPixel;
  const power = 10 ** Math.floor(Math.log10(longest));
  const length = [5, 2, 1].find((factor) => factor * power <= longest) * power;
  const text = length >= 1000 ? `${(length / 1000).toLocaleString(language())} mm` : `${length.toLocaleString(language())} \u00b5m`;
  return [length / umPerPixel, text];
}
