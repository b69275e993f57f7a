// A slide's outlines as paths, one a class, drawn like a layer: ten thousand points cost no more than ten.

import { getJson } from "./api.js";

/** Reads the outlines of a slide: [{path, key, rgb, dashed}] in level-0 pixels, what matters most drawn last. */
export async function readOutlines(slideId, classes) {
  const { features } = await getJson(`api/slides/${slideId}/outlines`);
  const paths = new Map();
  for (const { properties, geometry } of features) {
    const path = paths.get(properties.class) ?? new Path2D();
    paths.set(properties.class, path);
    const polygons = geometry.type === "Polygon" ? [geometry.coordinates] : geometry.coordinates;
    for (const ring of polygons.flat()) {
      ring.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
      path.closePath();
    }
  }
  const order = classes.map((each) => each.key);
  return [...paths].sort((a, b) => order.indexOf(b[0]) - order.indexOf(a[0])).map(([key, path]) => ({
    path, key, rgb: classes.find((each) => each.key === key)?.rgb ?? [60, 60, 60], dashed: key !== "tumor",
  }));
}
