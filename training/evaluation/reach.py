"""What is aimed at, row by row, and whether it is met: on all frames (structures never seen) and on those of detectors never seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEAST_FRAMES = 4000
"""Results on fewer are no proof."""


@dataclass(frozen=True, slots=True)
class Target:
    """One number to be reached."""

    what: str
    path: tuple[str, ...]
    """Where a report keeps it: [value, low, high]."""
    aim: float
    at_most: bool = False


TARGETS = (
    Target("several lattices, ratio >= 0.1, split >= 0.6 deg: AUROC", ("multi_lattice", "auroc"), 0.95),
    Target("several lattices, the same frames: recall at 1 % false alarms", ("multi_lattice", "recall_at_1pc"), 0.75),
    Target("of these, splits 0.6-2 deg: AUROC", ("small_split", "auroc"), 0.90),
    Target("no diffraction, against frames with >= 8 visible spots: AUROC", ("non_diffraction", "auroc"), 0.998),
    Target("no diffraction, the same frames: recall at 1 % false alarms", ("non_diffraction", "recall_at_1pc"), 0.98),
    Target("of these, against weak frames (8-25 visible spots): AUROC", ("weak", "auroc"), 0.985),
    Target("ice rings: AUROC", ("ice_rings", "auroc"), 0.98),
    Target("resolution limit: median relative error", ("resolution", "median"), 0.08, at_most=True),
)
LARGEST_ECE = 0.03


def judged(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Every target with what was measured: `value` [value, low, high] or None, and `met`: `yes`, `no`, or `unsure` when the interval
    reaches beyond the aim.
    """
    targets = [*TARGETS, *(Target(f"ECE of {name}", ("ece", name), LARGEST_ECE, at_most=True) for name in measured["ece"])]
    return [_row(target, _found(measured, target.path)) for target in targets]


def _found(measured: dict[str, Any], path: tuple[str, ...]) -> list[float] | None:
    value: Any = measured
    for key in path:
        value = value.get(key) if value is not None else None
    return value


def _row(target: Target, value: list[float] | None) -> dict[str, Any]:
    row = {"what": target.what, "aim": target.aim, "at_most": target.at_most, "value": value}
    if value is None:
        return {**row, "met": "too few"}
    estimate, low, high = value
    if target.at_most:
        met, surely = estimate <= target.aim, high <= target.aim
    else:
        met, surely = estimate >= target.aim, low >= target.aim
    return {**row, "met": ("yes" if surely else "unsure") if met else "no"}


def headline(found: Mapping[str, Any]) -> dict[str, float]:
    """The estimates alone, named by part, task and measure: `network/multi_lattice/auroc`."""
    numbers: dict[str, float] = {}
    for part, tasks in found.items():
        for task, measures in tasks.items():
            for name, value in (measures or {}).items():
                if isinstance(value, list):
                    numbers[f"{part}/{task}/{name}"] = value[0]
    return numbers
