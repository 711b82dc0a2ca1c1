/**
 * What a server's answers mean.
 *
 * {@link DRAFT} is for Keylatch, and for any server that follows draft-ietf-httpapi-idempotency-key-header.
 * {@link STRIPE} is for Stripe. Both are tried with `clients/cases/answers.json`.
 */

import type { Key } from "./key.js";

/**
 * What an answer means for the call: `answer` is final; `retry` says nothing about the outcome, and the same request
 * may be sent again; `in_progress` is running now. The others are errors.
 */
export type Meaning =
  "answer" | "retry" | "in_progress" | "key_reused" | "outcome_unknown" | "not_retained" | "expired";

/** An answer, as far as its meaning needs it. */
export interface Reply {
  readonly status: number;
  readonly headers: Headers;
  readonly bytes: Uint8Array;
}

/** The rules of a kind of server. */
export interface Profile {
  readonly name: string;
  /** What an answer means. */
  meaning(reply: Reply): Meaning;
  /** How a key is written in `Idempotency-Key`. */
  header(key: Key): string;
  /**
   * How long after the first try a request may be sent again, in milliseconds. Later, the server may have forgotten its
   * key and would run it again.
   */
  readonly keyMsMax: number;
}

/** No call waits so long, and all languages can count to it. */
const AFTER_S_MAX = 1e9;

/** Whether an answer comes from the server's record. */
export function isReplay(reply: Reply): boolean {
  return reply.headers.get("idempotent-replayed") === "true";
}

/** What `Retry-After` asks for, in milliseconds. `unixMs` is the time now, for an answer without a `Date`. */
export function retryAfterMs(reply: Reply, unixMs: number): number | undefined {
  const value = reply.headers.get("retry-after") ?? "";
  if (/^[0-9]+$/.test(value)) return Math.min(Number(value), AFTER_S_MAX) * 1000;
  const then = date(value);
  if (then === undefined) return undefined;
  // The server's clock, and not this machine's, because the date is of the server.
  return Math.max(0, then - (date(reply.headers.get("date") ?? "") ?? unixMs));
}

function date(value: string): number | undefined {
  if (!/^[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT$/.test(value)) return undefined;
  const ms = Date.parse(value);
  return Number.isNaN(ms) ? undefined : ms;
}

const CODES: Readonly<Record<string, Meaning>> = {
  IDEMPOTENCY_KEY_IN_PROGRESS: "in_progress",
  IDEMPOTENCY_KEY_REUSED: "key_reused",
  IDEMPOTENCY_OUTCOME_UNKNOWN: "outcome_unknown",
  IDEMPOTENCY_RESPONSE_NOT_RETAINED: "not_retained",
  IDEMPOTENCY_KEY_EXPIRED: "expired",
};
// The gateway sent the request on, and never heard what became of it.
const UNHEARD = ["UPSTREAM_FAILED", "UPSTREAM_TIMEOUT"];
// The draft has statuses and no codes. An application uses the same statuses for its own reasons, so the problem has to
// be about the key.
const ABOUT_KEY: Readonly<Record<number, Meaning>> = { 409: "in_progress", 410: "expired", 422: "key_reused" };
const RETRY = [408, 425, 429, 502, 503, 504];

function draft(reply: Reply): Meaning {
  // What is recorded does not change, whatever its status.
  if (reply.status < 400 || isReplay(reply)) return "answer";
  const problem = members(reply);
  const { code, retryable } = problem;
  if (typeof code === "string") {
    const known = Object.hasOwn(CODES, code) ? CODES[code] : undefined;
    if (known) return known;
    if (UNHEARD.includes(code) && retryable === false) return "outcome_unknown";
    if (typeof retryable === "boolean") return retryable ? "retry" : "answer";
  }
  const aboutKey = ABOUT_KEY[reply.status];
  if (aboutKey && isAboutKey(problem)) return aboutKey;
  if (reply.status === 409 && reply.headers.has("retry-after")) return "in_progress";
  return RETRY.includes(reply.status) ? "retry" : "answer";
}

function isAboutKey({ type, title }: Members): boolean {
  return [type, title].some((text) => typeof text === "string" && text.toLowerCase().includes("idempotency"));
}

function stripe(reply: Reply): Meaning {
  if (reply.status < 400 || isReplay(reply)) return "answer";
  const { error } = members(reply);
  if (reply.status === 400 && isObject(error) && error.type === "idempotency_error") return "key_reused";
  const again = reply.status === 409 ? "in_progress" : "retry";
  switch (reply.headers.get("stripe-should-retry")) {
    case "true":
      return again;
    case "false":
      return "answer";
  }
  return [...RETRY, 409, 500].includes(reply.status) ? again : "answer";
}

/** Members of a JSON object. Their types are not known. */
interface Members {
  readonly code?: unknown;
  readonly error?: unknown;
  readonly retryable?: unknown;
  readonly title?: unknown;
  readonly type?: unknown;
}

/** The members of a JSON body; none if it is anything else. */
function members(reply: Reply): Members {
  if (!(reply.headers.get("content-type") ?? "").toLowerCase().includes("json")) return {};
  try {
    const value: unknown = JSON.parse(new TextDecoder().decode(reply.bytes));
    return isObject(value) ? value : {};
  } catch {
    return {};
  }
}

function isObject(value: unknown): value is Members {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const DAY_MS = 24 * 60 * 60 * 1000;

/**
 * Keylatch, and servers that follow the IETF draft. They keep answers for 24 hours or longer, if not told otherwise.
 */
export const DRAFT: Profile = { name: "draft", meaning: draft, header: (key) => key.quoted(), keyMsMax: DAY_MS };

/** Stripe, which forgets keys after 24 hours. */
export const STRIPE: Profile = { name: "stripe", meaning: stripe, header: (key) => key.text, keyMsMax: DAY_MS };
