// Numbers, times and foreign text, as people read them.

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** Characters that hide, reverse or imitate others. */
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;

/** Text from outside, with every character that cannot be seen written as its number. */
export function visible(text) {
  return String(text).replace(INVISIBLE, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);
}

export function number(value) {
  return Number.isFinite(value) ? NUMBER.format(value) : "–";
}

/** A rate or another number of any size, in three digits. */
export function short(value) {
  if (!Number.isFinite(value)) {
    return "–";
  }
  return Math.abs(value) >= 1000 ? NUMBER.format(value) : SHORT.format(value);
}

/** A number that was counted up to a bound. */
export function counted(count) {
  return count ? number(count.count) + (count.at_least ? "+" : "") : "–";
}

export function bytes(value) {
  if (value < 1000) {
    return `${value} bytes`;
  }
  return value < 1e6 ? `${short(value / 1000)} kB` : `${short(value / 1e6)} MB`;
}

const UNITS = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["min", 60_000],
  ["s", 1000],
];

/** A span of time, in its two largest units. */
export function duration(ms) {
  if (!Number.isFinite(ms)) {
    return "–";
  }
  if (ms < 1000) {
    return `${SHORT.format(Math.max(0, ms))} ms`;
  }
  const first = UNITS.findIndex(([, size]) => ms >= size);
  const [unit, size] = UNITS[first];
  if (unit === "s") {
    return `${SHORT.format(ms / 1000)} s`;
  }
  const [lower, part] = UNITS[first + 1];
  const rest = Math.floor((ms % size) / part);
  return `${NUMBER.format(Math.floor(ms / size))} ${unit}${rest > 0 ? ` ${rest} ${lower}` : ""}`;
}

/** An instant in UTC, with milliseconds. */
export function instant(at) {
  const date = new Date(at);
  return Number.isNaN(date.getTime()) ? visible(at) : date.toISOString().replace("T", " ").replace("Z", "");
}

/** How far `at` is from `now`. */
export function ago(at, now) {
  const ms = new Date(now) - new Date(at);
  if (Math.abs(ms) < 1) {
    return "now";
  }
  return ms > 0 ? `${duration(ms)} ago` : `in ${duration(-ms)}`;
}

/** The start of an id, enough to tell two apart on a page. */
export function shortId(id) {
  return `${id.slice(0, 4)}…${id.slice(-8)}`;
}

/** Words as a sentence. */
export function sentence(words) {
  return words === "" ? "" : words[0].toUpperCase() + words.slice(1) + (/[.!?]$/.test(words) ? "" : ".");
}
