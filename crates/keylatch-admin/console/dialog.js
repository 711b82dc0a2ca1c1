// Questions before something is changed.

import { Refused, post } from "./api.js";
import { announce, h, replace } from "./dom.js";
import { visible } from "./format.js";

let fields = 0;

/** A field with its label. `control` gets an id, so that the label names it. */
export function field(label, control, hint = null) {
  control.id ||= `field-${++fields}`;
  const about = hint ? h("span", { class: "hint", id: `${control.id}-hint` }, hint) : null;
  if (about) {
    control.setAttribute("aria-describedby", about.id);
  }
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, about);
}

/** A box to tick, with its label. */
export function check(label, box) {
  box.id ||= `field-${++fields}`;
  return h("label", { class: "check", for: box.id }, box, h("span", {}, label));
}

/** Shows a refusal of the API in words. */
export function refusal(error) {
  const words = error instanceof Refused ? [error.title, error.message] : ["The page has failed", String(error)];
  return h(
    "div",
    { class: "notice bad", role: "alert" },
    h("strong", {}, visible(words[0]), words[0] ? ". " : ""),
    words[1] === words[0] ? "" : visible(words[1]),
  );
}

/**
 * Asks whether to do something, and does it. `does` says what it will do, `sure` is what the operator must confirm if
 * it is dangerous, and `more` are further fields. `send(reason)` does it. `then(answer)` shows what was done, and
 * `refused(error)` may add to what a refusal shows.
 */
export function confirm({
  title,
  does,
  sure = null,
  danger = false,
  label,
  more = [],
  send,
  then,
  refused = () => null,
}) {
  const before = document.activeElement;
  const reason = h("input", { type: "text", maxlength: 1000, required: true, autocomplete: "off", name: "reason" });
  const certain = h("input", { type: "checkbox", required: true, name: "sure" });
  const problem = h("div", {});
  const act = h("button", { type: "submit", class: danger ? "danger" : "first" }, label);
  const cancel = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const form = h(
    "form",
    {},
    h("h2", { id: "dialog-title" }, title),
    h("div", { class: danger ? "notice warn" : "notice" }, does),
    more,
    field("Reason", reason, "Goes into the audit log, with your name."),
    sure ? check(sure, certain) : null,
    problem,
    h("div", { class: "buttons end" }, cancel, act),
  );
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    act.disabled = true;
    try {
      const answer = await send(reason.value);
      dialog.close();
      then(answer);
    } catch (error) {
      replace(
        problem,
        refusal(error),
        refused(error, () => dialog.close()),
      );
      act.disabled = false;
    }
  });
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (before?.isConnected) {
      before.focus();
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  (more.length > 0 ? form.querySelector("input, select, textarea") : reason).focus();
}

/** What the API says that a request would do. */
export async function plan(path, body) {
  const { says } = await post(path, { ...body, reason: "to see what it would do", dry_run: true });
  return says;
}

/** Posts, and says so. */
export async function act(path, body, done) {
  const answer = await post(path, body);
  announce(done);
  return answer;
}
