// What can be done to a record, and the questions before it.

import { act, confirm, field } from "./dialog.js";
import { h } from "./dom.js";
import { number, sentence, visible } from "./format.js";
import { chip } from "./phase.js";

const ACTIONS = { release: "Release the key", resolve: "Write its answer", forget: "Forget the answer" };

/** The panel with what can be done to the record of `detail`. */
export function actions(detail, session, reload) {
  const buttons = detail.actions.map((plan) => {
    const id = `plan-${plan.action}`;
    const open = () => ask(plan, detail.record, reload);
    return h(
      "div",
      { class: "field" },
      h(
        "div",
        {},
        h(
          "button",
          {
            type: "button",
            class: plan.second_run ? "danger" : "",
            onclick: open,
            "aria-describedby": id,
            disabled: !plan.possible || !session.operates,
            "data-action": plan.action,
          },
          ACTIONS[plan.action] ?? visible(plan.action),
        ),
      ),
      h("p", { class: "hint", id }, visible(sentence(plan.says))),
    );
  });
  return h(
    "section",
    { class: "panel", "aria-labelledby": "actions-title" },
    h("header", {}, h("h2", { id: "actions-title" }, "What you can do")),
    h(
      "div",
      { class: "inside form" },
      buttons,
      session.operates
        ? null
        : h("p", { class: "hint" }, "Your token has the role view. Actions need the role operate."),
    ),
  );
}

function ask(plan, record, reload) {
  const status = h("input", { type: "number", min: 200, max: 599, value: 200, required: true, name: "status" });
  const headers = h("textarea", { rows: 2, name: "headers", spellcheck: "false" });
  const body = h("textarea", { rows: 5, name: "body", spellcheck: "false" });
  headers.value = "content-type: application/json";
  const more =
    plan.action !== "resolve"
      ? []
      : [
          field("Status", status, "From 200 to 599. Every retry gets it."),
          field("Headers", headers, "One on a line, as name: value."),
          field("Body", body),
        ];
  const send = (reason) => {
    const change = { epoch: record.epoch, reason };
    if (plan.action === "resolve") {
      Object.assign(change, { status: Number(status.value), headers: lines(headers.value), body: body.value });
    }
    return act(`records/${record.id}/${plan.action}`, change, `Done: ${plan.action}.`);
  };
  confirm({
    title: `${ACTIONS[plan.action] ?? plan.action}?`,
    does: [
      h("p", {}, visible(sentence(plan.says))),
      h(
        "p",
        { class: "hint" },
        `Only in epoch ${number(record.epoch)}, which you see here. If that is over, nothing is changed.`,
      ),
    ],
    sure: plan.second_run ? "I have made sure that it did not take effect." : null,
    danger: plan.second_run || plan.action === "forget",
    label: ACTIONS[plan.action] ?? plan.action,
    more,
    send,
    then: reload,
    refused: (error, close) => [
      there(error.now),
      h(
        "div",
        { class: "buttons" },
        h(
          "button",
          {
            type: "button",
            onclick: () => {
              close();
              reload();
            },
          },
          "Show what is there now",
        ),
      ),
    ],
  });
}

/** What is there instead of what the operator has seen. */
function there(now) {
  if (!now) {
    return null;
  }
  const record = now.record;
  return h(
    "p",
    { class: "notice", "data-now": "" },
    record
      ? [`Now it is `, chip(record.phase), ` in epoch ${number(record.epoch)}, attempt ${number(record.attempt)}.`]
      : "The record is gone.",
  );
}

function lines(text) {
  return text
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => {
      const colon = line.indexOf(":");
      return { name: line.slice(0, Math.max(colon, 0)).trim(), value: line.slice(colon + 1).trim() };
    });
}
