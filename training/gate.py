"""Whether a network may take the place of the released one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.evaluation import strata
from training.evaluation.against import NETWORK, Previous
from triage.refusal import ConfigError

DECIDING = {"multi_lattice": strata.REACH_MULTI, "non_diffraction": strata.ALL}
"""By task, the frames that decide."""


class Refused(ConfigError):
    """The network may not be released; the message says by what numbers, and how to force it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of a comparison on the frozen set."""

    passes: bool
    line: str
    """The numbers, for a person."""
    differences: dict[str, list[float]]
    """By task, the difference in AUROC [value, low, high]; empty for a first release."""


def compare(report: dict[str, Any], released: Previous | None) -> Verdict:
    """A network passes when it is worse beyond the 95 % interval in no deciding AUROC, and better in at least one.

    Raises ConfigError when the frames or the released model's report are too few to tell.
    """
    if released is None:
        return Verdict(passes=True, line="the first release", differences={})
    differences, words = {}, []
    for task, stratum in DECIDING.items():
        rows = report[task][stratum]
        ours, theirs = rows[NETWORK], rows.get(released.name, {})
        if "first_minus_this" not in theirs:
            raise ConfigError(f"export.frozen: too few frames, or no number of {released.name}, for {task} ({stratum})")
        found = differences[task] = theirs["first_minus_this"]
        words.append(
            f"{task.replace('_', '-')} AUROC {ours['auroc'][0]:.4f} against {theirs['auroc'][0]:.4f} "
            f"({found[0]:+.4f}, {found[1]:+.4f} to {found[2]:+.4f})"
        )
    worse = any(high < 0.0 for _, _, high in differences.values())
    better = any(value > 0.0 for value, _, _ in differences.values())
    return Verdict(passes=better and not worse, line=f"against {released.name}: {'; '.join(words)}", differences=differences)
