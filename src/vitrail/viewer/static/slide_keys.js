// What the keys of a slide's page do.

const STEP = 0.15; // of a view's width or height that an arrow key moves
const ZOOM = 1.35;

/** Returns the table of keys of a slide's page, which shows as many views as `counts` allows. */
export function slideKeys(page, counts) {
  const when = (action) => (key) => page.views.length && action(key);
  const seen = (action) => when((key) => page.view.ready && action(key));
  const pan = (x, y) => seen(() => {
    page.setByKey(true);
    const { viewport } = page.view.osd;
    const { width, height } = viewport.getBounds(false);
    viewport.panBy(new OpenSeadragon.Point(x * STEP * width, y * STEP * height));
    viewport.applyConstraints();
  });
  const zoom = (by) => seen(() => {
    page.setByKey(true);
    page.view.osd.viewport.zoomBy(by);
    page.view.osd.viewport.applyConstraints();
  });
  const slide = (name, by) => when(() => page.controls.nudge(name, by));
  return [
    { keys: [..."123456789"], shown: ["1", "\u2026", "9"], text: "key.layer", down: when((key) => {
      const layer = page.slide.layers[Number(key) - 1];
      if (layer) page.choose(layer);
    }) },
    { keys: ["0"], shown: ["0"], text: "key.nolayer", down: when(() => page.choose(null)) },
    { keys: ["h"], shown: ["h"], text: "key.hide", once: true, down: when(() => page.setHidden(true)), up: () => page.setHidden(false) },
    { keys: ["o"], shown: ["o"], text: "key.outlines", once: true, down: when(() => page.setOutlined(!page.shared.outlined)) },
    { keys: ["c"], shown: ["c"], text: "key.contour", once: true, down: when(() => page.controls.toggleContour()) },
    { keys: ["s"], shown: ["s"], text: "key.sign", once: true, down: when(() => page.controls.nextSign()) },
    { keys: ["j", "["], shown: ["j"], text: "key.paler", down: slide("opacity", -1) },
    { keys: ["k", "]"], shown: ["k"], text: "key.stronger", down: slide("opacity", 1) },
    { keys: [","], shown: [","], text: "key.lower", down: slide("threshold", -1) },
    { keys: ["."], shown: ["."], text: "key.higher", down: slide("threshold", 1) },
    { keys: ["ArrowLeft"], shown: ["\u2190"], text: "key.left", down: pan(-1, 0) },
    { keys: ["ArrowRight"], shown: ["\u2192"], text: "key.right", down: pan(1, 0) },
    { keys: ["ArrowUp"], shown: ["\u2191"], text: "key.up", down: pan(0, -1) },
    { keys: ["ArrowDown"], shown: ["\u2193"], text: "key.down", down: pan(0, 1) },
    { keys: ["+", "="], shown: ["+"], text: "key.in", down: zoom(ZOOM) },
    { keys: ["-", "_"], shown: ["\u2212"], text: "key.out", down: zoom(1 / ZOOM) },
    { keys: ["f", "Home"], shown: ["f"], text: "key.fit", down: seen(() => page.view.osd.viewport.goHome()) },
    { keys: ["Enter"], shown: ["Enter"], text: "key.why", once: true, down: seen(() => {
      const { x, y } = page.view.goal;
      page.explain(x, y);
      page.why.focus();
    }) },
    { keys: ["Escape"], shown: ["Esc"], text: "key.close", down: () => page.closeWhy() },
    { keys: ["v"], shown: ["v"], text: "key.views", once: true, down: when(() =>
      page.setCount(counts[(counts.indexOf(page.views.length) + 1) % counts.length])) },
    { keys: ["x"], shown: ["x"], text: "key.view", once: true, down: when(() => {
      page.activate((page.active + 1) % page.views.length);
      page.focusView();
    }) },
    { keys: ["l"], shown: ["l"], text: "key.panel", once: true, down: when(() => page.controls.toggle()) },
    { keys: ["n"], shown: ["n"], text: "key.next", once: true, down: () => page.other(1) },
    { keys: ["p"], shown: ["p"], text: "key.previous", once: true, down: () => page.other(-1) },
    { keys: ["w"], shown: ["w"], text: "key.wall", once: true, down: () => (location.hash = "") },
    { keys: ["?"], shown: ["?"], text: "key.keys", down: () => page.app.keys.show() },
  ];
}
