// Lines around what is strong, and around classes, in the cells of a sheet of values.

/** Returns a path along which values `[height, width]` cross a level; values stand in the middle of their cells. */
export function isoline(values, width, height, level, sign = 1) {
  const path = new Path2D();
  for (let y = 0; y + 1 < height; y++) {
    for (let x = 0; x + 1 < width; x++) {
      const at = y * width + x;
      const corners = [values[at], values[at + 1], values[at + width + 1], values[at + width]];
      const a = sign * corners[0], b = sign * corners[1], c = sign * corners[2], d = sign * corners[3];
      const code = (a >= level) | ((b >= level) << 1) | ((c >= level) << 2) | ((d >= level) << 3);
      if (code === 0 || code === 15) continue;
      if (Number.isNaN(a + b + c + d)) continue; // a line would end nowhere
      const top = [x + 0.5 + (level - a) / (b - a), y + 0.5];
      const right = [x + 1.5, y + 0.5 + (level - b) / (c - b)];
      const bottom = [x + 0.5 + (level - d) / (c - d), y + 1.5];
      const left = [x + 0.5, y + 0.5 + (level - a) / (d - a)];
      const line = (from, to) => {
        path.moveTo(...from);
        path.lineTo(...to);
      };
      switch (code) {
        case 1: case 14: line(left, top); break;
        case 2: case 13: line(top, right); break;
        case 3: case 12: line(left, right); break;
        case 4: case 11: line(right, bottom); break;
        case 6: case 9: line(top, bottom); break;
        case 7: case 8: line(left, bottom); break;
        // the middle decides which corners belong together
        case 5: case 10:
          if ((a + b + c + d) / 4 >= level === (code === 5)) {
            line(left, bottom);
            line(top, right);
          } else {
            line(left, top);
            line(right, bottom);
          }
      }
    }
  }
  return path;
}

/** Returns a path along the borders of a class. */
export function classBorder(values, width, height, number) {
  const path = new Path2D();
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      const own = values[at] === number;
      if (x + 1 < width && own !== (values[at + 1] === number)) {
        path.moveTo(x + 1, y);
        path.lineTo(x + 1, y + 1);
      }
      if (y + 1 < height && own !== (values[at + width] === number)) {
        path.moveTo(x, y + 1);
        path.lineTo(x + 1, y + 1);
      }
    }
  }
  return path;
}
