// From a value to a colour. Orange speaks for tumor and blue against it, as in the report; every palette darkens evenly.

const FOR = [[255, 160, 40], [205, 60, 0]];
const AGAINST = [[70, 180, 240], [0, 84, 166]];
const GREEN = [[140, 205, 130], [20, 105, 55]];
const VIOLET = [[190, 150, 215], [95, 30, 130]];

/** By kind of map its palettes, the first is the one that is taken: stops for [below 0, above 0], or for the whole. */
const SIGNED = { evidence: [AGAINST, FOR], greenviolet: [GREEN, VIOLET] };
const PLAIN = {
  warm: [[255, 214, 92], [238, 98, 42], [140, 0, 84]],
  cool: [[205, 225, 160], [45, 145, 140], [60, 20, 95]],
  grey: [[235, 235, 235], [20, 20, 20]],
};

const STEPS = 512;
const STRONGEST = 0.85; // the tissue shows through even the strongest evidence
const PALEST = 0.3; // of maps whose low values say something, too; a probability of 0 tints nothing

/** Lists the palettes for a kind of map. */
export function palettesOf(kind) {
  return kind === "class" ? [] : Object.keys(kind === "signed" ? SIGNED : PLAIN);
}

/** Returns the strongest colour of a sign, as [r, g, b]. */
export function strongest(layer, style, sign) {
  return layer.kind === "signed" ? SIGNED[style.palette][sign < 0 ? 0 : 1].at(-1) : PLAIN[style.palette].at(-1);
}

function ramp(stops, share) {
  const at = share * (stops.length - 1);
  const first = Math.min(Math.floor(at), stops.length - 2);
  return stops[first].map((channel, i) => channel + (at - first) * (stops[first + 1][i] - channel));
}

const packed = ([r, g, b], alpha) =>
  ((Math.round(alpha * 255) << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r)) >>> 0;

/** Returns the colours from `low` to `high` as the words of an ImageData. */
function colourTable(kind, palette) {
  const table = new Uint32Array(STEPS);
  for (let i = 0; i < STEPS; i++) {
    const share = i / (STEPS - 1);
    if (kind === "signed") {
      const strength = Math.abs(2 * share - 1);
      table[i] = packed(ramp(SIGNED[palette][share < 0.5 ? 0 : 1], strength), STRONGEST * strength);
    } else {
      const least = kind === "share" ? 0 : PALEST;
      table[i] = packed(ramp(PLAIN[palette], share), least + (STRONGEST - least) * share);
    }
  }
  return table;
}

/** Returns a function that colours values into the words of an ImageData. */
export function painter(layer, style, classes) {
  if (layer.kind === "class") {
    const table = new Uint32Array(256);
    classes.forEach((each, i) => {
      if (!style.off.includes(each.key)) table[i] = packed(each.rgb, STRONGEST);
    });
    return (values, words) => {
      for (let i = 0; i < values.length; i++) words[i] = table[values[i]];
    };
  }
  const table = colourTable(layer.kind, style.palette);
  const { low, high } = layer;
  const scale = (STEPS - 1) / (high - low);
  const signed = layer.kind === "signed";
  const least = signed || style.threshold > low ? style.threshold : -Infinity;
  const shows = (value) => {
    if (!signed) return value >= least; // NaN fails every comparison
    if (value === 0) return false;
    return Math.abs(value) >= least && (style.sign === "both" || (style.sign === "for") === value > 0);
  };
  return (values, words) => {
    for (let i = 0; i < values.length; i++) {
      const value = values[i];
      words[i] = shows(value) ? table[Math.max(0, Math.min(STEPS - 1, Math.round((value - low) * scale)))] : 0;
    }
  };
}

/** Returns a CSS gradient of a palette from `low` to `high`, on white. */
export function gradient(kind, palette) {
  const table = colourTable(kind, palette);
  const stops = Array.from({ length: 17 }, (_, i) => {
    const word = table[Math.round((i / 16) * (STEPS - 1))];
    const alpha = (word >>> 24) / 255;
    const channels = [word & 255, (word >>> 8) & 255, (word >>> 16) & 255].map((c) => Math.round(255 + alpha * (c - 255)));
    return `rgb(${channels.join(" ")})`;
  });
  return `linear-gradient(90deg, ${stops.join(", ")})`;
}
