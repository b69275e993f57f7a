// The page begins: what is there to see, in which language, and whether a slide or all of them are shown.

import { getJson } from "./api.js";
import { announce, button, el } from "./dom.js";
import { Keys } from "./keys.js";
import { readLink } from "./link.js";
import { ResultsPage } from "./results.js";
import { ReviewPage } from "./review.js";
import { SlidePage } from "./slide.js";
import { language, setLanguage, t } from "./texts.js";
import { Wall } from "./wall.js";

class App {
  constructor() {
    this.root = document.getElementById("app");
    this.keys = new Keys();
    this.page = null;
    window.addEventListener("hashchange", () => this.show());
  }

  async start() {
    document.documentElement.lang = language();
    this.bar = el("nav", { class: "bar-middle" });
    this.main = el("main");
    this.line = el("div", { class: "error-line", role: "alert", hidden: true });
    this.root.replaceChildren(this.head(), this.line, this.main);
    this.main.append(el("p", { class: "waiting", text: t("waiting") }));
    await this.show(true);
  }

  head() {
    const other = language() === "de" ? "en" : "de";
    return el(
      "header", { class: "bar" },
      el("a", { class: "brand", href: "#", title: t("home") },
        el("img", { src: "static/icon.svg", alt: "", width: 24, height: 24 }), el("span", { class: "session-title", text: "Vitrail" })),
      this.bar,
      el("div", { class: "bar-end" },
        button(other === "de" ? "Deutsch" : "English", () => {
          setLanguage(other);
          this.start();
        }, { class: "quiet language", lang: other }),
        button("?", () => this.keys.show(), { class: "quiet", label: t("keys.title"), title: t("keys.title") })),
    );
  }

  /** Shows what the address asks for. */
  async show(anew = false) {
    const link = readLink();
    this.say(null);
    if (!anew && this.page?.shows?.(link)) {
      this.page.restore(link);
      return;
    }
    this.page?.close();
    this.bar.replaceChildren();
    this.keys.table = [];
    const [review, results] = ["review", "results"].map((name) => link.values.get(name));
    if (review !== null || results !== null) {
      // raters are blind: what the networks say of the slides is not even asked for
      this.page = review !== null ? new ReviewPage(this, review) : new ResultsPage(this, results);
      await this.page.open();
      return;
    }
    this.page = null;
    try {
      this.session ??= await getJson("api/session");
    } catch (error) {
      this.main.replaceChildren();
      this.say(error);
      return;
    }
    document.title = `${this.session.title} \u00b7 Vitrail`;
    this.root.querySelector(".session-title").textContent = this.session.title;
    const facts = this.session.slides.find((slide) => slide.id === link.slide);
    if (link.slide && !facts) this.say(new Error(t("error.unknown")));
    if (this.session.run && !facts) this.bar.append(el("a", { class: "quiet", href: "#review=", text: t("review.queues") }));
    this.page = facts ? new SlidePage(this, facts, link) : new Wall(this, link);
    await this.page.open();
  }

  /** Shows an error in one line until something else is shown; null takes it away. */
  say(error) {
    this.line.hidden = !error;
    this.line.replaceChildren();
    if (!error) return;
    this.line.append(
      el("span", { text: `${t("error")}: ${error.message}` }),
      button("\u00d7", () => this.say(null), { class: "quiet", label: t("close") }),
    );
    announce(error.message);
  }
}

const app = new App();
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name !== "AbortError") app.say(event.reason);
});
if (window.OpenSeadragon) app.start();
else app.root.append(el("p", { class: "waiting", role: "alert", text: t("error.library") }));
