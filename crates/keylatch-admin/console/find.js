// Finds one record by its scope and key, or by its id.

import { post } from "./api.js";
import { field, refusal } from "./dialog.js";
import { h, replace } from "./dom.js";

export async function find(page, _, session) {
  const input = (name, more = {}) =>
    h("input", { type: "text", name, autocomplete: "off", autocapitalize: "off", spellcheck: "false", ...more });
  const [caller, operation, key] = [
    input("caller", { required: true, maxlength: 512 }),
    input("operation", { maxlength: 512 }),
    input("key", { required: true, maxlength: 255 }),
  ];
  const id = input("id", {
    required: true,
    maxlength: 64,
    pattern: "[0-9a-f]{64}",
    title: "64 hexadecimal digits, in lower case",
  });
  const problem = h("div", {});
  const byKey = async (event) => {
    event.preventDefault();
    replace(problem);
    try {
      const scope = { caller: caller.value, operation: operation.value };
      const { record } = await post("records/find", { scope, key: key.value });
      location.hash = `#/record/${record.id}`;
    } catch (error) {
      replace(problem, refusal(error));
    }
  };
  const byId = (event) => {
    event.preventDefault();
    location.hash = `#/record/${id.value}`;
  };
  const panel = (title, hint, submit, ...fields) =>
    h(
      "section",
      { class: "panel", "aria-label": title },
      h("header", {}, h("h2", {}, title)),
      h(
        "form",
        { class: "inside form", onsubmit: submit },
        h("p", { class: "hint" }, hint),
        fields,
        h("div", { class: "buttons" }, h("button", { type: "submit", class: "first" }, "Find")),
      ),
    );
  replace(
    page,
    h("div", { class: "head" }, session.title("Find a record")),
    problem,
    h(
      "div",
      { class: "two" },
      panel(
        "By scope and key",
        "What the client sent, and who it was. They are sent in the body of a request, and not in a URL.",
        byKey,
        field("Caller", caller, "The scope's caller, as the service determined it: a user, a tenant."),
        field("Operation", operation, "What was called, such as POST /api/orders. Empty for a scope of any operation."),
        field("Key", key, "The Idempotency-Key, without quotes."),
      ),
      panel(
        "By id",
        "As it stands in a log or in a trace, in the field record.",
        byId,
        field("Id", id, "64 hexadecimal digits."),
      ),
    ),
  );
  caller.focus({ preventScroll: true });
}
