"""`cell_outlier`: the run is not isomorphous."""

from __future__ import annotations

from collections.abc import Iterable

from triage.core import CellShare, Flag, Indexing, Progress, Run, Severity, Verdict
from triage.flags.persistence import Clear, FlagThreshold, Raise
from triage.flags.watch import Watch


class CellOutlierPolicy:
    """`cell_outlier`: too many of the frames that were indexed have another unit cell than most of the run."""

    def __init__(self, run: Run, threshold: FlagThreshold) -> None:
        self._watch = Watch(run.id, "cell_outlier", threshold, Severity.WARNING)

    def update(self, verdict: Verdict, progress: Progress) -> Iterable[Flag]:  # noqa: ARG002  the seam's signature
        """Nothing: frames say nothing of cells until they are indexed."""
        return []

    def witness(self, indexing: Indexing) -> Iterable[Flag]:
        """A flag where this frame's cell decides one; records come in the order in which indexing is done."""
        if indexing.is_outlier is None:
            return []
        return self._watch.update(indexing.frame, float(indexing.is_outlier), lambda found: _why(found, indexing.cells), _why_not)


def _why(found: Raise, cells: tuple[CellShare, ...]) -> str:
    kinds = "; ".join(f"{cell_words(cluster)} in {cluster.share:.0%}" for cluster in cells[:3])
    return (
        f"The unit cells are not isomorphous: {found.above} of the last {found.of} indexed frames differ from most of the run "
        f"(since frame {found.first_frame}; {kinds}); process the clusters apart, or look for another crystal form or dehydration."
    )


def _why_not(found: Clear) -> str:
    return f"{found.below} of the last {found.of} indexed frames have the cell of most of the run again."


def cell_words(cluster: CellShare) -> str:
    """A cell as people write it: lengths in A, angles in deg."""
    a, b, c, alpha, beta, gamma = cluster.cell
    return f"{cluster.bravais} {a:.1f} {b:.1f} {c:.1f} A {alpha:.0f} {beta:.0f} {gamma:.0f} deg"
