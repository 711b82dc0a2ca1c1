// Asks for a token.

import { field } from "./dialog.js";
import { h, replace } from "./dom.js";

/** The form. `why` says why it is shown, and `then(token)` tries the token. */
export function signIn(page, why, then) {
  document.title = "Sign in · Keylatch";
  const token = h("input", {
    type: "password",
    name: "token",
    autocomplete: "off",
    required: true,
    maxlength: 1024,
    spellcheck: "false",
  });
  const button = h("button", { type: "submit", class: "first" }, "Sign in");
  const form = h(
    "form",
    {
      class: "panel",
      onsubmit: (event) => {
        event.preventDefault();
        button.disabled = true;
        then(token.value.trim()).finally(() => {
          button.disabled = false;
        });
      },
    },
    h("h1", {}, "Operator's console"),
    why ? h("p", { class: "notice bad", role: "alert" }, why) : null,
    field("Token", token, "From the file of tokens. It stays in this tab until you close it."),
    h("div", { class: "buttons" }, button),
  );
  replace(page, h("div", { class: "signin" }, form));
  token.focus();
}
