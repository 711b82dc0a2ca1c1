// Where a record stands.

import { h } from "./dom.js";

export function chip(phase) {
  return h("span", { class: `chip ${phase}`, "data-phase": phase }, phase.replace("-", " "));
}
