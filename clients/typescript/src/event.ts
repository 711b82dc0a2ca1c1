/**
 * A step of a call, for logs, metrics and spans. It contains no key, header, query or body.
 *
 * A call begins with `try` and ends with `answer` or `error`; in between, each `pause` is followed by a `try`. A call
 * that ends in another way (cancelled, or with an error of the journal) ends with `error` and the reason `stopped`.
 */
export interface CallEvent {
  readonly kind: "try" | "pause" | "answer" | "error";
  /** The same number for all events of a call. */
  readonly call: number;
  readonly method: string;
  /** The URL without its query and user. */
  readonly url: string;
  /** How often the request was sent, including a try that begins now. */
  readonly tries: number;
  readonly status?: number;
  readonly replayed?: boolean;
  /** Of a pause: what the try met (`lost`, `silent`, `retry`, `in_progress`). Of an error: its code. */
  readonly why?: string;
  readonly pauseMs?: number;
}
