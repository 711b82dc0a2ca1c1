/** How a call can fail. Each error says what to do; none is a reason to use a new key for the same intent. */

import type { Answer } from "./answer.js";
import type { Key } from "./key.js";

/** The text cannot be a key, or the parts cannot be made into one. */
export class InvalidKey extends TypeError {
  override readonly name = "InvalidKey";
}

/** The journal has as many entries as it may have, or the request is too large for it. Nothing was sent. */
export class JournalFull extends Error {
  override readonly name = "JournalFull";
}

/** A call that ended without a final answer. */
export abstract class IdempotencyError extends Error {
  /** The name of the error in all clients. */
  abstract readonly code: "key_reused" | "outcome_unknown" | "not_retained" | "expired" | "gave_up";

  constructor(
    message: string,
    /** The key of the call. */
    readonly key: Key,
    /** How often the request was sent. */
    readonly tries: number,
    /** The answer to the last try, if there was one. */
    readonly answer: Answer | undefined,
    cause?: unknown,
  ) {
    super(message, cause === undefined ? undefined : { cause });
  }
}

/** The key belongs to another request; this one did not run. Without `answer`, nothing was sent. */
export class KeyReused extends IdempotencyError {
  override readonly name = "KeyReused";
  readonly code = "key_reused";

  constructor(key: Key, tries: number, answer?: Answer) {
    const advice =
      "the key belongs to another request, and this one did not run: use a new key for a new intent, and send the " +
      "same bytes for the same one";
    super(advice, key, tries, answer);
  }
}

/** A try ended half-way, and the server does not run the request again until somebody has found out what happened. */
export class OutcomeUnknown extends IdempotencyError {
  override readonly name = "OutcomeUnknown";
  readonly code = "outcome_unknown";

  constructor(key: Key, tries: number, answer?: Answer) {
    const advice =
      "the request may have taken effect, or not: ask the service for its state; do not use a new key; the same " +
      "request with the same key gets the answer once the outcome is known";
    super(advice, key, tries, answer);
  }
}

/** The request took effect, and its answer was not kept. */
export class ResponseNotRetained extends IdempotencyError {
  override readonly name = "ResponseNotRetained";
  readonly code = "not_retained";

  constructor(key: Key, tries: number, answer?: Answer) {
    const advice =
      "the request took effect, and its answer was not kept: read the result from the service; do not use a new key";
    super(advice, key, tries, answer);
  }
}

/** The key is older than servers keep keys. Without `answer`, nothing was sent. */
export class KeyExpired extends IdempotencyError {
  override readonly name = "KeyExpired";
  readonly code = "expired";

  constructor(key: Key, tries: number, answer?: Answer) {
    const advice = answer
      ? "the request took effect, longer ago than answers are kept: read the result from the service"
      : "the request was begun longer ago than servers keep keys, so nothing was sent: find out from the service " +
        "whether it took effect, then remove it from the journal with journal.end(error.key)";
    super(advice, key, tries, answer);
  }
}

/** The limit of tries or time was reached. `cause` is the error of the last try, if it had no answer. */
export class GaveUp extends IdempotencyError {
  override readonly name = "GaveUp";
  readonly code = "gave_up";

  constructor(
    key: Key,
    tries: number,
    answer: Answer | undefined,
    /** Which limit of the policy it was. */
    readonly why: "tries" | "time",
    /** What `Retry-After` of the last answer asks for, in milliseconds. */
    readonly afterMs: number | undefined,
    cause?: unknown,
  ) {
    const advice =
      "no final answer within the limits of the policy; the request may have taken effect: send it again later, with " +
      "the same key and the same bytes";
    super(advice, key, tries, answer, cause);
  }
}
