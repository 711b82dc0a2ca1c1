/** Time and randomness. Tests put another one in its place. */
export interface Clock {
  /** Milliseconds since some moment; never goes back. */
  now(): number;
  /** The date, in milliseconds. */
  unixMs(): number;
  /** At least 0, and less than 1. */
  random(): number;
  /** Waits. Rejects with the signal's reason when it is aborted. */
  sleep(ms: number, signal: AbortSignal | undefined): Promise<void>;
}

/** The clock of this machine. */
export const CLOCK: Clock = {
  now: () => performance.now(),
  unixMs: () => Date.now(),
  random: () => Math.random(),
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      const aborted = () => {
        clearTimeout(timer);
        reject(signal?.reason);
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener("abort", aborted);
        resolve();
      }, ms);
      signal?.addEventListener("abort", aborted, { once: true });
      if (signal?.aborted) aborted();
    }),
};
