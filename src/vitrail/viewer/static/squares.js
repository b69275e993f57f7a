// Squares of maps, decoded and kept, so that another threshold or palette asks for nothing.

import { getNumbers } from "./api.js";

const MOST = 400; // at most 100 MB of float32
const IN_FLIGHT = 4;
const MOST_WAITING = 96;

/** The squares of one slide's maps. */
export class Squares {
  constructor(slideId, onarrival, onerror) {
    Object.assign(this, { slideId, onarrival, onerror });
    this.values = new Map(); // in the order of their last use
    this.wanted = new Set(); // waiting or on their way
    this.failed = new Set();
    this.waiting = [];
    this.flying = 0;
  }

  /** Returns a square's values, or undefined; `ask` has it fetched, and `onarrival` called. */
  get(layer, level, column, row, ask = true) {
    const key = `${layer.key}/${level}/${column}_${row}`;
    const values = this.values.get(key);
    if (values) {
      this.values.delete(key);
      this.values.set(key, values);
    } else if (ask && !this.wanted.has(key) && !this.failed.has(key)) {
      this.wanted.add(key);
      this.waiting.push({ key, layer });
      // what was asked for long ago has been scrolled away
      if (this.waiting.length > MOST_WAITING) this.wanted.delete(this.waiting.shift().key);
      this.next();
    }
    return values;
  }

  async next() {
    if (this.flying >= IN_FLIGHT || !this.waiting.length) return;
    const { key, layer } = this.waiting.pop(); // the last asked for is what is looked at
    this.flying += 1;
    try {
      this.values.set(key, await getNumbers(`map/${this.slideId}/${key}.bin`, layer.kind));
      if (this.values.size > MOST) this.values.delete(this.values.keys().next().value);
      this.onarrival();
    } catch (error) {
      this.failed.add(key);
      this.onerror(error);
    }
    this.flying -= 1;
    this.wanted.delete(key);
    this.next();
  }
}
