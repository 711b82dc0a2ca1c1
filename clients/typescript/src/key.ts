import { randomBytes, sha256 } from "#platform";

import { InvalidKey } from "./errors.js";

const ENCODER = new TextEncoder();

/** The longest key: the limit of Stripe, and of servers that follow the IETF draft. */
export const KEY_CHARS_MAX = 255;

/**
 * An idempotency key: 1 to 255 visible ASCII characters. Logs do not show it: not `console.log`, not `JSON.stringify`,
 * not a template string.
 */
export class Key {
  readonly #text: string;

  /** Takes `text` as it is. Throws {@link InvalidKey} if it cannot be a key. */
  constructor(text: string) {
    if (text.length > KEY_CHARS_MAX) {
      throw new InvalidKey(`the key is longer than ${KEY_CHARS_MAX} characters; a UUID has 36`);
    }
    if (!/^[!-~]+$/.test(text)) {
      throw new InvalidKey("a key has 1 to 255 visible ASCII characters, and no spaces");
    }
    this.#text = text;
  }

  /** A new key, for a new intent: a UUID of version 7 (RFC 9562, section 5.7). */
  static random(): Key {
    return new Key(uuid7(Date.now(), randomBytes(10)));
  }

  /**
   * The key of an intent that `parts` identify: the same in every process, after every restart and in every language.
   * For example `Key.derive(["order", user, cart])`. Two different lists never have the same key. Convert numbers and
   * dates to text yourself, always in the same way.
   *
   * Throws {@link InvalidKey} if there are no parts, or one is not text.
   */
  static derive(parts: readonly string[]): Key {
    if (!Array.isArray(parts) || parts.length === 0) {
      throw new InvalidKey("a key is derived from a list of one or more texts");
    }
    return new Key(hash(DERIVED_KEY, parts.map(checkPart)));
  }

  /**
   * This key in a region: `REGION.KEY`. A service whose map of regions goes by the prefix of keys decides about it there.
   *
   * Throws {@link InvalidKey} if `region` is not 1 to 32 lower-case letters, digits and `-`, or the key becomes too long.
   */
  inRegion(region: string): Key {
    if (!/^[a-z0-9-]{1,32}$/.test(region)) {
      throw new InvalidKey("the name of a region is 1 to 32 lower-case letters, digits and -, such as eu-1");
    }
    return new Key(`${region}.${this.#text}`);
  }

  /** The key itself. Do not log it. */
  get text(): string {
    return this.#text;
  }

  /** The key as a string of RFC 9651, as the draft wants it. */
  quoted(): string {
    return `"${this.#text.replace(/["\\]/g, "\\$&")}"`;
  }

  toString(): string {
    return `Key(${this.#text.length} characters)`;
  }
}

/** What derived keys begin with, so that no hash is used for two things. */
const DERIVED_KEY = "keylatch client key 1";

/** Most of what is hashed fits into it, and needs no memory of its own. */
const SCRATCH = new Uint8Array(8192);

/**
 * SHA-256 over `prefix` (ASCII) and fields, each with its length before it, so that no two lists of fields are the same
 * bytes. Text counts as UTF-8. An absent field is not an empty one. In 64 hexadecimal digits.
 */
export function hash(prefix: string, fields: readonly (string | Uint8Array | undefined)[]): string {
  let bytes = SCRATCH;
  if (prefix.length + roomFor(fields) > SCRATCH.length) {
    fields = fields.map((field) => (typeof field === "string" ? utf8(field) : field));
    bytes = new Uint8Array(prefix.length + roomFor(fields));
  }
  const view = new DataView(bytes.buffer);
  let at = put(prefix, bytes, 0);
  for (const field of fields) {
    bytes[at] = field === undefined ? 0 : 1;
    if (field === undefined) {
      at += 1;
      continue;
    }
    const length = put(field, bytes, at + 9);
    // The upper half is 0: no array is so long.
    view.setUint32(at + 1, 0);
    view.setUint32(at + 5, length);
    at += 9 + length;
  }
  return sha256(bytes.subarray(0, at));
}

/** A unit of JavaScript's text takes at most so many bytes of UTF-8. */
export const UTF8_BYTES_MAX = 3;

/** How many bytes the fields take with their lengths; for text, at most. */
function roomFor(fields: readonly (string | Uint8Array | undefined)[]): number {
  const room = (field: string | Uint8Array) => field.length * (typeof field === "string" ? UTF8_BYTES_MAX : 1);
  return fields.reduce<number>((sum, field) => sum + 9 + (field === undefined ? 0 : room(field)), 0);
}

/** Returns how many bytes it has put there. */
function put(field: string | Uint8Array, bytes: Uint8Array, at: number): number {
  if (typeof field === "string") return ENCODER.encodeInto(field, bytes.subarray(at)).written;
  bytes.set(field, at);
  return field.length;
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

export function utf8(text: string): Uint8Array {
  return ENCODER.encode(text);
}

function checkPart(part: unknown): string {
  if (typeof part !== "string") {
    throw new InvalidKey("a part of a key must be text; convert it yourself, always in the same way");
  }
  // The encoder would replace it, and two keys could meet.
  if (/\p{Surrogate}/u.test(part)) {
    throw new InvalidKey("a part of a key has half of a surrogate pair, which has no UTF-8");
  }
  return part;
}

/** @internal */
export function uuid7(unixMs: number, random: Uint8Array): string {
  const bytes = Uint8Array.from(random);
  // The version and the variant replace six of the random bits.
  bytes[0] = (bytes[0]! & 0x0f) | 0x70;
  bytes[2] = (bytes[2]! & 0x3f) | 0x80;
  const time = unixMs.toString(16).padStart(12, "0");
  const digits = Array.from(bytes, (byte) => HEX[byte]);
  const group = (from: number, to?: number) => digits.slice(from, to).join("");
  return [time.slice(0, 8), time.slice(8), group(0, 2), group(2, 4), group(4)].join("-");
}
