/**
 * HTTP requests that take effect once, however often they have to be sent.
 *
 * Rules:
 *
 * 1. A call has one {@link Key}, and each of its tries sends this key with the same bytes. A key belongs to one
 *    request: with another method, URL or body, the call fails before anything is sent.
 * 2. The server decides what happens next (`profile.ts`). A final answer ends the call, whatever its status. What may
 *    be tried again is tried again, after the time that the server asks for.
 * 3. Everything has a limit ({@link Policy}): tries, time, and the retries of all calls of one client together.
 * 4. With a {@link Journal}, key and request are stored before the first try. After a crash or a reload,
 *    `client.resume()` finishes what was begun, with the same keys. {@link IndexedDbJournal} is for browsers,
 *    `FileJournal` of `keylatch-client/node` for Node.
 * 5. An error says what to do (`errors.ts`). None of them is a reason to use a new key for the same intent.
 *
 * Where things are: `client.ts` is what happens to a call, step by step; `profile.ts` is what answers mean; `policy.ts`
 * has the limits and pauses; `key.ts` and `request.ts` the identity of a call; `journal.ts`, `indexeddb.ts` and
 * `node.ts` the durable intents; `platform.*.ts` what Node and browsers do in different ways.
 *
 * @packageDocumentation
 */

export { Answer } from "./answer.js";
export { Client, type CallOptions, type ClientOptions, type Resumed } from "./client.js";
export type { Clock } from "./clock.js";
export {
  GaveUp,
  IdempotencyError,
  InvalidKey,
  JournalFull,
  KeyExpired,
  KeyReused,
  OutcomeUnknown,
  ResponseNotRetained,
} from "./errors.js";
export type { CallEvent } from "./event.js";
export { IndexedDbJournal } from "./indexeddb.js";
export type { Entry, Journal, JournalLimits } from "./journal.js";
export { Key } from "./key.js";
export { POLICY, type Policy } from "./policy.js";
export { DRAFT, STRIPE, type Meaning, type Profile, type Reply } from "./profile.js";
export type { OutgoingRequest } from "./request.js";
