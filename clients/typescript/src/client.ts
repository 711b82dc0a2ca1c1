import { Answer } from "./answer.js";
import { CLOCK, type Clock } from "./clock.js";
import { GaveUp, IdempotencyError, KeyExpired, KeyReused, OutcomeUnknown, ResponseNotRetained } from "./errors.js";
import type { CallEvent } from "./event.js";
import type { Entry, Journal } from "./journal.js";
import { Key } from "./key.js";
import { pauseMs, policyWith, RetryBudget, waitS, type Policy } from "./policy.js";
import { DRAFT, isReplay, retryAfterMs, type Meaning, type Profile } from "./profile.js";
import { fingerprint, outgoing, recordOf, type Content, type OutgoingRequest } from "./request.js";

/** How many keys a client remembers, each with the fingerprint of its request (about 200 bytes). */
const KEYS_BOUND_MAX = 10_000;

/** The settings of a client. */
export interface ClientOptions {
  /** What relative URLs are relative to. In a browser, the page. */
  baseUrl?: string;
  /**
   * Headers of every try, such as `Authorization`. A function is asked before each try, so that a token may be new.
   * They are not written to the journal, and do not belong to the identity of a request.
   */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  /** Further settings of `fetch`, such as `credentials`. */
  init?: Omit<RequestInit, "body" | "headers" | "method" | "redirect" | "signal">;
  /** Keeps intents over crashes and reloads; without one, an intent ends with the process. */
  journal?: Journal;
  /** The rules of the server; {@link DRAFT} if it is not given. */
  profile?: Profile;
  /** What differs from the default limits. */
  policy?: Partial<Policy>;
  /** Is told each step of each call. It must be fast. An error in it ends the call. */
  observe?: (event: CallEvent) => void;
  /** Sends requests; the global `fetch` if it is not given. */
  fetch?: typeof fetch;
  /** For tests. */
  clock?: Clock;
}

/** What a call sends, and under which key. */
export interface CallOptions extends Content {
  /** The key of the intent; a random one if it is not given. */
  key?: Key;
  /** Cancels the call, which rejects with the signal's reason. Its intent stays in the journal. */
  signal?: AbortSignal;
}

/** What became of an intent from the journal: it has an answer or an error. */
export interface Resumed {
  readonly entry: Entry;
  readonly answer?: Answer;
  readonly error?: IdempotencyError;
}

/**
 * Sends requests until there is a final answer.
 *
 * ```ts
 * const client = new Client({ baseUrl: "https://shop.example" });
 * const answer = await client.post("/api/orders", { json: order, key: Key.derive(["order", user, cart]) });
 * console.log(answer.json(), answer.replayed);
 * ```
 *
 * A redirect is an answer, and is not followed.
 */
export class Client {
  readonly #baseUrl: string | undefined;
  readonly #options: ClientOptions;
  readonly #shared: Shared;
  readonly #bound = new Map<string, string>();
  readonly #running = new Map<string, number>();
  #calls = 0;

  constructor(options: ClientOptions = {}) {
    const policy = policyWith(options.policy ?? {});
    const clock = options.clock ?? CLOCK;
    const profile = options.profile ?? DRAFT;
    if (policy.timeMsMax >= profile.keyMsMax) {
      throw new RangeError(`timeMsMax must be less than the ${profile.keyMsMax} ms for which the server keeps keys`);
    }
    const budget = new RetryBudget(policy, clock.now());
    this.#options = options;
    this.#baseUrl = options.baseUrl ?? globalThis.location?.href;
    this.#shared = { profile, policy, clock, budget };
  }

  /** {@link request} with the method POST. */
  post(url: string | URL, options: CallOptions = {}): Promise<Answer> {
    return this.request("POST", url, options);
  }

  /**
   * Sends a request until there is a final answer, which may be one of a failure (`answer.status`). Rejects with an
   * {@link IdempotencyError} if there is none; each kind says what to do.
   */
  async request(method: string, url: string | URL, options: CallOptions = {}): Promise<Answer> {
    const request = outgoing(method, String(url), options, this.#baseUrl);
    return this.#run(options.key ?? Key.random(), request, options.signal);
  }

  /**
   * Finishes what the journal has from before, one by one, with the same keys and bytes. What cannot be finished now
   * stays in the journal.
   */
  async *resume(options: { signal?: AbortSignal } = {}): AsyncGenerator<Resumed, void, undefined> {
    if (!this.#options.journal) throw new TypeError("this client has no journal to resume from");
    for (const entry of await this.#options.journal.pending()) {
      // A call of this client is about to finish it.
      if (this.#running.has(entry.key.text)) continue;
      try {
        yield { entry, answer: await this.#run(entry.key, entry.request, options.signal) };
      } catch (error) {
        if (!(error instanceof IdempotencyError)) throw error;
        yield { entry, error };
      }
    }
  }

  async #run(key: Key, request: OutgoingRequest, signal: AbortSignal | undefined): Promise<Answer> {
    this.#bind(key, request);
    this.#count(key, +1);
    const entry = { key, request, createdUnixMs: this.#shared.clock.unixMs() };
    try {
      return await new Call(this.#options, this.#shared, ++this.#calls, entry, signal).run();
    } finally {
      this.#count(key, -1);
    }
  }

  /** Binds the key to the request. Throws {@link KeyReused} if it is bound to another one. */
  #bind(key: Key, request: OutgoingRequest): void {
    const print = fingerprint(request);
    if ((this.#bound.get(key.text) ?? print) !== print) throw new KeyReused(key, 0);
    // The last one again, because a map keeps the order of insertion.
    this.#bound.delete(key.text);
    this.#bound.set(key.text, print);
    if (this.#bound.size > KEYS_BOUND_MAX) {
      const [oldest] = this.#bound.keys();
      this.#bound.delete(oldest!);
    }
  }

  #count(key: Key, change: number): void {
    const running = (this.#running.get(key.text) ?? 0) + change;
    if (running === 0) this.#running.delete(key.text);
    else this.#running.set(key.text, running);
  }
}

/** What all calls of a client share. */
interface Shared {
  readonly profile: Profile;
  readonly policy: Policy;
  readonly clock: Clock;
  readonly budget: RetryBudget;
}

/** There is no answer: the connection could not be made or broke (`lost`), or the time was over (`silent`). */
interface Lost {
  readonly why: "lost" | "silent";
  readonly cause: unknown;
}

const ERRORS = {
  key_reused: KeyReused,
  outcome_unknown: OutcomeUnknown,
  not_retained: ResponseNotRetained,
  expired: KeyExpired,
};

/** One call: the whole behaviour of a client, from the top. */
class Call {
  readonly #options: ClientOptions;
  readonly #shared: Shared;
  readonly #number: number;
  readonly #signal: AbortSignal | undefined;
  #entry: Entry;
  #tries = 0;

  constructor(options: ClientOptions, shared: Shared, number: number, entry: Entry, signal: AbortSignal | undefined) {
    this.#options = options;
    this.#shared = shared;
    this.#number = number;
    this.#entry = entry;
    this.#signal = signal;
  }

  async run(): Promise<Answer> {
    try {
      return await this.#untilFinal();
    } catch (error) {
      this.#tell("error", { why: error instanceof IdempotencyError ? error.code : "stopped" });
      throw error;
    }
  }

  async #untilFinal(): Promise<Answer> {
    this.#signal?.throwIfAborted();
    if (this.#options.journal) await this.#begin(this.#options.journal);
    const { policy, clock, profile } = this.#shared;
    const until = clock.now() + policy.timeMsMax;
    for (;;) {
      this.#tries += 1;
      this.#tell("try");
      const got = await this.#send(Math.min(policy.tryMsMax, until - clock.now()));
      let pause: number;
      if (got instanceof Answer) {
        const meaning = profile.meaning(got);
        if (meaning === "answer") return this.#end(got);
        if (meaning !== "retry" && meaning !== "in_progress") return this.#fail(meaning, got);
        pause = this.#pauseMs(until, retryAfterMs(got, clock.unixMs()), got);
        this.#tell("pause", { status: got.status, why: meaning, pauseMs: pause });
      } else {
        pause = this.#pauseMs(until, undefined, undefined, got.cause);
        this.#tell("pause", { why: got.why, pauseMs: pause });
      }
      await clock.sleep(pause, this.#signal);
    }
  }

  /** Writes the intent down before the first try. */
  async #begin(journal: Journal): Promise<void> {
    const { key, request } = this.#entry;
    const there = await journal.begin(this.#entry);
    if (fingerprint(there.request) !== fingerprint(request)) throw new KeyReused(key, 0);
    // The headers of the call, because those of the journal have no credentials.
    this.#entry = { key, request, createdUnixMs: there.createdUnixMs };
    const ageMs = this.#shared.clock.unixMs() - there.createdUnixMs;
    if (ageMs + this.#shared.policy.timeMsMax > this.#shared.profile.keyMsMax) throw new KeyExpired(key, 0);
  }

  /** Sends the request once, and reads the answer to its end. */
  async #send(timeMsMax: number): Promise<Answer | Lost> {
    const { key, request } = this.#entry;
    const given = this.#options.headers;
    const headers = this.#headers(typeof given === "function" ? await given() : given);
    const aborting = new AbortController();
    const stop = () => aborting.abort(this.#signal?.reason);
    let silent = false;
    const timer = setTimeout(() => {
      silent = true;
      aborting.abort();
    }, timeMsMax);
    this.#signal?.addEventListener("abort", stop, { once: true });
    try {
      this.#signal?.throwIfAborted();
      const response = await (this.#options.fetch ?? fetch)(request.url, {
        ...this.#options.init,
        method: request.method,
        headers,
        body: request.body.length > 0 ? (request.body as BodyInit) : null,
        redirect: "manual",
        signal: aborting.signal,
      });
      const bytes = new Uint8Array(await response.arrayBuffer());
      const reply = { status: response.status, headers: response.headers, bytes };
      return new Answer(reply.status, reply.headers, bytes, isReplay(reply), this.#tries, key);
    } catch (cause) {
      this.#signal?.throwIfAborted();
      return { why: silent ? "silent" : "lost", cause };
    } finally {
      clearTimeout(timer);
      this.#signal?.removeEventListener("abort", stop);
    }
  }

  #headers(given: HeadersInit | undefined): Record<string, string> {
    const wait = waitS(this.#shared.policy);
    return {
      ...recordOf(given),
      ...this.#entry.request.headers,
      "idempotency-key": this.#shared.profile.header(this.#entry.key),
      ...(wait > 0 && { prefer: `wait=${wait}` }),
    };
  }

  /** The pause before the next try. Throws {@link GaveUp} if there is none. */
  #pauseMs(until: number, afterMs: number | undefined, answer: Answer | undefined, cause?: unknown): number {
    const { policy, clock, budget } = this.#shared;
    const key = this.#entry.key;
    if (this.#tries >= policy.triesMax) throw new GaveUp(key, this.#tries, answer, "tries", afterMs, cause);
    const now = clock.now();
    const pause = Math.max(pauseMs(policy, this.#tries, afterMs, clock.random()), budget.reserve(now));
    if (now + pause >= until) {
      budget.giveBack();
      throw new GaveUp(key, this.#tries, answer, "time", afterMs, cause);
    }
    return pause;
  }

  async #end(answer: Answer): Promise<Answer> {
    this.#shared.budget.answered();
    // After a 401 the caller logs in again, and the intent can be resumed. A recorded 401 does not change.
    const isOver = answer.status !== 401 || answer.replayed;
    if (this.#options.journal && isOver) await this.#options.journal.end(this.#entry.key);
    this.#tell("answer", { status: answer.status, replayed: answer.replayed });
    return answer;
  }

  async #fail(meaning: Exclude<Meaning, "answer" | "retry" | "in_progress">, answer: Answer): Promise<never> {
    // An intent whose outcome is not known stays in the journal.
    if (meaning !== "outcome_unknown") await this.#options.journal?.end(this.#entry.key);
    throw new ERRORS[meaning](this.#entry.key, this.#tries, answer);
  }

  #tell(kind: CallEvent["kind"], more: Partial<CallEvent> = {}): void {
    if (!this.#options.observe) return;
    const { method, url } = this.#entry.request;
    const { origin, pathname } = new URL(url);
    this.#options.observe({ kind, call: this.#number, method, url: origin + pathname, tries: this.#tries, ...more });
  }
}
