"""The numbers of a report as a document to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from training.evaluation import reach, strata
from training.evaluation.against import NETWORK
from training.evaluation.document import Document, Picture, Section, Table

TITLES = {"multi_lattice": "Several lattices", "non_diffraction": "No diffraction", "ice_rings": "Ice rings"}
_TOO_FEW = "too few"
Pictures = Mapping[str, Sequence[Picture]]
"""Of each part of the report."""


def document_of(report: dict[str, Any], pictures: Pictures) -> Document:
    """The whole report. `pictures` by task, and `reliability`, `confusion`, `resolution`, `worst`."""
    model, data = report["model"], report["data"]
    text = [
        f"{report['frames']} simulated frames of structures never trained on, seed {data['seed']}; "
        f"{report['frames_of_held_out_detectors']} of them on detectors never trained on ({', '.join(report['held_out_detectors'])}).",
        "95 % bootstrap intervals over frames in brackets. Recalls are at 1 % and 5 % false alarms. A difference in AUROC is the "
        "network's minus the other's, on the same resampled frames. At the threshold of all: the one that gives 1 % false alarms over "
        "all frames, as a beamline sets it.",
    ]
    if report["against"] is not None:
        text.append(f"Beside it: {report['against']['name']}. {report['against']['remark']}")
    if report["strata_not_in_these_labels"]:
        text.append(f"Not reported, for these frames' labels do not tell: {', '.join(report['strata_not_in_these_labels'])}.")
    sections = [
        _reach(report["reach"]),
        *(_task(task, report[task], pictures.get(task, ())) for task in TITLES),
        *_others(report, pictures),
    ]
    return Document(f"{model['name']} {model['version']}: evaluation", tuple(text), tuple(sections))


def _reach(found: dict[str, Any]) -> Section:
    columns = ["", "aim", *(cell for name, part in found.items() for cell in (f"{name} ({part['frames']} frames)", "met"))]
    rows = []
    for lines in zip(*(part["rows"] for part in found.values()), strict=True):
        aim = f"{'at most' if lines[0]['at_most'] else 'at least'} {lines[0]['aim']:g}"
        rows.append((lines[0]["what"], aim, *(cell for line in lines for cell in (interval(line["value"], places=4), line["met"]))))
    text = ["Unsure: the value meets the aim, its interval reaches beyond."]
    few = [name for name, part in found.items() if part["frames"] < reach.LEAST_FRAMES]
    if few:
        text.append(f"Fewer than {reach.LEAST_FRAMES} frames, which proves little: {', '.join(few)}.")
    return Section("What is aimed at", tuple(text), (Table("Aims", tuple(columns), rows),))


def _task(task: str, divided: dict[str, Any], pictures: Iterable[Picture]) -> Section:
    columns = ("frames", "n + / -", "AUROC", "recall at 1 %", "recall at 5 %", "recall; false alarms at the threshold of all")
    rows = [(name, *_row(scorers[NETWORK]), _rates(scorers[NETWORK])) for name, scorers in divided.items()]
    others = list(dict.fromkeys(name for scorers in divided.values() for name in scorers if name != NETWORK))
    tables = [Table(f"{TITLES[task]}: the network by stratum", columns, rows)]
    if others:
        tables.append(_beside(task, divided, others))
    return Section(TITLES[task], (), tuple(tables), tuple(pictures))


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    return (f"{row['n_positive']} / {row['n_negative']}", *(interval(row.get(key)) for key in ("auroc", "recall_at_1pc", "recall_at_5pc")))


def _rates(row: dict[str, Any]) -> str:
    rates = row.get("at_threshold_of_all")
    if rates is None:
        return ""
    return "; ".join(f"{rates[key]:.3f}" if key in rates else "-" for key in ("recall", "false_alarms"))


def _beside(task: str, divided: dict[str, Any], others: Sequence[str]) -> Table:
    columns = ["frames", "network: AUROC", "recall at 1 %"]
    columns += [cell for name in others for cell in (f"{name}: AUROC", "recall at 1 %", "network's AUROC minus this")]
    rows = []
    for name, scorers in divided.items():
        cells = [short(scorers[NETWORK].get(key)) for key in ("auroc", "recall_at_1pc")]
        for other in others:
            row = scorers.get(other, {})
            cells += [short(row.get("auroc")), short(row.get("recall_at_1pc")), interval(row.get("first_minus_this"), signed=True)]
        rows.append((name, *cells))
    return Table(f"{TITLES[task]}: side by side", tuple(columns), rows)


def _others(report: dict[str, Any], pictures: Pictures) -> list[Section]:
    ece: list[tuple[str, ...]] = [(name, interval(value)) for name, value in report["ece"].items()]
    kinds = _counts("Kinds, of frames without a lattice", report["kind_confusion"])
    lattices = _counts("Lattices", report["lattices_confusion"])
    calibration = Table("Expected calibration error", ("probability", "ECE"), ece)
    sections = [
        Section("Calibration", (), (calibration,), tuple(pictures.get("reliability", ()))),
        Section("Confusion", (), (kinds, lattices), tuple(pictures.get("confusion", ()))),
        Section("Resolution limit", (_resolution(report["resolution_relative_error"]),), (), tuple(pictures.get("resolution", ()))),
    ]
    return [*sections, _worst(report, pictures)] if report.get("worst_frames") else sections


def _resolution(error: dict[str, Any] | None) -> str:
    if error is None:
        return "No frame has a resolution limit."
    median, most = percent(error["median"]), percent(error["p90"])
    return f"Absolute relative error over {error['frames']} frames: median {median}, 90th percentile {most}."


def _worst(report: dict[str, Any], pictures: Pictures) -> Section:
    frames = report["worst_frames"]
    columns = ("error", "index", "detector", "meant", "lattices", "probability")
    text = ["Made again from the seed and their index in the test split."]
    if lost := report.get("worst_frames_not_remade"):
        text.append(f"{lost} of {len(frames)} are not shown: the simulator has changed since the frames were made.")
    table = Table("Worst frames", columns, [tuple(str(frame[name]) for name in columns) for frame in frames])
    return Section("Worst frames", tuple(text), (table,), tuple(pictures.get("worst", ())))


def _counts(title: str, table: dict[str, dict[str, int]]) -> Table:
    rows: list[tuple[str, ...]] = [(name, *(str(number) for number in row.values())) for name, row in table.items()]
    return Table(title, ("true", *(f"said {name}" for name in table)), rows)


def interval(value: list[float] | None, *, places: int = 3, signed: bool = False) -> str:
    """`0.912 (0.900-0.921)`; signed: `+0.012 (-0.003 to +0.020)`."""
    if value is None:
        return _TOO_FEW
    if signed:
        return f"{value[0]:+.{places}f} ({value[1]:+.{places}f} to {value[2]:+.{places}f})"
    return f"{value[0]:.{places}f} ({value[1]:.{places}f}-{value[2]:.{places}f})"


def short(value: list[float] | None) -> str:
    """`0.912`."""
    return _TOO_FEW if value is None else f"{value[0]:.3f}"


def percent(value: list[float]) -> str:
    """`5.4 % (5.1-5.8)`."""
    return f"{100 * value[0]:.1f} % ({100 * value[1]:.1f}-{100 * value[2]:.1f})"


def headline(report: dict[str, Any]) -> Document:
    """What a person wants to see first: the aims."""
    model = report["model"]
    return Document(f"{model['name']} {model['version']}", (), (_reach(report["reach"]),))


def metrics(report: dict[str, Any]) -> dict[str, float]:
    """The headline numbers under names that a tracker takes."""
    found = {}
    for task in TITLES:
        for part in (strata.ALL, strata.HELD_OUT):
            for measure in ("auroc", "recall_at_1pc"):
                value = report[task].get(part, {}).get(NETWORK, {}).get(measure)
                if value is not None:
                    found[f"test/{task}/{part.replace(' ', '_')}/{measure}"] = value[0]
    found.update({f"test/ece/{name.replace(' ', '_')}": value[0] for name, value in report["ece"].items()})
    if report["resolution_relative_error"] is not None:
        found["test/resolution/median_relative_error"] = report["resolution_relative_error"]["median"][0]
    found["test/aims_met"] = sum(row["met"] in ("yes", "unsure") for row in report["reach"][strata.ALL]["rows"])
    return found
