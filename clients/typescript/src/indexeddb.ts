import { checkBody, checkEntries, entryOf, JOURNAL_LIMITS, oldestFirst, stored } from "./journal.js";
import type { Entry, Journal, JournalLimits, Stored } from "./journal.js";
import type { Key } from "./key.js";

const INTENTS = "intents";

/**
 * A journal in IndexedDB, for browsers. All pages and workers of an origin that open the same name share it. Everything
 * that runs in this origin can read it, including the bodies of requests.
 *
 * A browser may remove what a site has stored. `navigator.storage.persist()` asks it not to.
 */
export class IndexedDbJournal implements Journal {
  readonly #db: IDBDatabase;
  readonly #limits: JournalLimits;

  private constructor(db: IDBDatabase, limits: JournalLimits) {
    this.#db = db;
    this.#limits = limits;
  }

  /** Opens the journal with this name, or creates it. */
  static async open(name = "keylatch-client", limits: Partial<JournalLimits> = {}): Promise<IndexedDbJournal> {
    const opening = indexedDB.open(name, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(INTENTS, { keyPath: "key" });
    const db = await result(opening);
    // Otherwise this page would keep a later version of the site from opening it.
    db.onversionchange = () => db.close();
    return new IndexedDbJournal(db, { ...JOURNAL_LIMITS, ...limits });
  }

  async begin(entry: Entry): Promise<Entry> {
    checkBody(entry, this.#limits);
    const writing = this.#db.transaction(INTENTS, "readwrite", { durability: "strict" });
    const committed = end(writing);
    try {
      const intents = writing.objectStore(INTENTS);
      const there = (await result(intents.get(entry.key.text))) as Stored | undefined;
      if (there) return entryOf(there);
      checkEntries(await result(intents.count()), this.#limits);
      intents.add(stored(entry));
    } catch (error) {
      committed.catch(() => {});
      throw error;
    }
    await committed;
    return entry;
  }

  async end(key: Key): Promise<void> {
    const writing = this.#db.transaction(INTENTS, "readwrite");
    writing.objectStore(INTENTS).delete(key.text);
    await end(writing);
  }

  async pending(): Promise<Entry[]> {
    const all = await result(this.#db.transaction(INTENTS).objectStore(INTENTS).getAll());
    return oldestFirst((all as Stored[]).map(entryOf));
  }

  /** Closes it. */
  close(): void {
    this.#db.close();
  }
}

function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function end(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}
