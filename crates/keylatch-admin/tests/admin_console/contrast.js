// The contrast of every text that is shown with its ground, of every border of a control with its surroundings, and of
// every curve, computed from the styles (WCAG 2.2, 1.4.3 and 1.4.11). Returns those that are too low, and how many were
// computed. Disabled controls are exempt there.
function contrasts() {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const over = (top, under) => ({
    r: top.r * top.a + under.r * (1 - top.a),
    g: top.g * top.a + under.g * (1 - top.a),
    b: top.b * top.a + under.b * (1 - top.a),
    a: 1,
  });
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      layers.push(parse(getComputedStyle(at).backgroundColor));
      if (layers.at(-1).a === 1) {
        break;
      }
    }
    return layers.reverse().reduce((under, top) => over(top, under));
  };
  const light = ({ r, g, b }) => {
    const [x, y, z] = [r, g, b]
      .map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ratio = (a, b) => {
    const [high, low] = [light(a), light(b)].sort((p, q) => q - p);
    return (high + 0.05) / (low + 0.05);
  };
  const shown = (element) => element.checkVisibility() && element.closest(".sr, .skip:not(:focus), :disabled") === null;
  const low = [];
  let checked = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const [node, element] = [walker.currentNode, walker.currentNode.parentElement];
    if (node.data.trim() === "" || !shown(element) || element.closest("script, style, noscript")) {
      continue;
    }
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    const found = ratio(over(parse(style.color), ground(element)), ground(element));
    checked += 1;
    if (found < needed) {
      low.push(`${node.data.trim().slice(0, 40)}: ${found.toFixed(2)} < ${needed}`);
    }
  }
  for (const control of document.querySelectorAll("button, input, select, textarea, a.button")) {
    const style = getComputedStyle(control);
    if (
      !shown(control) ||
      style.borderStyle === "none" ||
      parse(style.borderColor).a === 0 ||
      control.type === "checkbox"
    ) {
      continue;
    }
    const outside = ground(control.parentElement);
    const found = Math.max(ratio(parse(style.borderColor), outside), ratio(ground(control), outside));
    checked += 1;
    if (found < 3) {
      low.push(`border of ${control.outerHTML.slice(0, 60)}: ${found.toFixed(2)} < 3`);
    }
  }
  for (const curve of document.querySelectorAll(".curve")) {
    const found = ratio(parse(getComputedStyle(curve).stroke), ground(curve.closest(".chart")));
    checked += 1;
    if (found < 3) {
      low.push(`a curve: ${found.toFixed(2)} < 3`);
    }
  }
  return { low, checked };
}
