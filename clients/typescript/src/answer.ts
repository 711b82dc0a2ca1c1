import type { Key } from "./key.js";

/** A final answer of the server, read to its end. */
export class Answer {
  constructor(
    /** The status, which may be one of a failure. A browser hides a redirect: its status is 0 there. */
    readonly status: number,
    readonly headers: Headers,
    /** The body. */
    readonly bytes: Uint8Array,
    /**
     * Whether the server answered from its record: an earlier try, or an earlier call with this key, has taken effect.
     */
    readonly replayed: boolean,
    /** How often the request was sent. */
    readonly tries: number,
    readonly key: Key,
  ) {}

  /** Whether the status is 2xx. */
  get ok(): boolean {
    return this.status >= 200 && this.status < 300;
  }

  /** The body as text. */
  text(): string {
    return new TextDecoder().decode(this.bytes);
  }

  /** The body as JSON. Throws a `SyntaxError` if it is none. */
  json(): unknown {
    return JSON.parse(this.text());
  }
}
