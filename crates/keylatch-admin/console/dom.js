// Makes elements. Text only ever becomes text: nothing here, and nothing in the console, reads markup from a string.

/** Attributes that take text from anywhere. Others have no use here, or could run or load something. */
const ATTRIBUTES = new Set([
  "autocapitalize",
  "autocomplete",
  "class",
  "colspan",
  "d",
  "datetime",
  "dir",
  "fill",
  "for",
  "height",
  "id",
  "inputmode",
  "max",
  "maxlength",
  "min",
  "name",
  "pattern",
  "placeholder",
  "points",
  "preserveAspectRatio",
  "role",
  "rows",
  "scope",
  "spellcheck",
  "tabindex",
  "title",
  "type",
  "value",
  "viewBox",
  "width",
  "wrap",
  "x",
  "x1",
  "x2",
  "y",
  "y1",
  "y2",
]);
const PROPERTIES = new Set(["autofocus", "checked", "disabled", "hidden", "open", "readOnly", "required", "selected"]);
const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. `given` has attributes, `aria-…` and `data-…`, listeners as `onclick: function`, and `href` for places
 * on this page only. Children are elements or text; what is `null` or `false` is left out.
 */
export function h(tag, given = {}, ...children) {
  return fill(document.createElement(tag), given, children);
}

/** The same for a drawing. */
export function svg(tag, given = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), given, children);
}

function fill(element, given, children) {
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || (value === false && !name.startsWith("aria-"))) {
      continue;
    }
    if (name.startsWith("on") && typeof value === "function") {
      element.addEventListener(name.slice(2), value);
    } else if (PROPERTIES.has(name)) {
      element[name] = true;
    } else if (name === "href" && String(value).startsWith("#")) {
      element.setAttribute("href", value);
    } else if (ATTRIBUTES.has(name) || name.startsWith("aria-") || name.startsWith("data-")) {
      element.setAttribute(name, value);
    } else {
      throw new Error(`the console does not set ${name}`);
    }
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Replaces the content of an element. */
export function replace(element, ...children) {
  element.replaceChildren(...nodes(children));
}

/** Tells a screen reader something, without moving the focus. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}
