// The life of one record, as a list: what the store knows, and what this process saw.

import { h } from "./dom.js";
import { ago, duration, instant, number, sentence, visible } from "./format.js";

/** What this process saw go wrong. */
const ALARMS = new Set(["mismatch", "lease-lost", "unknown", "failed", "quota"]);

/** What this process saw, in words. */
const WORDS = {
  started: ({ attempt, epoch, takeover }) =>
    `Attempt ${number(attempt)} began, in epoch ${number(epoch)}${takeover ? ", after a run that had died" : ""}`,
  began: () => "A run began in a transaction",
  completed: () => "The run ended, and its answer was recorded",
  "not-recorded": () => "The run ended without a recorded answer",
  "lease-lost": () => "The run ended after another owner had taken over",
  replayed: () => "A request got the recorded answer",
  "in-progress": () => "A request was refused: a run had the key",
  mismatch: () => "Another request was refused: the key belongs to this one",
  unknown: () => "A request was refused: the outcome is unknown",
  expired: () => "A request was refused: the answer is no longer kept",
  quota: () => "A request was refused: a limit was reached",
  failed: () => "A request got no answer: the store failed, or the process was shutting down",
};

/** What each part of a request is called. */
const PARTS = {
  method: "method",
  path: "path",
  query: "query",
  type: "content type",
  body: "body",
  headers: "counted headers",
};

/**
 * The moments of the store and those of this process, in the order of time. A moment without a time follows the one
 * before it; that an answer was recorded follows what this process saw of it.
 */
function ordered(stored, seen) {
  const completed = seen.find(({ what }) => what === "completed");
  let last = -Infinity;
  const keyed = stored.map((moment) => {
    if (moment.at) {
      last = new Date(moment.at).getTime();
    } else if (moment.what === "completed" && completed) {
      last = Math.max(last, new Date(completed.first_at).getTime());
    }
    return { moment, key: last };
  });
  keyed.push(
    ...seen.map((event) => ({
      moment: { ...event, at: event.first_at, process: true, says: WORDS[event.what]?.(event) ?? event.what },
      key: new Date(event.first_at).getTime(),
    })),
  );
  return keyed.sort((a, b) => a.key - b.key).map(({ moment }) => moment);
}

/** The time line of a record's detail, as the API gave it. */
export function timeline({ timeline: moments, now, record, seen }) {
  const all = ordered(moments, seen?.events ?? []);
  const isAhead = ({ at, process }) => at && !process && new Date(at) > new Date(now);
  const past = all.filter((moment) => !isAhead(moment));
  const ahead = all.filter(isAhead);
  const here = h(
    "li",
    { class: record.phase === "unknown" ? "alarm" : "" },
    when(now, now),
    h("span", { class: "track" }),
    h("div", { class: "what" }, h("strong", {}, `Now: ${record.phase}`)),
  );
  return [
    h(
      "ol",
      { class: "timeline", "aria-label": "Time line" },
      past.map((moment) => entry(moment, now, "")),
      here,
      ahead.map((moment) => entry(moment, now, "ahead")),
    ),
    h(
      "div",
      { class: "sources" },
      h("span", {}, "From the store. Its clock counts."),
      seen
        ? h(
            "span",
            { class: "process" },
            `Seen by this process since ${instant(seen.since)} UTC, on its own clock. `,
            "Other processes saw other requests. It forgets this when it ends.",
            seen.forgotten > 0
              ? ` It has already forgotten ${number(seen.forgotten)} earlier events of this record.`
              : "",
          )
        : h("span", { class: "process" }, "This process does not remember the requests that it saw."),
    ),
  ];
}

function entry(moment, now, extra) {
  const alarm = moment.process && ALARMS.has(moment.what);
  const kind = [extra, moment.process ? "process" : "", alarm ? "alarm" : ""].filter(Boolean).join(" ");
  const details = [
    moment.times > 1 ? `${number(moment.times)} times, last ${ago(moment.last_at, now)}` : "",
    moment.waited_max_ms > 0 ? `waited up to ${duration(moment.waited_max_ms)}` : "",
  ].filter(Boolean);
  return h(
    "li",
    { class: kind, "data-what": moment.what },
    when(moment.at, now),
    h("span", { class: "track" }),
    h(
      "div",
      { class: "what" },
      moment.process ? h("span", { class: "sr" }, "Seen by this process: ") : null,
      h("span", { class: "any" }, visible(sentence(moment.says))),
      details.length > 0 ? h("small", {}, sentence(details.join("; "))) : null,
      moment.process && moment.what === "mismatch" ? differs(moment.differs) : null,
    ),
  );
}

function differs(parts) {
  if (!parts) {
    return h("small", {}, "Which part differed is not known: this process did not see both requests.");
  }
  return h(
    "ul",
    { class: "parts", "aria-label": "Parts that differed" },
    parts.map((part) => h("li", { class: "chip unknown" }, PARTS[part] ?? visible(part))),
  );
}

function when(at, now) {
  return at
    ? h(
        "div",
        { class: "when" },
        h("time", { datetime: at, class: "number" }, instant(at)),
        h("small", {}, ago(at, now)),
      )
    : h("div", { class: "when" }, h("small", {}, "time not recorded"));
}
