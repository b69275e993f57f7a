// Elements made in one line, and what a screen reader is told.

/**
 * Makes an element. Attributes that begin with "on" are listeners, "text" is its text, true and false set or leave an
 * attribute; children that are null or false are left out.
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else if (name === "value") element.value = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== false && child !== undefined));
  return element;
}

/** Says a line to those who listen instead of looking. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

/** Makes a button; `pressed` makes it one that stays down. */
export function button(text, onclick, { pressed, title, label, ...more } = {}) {
  const states = pressed === undefined ? {} : { "aria-pressed": String(pressed) };
  return el("button", { type: "button", text, onclick, title, "aria-label": label, ...states, ...more });
}

let ids = 0;

/** Labels an input; the label stands before it. */
export function field(text, input, extra = null) {
  input.id ||= `field${++ids}`;
  return el("div", { class: "field" }, el("label", { for: input.id, text }), input, extra);
}
