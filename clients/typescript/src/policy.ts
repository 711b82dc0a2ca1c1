/** The limits of each call, and of the retries of all calls of a client together. */
export interface Policy {
  /** How often a call sends its request. */
  readonly triesMax: number;
  /** How long a call takes, with all its tries and pauses. */
  readonly timeMsMax: number;
  /** How long a try waits for the whole answer. */
  readonly tryMsMax: number;
  /** The pause before the second try is random, up to this. The limit doubles with each try. */
  readonly pauseMsBase: number;
  /** The longest random pause. What `Retry-After` asks for comes on top. */
  readonly pauseMsMax: number;
  /**
   * How long the server should wait for a run of the same key instead of answering 409: `Prefer: wait=N`. 0 is never.
   */
  readonly preferWaitS: number;
  /** How many retries of all calls may go out at once. */
  readonly retriesBurstMax: number;
  /** How fast further retries go out: in an outage this is all that the client adds to the load. */
  readonly retriesPerS: number;
  /** How many further retries each final answer allows: while most calls succeed, few failures need not wait. */
  readonly retriesPerAnswer: number;
}

/**
 * The defaults. The pauses of ten tries are 33 seconds at most; two minutes are longer than a restart or a
 * failover of most services.
 */
export const POLICY: Policy = {
  triesMax: 10,
  timeMsMax: 120_000,
  tryMsMax: 30_000,
  pauseMsBase: 100,
  pauseMsMax: 10_000,
  preferWaitS: 5,
  retriesBurstMax: 100,
  retriesPerS: 10,
  retriesPerAnswer: 0.2,
};

/** Timers count to this. */
const MS_MAX = 2 ** 31 - 1;

/** The defaults with `changes`. Throws a `RangeError` if they cannot be kept. */
export function policyWith(changes: Partial<Policy>): Policy {
  const policy = { ...POLICY, ...changes };
  const unknown = Object.keys(policy).find((name) => !(name in POLICY));
  if (unknown !== undefined) throw new RangeError(`a policy has no ${unknown}`);
  if (!(policy.triesMax >= 1)) throw new RangeError("triesMax must be 1 or more");
  for (const name of ["timeMsMax", "tryMsMax"] as const) {
    if (!(policy[name] > 0 && policy[name] <= MS_MAX))
      throw new RangeError(`${name} must be more than 0, and at most ${MS_MAX}`);
  }
  for (const name of ["retriesBurstMax", "retriesPerS"] as const) {
    if (!(policy[name] > 0)) throw new RangeError(`${name} must be more than 0`);
  }
  for (const name of ["pauseMsBase", "pauseMsMax", "preferWaitS", "retriesPerAnswer"] as const) {
    if (!(policy[name] >= 0)) throw new RangeError(`${name} must not be negative`);
  }
  return policy;
}

/** The pause after so many tries: exponential backoff with full jitter, after the time that the server asks for. */
export function pauseMs(policy: Policy, tries: number, afterMs: number | undefined, random: number): number {
  const backoff = Math.min(policy.pauseMsMax, policy.pauseMsBase * 2 ** (tries - 1));
  return (afterMs ?? 0) + random * backoff;
}

/** What `Prefer: wait` asks for: never so long that the try would time out first. */
export function waitS(policy: Policy): number {
  return Math.min(Math.floor(policy.preferWaitS), Math.floor(policy.tryMsMax / 2000));
}

/**
 * Spreads the retries of all calls of a client, so that an outage is not made worse.
 *
 * It is a bucket of permits that time and final answers fill. A retry that finds none reserves one that is to come.
 */
export class RetryBudget {
  readonly #policy: Policy;
  #permits: number;
  #atMs: number;

  constructor(policy: Policy, nowMs: number) {
    this.#policy = policy;
    this.#permits = policy.retriesBurstMax;
    this.#atMs = nowMs;
  }

  /** Takes a permit. Returns how many milliseconds to wait until it is valid. */
  reserve(nowMs: number): number {
    this.#add(((nowMs - this.#atMs) / 1000) * this.#policy.retriesPerS);
    this.#atMs = nowMs;
    this.#permits -= 1;
    return Math.max(0, (-this.#permits / this.#policy.retriesPerS) * 1000);
  }

  /** Returns a permit that was not used. */
  giveBack(): void {
    this.#add(1);
  }

  /** Notes a final answer. */
  answered(): void {
    this.#add(this.#policy.retriesPerAnswer);
  }

  #add(permits: number): void {
    this.#permits = Math.min(this.#policy.retriesBurstMax, this.#permits + permits);
  }
}
