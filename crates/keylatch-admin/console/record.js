// One record: its time line, its answer, and what can be done to it.

import { actions } from "./actions.js";
import { get } from "./api.js";
import { refusal } from "./dialog.js";
import { announce, h, replace } from "./dom.js";
import { ago, bytes, instant, number, visible } from "./format.js";
import { chip } from "./phase.js";
import { timeline } from "./timeline.js";

const GUARANTEES = { atomic: "Atomic", fenced: "Fenced", "at-most-once": "AtMostOnce" };

/** The page of the record `id`. */
export async function record(page, { id }, session) {
  const [head, body] = [h("div", { class: "head" }), h("div", {})];
  replace(page, head, body);
  const reload = async () => {
    try {
      show(await get(`records/${encodeURIComponent(id)}`, {}, session.signal));
    } catch (error) {
      if (!session.signal.aborted) {
        replace(head, session.title("Record"), again(reload));
        replace(body, refusal(error), h("p", {}, h("a", { href: "#/find" }, "Find another record")));
      }
    }
  };
  const show = (detail) => {
    replace(head, session.title(`Record of ${visible(detail.record.key)}`), chip(detail.record.phase), again(reload));
    replace(body, panels(detail, session, reload));
  };
  session.onRefresh(reload);
  await reload();
}

function again(reload) {
  return h("div", { class: "end" }, h("button", { type: "button", onclick: reload }, "Refresh"));
}

function panels(detail, session, reload) {
  const { record, now } = detail;
  return h(
    "div",
    { class: "two" },
    h(
      "div",
      {},
      h(
        "section",
        { class: "panel", "aria-labelledby": "timeline-title" },
        h(
          "header",
          {},
          h("h2", { id: "timeline-title" }, "Time line"),
          h("span", { class: "muted end" }, `${instant(now)} UTC, the store's clock`),
        ),
        timeline(detail),
      ),
      answer(record, session),
    ),
    h(
      "div",
      {},
      actions(detail, session, reload),
      h(
        "section",
        { class: "panel", "aria-labelledby": "facts-title" },
        h("header", {}, h("h2", { id: "facts-title" }, "What the store has")),
        h("div", { class: "inside" }, facts(record, now)),
      ),
    ),
  );
}

function facts(record, now) {
  const at = (time, never = "never") =>
    time
      ? [h("time", { datetime: time }, `${instant(time)} UTC`), h("span", { class: "muted" }, ` (${ago(time, now)})`)]
      : never;
  const rows = [
    ["Key", h("span", { class: "mono any", dir: "ltr" }, visible(record.key))],
    ["Caller", h("span", { class: "any" }, visible(record.scope.caller))],
    [
      "Operation",
      record.scope.operation
        ? h("span", { class: "any" }, visible(record.scope.operation))
        : h("span", { class: "muted" }, "any"),
    ],
    ["Id", h("span", { class: "mono any" }, record.id)],
    ["Guarantee", GUARANTEES[record.guarantee] ?? visible(record.guarantee)],
    ["Epoch", number(record.epoch)],
    [
      "Attempt",
      [
        number(record.attempt),
        record.after_crash ? ", after a crash" : "",
        record.released ? ", gave its key back" : "",
      ],
    ],
    ["First claimed", at(record.created_at)],
    record.lease_ends_at ? ["Lease ends", at(record.lease_ends_at)] : null,
    record.lease_ends_at ? ["Retry may take over", at(record.takeover_at)] : null,
    record.expires_at ? ["Answer kept until", at(record.expires_at)] : null,
    ["Free for anyone", at(record.free_at)],
    record.steps.length > 0
      ? ["Finished steps", record.steps.map((step) => h("div", { class: "mono any" }, visible(step)))]
      : null,
  ];
  return h(
    "dl",
    { class: "facts" },
    rows.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
  );
}

function answer(record, session) {
  const inside = h("div", { class: "inside form" });
  const { outcome } = record;
  if (outcome) {
    const size = outcome.body_bytes === null ? "a body that was not kept" : bytes(outcome.body_bytes);
    replace(
      inside,
      h("p", {}, "Status ", h("strong", {}, outcome.status), `, ${size}.`),
      content(record, session, inside),
    );
  } else {
    const why = record.phase === "tombstone" ? "It took effect. Its answer is no longer kept." : "There is none.";
    replace(inside, h("p", { class: "muted" }, why));
  }
  return h(
    "section",
    { class: "panel", "aria-labelledby": "answer-title" },
    h("header", {}, h("h2", { id: "answer-title" }, "Answer")),
    inside,
  );
}

function content(record, session, inside) {
  if (!session.operates) {
    return h("p", { class: "hint", "data-content": "hidden" }, "Headers and body are shown to the role operate only.");
  }
  const shown = h("div", { class: "form", "data-content": "shown" });
  const show = h(
    "button",
    {
      type: "button",
      "data-action": "show",
      onclick: async () => {
        show.disabled = true;
        try {
          const { kept } = await get(`records/${record.id}`, { body: true });
          replace(shown, kept ? kepts(kept) : h("p", { class: "muted" }, "The answer is no longer kept."));
          show.remove();
          announce("The answer is shown.");
        } catch (error) {
          replace(shown, refusal(error));
          show.disabled = false;
        }
      },
    },
    "Show headers and body",
  );
  return [h("div", { class: "buttons" }, show), shown];
}

function kepts(kept) {
  const headers = kept.headers.map(({ name, value }) => [
    h("dt", { class: "mono" }, visible(name)),
    h("dd", { class: "mono any" }, visible(value)),
  ]);
  return [
    kept.headers.length > 0
      ? h("dl", { class: "facts", "aria-label": "Headers" }, headers)
      : h("p", { class: "muted" }, "No headers."),
    kept.body === null
      ? h("p", { class: "muted" }, "The body was not kept.")
      : h("pre", { class: "content", tabindex: 0, role: "group", "aria-label": "Body" }, kept.body),
    kept.body !== null && !kept.body_is_exact
      ? h("p", { class: "hint" }, "The body is not text; bytes that are no text are replaced.")
      : null,
  ];
}
