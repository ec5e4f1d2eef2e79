// What indexing and the network say together, and the unit cells of the run.

import { count, node, number } from "./words.js";

const edges = (cell) => cell.slice(0, 3).map((x) => number(x, 1)).join(" ");
const angles = (cell) => cell.slice(3).map((x) => number(x, 0)).join(" ");

function cellItem({ cell, bravais, n, share, drift_percent_per_1000_frames: drift }) {
  const bar = node("i", "share");
  bar.style.width = `${100 * share}%`;
  const grows = drift === null ? "" : `, edges grow ${number(drift, 2)} % in 1000 images`;
  return node(
    "li",
    "",
    node("strong", "", `${bravais} ${edges(cell)} Å`),
    node("span", "quiet", ` ${angles(cell)}°`),
    node("span", "cell-share", `${Math.round(100 * share)} %, ${count(n)} images${grows}`),
    bar,
  );
}

export function drawWitness(run) {
  const told = run.indexing;
  const section = document.getElementById("witness");
  section.hidden = !told?.indexed;
  if (section.hidden) return;
  const { agrees, network_only, classical_only } = told.agreement;
  document.getElementById("agreement").textContent =
    `Several lattices: network and indexing agree in ${count(agrees)}; ${count(network_only)} by the network only, ${count(classical_only)} by indexing only`;
  document.getElementById("cells").replaceChildren(...told.cells.map(cellItem));
}
