// Keys: one table for what they do and for the page that lists them.

import { button, el } from "./dom.js";
import { t } from "./texts.js";

const WRITING = "input:not([type=radio], [type=checkbox], [type=range], [type=button]), textarea, select";
const ARROWS = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home"]);

/** Listens to keys; `table` lists {keys, shown, text, down, up}, `shown` is what the list of keys calls them. */
export class Keys {
  constructor() {
    this.table = [];
    this.on = true;
    for (const name of ["keydown", "pointerdown"]) {
      document.addEventListener(name, () => (document.documentElement.dataset.input = name.startsWith("key") ? "key" : "pointer"), true);
    }
    document.addEventListener("keydown", (event) => this.press(event, "down"));
    document.addEventListener("keyup", (event) => this.press(event, "up"));
    window.addEventListener("blur", () => this.table.forEach((entry) => entry.up?.()));
  }

  press(event, way) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    const { key, target } = event;
    const named = key.length > 1;
    if (document.querySelector("dialog[open]")) return;
    if (!named && !this.on) return;
    if (target.matches?.(WRITING) && key !== "Escape") return;
    // arrows belong to sliders and choices, Enter to buttons and links
    if (target.matches?.("input") && ARROWS.has(key)) return;
    if (key === "Enter" && target.matches?.("button, a, input, summary")) return;
    const entry = this.table.find((each) => each.keys.includes(named ? key : key.toLowerCase()));
    if (!entry) return;
    if (way === "down" && entry.down && !(event.repeat && entry.once)) {
      event.preventDefault();
      entry.down(key);
    } else if (way === "up" && entry.up) entry.up(key);
  }

  /** Opens the list of keys. */
  show() {
    const before = document.activeElement;
    const rows = this.table.map(({ shown, text }) =>
      el("div", { class: "key-row" }, el("dt", {}, ...shown.map((key) => el("kbd", { text: key }))), el("dd", { text: t(text) })),
    );
    const toggle = el("input", { type: "checkbox", id: "single-keys", onchange: () => (this.on = toggle.checked) });
    toggle.checked = this.on;
    const dialog = el(
      "dialog", { class: "keys", "aria-labelledby": "keys-title" },
      el("h2", { id: "keys-title", text: t("keys.title") }), el("dl", {}, ...rows),
      el("div", { class: "row" }, toggle, el("label", { for: "single-keys", text: t("keys.single") })),
      button(t("close"), () => dialog.close(), { class: "primary" }),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      before?.focus?.();
    });
    document.body.append(dialog);
    dialog.showModal();
  }
}
