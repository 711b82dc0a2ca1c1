// Numbers per second, from two snapshots of a process's metrics.

const SERIES = /^([a-z0-9_]+)(?:\{(.*)\})?$/;
const LABEL = /([a-z0-9_]+)="((?:[^"\\]|\\.)*)"/g;

/** The series of a snapshot, by name; each has its labels and its value. */
function read(metrics) {
  const all = new Map();
  for (const [series, value] of Object.entries(metrics)) {
    const [, name, labels] = SERIES.exec(series) ?? [];
    if (name) {
      const found = all.get(name) ?? [];
      found.push({
        labels: Object.fromEntries([...(labels ?? "").matchAll(LABEL)].map(([, key, text]) => [key, text])),
        value,
      });
      all.set(name, found);
    }
  }
  return all;
}

function matching(series, wanted) {
  return (series ?? []).filter(({ labels }) => Object.entries(wanted).every(([name, value]) => labels[name] === value));
}

/** The numbers between two snapshots. */
export class Between {
  #before;
  #after;

  constructor(before, after) {
    this.at = after.at;
    this.seconds = before ? (new Date(after.at) - new Date(before.at)) / 1000 : 0;
    this.#before = before ? read(before.metrics) : new Map();
    this.#after = read(after.metrics);
  }

  /** The latest values of a gauge, each with its labels. */
  each(name) {
    return this.#after.get(name) ?? [];
  }

  /** The latest value of a gauge; `null` if there is none. */
  gauge(name, labels = {}) {
    const found = matching(this.#after.get(name), labels);
    return found.length > 0 ? sum(found) : null;
  }

  /** How much a counter grew; `null` before there are two snapshots. A counter that fell has begun anew. */
  grown(name, labels = {}) {
    if (this.seconds <= 0) {
      return null;
    }
    const [before, after] = [this.#before, this.#after].map((all) => sum(matching(all.get(name), labels)));
    return after >= before ? after - before : after;
  }

  /** How much a counter grew in a second. */
  rate(name, labels = {}) {
    const grown = this.grown(name, labels);
    return grown === null ? null : grown / this.seconds;
  }

  /** The average of a histogram's new values. */
  mean(name, labels = {}) {
    const [total, count] = [this.grown(`${name}_sum`, labels), this.grown(`${name}_count`, labels)];
    return count > 0 ? total / count : null;
  }

  /** About the value that 99 of 100 new values do not exceed; without buckets, the one that the process reports. */
  p99(name, labels = {}) {
    const buckets = new Map();
    for (const {
      labels: { le, ...rest },
    } of matching(this.#after.get(`${name}_bucket`), labels)) {
      const grown = this.grown(`${name}_bucket`, { ...rest, le });
      const limit = le === "+Inf" ? Infinity : Number(le);
      buckets.set(limit, (buckets.get(limit) ?? 0) + (grown ?? 0));
    }
    if (buckets.size === 0) {
      const reported = matching(this.#after.get(name), { ...labels, quantile: "0.99" }).map(({ value }) => value);
      return reported.length > 0 && this.grown(`${name}_count`, labels) > 0 ? Math.max(...reported) : null;
    }
    const limits = [...buckets.keys()].sort((a, b) => a - b);
    const all = buckets.get(limits.at(-1));
    if (!(all > 0)) {
      return null;
    }
    const finite = limits.filter(Number.isFinite);
    return limits.filter(Number.isFinite).find((limit) => buckets.get(limit) >= all * 0.99) ?? finite.at(-1) ?? null;
  }
}

function sum(series) {
  return series.reduce((total, { value }) => total + value, 0);
}
