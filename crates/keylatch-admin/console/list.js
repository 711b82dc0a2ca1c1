// Lists, a page at a time: a list of any length takes the room of one page.

import { get, Refused } from "./api.js";
import { refusal } from "./dialog.js";
import { announce, h, replace } from "./dom.js";
import { visible } from "./format.js";

/** Rows on a page. */
const PAGE = 100;

/**
 * A list that the API gives in pages. `rows` is the member with the rows. `columns` have a name, a class, and
 * `cell(row, page)`. `query()` gives the parameters. `extra(page)` is shown above the rows.
 */
export class List {
  #options;
  #cursors = [null];
  #body = h("div", {});
  #focusAfter = false;
  #turn = 0;

  constructor(options) {
    this.#options = options;
    this.element = h("section", { class: "panel", "aria-label": options.label }, this.#body);
  }

  /** Reads the page that is shown once more. */
  reload = async () => {
    const turn = ++this.#turn;
    const { path, query = () => ({}), session } = this.#options;
    try {
      const page = await get(path, { ...query(), cursor: this.#cursors.at(-1), limit: PAGE }, session.signal);
      if (turn === this.#turn) {
        this.#show(page);
      }
    } catch (error) {
      if (turn === this.#turn && !session.signal.aborted) {
        this.#fail(error);
      }
    }
  };

  /** Reads the first page. */
  restart = () => {
    this.#cursors = [null];
    return this.reload();
  };

  #fail(error) {
    if (error instanceof Refused && error.status === 501) {
      replace(this.#body, h("p", { class: "empty" }, visible(error.message)));
      return;
    }
    // A list can change while it is read; then the store may not know the place any more.
    const lostPlace = error instanceof Refused && error.status === 400 && this.#cursors.at(-1) !== null;
    const words = lostPlace
      ? h("p", { class: "hint" }, "The list has changed since this page was read, or the page is too old.")
      : null;
    const button = lostPlace
      ? h("button", { type: "button", onclick: this.restart }, "Start from the first page")
      : h("button", { type: "button", onclick: this.reload }, "Try again");
    replace(
      this.#body,
      h("div", { class: "inside form" }, refusal(error), words, h("div", { class: "buttons" }, button)),
    );
  }

  #show(page) {
    const { rows, columns, empty, extra = () => null, label } = this.#options;
    const all = page[rows];
    const nth = this.#cursors.length;
    const table =
      all.length === 0
        ? null
        : h(
            "div",
            { class: "scroll" },
            h(
              "table",
              { class: "stack" },
              h("caption", { class: "sr" }, label),
              h(
                "thead",
                {},
                h(
                  "tr",
                  {},
                  columns.map(({ name, kind }) => h("th", { scope: "col", class: kind }, name)),
                ),
              ),
              h(
                "tbody",
                {},
                all.map((row) =>
                  h(
                    "tr",
                    {},
                    columns.map(({ name, kind, cell }) =>
                      h("td", { class: kind, "data-label": name }, cell(row, page)),
                    ),
                  ),
                ),
              ),
            ),
          );
    const nothing = page.next ? "None on this page. There is more to look through." : empty;
    replace(this.#body, extra(page), table ?? h("p", { class: "empty" }, nothing), this.#pager(page, nth, all.length));
    if (this.#focusAfter) {
      this.#focusAfter = false;
      (this.#body.querySelector("tbody a, tbody button") ?? this.#body.querySelector("button"))?.focus();
      announce(`Page ${nth}, ${all.length} rows.`);
    }
  }

  #pager(page, nth, count) {
    if (nth === 1 && !page.next) {
      return null;
    }
    const go = (change) => () => {
      change();
      this.#focusAfter = true;
      return this.reload();
    };
    return h(
      "div",
      { class: "pager" },
      h(
        "button",
        { type: "button", disabled: nth === 1, "data-key": "p", onclick: go(() => this.#cursors.pop()) },
        "Previous",
      ),
      h(
        "button",
        { type: "button", disabled: !page.next, "data-key": "n", onclick: go(() => this.#cursors.push(page.next)) },
        "Next",
      ),
      h("span", { class: "muted number" }, `Page ${nth}, ${count} rows`),
    );
  }
}
