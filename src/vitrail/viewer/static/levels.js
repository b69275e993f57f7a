// Pyramids as the server cuts them: squares of 256 pixels, each level half as large as the one before, 0 the finest.

export const SQUARE = 256;

/** Lists [width, height] of all levels, finest first. */
export function levelSizes(width, height) {
  const sizes = [[width, height]];
  while (Math.max(...sizes.at(-1)) > SQUARE) {
    const [w, h] = sizes.at(-1);
    sizes.push([Math.ceil(w / 2), Math.ceil(h / 2)]);
  }
  return sizes;
}

/** Returns the columns and rows of squares of a level that a rectangle in the level's pixels touches. */
export function squaresWithin([width, height], left, top, right, bottom) {
  const last = (length) => Math.ceil(length / SQUARE) - 1;
  return {
    c0: Math.max(0, Math.floor(left / SQUARE)), c1: Math.min(last(width), Math.floor(right / SQUARE)),
    r0: Math.max(0, Math.floor(top / SQUARE)), r1: Math.min(last(height), Math.floor(bottom / SQUARE)),
  };
}

/** Returns width and height of a square; those at the right and lower edge are smaller. */
export function squareSize([width, height], column, row) {
  return [Math.min(SQUARE, width - column * SQUARE), Math.min(SQUARE, height - row * SQUARE)];
}
