// Messages that were given up.

import { act, confirm, plan, refusal } from "./dialog.js";
import { announce, h, replace } from "./dom.js";
import { ago, bytes, instant, number, visible } from "./format.js";
import { List } from "./list.js";
import { refresh } from "./records.js";

/** What can be done to a dead letter, and its button. */
const ORDERS = [
  ["replay", "Replay"],
  ["keep", "Keep"],
  ["discard", "Discard"],
];

export async function deadLetters(page, _, session) {
  const list = new List({
    label: "Dead letters",
    path: "dead-letters",
    rows: "dead_letters",
    session,
    empty: "No dead letters.",
    columns: [
      { name: "Place", kind: "clip", cell: (letter) => h("span", { title: placeName(letter) }, placeName(letter)) },
      { name: "Offset", kind: "number", cell: ({ offset }) => number(offset) },
      { name: "Why", kind: "wide", cell: (letter) => why(letter, session) },
      { name: "Tries", kind: "number", cell: ({ attempts }) => number(attempts) },
      {
        name: "Message",
        kind: "number",
        cell: ({ message_bytes: size }) => (size === null ? "not kept" : bytes(size)),
      },
      {
        name: "Given up",
        kind: "number",
        cell: ({ buried_at: at }, { now }) => h("time", { datetime: at, title: `${instant(at)} UTC` }, ago(at, now)),
      },
      { name: "Actions", kind: "tight", cell: (letter) => orders(letter, session, () => list.reload()) },
    ],
  });
  replace(
    page,
    h("div", { class: "head" }, session.title("Dead letters"), refresh(list)),
    h(
      "p",
      { class: "notice" },
      "A consumer gave these messages up, and went on. Each stays until it is applied after all, or discarded.",
    ),
    list.element,
  );
  session.onRefresh(list.reload);
  await list.reload();
}

/** The name of a consumer's place in a partition. */
export function placeName({ consumer, topic, partition }) {
  return `${visible(consumer)}: ${visible(topic)}/${partition}`;
}

function why({ reason, error, record, wanted }, session) {
  const words = error ?? (session.operates ? "" : "the error is shown to the role operate only");
  return h(
    "div",
    {},
    wanted ? [h("span", { class: "chip running" }, "will be replayed"), " "] : null,
    h("strong", {}, visible(reason.replace("_", " "))),
    words ? h("span", { class: "muted" }, ` ${visible(words)}`) : null,
    record ? [" ", h("a", { href: `#/record/${record}`, "aria-label": `Record ${record}` }, "record")] : null,
  );
}

function orders(letter, session, reload) {
  if (!session.operates) {
    return h("span", { class: "muted" }, "needs operate");
  }
  const name = `${placeName(letter)} at ${letter.offset}`;
  const possible = ORDERS.filter(([order]) => order === (letter.wanted ? "keep" : "replay") || order === "discard");
  return buttons(
    possible.map(([action, label]) => ({
      action,
      label,
      what: name,
      question: `${label} the dead letter?`,
      path: `dead-letters/${action}`,
      body: { ids: [letter.id] },
    })),
    reload,
  );
}

/** Buttons that ask, say what the API says that it would do, and do it. */
export function buttons(actions, reload) {
  const button = ({ action, label, what, question, path, body }) =>
    h(
      "button",
      {
        type: "button",
        "data-action": action,
        "aria-label": `${label} ${what}`,
        onclick: async () => {
          try {
            const says = await plan(path, body);
            confirm({
              title: question,
              label,
              danger: action === "discard",
              then: done,
              does: [h("p", {}, visible(says)), h("p", { class: "hint any" }, what)],
              send: (reason) => act(path, { ...body, reason }, `Done: ${label}.`),
            });
          } catch (error) {
            replace(problem, refusal(error));
          }
        },
      },
      label,
    );
  const problem = h("div", {});
  const done = (ordered) => {
    reload();
    if (ordered.done === 0) {
      announce("It was not there any more. Nothing was changed.");
    }
  };
  return h("div", {}, h("div", { class: "buttons" }, actions.map(button)), problem);
}
