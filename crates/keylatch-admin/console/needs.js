// What needs a person, the most serious first.

import { h, replace, svg } from "./dom.js";
import { counted, duration } from "./format.js";

/** An outbox whose oldest event has waited for longer is late. */
const LATE_MS = 60_000;

/** Tries of one message after which its place counts as stalled. */
const STALLED_TRIES = 2;

/** Each kind: how many, where to look, what it is, and what to do. */
function kinds({ stats, places, dead_letters: letters }) {
  if (!stats) {
    return [
      {
        count: { count: 1 },
        serious: true,
        what: ["store that does not answer"],
        page: "now",
        todo: "Requests get 503, and nothing runs. Look at the store and at the network to it.",
      },
    ];
  }
  const { lapsed, outbox } = stats;
  const exact = (count) => ({ count, at_least: lapsed.at_least });
  const of = (places) => ({ count: places.length, at_least: false });
  const isStalled = ({ tried, next }) => tried && tried.attempts >= STALLED_TRIES && tried.offset >= (next ?? 0);
  const late = outbox?.oldest_ms > LATE_MS ? outbox.waiting : null;
  return [
    {
      count: exact(lapsed.unknown),
      serious: true,
      page: "stuck",
      href: "#/stuck?phase=unknown",
      what: ["unknown outcome", "unknown outcomes"],
      todo: "Find out what each run did, then resolve or release it. Until then its retries get 409.",
    },
    {
      count: letters,
      serious: true,
      page: "dead-letters",
      href: "#/dead-letters",
      what: ["dead letter", "dead letters"],
      todo: "Messages that were given up. Apply them after all, keep them, or discard them.",
    },
    {
      count: outbox?.refused,
      serious: true,
      page: "events",
      href: "#/events",
      what: ["refused event", "refused events"],
      todo: "Each holds back the events of its key. Retry or discard it.",
    },
    {
      count: of(places.filter(isStalled)),
      serious: true,
      page: "places",
      href: "#/places",
      what: ["stalled place", "stalled places"],
      todo: "A message is tried again and again, and those behind it wait. Look at the consumer's log.",
    },
    {
      count: outbox?.set_aside,
      serious: false,
      page: "events",
      href: "#/events",
      what: ["event set aside", "events set aside"],
      todo: "They were not published, and hold back nothing. Retry or discard them.",
    },
    {
      count: late,
      serious: false,
      page: "events",
      href: "#/events",
      what: ["event waits", "events wait"],
      after: `, the oldest for ${duration(outbox?.oldest_ms)}`,
      todo: "No relay publishes them, or its publisher does not answer.",
    },
    {
      count: exact(lapsed.abandoned),
      serious: false,
      page: "stuck",
      href: "#/stuck?phase=abandoned",
      what: ["abandoned run", "abandoned runs"],
      todo: "A retry of the same request takes over by itself. If no client retries, nobody does.",
    },
    {
      count: of(places.filter(({ owned }) => !owned)),
      serious: false,
      page: "places",
      href: "#/places",
      what: ["place without an owner", "places without an owner"],
      todo: "No process applies their messages. Start the consumer, if it should run.",
    },
  ];
}

function present(snapshot) {
  return kinds(snapshot).filter(({ count }) => count?.count > 0);
}

/** How much each page has that only a person can end. */
export function badges(snapshot) {
  const serious = present(snapshot).filter((kind) => kind.serious);
  const of = (page) => serious.filter((kind) => kind.page === page).reduce((sum, { count }) => sum + count.count, 0);
  return ["stuck", "dead-letters", "events", "places"].map((page) => [page, of(page)]);
}

/** Shows in `box` what needs a person. */
export function needs(box, snapshot) {
  const all = present(snapshot);
  const shown = JSON.stringify(all);
  if (box.dataset.shown === shown) {
    return;
  }
  // Only what has changed is drawn anew, so that the focus stays where it is.
  box.dataset.shown = shown;
  replace(
    box,
    h("header", {}, h("h2", { id: "needs-title" }, "Needs a person")),
    all.length === 0
      ? h(
          "p",
          { class: "calm" },
          svg("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, svg("path", { d: "M4 10.5l4 4 8-9" })),
          "Nothing needs you.",
        )
      : h("ul", { class: "needs" }, all.map(item)),
  );
}

function item({ count, serious, href, what: [one, many], after = "", todo }) {
  const what = (count.count === 1 && !count.at_least ? one : many) + after;
  return h(
    "li",
    { class: serious ? "serious" : "mild" },
    h("span", { class: "count" }, counted(count)),
    h("div", { class: "what" }, h("strong", {}, what), h("p", {}, todo)),
    href ? h("a", { class: "button", href, "aria-label": `Look: ${what}` }, "Look") : null,
  );
}
