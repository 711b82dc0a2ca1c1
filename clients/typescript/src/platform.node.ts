/** What Node does in its own way. */

import { createHash, webcrypto } from "node:crypto";

/** The SHA-256 of `bytes`. */
export function sha256(bytes: Uint8Array): Uint8Array {
  return createHash("sha256").update(bytes).digest();
}

/** So many random bytes. */
export function randomBytes(count: number): Uint8Array {
  return webcrypto.getRandomValues(new Uint8Array(count));
}
