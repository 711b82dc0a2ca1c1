// Where consumers stand in the logs that they read.

import { act, confirm, field, plan } from "./dialog.js";
import { placeName } from "./dead-letters.js";
import { h, replace } from "./dom.js";
import { ago, instant, number, visible } from "./format.js";
import { List } from "./list.js";
import { refresh } from "./records.js";

export async function places(page, _, session) {
  const list = new List({
    label: "Places",
    path: "places",
    rows: "places",
    session,
    empty: "No consumer has a place.",
    columns: [
      { name: "Place", kind: "clip", cell: (place) => h("span", { title: placeName(place) }, placeName(place)) },
      { name: "State", kind: "wide", cell: (place) => state(place) },
      { name: "Next offset", kind: "number", cell: ({ next }) => (next === null ? "not begun" : number(next)) },
      { name: "Epoch", kind: "number", cell: ({ epoch }) => number(epoch) },
      {
        name: "Changed",
        kind: "number",
        cell: ({ changed_at: at }, { now }) => h("time", { datetime: at, title: `${instant(at)} UTC` }, ago(at, now)),
      },
      { name: "Actions", kind: "tight", cell: (place) => move(place, session, () => list.reload()) },
    ],
  });
  replace(
    page,
    h("div", { class: "head" }, session.title("Places"), refresh(list)),
    h(
      "p",
      { class: "notice" },
      "A consumer's place in a partition is the next offset to apply. It moves in the transaction of the effect.",
    ),
    list.element,
  );
  session.onRefresh(list.reload);
  await list.reload();
}

function state({ owned, tried, after_crash: crashed }) {
  const chip = (kind, words) => [" ", h("span", { class: `chip ${kind}` }, words)];
  return h(
    "span",
    {},
    h("span", { class: owned ? "chip completed" : "chip free" }, owned ? "owned" : "free"),
    tried ? chip("abandoned", `try ${number(tried.attempts)} at ${number(tried.offset)}`) : null,
    crashed ? chip("abandoned", "after a crash") : null,
  );
}

function move(place, session, reload) {
  if (!session.operates) {
    return h("span", { class: "muted" }, "needs operate");
  }
  const { consumer, topic, partition, epoch } = place;
  const name = placeName(place);
  const open = () => {
    const next = h("input", { type: "number", min: 0, required: true, value: place.next ?? 0, name: "next" });
    const says = h("p", { "data-says": "", role: "status" }, "Say where to.");
    const body = () => ({ consumer, topic, partition, epoch, next: Number(next.value) });
    next.addEventListener("input", async () => {
      const asked = next.value;
      try {
        const words = asked === "" ? "Say where to." : await plan("places/reset", body());
        if (asked === next.value) {
          replace(says, visible(words));
        }
      } catch (error) {
        replace(says, visible(error.message));
      }
    });
    confirm({
      title: "Move the place?",
      label: "Move",
      danger: true,
      then: reload,
      does: [
        says,
        h("p", { class: "hint any" }, `${name}, in epoch ${number(epoch)}. If that is over, nothing is changed.`),
      ],
      sure: "I know which messages are read again, or never applied.",
      more: [field("Next offset", next)],
      send: (reason) => act("places/reset", { ...body(), reason }, "Done: moved."),
      refused: ({ now }) =>
        now?.place
          ? h(
              "p",
              { class: "notice", "data-now": "" },
              `Now it is at ${now.place.next ?? "no offset"}, in epoch ${number(now.place.epoch)}.`,
            )
          : null,
    });
  };
  return h(
    "div",
    { class: "buttons" },
    h("button", { type: "button", "data-action": "reset", "aria-label": `Move ${name}`, onclick: open }, "Move"),
  );
}
