// The live numbers. One stream serves all pages, and the last minutes are kept while a page is not shown.

import { get, Refused, stream } from "./api.js";
import { POINTS } from "./charts.js";

/** How often dead letters are counted, and how far: they are read for it. */
const LETTERS_EVERY_MS = 30_000;
const LETTERS_MAX = 16;

let kept = [];
let letters = null;
let isOpen = false;
const listeners = new Set();

/** Opens the stream, until `signal` ends it. */
export function open(signal) {
  [kept, letters] = [[], null];
  countLetters(signal);
  const tell = (event) => listeners.forEach((listener) => listener(event));
  const onEvent = (name, snapshot) => {
    // All streams of a process share a snapshot, so one may come twice.
    if (name === "snapshot" && snapshot.at !== kept.at(-1)?.at) {
      snapshot.dead_letters = letters;
      kept.push(snapshot);
      kept.splice(0, kept.length - POINTS);
      tell({ snapshots: [snapshot] });
    }
  };
  const onState = (state) => {
    isOpen = state;
    tell({ snapshots: [] });
  };
  stream("live", signal, onEvent, onState);
}

/** Calls `listener` with what is kept, and then with each new snapshot, until `signal` ends it. */
export function listen(signal, listener) {
  const call = ({ snapshots }) => listener(snapshots, isOpen);
  listeners.add(call);
  signal.addEventListener("abort", () => listeners.delete(call));
  call({ snapshots: kept });
}

/** Counts the dead letters now and then. The live numbers do not have them. */
async function countLetters(signal) {
  while (!signal.aborted) {
    try {
      const { dead_letters: found, next } = await get("dead-letters", { limit: LETTERS_MAX }, signal);
      letters = { count: found.length, at_least: next !== null };
    } catch (error) {
      letters = null;
      if (!(error instanceof Refused) || error.status === 501 || error.status === 401) {
        return;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, LETTERS_EVERY_MS));
  }
}
