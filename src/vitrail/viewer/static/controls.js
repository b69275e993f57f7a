// The panel of layers: which one lies over the tissue in the active view, and how.

import { button, el, field } from "./dom.js";
import { plainStyle } from "./link.js";
import { gradient, palettesOf } from "./palettes.js";
import { className, layerTitle, networkTitle, t } from "./texts.js";
import { number, percent } from "./units.js";

const STEPS = 200; // of a slider
const SIGNS = ["both", "for", "against"];

/** The panel. */
export class Controls {
  constructor(page) {
    this.page = page;
    this.choices = el("div", { class: "choices" });
    this.look = el("div", { class: "look" });
    this.outlines = el("input", { type: "checkbox", id: "outlines", onchange: () => page.setOutlined(this.outlines.checked) });
    this.linked = el("input", { type: "checkbox", id: "linked", onchange: () => {
      page.linked = this.linked.checked;
      page.styled();
    } });
    this.hide = button(t("hide"), () => page.setHidden(!page.shared.hidden), { pressed: false, title: t("key.hide") });
    this.linkedRow = el("div", { class: "row" }, this.linked, el("label", { for: "linked", text: t("views.linked") }));
    const presets = page.presets();
    this.opener = button(t("layers"), () => this.toggle(), { class: "panel-opener" });
    this.element = el(
      "aside", { class: "layers", "aria-label": t("layers") },
      el("div", { class: "panel-head" }, el("h2", { text: t("layers") }), this.which = el("span", { class: "which" }),
        button("\u00d7", () => this.toggle(), { class: "quiet", label: t("layers.close"), title: t("layers.close") })),
      this.choices, this.look,
      el("div", { class: "panel-part" },
        page.slide.outlined ? el("div", { class: "row" }, this.outlines, el("label", { for: "outlines" }, t("outlines"), " ", el("kbd", { text: "o" })), this.legend()) : null,
        this.linkedRow, this.hide),
      presets.length ? el("div", { class: "panel-part" }, el("h3", { text: t("presets") }),
        ...presets.map(([name, layers]) => button(t(`preset.${name}`), () => page.setViews(layers.map((layer) => plainStyle(layer))), { class: "wide" }))) : null,
    );
    page.stage.append(this.opener);
  }

  legend() {
    return el("span", { class: "line-keys" }, ...["tumor", "non_tumor"].map((key) => {
      const each = this.page.shared.classes.find((one) => one.key === key);
      return el("span", { class: "line-key" }, el("span", { class: `line ${key}`, style: `border-color:rgb(${each.rgb.join(" ")})` }), className(each));
    }));
  }

  titleOf(layer) {
    return layerTitle(layer);
  }

  /** Opens or closes the panel. */
  toggle() {
    const open = getComputedStyle(this.element).display !== "none"; // where it is narrow, reasons hide it
    this.page.frame.classList.toggle("without-layers", open);
    this.page.frame.classList.toggle("with-layers", !open);
    if (open) this.opener.focus();
    else this.element.querySelector("input, button").focus();
  }

  /** Shows the active view's layer and look. */
  show() {
    const { page } = this;
    const { style } = page.view;
    this.which.textContent = page.views.length > 1 ? t("views.active", { number: page.active + 1 }) : "";
    this.linkedRow.hidden = page.views.length < 2;
    if (this.choices.childElementCount) {
      this.choices.querySelectorAll("input").forEach((input) => (input.checked = input.value === style.layer));
    } else this.fillChoices();
    this.fillLook();
    this.sync();
  }

  /** Shows what is the same for all views. */
  sync() {
    this.outlines.checked = this.page.shared.outlined;
    this.linked.checked = this.page.linked;
    this.hide.setAttribute("aria-pressed", String(this.page.shared.hidden));
  }

  fillChoices() {
    const { page } = this;
    const { layers } = page.slide;
    const choice = (layer, key) => {
      const input = el("input", { type: "radio", name: "layer", id: `layer-${layer?.key ?? ""}`, value: layer?.key ?? "",
        checked: (layer?.key ?? "") === page.view.style.layer, onchange: () => page.choose(layer) });
      return el("div", { class: "choice" }, input,
        el("label", { for: input.id }, el("span", { text: layer ? layerTitle(layer, true) : t("layer.none") }), key ? el("kbd", { text: key, "aria-hidden": "true" }) : null));
    };
    const isWhy = (layer) => layer.kind === "signed" || layer.kind === "unsigned";
    const groups = new Map();
    layers.forEach((layer, i) => {
      const name = isWhy(layer) ? t("layers.why", { network: networkTitle(layer.network) }) : t("layers.said");
      groups.set(name, [...(groups.get(name) ?? []), choice(layer, i < 9 ? String(i + 1) : "")]);
    });
    this.choices.append(choice(null, "0"));
    for (const [name, choices] of groups) this.choices.append(el("fieldset", {}, el("legend", { text: name }), ...choices));
    if (!layers.length) this.choices.append(el("p", { class: "facts", text: t("layers.none") }));
  }

  slider(name, text, low, high, value, write) {
    const { page } = this;
    const output = el("output", { class: "figure", text: write(value) });
    const input = el("input", { type: "range", min: 0, max: STEPS, step: 1, value: Math.round(((value - low) / (high - low)) * STEPS) || 0,
      "aria-valuetext": write(value), oninput: () => {
        const chosen = low + (Number(input.value) / STEPS) * (high - low);
        page.view.style[name] = chosen;
        output.textContent = write(chosen);
        input.setAttribute("aria-valuetext", write(chosen));
        page.styled();
      } });
    input.dataset.name = name;
    return field(text, input, output);
  }

  select(text, options, value, onchange) {
    const select = el("select", { onchange: () => onchange(select.value) },
      ...options.map(([name, label]) => el("option", { value: name, text: label, selected: name === value })));
    return field(text, select);
  }

  fillLook() {
    const { page } = this;
    const { layer, style } = page.view;
    this.look.hidden = !layer;
    if (!layer) {
      this.look.replaceChildren();
      return;
    }
    const change = (name) => (value) => {
      style[name] = value;
      this.fillLegend(layer, style);
      page.styled();
    };
    this.contour = el("input", { type: "checkbox", id: "contour", onchange: () => change("contour")(this.contour.checked) });
    this.contour.checked = style.contour;
    this.scale = el("div", { class: "legend" });
    const parts = [this.scale, this.slider("opacity", t("opacity"), 0, 1, style.opacity, percent)];
    if (layer.kind !== "class") {
      const from = layer.kind === "signed" ? 0 : layer.low;
      parts.push(this.slider("threshold", t("threshold"), from, layer.high, style.threshold, (value) => number(value)));
      if (layer.kind === "signed") {
        parts.push(this.select(t("sign"), SIGNS.map((sign) => [sign, t(`sign.${sign}`)]), style.sign, change("sign")));
      }
      parts.push(this.select(t("palette"), palettesOf(layer.kind).map((name) => [name, t(`palette.${name}`)]), style.palette, change("palette")));
    }
    parts.push(el("div", { class: "row" }, this.contour, el("label", { for: "contour" }, t("contour"), " ", el("kbd", { text: "c" }))));
    this.look.replaceChildren(...parts);
    this.fillLegend(layer, style);
  }

  fillLegend(layer, style) {
    if (layer.kind === "class") {
      this.scale.replaceChildren(...this.page.shared.classes.map((each) => {
        const input = el("input", { type: "checkbox", id: `class-${each.key}`, onchange: () => {
          style.off = input.checked ? style.off.filter((key) => key !== each.key) : [...style.off, each.key];
          this.page.styled();
        } });
        input.checked = !style.off.includes(each.key);
        return el("div", { class: "row" }, input, el("span", { class: "swatch", style: `background:rgb(${each.rgb.join(" ")})` }), el("label", { for: input.id, text: className(each) }));
      }));
      return;
    }
    const signed = layer.kind === "signed";
    const ends = signed
      ? [`${number(layer.low, 2)} ${t("sign.against.short")}`, `${number(layer.high, 2)} ${t("sign.for.short")}`]
      : [number(layer.low, 2), number(layer.high, 2)];
    this.scale.replaceChildren(
      el("div", { class: "ramp", style: `background:${gradient(layer.kind, style.palette)}` }),
      el("div", { class: "ends" }, el("span", { text: ends[0] }), signed ? el("span", { text: "0" }) : null, el("span", { text: ends[1] })));
  }

  /** Moves a slider by twentieths. */
  nudge(name, by) {
    const input = this.look.querySelector(`input[data-name=${name}]`);
    if (!input) return;
    input.value = Number(input.value) + (by * STEPS) / 20;
    input.dispatchEvent(new Event("input"));
  }

  toggleContour() {
    if (!this.page.view.layer) return;
    this.contour.checked = !this.contour.checked;
    this.contour.dispatchEvent(new Event("change"));
  }

  nextSign() {
    const { layer, style } = this.page.view;
    if (layer?.kind !== "signed") return;
    style.sign = SIGNS[(SIGNS.indexOf(style.sign) + 1) % SIGNS.length];
    this.fillLook();
    this.page.styled();
  }
}
