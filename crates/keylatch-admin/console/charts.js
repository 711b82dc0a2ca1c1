// Small line charts of the last minutes, drawn as SVG.

import { h, replace, svg } from "./dom.js";
import { duration, short } from "./format.js";

/** Points of a chart: five minutes, at one a second. */
export const POINTS = 300;
const [WIDTH, HEIGHT] = [300, 64];

/**
 * A chart of one or two curves. `curves` has a name for each, `format` writes a value, and `sum` is set if the number
 * in front is what happened in all of the chart's time, and not the latest value.
 */
export class Chart {
  #title;
  #curves;
  #format;
  #sum;
  #points = [];
  #svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  #values = h("div", { class: "values" });
  #scale = h("div", { class: "scale", "aria-hidden": "true" });
  #at = null;

  constructor(title, { curves = [""], format = short, sum = false } = {}) {
    [this.#title, this.#curves, this.#format, this.#sum] = [title, curves, format, sum];
    this.element = h("section", { class: "chart" }, h("h3", {}, title), this.#values, this.#svg, this.#scale);
    this.#svg.addEventListener("pointermove", (event) => this.#point(event));
    this.#svg.addEventListener("pointerleave", () => this.#point(null));
    this.draw();
  }

  /** Adds the values of one moment, in the order of the curves; `null` where there is none. */
  push(at, ...values) {
    this.#points.push({ at: new Date(at).getTime(), values });
    this.#points.splice(0, this.#points.length - POINTS);
  }

  draw() {
    const points = this.#points;
    const known = points.flatMap((point) => point.values).filter((value) => Number.isFinite(value));
    const top = ceiling(Math.max(0, ...known));
    const shown = this.#at === null ? points.at(-1) : points[this.#at];
    replace(
      this.#values,
      this.#curves.map((name, nth) => this.#value(name, nth, shown)),
    );
    replace(this.#svg, this.#lines(points, top));
    const left = this.#at === null ? `${POINTS / 60} min` : `${duration(points.at(-1).at - shown.at)} ago`;
    replace(
      this.#scale,
      h("span", {}, left),
      h("span", {}, known.length > 0 ? `to ${this.#format(top)}` : "no numbers yet"),
    );
    this.#svg.setAttribute("aria-label", this.#summary(known));
  }

  #value(name, nth, shown) {
    const value =
      this.#sum && this.#at === null
        ? this.#points.reduce((sum, point) => sum + (point.values[nth] ?? 0), 0)
        : shown?.values[nth];
    const key = this.#curves.length > 1 ? h("span", { class: nth === 1 ? "key b" : "key" }) : null;
    const after = name || (this.#sum && this.#at === null && this.#points.length > 1 ? `in ${POINTS / 60} min` : "");
    return h(
      "span",
      { class: "value" },
      key,
      Number.isFinite(value) ? this.#format(value) : "–",
      after ? h("small", {}, after) : null,
    );
  }

  #lines(points, top) {
    const x = (nth) => ((POINTS - points.length + nth) / (POINTS - 1)) * WIDTH;
    const y = (value) => HEIGHT - 1 - (value / top) * (HEIGHT - 4);
    const grid = [HEIGHT - 1, y(top / 2), y(top)].map((at) =>
      svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: at, y2: at }),
    );
    const curves = this.#curves.flatMap((_, nth) => {
      const runs = [[]];
      points.forEach(({ values }, at) => {
        if (Number.isFinite(values[nth])) {
          runs.at(-1).push(`${x(at).toFixed(1)},${y(values[nth]).toFixed(1)}`);
        } else if (runs.at(-1).length > 0) {
          runs.push([]);
        }
      });
      return runs
        .filter((run) => run.length > 0)
        .flatMap((run) => [
          nth === 0
            ? svg("path", {
                class: "area",
                d: `M${run[0].split(",")[0]},${HEIGHT} L${run.join(" L")} L${run.at(-1).split(",")[0]},${HEIGHT} Z`,
              })
            : null,
          svg("path", { class: nth === 1 ? "curve b" : "curve", d: `M${run.join(" L")}` }),
        ]);
    });
    const cursor =
      this.#at === null ? null : svg("line", { class: "cursor", x1: x(this.#at), x2: x(this.#at), y1: 0, y2: HEIGHT });
    return [grid, curves, cursor];
  }

  #summary(known) {
    if (known.length === 0) {
      return `${this.#title}: no numbers yet`;
    }
    const latest = this.#curves.map((name, nth) => {
      const value = this.#points.at(-1).values[nth];
      return `${name} ${Number.isFinite(value) ? this.#format(value) : "unknown"}`.trim();
    });
    return `${this.#title}: now ${latest.join(", ")}; highest in this time ${this.#format(Math.max(...known))}`;
  }

  #point(event) {
    const points = this.#points.length;
    const box = this.#svg.getBoundingClientRect();
    const at = event ? Math.round(((event.clientX - box.left) / box.width) * (POINTS - 1)) - (POINTS - points) : -1;
    this.#at = at >= 0 && at < points ? at : null;
    this.draw();
  }
}

/** A round number that is not less. */
function ceiling(value) {
  if (value <= 0) {
    return 1;
  }
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value) * power;
}
