// The keyboard. Keys are single letters, so they can be switched off for those who speak to their machine.

import { h } from "./dom.js";

const OFF = "keylatch-keys-off";
const KEYS = [
  ["1, 2 …", "the pages, in their order"],
  ["/", "find a record"],
  ["j, k", "next and previous row"],
  ["Enter", "open the row"],
  ["n, p", "next and previous page of a list"],
  ["r", "read again"],
  ["?", "this help"],
  ["Esc", "close a dialog"],
];

/** Where letters are text. */
function isTyping(element) {
  return element?.matches?.("input, textarea, select, [contenteditable]") ?? false;
}

function step(by) {
  const rows = [...document.querySelectorAll("main tbody a, main tbody button:first-of-type, main .needs a")];
  const at = rows.indexOf(document.activeElement);
  rows[at < 0 ? 0 : Math.min(Math.max(at + by, 0), rows.length - 1)]?.focus();
}

function help() {
  const on = h("input", { type: "checkbox", id: "keys-on", checked: sessionStorage.getItem(OFF) === null });
  on.addEventListener("change", () => (on.checked ? sessionStorage.removeItem(OFF) : sessionStorage.setItem(OFF, "1")));
  const dialog = h(
    "dialog",
    { "aria-labelledby": "keys-title" },
    h(
      "div",
      {},
      h("h2", { id: "keys-title" }, "Keyboard"),
      h(
        "dl",
        { class: "facts" },
        KEYS.map(([keys, what]) => [h("dt", {}, h("kbd", {}, keys)), h("dd", {}, what)]),
      ),
      h("label", { class: "check", for: "keys-on" }, on, h("span", {}, "Use single keys")),
      h(
        "div",
        { class: "buttons end" },
        h("button", { type: "button", class: "first", onclick: () => dialog.close() }, "Close"),
      ),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function listen({ pages, refresh }) {
  const actions = {
    "/": () => {
      location.hash = "#/find";
    },
    "?": help,
    j: () => step(1),
    k: () => step(-1),
    n: () => document.querySelector('main [data-key="n"]')?.click(),
    p: () => document.querySelector('main [data-key="p"]')?.click(),
    r: refresh,
  };
  pages.forEach((name, nth) => {
    actions[nth + 1] = () => {
      location.hash = `#/${name}`;
    };
  });
  document.addEventListener("keydown", (event) => {
    const busy = event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented;
    const isOff = sessionStorage.getItem(OFF) !== null && event.key !== "?";
    const isOpen = document.querySelector("dialog[open]") !== null || document.getElementById("nav").hidden;
    if (busy || isOff || isOpen || isTyping(event.target) || !Object.hasOwn(actions, event.key)) {
      return;
    }
    event.preventDefault();
    actions[event.key]();
  });
}

export const keyboard = { help, listen };
