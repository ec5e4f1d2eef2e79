// What is drawn on a chart besides its data: flags as bands, thresholds as lines.

import { hasOwnChart } from "./panels.js";
import { flagTitle } from "./words.js";

const SEVERITY_COLOURS = { critical: "--critical", warning: "--warning", info: "--info" };

const STRIP_PX = 5;

// A band from where the trouble seems to begin to where it was cleared: strong on the chart it concerns, faint on the others. One
// that concerns no chart (coverage, say) is a strip along the top, since it says nothing about what is drawn.
export function drawBands(u, { episodes, flags, selected, colour, lastFrame }) {
  const { left, top, width, height } = u.bbox;
  const { ctx } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  for (const episode of episodes) {
    const from = u.valToPos(episode.first_frame, "x", true);
    const to = u.valToPos((episode.end ?? Math.max(lastFrame, episode.frame)) + 1, "x", true);
    if (to < left || from > left + width) continue;
    const mine = flags.includes(episode.flag);
    const general = !hasOwnChart(episode.flag);
    const band = { x: from, y: top, width: Math.max(2, to - from), height: general ? STRIP_PX * devicePixelRatio : height };
    ctx.fillStyle = ctx.strokeStyle = colour(SEVERITY_COLOURS[episode.severity] ?? "--info");
    ctx.globalAlpha = general ? 0.6 : mine ? 0.2 : 0.07;
    ctx.fillRect(band.x, band.y, band.width, band.height);
    if (mine) drawOnset(ctx, band, episode, u.valToPos(episode.frame, "x", true));
    if (episode === selected) drawOutline(ctx, { ...band, height }, colour);
  }
  ctx.restore();
}

// Solid where the trouble begins, dotted where it was decided; critical ones are hatched, so that colour is not needed to tell.
function drawOnset(ctx, band, episode, decided) {
  if (episode.severity === "critical") hatch(ctx, band);
  const dpr = devicePixelRatio;
  ctx.globalAlpha = 0.9;
  ctx.lineWidth = 2 * dpr;
  line(ctx, band.x, band.y, band.x, band.y + band.height);
  ctx.lineWidth = 1 * dpr;
  ctx.setLineDash([2 * dpr, 4 * dpr]);
  line(ctx, decided, band.y, decided, band.y + band.height);
  ctx.setLineDash([]);
}

function hatch(ctx, band) {
  const step = 14 * devicePixelRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(band.x, band.y, band.width, band.height);
  ctx.clip();
  ctx.globalAlpha = 0.28;
  ctx.lineWidth = devicePixelRatio;
  const begin = Math.max(-band.height, band.x);
  for (let x = begin - band.height - (begin % step); x < Math.min(band.x + band.width, ctx.canvas.width); x += step) {
    line(ctx, x, band.y + band.height, x + band.height, band.y);
  }
  ctx.restore();
}

function drawOutline(ctx, band, colour) {
  ctx.save();
  ctx.globalAlpha = 1;
  ctx.strokeStyle = colour("--ink");
  ctx.lineWidth = 2 * devicePixelRatio;
  ctx.strokeRect(band.x, band.y + ctx.lineWidth / 2, band.width, band.height - ctx.lineWidth);
  ctx.restore();
}

function line(ctx, x1, y1, x2, y2) {
  ctx.beginPath();
  ctx.moveTo(x1, y1);
  ctx.lineTo(x2, y2);
  ctx.stroke();
}

// The band's name at its top, on the chart it concerns, where it fits and covers no other.
export function drawNames(u, { episodes, flags, colour }) {
  const { left, top, width } = u.bbox;
  const { ctx } = u;
  const dpr = devicePixelRatio;
  ctx.save();
  ctx.font = `600 ${12 * dpr}px ${getComputedStyle(document.body).fontFamily}`;
  ctx.textBaseline = "top";
  let taken = -Infinity;
  for (const episode of episodes) {
    if (!flags.includes(episode.flag)) continue;
    const from = Math.max(left, u.valToPos(episode.first_frame, "x", true)) + 6 * dpr;
    const text = flagTitle(episode.flag);
    const space = ctx.measureText(text).width + 12 * dpr;
    const end = episode.end === null ? Infinity : u.valToPos(episode.end, "x", true);
    if (end < left || from < taken || from + space > left + width) continue;
    ctx.globalAlpha = 0.85;
    ctx.fillStyle = colour("--chart");
    ctx.fillRect(from - 3 * dpr, top + 1 * dpr, space - 6 * dpr, 16 * dpr);
    ctx.globalAlpha = 1;
    ctx.fillStyle = colour(SEVERITY_COLOURS[episode.severity] ?? "--info");
    ctx.fillText(text, from, top + 3 * dpr);
    taken = from + space;
  }
  ctx.restore();
}

// raise_at solid, clear_at dashed; the numbers in the right margin, apart from each other, or inside where an axis needs the margin.
export function drawThresholds(u, thresholds, { inMargin }) {
  const { left, width } = u.bbox;
  const { ctx } = u;
  const dpr = devicePixelRatio;
  ctx.save();
  ctx.font = `600 ${12 * dpr}px ${getComputedStyle(document.body).fontFamily}`;
  ctx.textBaseline = "middle";
  ctx.textAlign = inMargin ? "left" : "right";
  ctx.lineWidth = 1.5 * dpr;
  let above = -Infinity;
  for (const { value, dashed, colour } of thresholds.toSorted((a, b) => b.value - a.value)) {
    const y = Math.round(u.valToPos(value, "y", true)) + 0.5;
    ctx.strokeStyle = ctx.fillStyle = colour;
    ctx.globalAlpha = dashed ? 0.7 : 0.95;
    ctx.setLineDash(dashed ? [7 * dpr, 6 * dpr] : []);
    line(ctx, left, y, left + width, y);
    ctx.globalAlpha = 1;
    const label = Math.max(inMargin ? y : y - 8 * dpr, above + 13 * dpr);
    ctx.fillText(`${dashed ? "clear" : "raise"} ${Number(value.toFixed(2))}`, left + width + (inMargin ? 6 : -6) * dpr, label);
    above = label;
  }
  ctx.restore();
}
