// What the raters of a queue have said, in plain tables: each number with its interval, each table with a sentence.

import { getJson } from "./api.js";
import { el } from "./dom.js";
import { answerTitle, queueList } from "./review.js";
import { methodTitle, networkTitle, t } from "./texts.js";
import { number, percent, probability } from "./units.js";

const DASH = "\u2013";
const written = (value, write) => write(value).replace("-", "\u2212");

/** Writes a triple of a value and its interval. */
function interval(triple, write) {
  if (!triple || triple[0] === null) return DASH;
  const [value, low, high] = triple;
  const text = written(value, write);
  return low === null || high === null ? t("results.no_interval", { value: text })
    : t("results.interval", { value: text, low: written(low, write), high: written(high, write) });
}

const share = (triple) => interval(triple, percent);
const kappa = (triple) => interval(triple, probability);

function table(heads, rows) {
  return el("table", { class: "result-table" },
    el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col", text })))),
    el("tbody", {}, ...rows.map(([first, ...cells]) => el("tr", {}, el("th", { scope: "row", text: first }), ...cells.map((text) => el("td", { class: "figure", text }))))));
}

const section = (name, ...content) => el("section", {}, el("h2", { text: t(`results.${name}`) }), el("p", { class: "facts", text: t(`results.${name}.says`) }), ...content);

/** The page of a queue's results. */
export class ResultsPage {
  constructor(app, queueName) {
    Object.assign(this, { app, queueName });
  }

  shows() {
    return false;
  }

  close() {}

  async open() {
    const { app, queueName } = this;
    document.title = `${t("results")} \u00b7 Vitrail`;
    app.keys.table = [{ keys: ["?"], shown: ["?"], text: "key.keys", down: () => app.keys.show() }];
    app.bar.replaceChildren(el("a", { class: "quiet", href: `#review=${queueName}`, text: t("results.back") }));
    app.main.replaceChildren(el("p", { class: "waiting", text: t("waiting") }));
    try {
      const { queues } = await getJson("api/review");
      this.queue = queues.find((each) => each.name === queueName);
      if (!this.queue) {
        app.main.replaceChildren(el("div", { class: "text-page" }, el("h1", { text: t("results") }), queueList(queues)));
        if (queueName) app.say(new Error(t("review.unknown", { name: queueName })));
        return;
      }
      this.summary = await getJson(`api/review/${encodeURIComponent(queueName)}/results`);
    } catch (error) {
      app.main.replaceChildren();
      app.say(error);
      return;
    }
    app.main.replaceChildren(el("div", { class: "text-page results-page" },
      el("h1", { text: t("results.title", { name: queueName }) }), ...this.sections(),
      el("section", {}, el("h2", { text: t("results.export") }), el("p", { class: "facts", text: t("results.export.says") }),
        el("pre", { tabindex: "0" }, el("code", { text: `vitrail review RUN --queue ${queueName} --export ${t("results.export.folder")}` })))));
  }

  sections() {
    const { summary, queue } = this;
    const raters = Object.keys(summary.raters);
    if (!raters.length) return [el("p", { text: t("results.none") })];
    const parts = [section("raters", table([t("results.rater"), t("results.judged", { cases: summary.cases }), t("results.seconds"), t("results.own")],
      raters.map((rater) => [rater, String(summary.raters[rater].judged), summary.raters[rater].seconds === null ? DASH : number(summary.raters[rater].seconds, 2), kappa(summary.own[rater])])))];
    const pairs = Object.entries(summary.pairs);
    if (pairs.length) {
      parts.push(section("agreement", table([t("results.pair"), t("results.kappa")],
        [...pairs.map(([name, triple]) => [name, kappa(triple)]), [t("results.all"), kappa(summary.fleiss)]])));
    }
    if (summary.question === "class") {
      const against = [...Object.entries(summary.networks).map(([task, each]) => [networkTitle(task), each]), [t("results.labels"), summary.labels]];
      parts.push(section("networks", table([t("results.against"), t("results.rater"), t("results.decided"), t("results.equal"), t("results.kappa"), t("results.random")],
        against.flatMap(([name, each]) => raters.map((rater) => [name, rater, String(each[rater].cases), share(each[rater].share), kappa(each[rater].kappa), share(each[rater].random_share)])))));
      parts.push(section("changed", el("p", { class: "figure strong", text: share(summary.changed) })));
    } else {
      const [network, method] = summary.map;
      parts.push(section("answers", el("p", { text: `${methodTitle(method, method)} \u00b7 ${networkTitle(network)}` }),
        table([t("results.answer"), t("results.share")], Object.entries(summary.answers).map(([answer, triple]) => [answerTitle(queue, answer), share(triple)]))));
    }
    return parts;
  }
}
