// One view of a slide: OpenSeadragon shows the tissue, a canvas above it map, outlines and the tile that is asked about.

import { reason } from "./api.js";
import { el } from "./dom.js";
import { levelSizes, SQUARE, squareSize } from "./levels.js";
import { Sheet } from "./sheet.js";
import { className, layerTitle, t } from "./texts.js";
import { number } from "./units.js";

const CRISP = 24; // pixels of the screen: cells as large as that are shown as the squares that they are

/** Makes the source of a slide's squares for OpenSeadragon, whose level 0 is the coarsest. */
function tileSource(slide) {
  const [width, height] = slide.levels[0];
  const last = slide.levels.length - 1;
  const source = new OpenSeadragon.TileSource({
    width, height, tileSize: SQUARE, tileOverlap: 0, minLevel: 0, maxLevel: last,
  });
  source.getTileUrl = (level, column, row) => `slide/${slide.id}/${last - level}/${column}_${row}.jpg`;
  // pixels of coarser levels may reach beyond the slide: a square is laid where its pixels are, not squeezed
  source.getTileBounds = (level, column, row, isSource) => {
    const [w, h] = squareSize(slide.levels[last - level], column, row);
    if (isSource) return new OpenSeadragon.Rect(0, 0, w, h);
    const unit = 2 ** (last - level) / width;
    return new OpenSeadragon.Rect(column * SQUARE * unit, row * SQUARE * unit, w * unit, h * unit);
  };
  return source;
}

/** A view. `shared` holds what all views of a slide have in common: slide, classes, squares, outlines, tile, hidden. */
export class View {
  constructor(shared, style, number, { onmove, onready, onclick, onhover, onactive, onerror }) {
    Object.assign(this, { shared, style, onhover });
    this.stage = el("div", { class: "stage" });
    this.canvas = el("canvas", { class: "overlay", "aria-hidden": "true" });
    this.title = el("span", { class: "view-title" });
    this.value = el("span", { class: "view-value" });
    this.cross = el("div", { class: "cross", "aria-hidden": "true" });
    this.element = el(
      "div", { class: "view", "data-view": number },
      this.stage, this.canvas, this.cross, el("div", { class: "readout" }, this.title, this.value),
    );
    this.sheet = null;
    this.sheetKey = "";
    this.start = () => {
      this.osd = OpenSeadragon({
        element: this.stage, tileSources: tileSource(shared.slide), drawer: "canvas", showNavigationControl: false,
        keyboardNavEnabled: false, animationTime: 0.35, springStiffness: 9, minZoomImageRatio: 0.6,
        maxZoomPixelRatio: 16, visibilityRatio: 0.3, zoomPerScroll: 1.35, immediateRender: true, preserveImageSizeOnResize: true, timeout: 60000,
        gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false },
        gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: false },
        gestureSettingsPen: { clickToZoom: false, dblClickToZoom: false },
      });
      const focused = this.osd.canvas;
      focused.setAttribute("role", "application");
      focused.setAttribute("aria-label", t("view.label", { number: number + 1 }));
      this.osd.addHandler("open", onready);
      this.osd.addHandler("open-failed", () => onerror(new Error(t("error.slide"))));
      this.osd.addHandler("tile-load-failed", async ({ tile }) => onerror(await reason(tile.getUrl(), t("error.square"))));
      this.osd.addHandler("update-viewport", () => {
        this.draw();
        onmove(this);
      });
      this.osd.addHandler("resize", () => requestAnimationFrame(() => this.draw()));
      this.osd.addHandler("canvas-click", (event) => {
        if (event.quick) onclick(this, ...this.place(event.position.x, event.position.y));
      });
      for (const name of ["pointerdown", "wheel", "focusin"]) {
        this.element.addEventListener(name, () => onactive(this), { capture: true, passive: true });
      }
      this.element.addEventListener("pointermove", (event) => {
        const frame = this.stage.getBoundingClientRect();
        onhover(...this.place(event.clientX - frame.left, event.clientY - frame.top));
      });
      this.element.addEventListener("pointerleave", () => onhover(null, null));
    };
  }

  get ready() {
    return Boolean(this.osd?.world.getItemCount());
  }

  /** Returns where the slide's corner is on the screen, and how many pixels of the screen one of its pixels takes. */
  get frame() {
    const corner = this.osd.viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    const scale = this.osd.viewport.viewportToImageZoom(this.osd.viewport.getZoom(true));
    return { x: corner.x, y: corner.y, scale };
  }

  /** Returns the place on the slide under a point of this view, in level-0 pixels. */
  place(x, y) {
    const frame = this.frame;
    return [(x - frame.x) / frame.scale, (y - frame.y) / frame.scale];
  }

  /** Returns what is in the middle and how large a pixel of the slide is shown, where a movement ends. */
  get goal() {
    const viewport = this.osd.viewport;
    const { x, y } = viewport.getCenter(false);
    const width = this.shared.slide.levels[0][0];
    return { x: x * width, y: y * width, scale: viewport.viewportToImageZoom(viewport.getZoom(false)) };
  }

  /** Whether the whole slide is seen. */
  get whole() {
    const viewport = this.osd.viewport;
    return viewport.getZoom(false) <= viewport.getHomeZoom() * 1.02;
  }

  /** Goes to a place. */
  go({ x, y, scale }, immediately = false) {
    const viewport = this.osd.viewport;
    const width = this.shared.slide.levels[0][0];
    viewport.zoomTo(viewport.imageToViewportZoom(scale), null, immediately);
    viewport.panTo(new OpenSeadragon.Point(x / width, y / width), immediately);
  }

  /** Goes where another view is at this moment. */
  follow(other) {
    const viewport = this.osd.viewport;
    viewport.zoomTo(other.osd.viewport.getZoom(true), null, true);
    viewport.panTo(other.osd.viewport.getCenter(true), true);
  }

  get layer() {
    return this.shared.slide.layers.find((layer) => layer.key === this.style.layer) ?? null;
  }

  /** Draws what lies above the tissue. */
  draw() {
    if (!this.ready) return;
    const ratio = window.devicePixelRatio || 1;
    const width = this.stage.clientWidth, height = this.stage.clientHeight;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      Object.assign(this.canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const layer = this.layer;
    this.title.textContent = layer ? layerTitle(layer) : t("layer.none");
    this.element.dataset.hidden = String(this.shared.hidden);
    if (this.shared.hidden) return;
    const { x, y, scale } = this.frame;
    const at = { x: x * ratio, y: y * ratio, scale: scale * ratio, ratio };
    if (layer) this.drawLayer(context, layer, at, [...this.place(0, 0), ...this.place(width, height)]);
    context.globalAlpha = 1;
    if (this.shared.outlined && !this.shared.drawn) this.drawOutlines(context, at);
    if (this.shared.tile) this.drawTile(context, at);
  }

  drawLayer(context, layer, at, bounds) {
    const { style, shared } = this;
    if (this.sheetKey !== layer.key) {
      this.sheetKey = layer.key;
      this.sheet = new Sheet(layer, shared.squares, shared.classes);
    }
    const sheet = this.sheet;
    if (!sheet.gather(sheet.levelFor(at.scale / at.ratio, style.contour ? 2 : 1), ...bounds)) return;
    const cell = sheet.cell * at.scale;
    context.setTransform(cell, 0, 0, cell, at.x + sheet.column * cell, at.y + sheet.row * cell);
    context.globalAlpha = style.opacity;
    if (style.contour) {
      sheet.contour(style);
      for (const [path, rgb, thick] of sheet.lines) {
        context.lineWidth = ((thick ? 4 : 3) * at.ratio) / cell;
        context.strokeStyle = "rgb(255 255 255 / 0.8)";
        context.stroke(path);
        context.lineWidth = ((thick ? 2 : 1) * at.ratio) / cell;
        context.strokeStyle = `rgb(${rgb.join(" ")})`;
        context.stroke(path);
      }
    } else {
      sheet.colour(style);
      context.imageSmoothingEnabled = layer.kind !== "class" && cell / at.ratio < CRISP;
      context.drawImage(sheet.canvas, 0, 0);
    }
  }

  drawOutlines(context, { x, y, scale, ratio }) {
    context.setTransform(scale, 0, 0, scale, x, y);
    for (const { path, rgb, dashed } of this.shared.outlines) {
      context.setLineDash([]);
      context.lineWidth = (4 * ratio) / scale;
      context.strokeStyle = "rgb(255 255 255 / 0.75)";
      context.stroke(path);
      if (dashed) context.setLineDash([(9 * ratio) / scale, (5 * ratio) / scale]);
      context.lineWidth = (2 * ratio) / scale;
      context.strokeStyle = `rgb(${rgb.join(" ")})`;
      context.stroke(path);
    }
    context.setLineDash([]);
  }

  drawTile(context, { x, y, scale, ratio }) {
    const { tile } = this.shared;
    context.setTransform(1, 0, 0, 1, 0, 0);
    const square = [x + tile.x * scale, y + tile.y * scale, tile.side * scale, tile.side * scale];
    for (const [colour, width] of [["#ffffff", 5], ["#101418", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * ratio;
      context.strokeRect(...square);
    }
  }

  /** Shows the number of this view's map at a place of the slide, the finest there is. */
  read(x, y) {
    const layer = this.layer;
    this.value.textContent = layer && x !== null ? this.describe(layer, x, y) : "";
  }

  describe(layer, x, y) {
    const column = Math.floor(x / layer.cell), row = Math.floor(y / layer.cell);
    if (column < 0 || row < 0 || column >= layer.width || row >= layer.height) return t("value.nothing");
    const sizes = levelSizes(layer.width, layer.height);
    const square = [Math.floor(column / SQUARE), Math.floor(row / SQUARE)];
    const values = this.shared.squares.get(layer, 0, ...square);
    if (!values) return "…";
    const value = values[(row % SQUARE) * squareSize(sizes[0], ...square)[0] + (column % SQUARE)];
    if (layer.kind === "class") return value === 255 ? t("value.nothing") : className(this.shared.classes[value]);
    return Number.isNaN(value) ? t("value.nothing") : number(value);
  }

  close() {
    this.osd?.destroy();
    this.element.remove();
  }
}
