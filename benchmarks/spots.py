"""Our spot finder beside DIALS' thresholding, on the same frames, one core: CPU times and their ratios.

Ours includes everything up to centroids and intensities, DIALS' only which pixels are strong. Needs Debian's `dials` package.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.frames import BACKGROUNDS, DETECTORS, Detector, frame, run_of
from benchmarks.timing import repeats_from, show, timed
from triage.core import Pixels, Run
from triage.spots import DispersionFinder

PYTHON_WITH_DIALS = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("dials_threshold.py")
LARGEST = Detector(name="16M", modules=(8, 4))
ROUNDS = 3
COLUMNS = ("frame", "photons/px", "spots found", "ours", "dispersion", "ratio", "dispersion_extended", "ratio")


def main(arguments: Sequence[str] | None = None) -> None:
    repeats = repeats_from(arguments, __doc__)
    if not _has_dials():
        print(f"spots: skipped, {PYTHON_WITH_DIALS} has no DIALS (apt-get install --no-install-recommends dials)")
        return
    cases = [(detector, background) for detector in (*DETECTORS, LARGEST) for background in BACKGROUNDS]
    frames = [(frame(detector, background, seed=2), run_of(detector)) for detector, background in cases]
    rounds = [_round(frames, max(3, repeats // 4)) for _ in range(ROUNDS)]
    times = np.median(rounds, axis=0)  # (cases, ours and theirs)
    ratios = np.median([one[:, 1:] / one[:, :1] for one in rounds], axis=0)
    rows = []
    for (detector, background), (pixels, run), (ours, plain, extended), (by_plain, by_extended) in zip(
        cases, frames, times, ratios, strict=True
    ):
        found = str(len(DispersionFinder().find(pixels, run)))
        shown = [f"{ours:.2f}", f"{plain:.1f}", f"{by_plain:.1f}", f"{extended:.1f}", f"{by_extended:.1f}"]
        rows.append([detector.name, f"{background:g}", found, *shown])
    show("spot finding, one core (CPU ms)", COLUMNS, rows, notes=("ours: whole spots; DIALS: thresholding alone",))


def _round(frames: Sequence[tuple[Pixels, Run]], repeats: int) -> npt.NDArray[np.float64]:
    """(frames, 3) CPU ms: ours, dispersion, dispersion_extended, one after the other so that load weighs on all alike."""
    finder = DispersionFinder()
    ours = [timed(partial(finder.find, pixels, run), 2 * repeats).cpu_ms for pixels, run in frames]
    theirs = [[found["DispersionThreshold"]["ms"], found["DispersionExtendedThreshold"]["ms"]] for found in _dials(frames, repeats)]
    return np.column_stack([ours, theirs])


def _has_dials() -> bool:
    try:
        probe = subprocess.run([PYTHON_WITH_DIALS, "-c", "import dials.algorithms.image.threshold"], capture_output=True, check=False)
    except OSError:
        return False
    return probe.returncode == 0


def _dials(frames: Sequence[tuple[Pixels, Run]], repeats: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{k}.npy") for k in range(len(frames))]
        for path, (pixels, _) in zip(paths, frames, strict=True):
            np.save(path, pixels)
        command = [PYTHON_WITH_DIALS, str(SCRIPT), str(repeats), *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


if __name__ == "__main__":
    main()
