import { JournalFull } from "./errors.js";
import { Key } from "./key.js";
import { bytesOf, isLonger, type OutgoingRequest } from "./request.js";

/** An intent: what was begun and has no final answer yet. */
export interface Entry {
  readonly key: Key;
  readonly request: OutgoingRequest;
  /** When it was begun, by this machine's clock. */
  readonly createdUnixMs: number;
}

/** Where intents are kept. */
export interface Journal {
  /**
   * Keeps `entry`, unless there is one with its key. Returns the entry that is there. When it resolves, the entry
   * survives the death of the process and, as far as the platform can say, of the machine. Rejects with
   * {@link JournalFull}.
   */
  begin(entry: Entry): Promise<Entry>;
  /**
   * Removes the entry of `key`, if there is one. It may come back after a crash: then it is sent once more, and the
   * server answers from its record.
   */
  end(key: Key): Promise<void>;
  /** All entries, the oldest first. */
  pending(): Promise<Entry[]>;
}

/** The limits of a journal. */
export interface JournalLimits {
  /** The most entries. They are unanswered requests, so as many mean that something is wrong. */
  readonly entriesMax: number;
  /** The largest body: each one is written before it is sent. */
  readonly bodyBytesMax: number;
}

export const JOURNAL_LIMITS: JournalLimits = { entriesMax: 10_000, bodyBytesMax: 1 << 20 };

/** Headers that are never written. When a request is resumed, they come from `ClientOptions.headers`. */
const CREDENTIALS = ["authorization", "cookie", "proxy-authorization"];

/** An entry as it is stored. */
export interface Stored {
  readonly format: 1;
  readonly key: string;
  readonly createdUnixMs: number;
  readonly method: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

export function stored({ key, request, createdUnixMs }: Entry): Stored {
  const headers = Object.fromEntries(Object.entries(request.headers).filter(([name]) => !CREDENTIALS.includes(name)));
  const { method, url } = request;
  return { format: 1, key: key.text, createdUnixMs, method, url, headers, body: bytesOf(request.body) };
}

export function entryOf({ format, key, createdUnixMs, method, url, headers, body }: Stored): Entry {
  if (format !== 1) {
    throw new Error(
      `the journal has an entry of format ${String(format)}, and this version of keylatch-client knows only format 1`,
    );
  }
  return { key: new Key(key), request: { method, url, headers, body }, createdUnixMs };
}

export function checkBody(entry: Entry, limits: JournalLimits): void {
  if (isLonger(entry.request.body, limits.bodyBytesMax)) {
    throw new JournalFull(`the body is over ${limits.bodyBytesMax} bytes, the largest that the journal keeps`);
  }
}

export function checkEntries(entries: number, limits: JournalLimits): void {
  if (entries >= limits.entriesMax) {
    throw new JournalFull(`the journal has ${entries} entries; resume them, or end those that are of no use any more`);
  }
}

export function oldestFirst(entries: Entry[]): Entry[] {
  return entries.sort((one, other) => one.createdUnixMs - other.createdUnixMs);
}
