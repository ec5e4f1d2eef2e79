// The header's facts and the row of figures.

import { count, flagTitle, icon, node, number, plural, SEVERITIES } from "./words.js";

const LOW_COVERAGE = 0.95;

function put(id, figure, detail, state = "") {
  const tile = document.getElementById(id);
  tile.dataset.state = state;
  tile.querySelector(".figure").replaceChildren(figure);
  tile.querySelector(".detail").textContent = detail;
  return tile;
}

function median(values) {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  return known.length ? known[known.length >> 1] : null;
}

// Received frames still in flight are not yet covered or lost, so they do not count.
export function coverage(run) {
  const books = run.progress;
  if (!books) return null;
  const settled = books.judged + books.dropped + books.failed;
  return settled ? books.judged / settled : null;
}

// The books are told once a second, verdicts at once; the end is final.
function judgedOf(run) {
  if (run.finished) return run.finished.frames_judged;
  return Math.max(run.progress?.judged ?? 0, run.totals?.judged ?? 0);
}

function drawJudged(run) {
  const judged = judgedOf(run);
  const expected = run.started.frames_expected;
  const received = Math.max(judged, run.progress?.received ?? 0);
  const tile = put("tile-judged", count(judged), expected ? `of ${count(expected)} expected` : `${count(received)} received`);
  const bar = tile.querySelector(".bar");
  bar.hidden = !expected;
  if (expected) bar.firstElementChild.style.width = `${Math.min(100, (100 * judged) / expected)}%`;
}

function drawRate(run, rates) {
  const latency = median((run.columns.latency_ms ?? []).slice(-100));
  const took = latency === null ? "" : `, ${latency < 10 ? number(latency, 1) : count(latency)} ms each`;
  if (run.finished) {
    const wall = run.finished.wall_s;
    put("tile-rate", wall > 0 ? rate(run.finished.frames_judged / wall) : "–", `mean of the run${took}`);
    return;
  }
  if (rates?.run !== run.id) put("tile-rate", "–", "not being collected");
  else put("tile-rate", rate(rates.judged_per_s), `${rate(rates.received_per_s)} arriving${took}`);
}

const rate = (value) => (value < 10 ? number(value, 1) : count(value));

function drawCoverage(run) {
  const share = coverage(run);
  const books = run.progress ?? { dropped: 0, failed: 0, missing: 0 };
  const parts = [`${count(books.dropped)} skipped`, `${count(books.failed)} failed`];
  if (books.missing) parts.push(`${count(books.missing)} missing`);
  const state = share === null ? "" : share < LOW_COVERAGE ? "bad" : "good";
  // Rounded down, so that 100 % means every one.
  const tile = put("tile-coverage", share === null ? "–" : `${Math.floor(share * 1000) / 10} %`, parts.join(", "), state);
  tile.title = run.totals?.last_error ? `Last failure: ${run.totals.last_error}` : "";
}

function drawHits(run) {
  const { judged = 0, hits = 0 } = run.totals ?? {};
  put("tile-hits", judged ? `${number((100 * hits) / judged, 1)} %` : "–", judged ? `${count(hits)} of ${plural(judged, "image")}` : "");
}

// Of the images tried; those that are not worth indexing, or came too fast, are told below.
function drawIndexed(run) {
  const told = run.indexing;
  const tile = document.getElementById("tile-indexed");
  tile.hidden = run.started.config?.indexing?.engine === "off";
  if (!told || !told.tried) {
    put("tile-indexed", "–", told ? `${plural(told.skipped, "image")} not worth it` : "none yet");
    return;
  }
  const sampled = told.lagged ? `, ${count(told.lagged)} came too fast` : "";
  const failed = told.failed ? `, ${count(told.failed)} failed` : "";
  put("tile-indexed", `${number((100 * told.indexed) / told.tried, 1)} %`, `${count(told.indexed)} of ${count(told.tried)} tried${sampled}${failed}`);
  tile.title = `Indexed by ${told.engine}`;
}

function drawStanding(run) {
  const standing = run.standing;
  const worst = SEVERITIES.find((severity) => standing.some((episode) => episode.severity === severity));
  const figure = node("span", "standing", icon(worst ?? "clear"), standing.length ? String(standing.length) : "None");
  const names = [...new Set(standing.map((episode) => flagTitle(episode.flag)))].join(", ");
  const past = run.episodes.length ? `${plural(run.episodes.length, "flag")} in this run` : "none in this run";
  put("tile-flags", figure, names || past, worst ?? "good");
}

export function drawTiles(run, rates) {
  drawJudged(run);
  drawRate(run, rates);
  drawCoverage(run);
  drawHits(run);
  drawIndexed(run);
  drawStanding(run);
}

export function drawFacts(run) {
  const { kind, detector, distance_mm, wavelength_A, exposure_s, model, source, geometry_problem } = run.started;
  const facts = [
    ["Kind", kind ?? "unknown"],
    ["Detector", detector ?? "unknown"],
    ["Distance", distance_mm === null ? "unknown" : `${number(distance_mm, 1)} mm`],
    ["Wavelength", wavelength_A === null ? "unknown" : `${number(wavelength_A, 4)} Å`],
    ["Model", model ? `${model.name} ${model.version}` : "none"],
  ];
  if (exposure_s) facts.splice(4, 0, ["Exposure", exposure_s < 1 ? `${number(exposure_s * 1000, 1)} ms` : `${number(exposure_s, 2)} s`]);
  const list = document.getElementById("facts");
  list.replaceChildren(...facts.map(([name, value]) => node("div", "", node("dt", "", name), node("dd", "", value))));
  list.title = `Source: ${source}`;
  if (geometry_problem) {
    const problem = node("div", "problem", node("dt", "", "No resolution"), node("dd", "", geometry_problem));
    list.append(problem);
  }
  drawPhase(run);
}

function drawPhase(run) {
  const phase = document.getElementById("phase");
  const end = run.finished;
  phase.hidden = false;
  phase.dataset.state = !end ? "collecting" : end.complete ? "done" : "cut";
  phase.textContent = !end ? "collecting" : end.complete ? "complete" : "ended early";
  phase.title = end?.reason ?? "";
}
