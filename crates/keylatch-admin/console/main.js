// The frame of the console: who is signed in, which page is shown, and the keyboard.

import { get, hasToken, Refused, setToken, whenSignedOut } from "./api.js";
import { refusal } from "./dialog.js";
import { announce, h, replace } from "./dom.js";
import { deadLetters } from "./dead-letters.js";
import { events } from "./events.js";
import { find } from "./find.js";
import { keyboard } from "./keyboard.js";
import * as live from "./live.js";
import { badges } from "./needs.js";
import { now } from "./now.js";
import { places } from "./places.js";
import { record } from "./record.js";
import { records, stuck } from "./records.js";
import { signIn } from "./sign-in.js";
import { visible } from "./format.js";

/** The pages that have a place in the navigation, in its order. */
const PAGES = [
  ["now", "Now", now],
  ["find", "Find", find],
  ["records", "Records", records],
  ["stuck", "Stuck", stuck],
  ["dead-letters", "Dead letters", deadLetters],
  ["events", "Events", events],
  ["places", "Places", places],
];

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const sessionBox = document.getElementById("session");
let actor = null;
let leave = new AbortController();
let signedIn = new AbortController();

/** What a page gets beside its parameters. */
class Session {
  #refresh = () => {};
  #heading = null;

  constructor(signal) {
    this.signal = signal;
    this.operates = actor.role === "operate";
  }

  /** The heading of the page, which gets the focus when the page is new. */
  title(words) {
    document.title = `${words} · Keylatch`;
    const isNew = this.#heading === null;
    this.#heading = h("h1", { tabindex: -1 }, words);
    if (isNew) {
      const heading = this.#heading;
      queueMicrotask(() => document.activeElement === document.body && heading.focus({ preventScroll: true }));
    }
    return this.#heading;
  }

  onRefresh(refresh) {
    this.#refresh = refresh;
  }

  refresh() {
    this.#refresh();
  }
}

let session = null;

/** The page and the parameters that the address names: `#/record/ID`, `#/stuck?phase=unknown`. */
function address() {
  const [, name = "", id = "", query = ""] = /^#\/([a-z-]*)(?:\/([^?]*))?(?:\?(.*))?$/.exec(location.hash) ?? [];
  const parameters = Object.fromEntries(new URLSearchParams(query));
  if (name === "record" && id) {
    return { name, show: record, parameters: { id } };
  }
  const [, , show] = PAGES.find(([page]) => page === name) ?? PAGES[0];
  return { name: show === now ? "now" : name, show, parameters };
}

async function navigate() {
  leave.abort();
  leave = new AbortController();
  if (!actor) {
    return;
  }
  const { name, show, parameters } = address();
  for (const link of nav.children) {
    const isHere = link.dataset.page === name;
    isHere ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  session = new Session(leave.signal);
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
  document.activeElement?.blur?.();
  replace(main);
  window.scrollTo(0, 0);
  try {
    await show(main, parameters, session);
  } catch (error) {
    if (!session.signal.aborted) {
      replace(main, refusal(error));
    }
  }
}

function bar() {
  nav.hidden = actor === null;
  replace(nav, actor && PAGES.map(([name, label]) => h("a", { href: `#/${name}`, "data-page": name }, label)));
  replace(
    sessionBox,
    actor && [
      h("span", { class: "muted" }, `${visible(actor.name)}, ${actor.role}`),
      hasToken() ? h("button", { type: "button", class: "plain", onclick: () => signedOut(null) }, "Sign out") : null,
      h("button", { type: "button", class: "plain", "aria-label": "Keyboard", onclick: keyboard.help }, "?"),
    ],
  );
}

/** Shows in the navigation how much each page has that needs a person. */
function showBadges(snapshots) {
  for (const [page, count] of snapshots.length > 0 ? badges(snapshots.at(-1)) : []) {
    const link = nav.querySelector(`[data-page="${page}"]`);
    const shown = link.querySelector(".badge");
    if ((shown?.dataset.count ?? "0") !== String(count)) {
      shown?.remove();
      link.append(
        count > 0
          ? h(
              "span",
              { class: "badge", "data-count": count },
              count > 99 ? "99+" : count,
              h("span", { class: "sr" }, " need you"),
            )
          : "",
      );
    }
  }
}

function signedOut(refused) {
  const was = actor;
  setToken(null);
  actor = null;
  leave.abort();
  signedIn.abort();
  bar();
  const why = was && refused ? "The token is not valid any more." : null;
  signIn(main, why ?? (refused && hadToken ? "The token is not known here." : null), enter);
  hadToken = false;
}

let hadToken = hasToken();

/** Asks the API who this is, and opens the page if it knows. */
async function enter(token = null) {
  if (token !== null) {
    setToken(token);
    hadToken = true;
  }
  try {
    actor = await get("me");
    bar();
    signedIn.abort();
    signedIn = new AbortController();
    live.open(signedIn.signal);
    live.listen(signedIn.signal, showBadges);
    announce(`Signed in as ${actor.name}.`);
    await navigate();
  } catch (error) {
    if (!(error instanceof Refused && error.status === 401)) {
      replace(
        main,
        h("h1", {}, "Keylatch"),
        refusal(error),
        h("div", { class: "buttons" }, h("button", { type: "button", onclick: () => enter() }, "Try again")),
      );
    }
  }
}

whenSignedOut(signedOut);
window.addEventListener("hashchange", navigate);
keyboard.listen({ pages: PAGES.map(([name]) => name), refresh: () => session?.refresh() });
bar();
enter();
