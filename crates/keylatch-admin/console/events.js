// Events of the outbox that cannot be published.

import { buttons } from "./dead-letters.js";
import { h, replace } from "./dom.js";
import { bytes, counted, duration, instant, number, shortId, visible } from "./format.js";
import { List } from "./list.js";
import { refresh } from "./records.js";

export async function events(page, _, session) {
  const list = new List({
    label: "Stuck events",
    path: "outbox",
    rows: "stuck",
    session,
    empty: "No event is stuck.",
    extra: backlog,
    columns: [
      { name: "Number", kind: "number", cell: ({ seq }) => number(seq) },
      { name: "Event", kind: "clip", cell: ({ id }) => h("span", { class: "mono", title: id }, shortId(id)) },
      { name: "Topic", kind: "clip", cell: ({ topic }) => h("span", { title: visible(topic) }, visible(topic)) },
      { name: "State", kind: "tight", cell: ({ why }) => h("span", { class: `chip ${why}` }, why.replace("-", " ")) },
      { name: "Why", kind: "wide", cell: (event) => why(event, session) },
      { name: "Value", kind: "number", cell: ({ value_bytes: size }) => (size === null ? "none" : bytes(size)) },
      {
        name: "Stuck since",
        kind: "number",
        cell: ({ stuck_at: at }) => h("time", { datetime: at, title: `${instant(at)} UTC` }, instant(at).slice(0, 19)),
      },
      { name: "Actions", kind: "tight", cell: (event) => actions(event, session, () => list.reload()) },
    ],
  });
  replace(
    page,
    h("div", { class: "head" }, session.title("Events"), refresh(list)),
    h(
      "p",
      { class: "notice" },
      "A refused event holds back the events of its key until you act. One that was set aside holds back nothing.",
    ),
    list.element,
  );
  session.onRefresh(list.reload);
  await list.reload();
}

function backlog({ backlog: all }) {
  const parts = [
    ["wait", all.waiting],
    ["refused", all.refused],
    ["held behind those", all.held],
    ["set aside", all.set_aside],
  ];
  const oldest = all.oldest_ms === null ? "" : `; the oldest has waited for ${duration(all.oldest_ms)}`;
  return h(
    "header",
    {},
    h("h2", {}, "In the outbox"),
    h(
      "span",
      { class: "muted end number" },
      parts.map(([name, count]) => `${counted(count)} ${name}`).join(", ") + oldest,
    ),
  );
}

function why({ why: state, error }, session) {
  if (state === "held") {
    return h("span", { class: "muted" }, "waits behind a refused event of its key");
  }
  return error === undefined && !session.operates
    ? h("span", { class: "muted" }, "the error is shown to the role operate only")
    : h("span", { class: "any" }, visible(error ?? ""));
}

function actions(event, session, reload) {
  if (event.why === "held") {
    return h("span", { class: "muted" }, "act on the refused one");
  }
  if (!session.operates) {
    return h("span", { class: "muted" }, "needs operate");
  }
  const body = { events: [{ seq: event.seq, id: event.id }] };
  const what = `event ${event.seq}, to ${visible(event.topic)}`;
  return buttons(
    [
      ["retry", "Retry"],
      ["discard", "Discard"],
    ].map(([action, label]) => ({
      action,
      label,
      what,
      question: `${label} the event?`,
      path: `outbox/${action}`,
      body,
    })),
    reload,
  );
}
