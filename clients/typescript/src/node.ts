/**
 * A journal for Node.
 *
 * @packageDocumentation
 */

import { createHash, randomUUID } from "node:crypto";
import { link, mkdir, open, readdir, readFile, stat, unlink } from "node:fs/promises";
import { join } from "node:path";

import { checkBody, checkEntries, entryOf, JOURNAL_LIMITS, oldestFirst, stored } from "./journal.js";
import type { Entry, Journal, JournalLimits, Stored } from "./journal.js";
import type { Key } from "./key.js";

/** After this, what a crash has left half written is removed. */
const LEFT_OVER_MS = 60_000;

/**
 * A journal in a directory, a file for each intent. Only this user may read them: they contain the bodies of requests.
 * Several processes may share the directory.
 */
export class FileJournal implements Journal {
  readonly #directory: string;
  readonly #limits: JournalLimits;

  private constructor(directory: string, limits: JournalLimits) {
    this.#directory = directory;
    this.#limits = limits;
  }

  /** Opens the journal in this directory, or creates it. */
  static async open(directory: string, limits: Partial<JournalLimits> = {}): Promise<FileJournal> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    for (const name of await readdir(directory)) {
      const path = join(directory, name);
      if (!name.endsWith(".new")) continue;
      // Another process may be about to finish it.
      const written = (await ifThere(stat(path)))?.mtimeMs;
      if (written !== undefined && Date.now() - written > LEFT_OVER_MS) await ifThere(unlink(path));
    }
    return new FileJournal(directory, { ...JOURNAL_LIMITS, ...limits });
  }

  async begin(entry: Entry): Promise<Entry> {
    checkBody(entry, this.#limits);
    const path = this.#path(entry.key);
    const there = await this.#read(path);
    if (there) return there;
    checkEntries((await this.#names()).length, this.#limits);
    const half = `${path}.${randomUUID()}.new`;
    try {
      await write(half, JSON.stringify(stored(entry), asBase64));
      // Fails if another call has begun the same intent in the meantime.
      await link(half, path);
    } catch (error) {
      const other = hasCode(error, "EEXIST") ? await this.#read(path) : undefined;
      if (!other) throw error;
      return other;
    } finally {
      await ifThere(unlink(half));
    }
    await syncDirectory(this.#directory);
    return entry;
  }

  async end(key: Key): Promise<void> {
    await ifThere(unlink(this.#path(key)));
  }

  async pending(): Promise<Entry[]> {
    const found = await Promise.all((await this.#names()).map((name) => this.#read(join(this.#directory, name))));
    return oldestFirst(found.filter((entry) => entry !== undefined));
  }

  /** A key may contain slashes, and be longer than the name of a file. */
  #path(key: Key): string {
    return join(this.#directory, `${createHash("sha256").update(key.text).digest("hex")}.json`);
  }

  async #names(): Promise<string[]> {
    return (await readdir(this.#directory)).filter((name) => name.endsWith(".json"));
  }

  async #read(path: string): Promise<Entry | undefined> {
    const text = await ifThere(readFile(path, "utf8"));
    if (text === undefined) return undefined;
    try {
      const { body, ...rest } = JSON.parse(text) as Omit<Stored, "body"> & { body: string };
      return entryOf({ ...rest, body: Buffer.from(body, "base64") });
    } catch (error) {
      throw new Error(`${path} is not an entry of a journal`, { cause: error });
    }
  }
}

function asBase64(name: string, value: unknown): unknown {
  return name === "body" ? Buffer.from(value as Uint8Array).toString("base64") : value;
}

/** Writes a new file, and waits until it is on disk. */
async function write(path: string, text: string): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Waits until the names in a directory are on disk. Windows does that by itself, and cannot be asked. */
async function syncDirectory(path: string): Promise<void> {
  if (process.platform === "win32") return;
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** `undefined` if the file is not there. */
async function ifThere<T>(action: Promise<T>): Promise<T | undefined> {
  try {
    return await action;
  } catch (error) {
    if (hasCode(error, "ENOENT")) return undefined;
    throw error;
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
