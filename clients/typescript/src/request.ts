import { hash, utf8, UTF8_BYTES_MAX } from "./key.js";

/** The largest body. It is in memory until the call ends, so that each try sends the same bytes. */
export const BODY_BYTES_MAX = 64 << 20;

/** A request, which each try sends unchanged. */
export interface OutgoingRequest {
  readonly method: string;
  /** Absolute. */
  readonly url: string;
  /** Those of the call, in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** JSON is text, because `fetch` sends text with less work. Anything else is bytes. */
  readonly body: string | Uint8Array;
}

/** What a call wants to send. */
export interface Content {
  /** Sent as JSON. */
  json?: unknown;
  /** Sent as it is. Give it a `Content-Type` in the headers. */
  body?: string | Uint8Array;
  /** Headers of this call. Its credentials are not written to a journal; see `ClientOptions.headers`. */
  headers?: HeadersInit;
}

const FOREIGN: Readonly<Record<string, string>> = {
  "idempotency-key": "key",
  prefer: "policy.preferWaitS",
  "content-length": "the length of the body",
};

/** The request with this content. Throws a `TypeError` if something cannot be sent. */
export function outgoing(method: string, url: string, content: Content, base: string | undefined): OutgoingRequest {
  const headers = recordOf(content.headers);
  for (const [name, instead] of Object.entries(FOREIGN)) {
    if (name in headers) throw new TypeError(`the header ${name} is set by the client, from ${instead}`);
  }
  const place = new URL(url, base);
  place.hash = "";
  // `fetch` refuses it, and its refusal looks like a lost connection.
  if (place.username || place.password)
    throw new TypeError("a URL has no user and password here; send them in a header");
  const body = bodyOf(content);
  if (content.json !== undefined) headers["content-type"] ??= "application/json";
  if (isLonger(body, BODY_BYTES_MAX)) throw new TypeError(`the body is over ${BODY_BYTES_MAX} bytes`);
  return { method: method.toUpperCase(), url: place.href, headers, body };
}

/** 64 digits that identify the request: its method, URL, content type, content encoding and body. */
export function fingerprint({ method, url, headers, body }: OutgoingRequest): string {
  return hash("keylatch fingerprint 1", [method, url, headers["content-type"], headers["content-encoding"], body]);
}

/** Whether a body has more bytes than this. */
export function isLonger(body: string | Uint8Array, bytesMax: number): boolean {
  // Only a text that is long for its limit is encoded to know.
  const mayBe = typeof body !== "string" || body.length * UTF8_BYTES_MAX > bytesMax;
  return mayBe && bytesOf(body).length > bytesMax;
}

/** A body as bytes. */
export function bytesOf(body: string | Uint8Array): Uint8Array {
  return typeof body === "string" ? utf8(body) : body;
}

/** Headers as a record, with names in lower case. */
export function recordOf(headers: HeadersInit | undefined): Record<string, string> {
  return headers === undefined ? {} : Object.fromEntries(new Headers(headers));
}

function bodyOf({ json, body }: Content): string | Uint8Array {
  if (json !== undefined) {
    if (body !== undefined) throw new TypeError("a request has a body or json, not both");
    const text = JSON.stringify(json) as string | undefined;
    if (text === undefined) throw new TypeError("the value has no JSON");
    return text;
  }
  // A copy: the caller may use its buffer again while the call is under way.
  return typeof body === "string" ? utf8(body) : new Uint8Array(body ?? []);
}
