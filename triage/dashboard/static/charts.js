// The strip charts: one uPlot each, the same images on every x axis, one crosshair through all.

import { drawBands, drawNames, drawThresholds } from "./marks.js";
import { groupCentres, groupMeans, groupStarts, meanOf } from "./means.js";
import { PANELS } from "./panels.js";
import { count, node } from "./words.js";

const LEFT_PX = 64;
const RIGHT_PX = 80;
const X_AXIS_PX = 48;
const LABEL_PX = 18;
const DOTS_PX = 4;

class Panel {
  constructor(definition, { isLast, chart }) {
    this.definition = definition;
    this.isLast = isLast;
    this.chart = chart;
    this.values = definition.series.map(() => node("b", "", "–"));
    const legend = definition.series.map((series, k) => {
      const swatch = node("i", series.dots ? "swatch dots" : "swatch");
      swatch.style.setProperty("--swatch", `var(${series.colour})`);
      return node("span", "key", swatch, `${series.label} `, this.values[k]);
    });
    this.canvas = node("div", "canvas");
    this.element = node("div", "panel", node("div", "panel-head", node("h3", "", definition.title), ...legend), this.canvas);
    this.element.style.setProperty("--weight", definition.weight);
    this.element.style.setProperty("--extra", isLast ? `${X_AXIS_PX}px` : "0px");
    this.plot = null;
    this.size = "";
  }

  build() {
    this.plot?.destroy();
    this.canvas.replaceChildren();
    const { definition, isLast, chart } = this;
    const text = chart.colour("--quiet");
    const grid = { stroke: chart.colour("--grid"), width: 1 };
    const font = `14px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: text, grid, ticks: { show: false }, font };
    const y = definition.scale;
    const axes = [
      { ...axis, size: isLast ? X_AXIS_PX - LABEL_PX : 0, ...(isLast && { label: "image number", labelSize: LABEL_PX, labelFont: font, labelGap: 0 }), values: isLast ? (_u, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? count(tick) : "")) : () => [] },
      { ...axis, scale: "y", size: LEFT_PX, space: 24, values: (_u, ticks) => ticks.map((tick) => y.label(tick)), ...(y.ticks && { splits: y.ticks }) },
      this.rightAxis(axis),
    ];
    this.plot = new uPlot(
      {
        ...this.fit(),
        padding: [6, 0, isLast ? 0 : 6, 0],
        legend: { show: false },
        scales: { x: { time: false, auto: false }, y: { range: y.range }, ...(definition.right && { y2: { range: definition.right.range } }) },
        axes,
        series: [{}, ...definition.series.map((series) => this.seriesOptions(series)), ...definition.series.flatMap((series) => this.edges(series))],
        bands: definition.series.map((series, k) => this.envelope(series, k)),
        cursor: chart.cursor(),
        hooks: {
          drawClear: [(u) => drawBands(u, { ...chart.marks(), flags: definition.flags })],
          draw: [(u) => this.drawOver(u)],
          setCursor: [(u) => this.showValues(u)],
          setSelect: [(u) => chart.picked(u)],
        },
      },
      [[], ...definition.series.flatMap(() => [[], [], []])],
      this.canvas,
    );
    this.plot.over.addEventListener("dblclick", () => chart.onFollow());
  }

  // Drawn on every panel, so that all plots are equally wide; only some have numbers in it.
  rightAxis(axis) {
    const right = this.definition.right;
    if (!right) return { ...axis, scale: "y", side: 1, size: RIGHT_PX, grid: { show: false }, values: () => [] };
    const values = (_u, ticks) => ticks.map((tick) => `${right.label(tick)} ${right.unit}`);
    return { ...axis, stroke: this.chart.colour("--delta"), scale: "y2", side: 1, size: RIGHT_PX, space: 30, grid: { show: false }, values };
  }

  seriesOptions(series) {
    const stroke = this.chart.colour(series.colour);
    const common = { stroke, scale: series.right ? "y2" : "y", width: series.width ?? 2 };
    if (!series.dots) return common;
    return { ...common, paths: () => null, points: { show: true, size: DOTS_PX, width: 0, fill: stroke } };
  }

  // The least and the most of each mean: not drawn themselves, filled between.
  edges(series) {
    const edge = { stroke: "transparent", width: 0, scale: series.right ? "y2" : "y", points: { show: false } };
    return [edge, { ...edge }];
  }

  envelope(series, k) {
    const low = 1 + this.definition.series.length + 2 * k;
    return { series: [low + 1, low], fill: `${this.chart.colour(series.colour)}38` };
  }

  fit() {
    return { width: Math.max(200, this.canvas.clientWidth), height: Math.max(50, this.canvas.clientHeight) };
  }

  resize() {
    if (this.element.hidden) return;
    const size = this.fit();
    const key = `${size.width}x${size.height}`;
    if (key === this.size) return;
    this.size = key;
    this.plot.setSize(size);
  }

  draw({ pick, size, starts, x }, [min, max]) {
    const columns = this.definition.series.map((series) => (series.transform ?? ((values) => values))(pick(series.column)));
    const none = x.map(() => null);
    const drawn = columns.map((values) => (size === 1 ? { mean: values, low: none, high: none } : groupMeans(values, starts)));
    const edges = drawn.flatMap(({ low, high }, k) => (this.definition.series[k].dots ? [none, none] : [low, high]));
    this.plot.batch(() => {
      this.plot.setData([x, ...drawn.map(({ mean }) => mean), ...edges], false);
      this.plot.setScale("x", { min, max });
    });
    this.showValues(this.plot);
  }

  drawOver(u) {
    const { run, episodes, colour } = this.chart.marks();
    const lines = this.definition.series.flatMap((series) => {
      const set = series.threshold && run?.threshold(series.threshold);
      if (!set) return [];
      const both = [{ value: set.raise_at, dashed: false }, { value: set.clear_at, dashed: true }];
      return both.filter(({ value }) => Number.isFinite(value)).map((one) => ({ ...one, colour: colour(series.colour) }));
    });
    drawThresholds(u, lines, { inMargin: !this.definition.right });
    drawNames(u, { episodes, flags: this.definition.flags, colour });
  }

  // Under the crosshair, else the newest shown.
  showValues(u) {
    const at = u.cursor.idx ?? u.data[0].length - 1;
    this.definition.series.forEach((series, k) => {
      const value = u.data[k + 1]?.[at];
      const text = value === null || value === undefined ? "–" : series.show(value);
      if (this.values[k].textContent !== text) this.values[k].textContent = text;
    });
    if (this.isLast) this.chart.onCursor(u.cursor.idx === null || u.cursor.idx === undefined ? null : Math.floor(u.data[0][u.cursor.idx]));
  }
}

export class Charts {
  constructor(element, { onRange, onFollow, onCursor }) {
    this.onRange = onRange;
    this.onFollow = onFollow;
    this.onCursor = onCursor;
    this.run = null;
    this.selected = null;
    this.size = 1;
    this.sync = uPlot.sync("images");
    this.panels = PANELS.map((definition, k) => new Panel(definition, { isLast: k === PANELS.length - 1, chart: this }));
    element.replaceChildren(...this.panels.map((panel) => panel.element));
    const sizes = new ResizeObserver(() => this.built && this.panels.forEach((panel) => panel.resize()));
    for (const panel of this.panels) sizes.observe(panel.canvas); // a banner, or a chart left out, changes them too
  }

  // Also after a change of theme: colours are read from the style sheet once.
  rebuild() {
    this.palette = getComputedStyle(document.documentElement);
    for (const panel of this.panels) panel.build();
    this.built = true;
  }

  colour(name) {
    return this.palette.getPropertyValue(name).trim();
  }

  cursor() {
    const moves = (type) => type === "mousemove" || type === "mouseleave";
    return { y: false, drag: { x: true, y: false, setScale: false }, points: { size: 8 }, sync: { key: this.sync.key, setSeries: false, filters: { pub: moves } } };
  }

  marks() {
    const { run, selected } = this;
    return { run, selected, episodes: run?.episodes ?? [], lastFrame: run?.lastFrame ?? 0, colour: (name) => this.colour(name) };
  }

  picked(u) {
    if (u.select.width < 4) return;
    const [first, last] = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.onRange(first, last);
  }

  draw(run, selected, bounds) {
    this.run = run;
    this.selected = selected;
    const shown = this.shown(run, bounds);
    for (const panel of this.panels) {
      panel.element.hidden = panel.definition.notFor?.includes(run.started.kind) ?? false;
      if (!panel.element.hidden) panel.draw(shown, bounds);
    }
  }

  // Every image of the range, or the means of groups of `size` where there are too many to tell apart.
  shown(run, bounds) {
    const pick = run.between(...bounds);
    const frames = pick("frame");
    this.size = meanOf(frames.length, bounds, this.panels[0].fit().width);
    if (this.size === 1) return { pick, size: 1, starts: null, x: frames };
    const starts = groupStarts(frames, this.size);
    return { pick, size: this.size, starts, x: groupCentres(frames, starts, this.size) };
  }
}
