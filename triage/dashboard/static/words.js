// Names, numbers and icons as people read them.

export const FLAG_TITLES = {
  multi_lattice: "Multiple lattices",
  non_diffraction: "No diffraction",
  decay: "Decay",
  ice: "Ice",
  cell_outlier: "Cell outlier",
  coverage: "Coverage",
  source: "Source",
  sink: "Results",
};

export const flagTitle = (flag) => FLAG_TITLES[flag] ?? flag;

export const SEVERITIES = ["critical", "warning", "info"];

// Each severity has its own shape as well as its colour: octagon, triangle, circle.
const SHAPES = {
  critical: "M8 2h8l6 6v8l-6 6H8l-6-6V8z",
  warning: "M12 2.5 23 21.5H1z",
  info: "M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20z",
  clear: "M4 12.5 9.5 18 20 6.5",
};
const SIGNS = { critical: "!", warning: "!", info: "i" };

export function icon(severity) {
  const svg = svgNode("svg", { viewBox: "0 0 24 24", class: `icon ${severity}`, "aria-hidden": "true" });
  svg.append(svgNode("path", { d: SHAPES[severity] ?? SHAPES.info, class: "shape" }));
  if (SIGNS[severity]) {
    const sign = svgNode("text", { x: 12, y: severity === "warning" ? 19 : 17.2, class: "sign", "text-anchor": "middle" });
    sign.textContent = SIGNS[severity];
    svg.append(sign);
  }
  return svg;
}

function svgNode(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

export function node(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

export const count = (value) => Math.round(value).toLocaleString("en-GB").replaceAll(",", "\u202f");

export const number = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));

export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

export const clockTime = (iso) => new Date(iso).toLocaleTimeString("en-GB", { hour12: false });
