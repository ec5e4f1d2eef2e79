// What each strip chart shows. Colours are names of CSS variables; `flags` are the flags that concern it; it is left out for runs
// of the kinds in `notFor`.

const DIGITS = new Intl.NumberFormat("en-GB");

const whole = (value) => DIGITS.format(Math.round(value)).replaceAll(",", "\u202f");
const probability = (value) => value.toFixed(2);
const resolution = (value) => `${value.toFixed(2)} Å`;
const inverse = (values) => values.map((d) => (d ? 1 / d : null));

// Resolution is drawn as s = 1/d, as on a Wilson plot, so that better is up; labels are d.
const NICE_D = [0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.35, 1.5, 1.75, 2, 2.5, 3, 4, 5, 7, 10, 20, 50];

function resolutionTicks(u, _axis, low, high) {
  const spacing = (high - low) / Math.max(2, u.bbox.height / devicePixelRatio / 24);
  const ticks = [];
  for (const d of NICE_D) if (1 / d >= low && 1 / d <= high && (!ticks.length || ticks.at(-1) - 1 / d >= spacing)) ticks.push(1 / d);
  return ticks.reverse();
}

const fromZero = (least) => (_u, _low, high) => [0, Math.max(least, (high ?? 0) * 1.12)];
const unit = () => [-0.03, 1.3]; // room for the names of flags above 1

function aroundData(_u, low, high) {
  if (low === null || high === null) return [0.2, 0.6];
  const pad = Math.max(0.02, (high - low) * 0.12);
  return [Math.max(0.02, low - pad), high + pad];
}

function aroundZero(_u, low, high) {
  const most = Math.max(5, (high ?? 0) * 1.15);
  return [Math.min(-0.03 * most, (low ?? 0) * 1.15), most];
}

const PROBABILITY = { range: unit, ticks: () => [0, 0.5, 1], label: (value) => value.toFixed(1) };

export const hasOwnChart = (flag) => PANELS.some((panel) => panel.flags.includes(flag));

export const PANELS = [
  {
    title: "Probability",
    weight: 3,
    flags: ["multi_lattice", "non_diffraction"],
    scale: PROBABILITY,
    series: [
      { column: "probabilities_multi_lattice", label: "multiple lattices", colour: "--multi", threshold: "multi_lattice", show: probability },
      { column: "probabilities_non_diffraction", label: "no diffraction", colour: "--none", threshold: "non_diffraction", show: probability },
    ],
  },
  {
    title: "Decay",
    notFor: ["serial", "grid"],
    weight: 2.2,
    flags: ["decay"],
    scale: PROBABILITY,
    right: { range: aroundZero, label: (value) => Number(value.toFixed(1)), unit: "Å²" },
    series: [
      { column: "decay_delta_B_A2", label: "ΔB", colour: "--delta", right: true, width: 1.3, show: (value) => `${value.toFixed(1)} Å²` },
      { column: "decay_probability", label: "probability", colour: "--decay", show: probability },
      { column: "decay_alarm_probability", label: "for the flag", colour: "--alarm", threshold: "decay", width: 1.3, show: probability },
    ],
  },
  {
    title: "Spots",
    weight: 2.2,
    flags: [],
    scale: { range: fromZero(10), ticks: null, label: whole },
    series: [
      { column: "spots_count", label: "all", colour: "--all-spots", width: 1.3, show: whole },
      { column: "spots_count_no_ice", label: "without ice", colour: "--spots", show: whole },
    ],
  },
  {
    title: "Resolution",
    weight: 2.2,
    flags: [],
    scale: { range: aroundData, ticks: resolutionTicks, label: (s) => `${Number((1 / s).toFixed(2))} Å` },
    series: [
      { column: "resolution_A", label: "network", colour: "--network", dots: true, transform: inverse, show: (s) => resolution(1 / s) },
      { column: "spots_resolution_A", label: "spots", colour: "--spots", dots: true, transform: inverse, show: (s) => resolution(1 / s) },
    ],
  },
  {
    title: "Ice rings",
    weight: 1.6,
    flags: ["ice"],
    scale: PROBABILITY,
    series: [{ column: "ice_rings", label: "probability", colour: "--ice", threshold: "ice", show: probability }],
  },
];
