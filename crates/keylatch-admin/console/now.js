// What happens now, and what needs a person.

import { Chart } from "./charts.js";
import { h, replace } from "./dom.js";
import { duration, number, visible } from "./format.js";
import { listen } from "./live.js";
import { Between } from "./metrics.js";
import { needs } from "./needs.js";

const ANSWERS = "keylatch_answers_total";
const STORE = "keylatch_store_seconds";
const seconds = (value) => duration(value * 1000);

/** The charts, each with how it gets its values. */
const CHARTS = [
  ["Requests a second", {}, ({ between }) => [between.rate(ANSWERS)]],
  ["Replays a second", {}, ({ between }) => [between.rate(ANSWERS, { answer: "replay" })]],
  ["Conflicts", { sum: true }, ({ between }) => [between.grown(ANSWERS, { answer: "in_progress" })]],
  ["Mismatches", { sum: true }, ({ between }) => [between.grown(ANSWERS, { answer: "mismatch" })]],
  ["Takeovers", { sum: true }, ({ between }) => [between.grown("keylatch_takeovers_total")]],
  ["Unknown outcomes", { format: number }, ({ stats }) => [stats?.lapsed.unknown ?? null]],
  [
    "Running and waiting",
    { curves: ["run", "wait"], format: number },
    ({ between }) => [between.gauge("keylatch_running"), between.gauge("keylatch_waiters") ?? 0],
  ],
  [
    "Store latency",
    { curves: ["avg", "p99"], format: seconds },
    ({ between }) => [between.mean(STORE), between.p99(STORE)],
  ],
  ["Outbox: waiting events", { format: number }, ({ stats }) => [stats?.outbox?.waiting.count ?? null]],
  ["Outbox: oldest event", { format: duration }, ({ stats }) => [stats?.outbox ? (stats.outbox.oldest_ms ?? 0) : null]],
];

export async function now(page, _, session) {
  const live = h("span", { class: "live" }, "connecting");
  const needed = h("section", { class: "panel", "aria-labelledby": "needs-title" });
  const notes = h("div", {});
  const charts = CHARTS.map(([title, options, values]) => ({ chart: new Chart(title, options), values }));
  const grid = h(
    "div",
    { class: "charts" },
    charts.map(({ chart }) => chart.element),
  );
  replace(
    page,
    h("div", { class: "head" }, session.title("Now"), h("div", { class: "end" }, live)),
    needed,
    notes,
    grid,
  );

  const lags = new Map();
  let before = null;
  listen(session.signal, (snapshots, isOpen) => {
    live.classList.toggle("on", isOpen);
    live.textContent = isOpen ? "live" : "not connected";
    for (const snapshot of snapshots) {
      const between = new Between(before, snapshot);
      before = snapshot;
      charts.forEach(({ chart, values }) => chart.push(snapshot.at, ...values({ between, stats: snapshot.stats })));
      lag(lags, grid, between);
    }
    if (before && !document.hidden) {
      needs(needed, before);
      charts.forEach(({ chart }) => chart.draw());
      lags.forEach((chart) => chart.draw());
      replace(
        notes,
        Object.keys(before.metrics).length > 0
          ? null
          : h(
              "p",
              { class: "notice" },
              "This process reports no metrics, so rates and latencies are not shown. Numbers of the store are.",
            ),
      );
    }
  });
}

/** The most charts of lags. */
const LAGS_MAX = 24;

/** Adds to the chart of each consumer's topic how far it is behind, and makes the chart when the first number comes. */
function lag(charts, grid, between) {
  for (const {
    labels: { consumer, topic },
    value,
  } of between.each("keylatch_consumer_lag")) {
    const name = [consumer, topic].filter(Boolean).map(visible).join(": ");
    if (!charts.has(name) && charts.size < LAGS_MAX) {
      charts.set(name, new Chart(`Lag of ${name}`, { format: number }));
      grid.append(charts.get(name).element);
    }
    charts.get(name)?.push(between.at, value);
  }
}
