// Lists of records: all of them, and those that nobody works on.

import { field } from "./dialog.js";
import { h, replace } from "./dom.js";
import { ago, instant, number, shortId, visible } from "./format.js";
import { List } from "./list.js";
import { chip } from "./phase.js";

const PHASES = ["running", "abandoned", "unknown", "completed", "tombstone", "free"];

const COLUMNS = [
  {
    name: "Record",
    kind: "tight",
    cell: ({ id }) => h("a", { class: "mono", href: `#/record/${id}`, "aria-label": `Record ${id}` }, shortId(id)),
  },
  { name: "Phase", kind: "tight", cell: ({ phase }) => chip(phase) },
  { name: "Key", kind: "clip", cell: ({ key }) => text(key, "mono") },
  { name: "Caller", kind: "clip", cell: ({ scope }) => text(scope.caller) },
  { name: "Operation", kind: "clip", cell: ({ scope }) => text(scope.operation || "any") },
  { name: "Epoch", kind: "number", cell: ({ epoch }) => number(epoch) },
  {
    name: "Claimed",
    kind: "number",
    cell: ({ created_at: at }, { now }) => h("time", { datetime: at, title: `${instant(at)} UTC` }, ago(at, now)),
  },
];

function text(value, kind = "") {
  return h("span", { class: kind, title: visible(value) }, visible(value));
}

/** The page of all records, or of one scope. */
export async function records(page, { phase = "" }, session) {
  const caller = h("input", { type: "text", name: "caller", autocomplete: "off", spellcheck: "false", maxlength: 512 });
  const operation = h("input", {
    type: "text",
    name: "operation",
    autocomplete: "off",
    spellcheck: "false",
    maxlength: 512,
  });
  const phases = h(
    "select",
    { name: "phase" },
    h("option", { value: "" }, "any"),
    PHASES.map((name) => h("option", { value: name, selected: name === phase }, name)),
  );
  const query = () => ({
    caller: caller.value,
    operation: caller.value === "" ? "" : operation.value,
    phase: phases.value,
  });
  const list = new List({
    label: "Records",
    path: "records",
    rows: "records",
    columns: COLUMNS,
    query,
    session,
    empty: "No records.",
  });
  const form = h(
    "form",
    {
      class: "row",
      onsubmit: (event) => {
        event.preventDefault();
        list.restart();
      },
    },
    field("Phase", phases),
    field("Caller", caller),
    field("Operation", operation, "With a caller, such as POST /api/orders."),
    h("div", { class: "beside" }, h("button", { type: "submit", class: "first" }, "List")),
  );
  replace(
    page,
    h("div", { class: "head" }, session.title("Records"), refresh(list)),
    h("section", { class: "panel", "aria-label": "Which records" }, h("div", { class: "inside" }, form)),
    list.element,
  );
  session.onRefresh(list.reload);
  await list.reload();
}

/** The page of the runs that nobody works on. */
export async function stuck(page, { phase = "" }, session) {
  const list = new List({
    label: "Runs that nobody works on",
    path: "records/lapsed",
    rows: "records",
    columns: COLUMNS,
    query: () => ({ phase }),
    session,
    empty: phase === "unknown" ? "No outcome is unknown." : "Nothing is stuck.",
  });
  const tab = (name, label) =>
    h(
      "a",
      {
        class: "button",
        href: name ? `#/stuck?phase=${name}` : "#/stuck",
        "aria-current": phase === name ? "true" : null,
      },
      label,
    );
  replace(
    page,
    h(
      "div",
      { class: "head" },
      session.title("Stuck"),
      h(
        "div",
        { class: "buttons", role: "group", "aria-label": "Which" },
        tab("", "All"),
        tab("unknown", "Unknown"),
        tab("abandoned", "Abandoned"),
      ),
      refresh(list),
    ),
    h(
      "p",
      { class: "notice" },
      "The lease of these runs has ended without an outcome. ",
      h("strong", {}, "Unknown"),
      " needs a person: find out what happened, then open the record to release or to resolve it. ",
      h("strong", {}, "Abandoned"),
      " needs a retry of the same request, which takes over by itself.",
    ),
    list.element,
  );
  session.onRefresh(list.reload);
  await list.reload();
}

export function refresh(list) {
  return h("div", { class: "end" }, h("button", { type: "button", onclick: list.reload }, "Refresh"));
}
