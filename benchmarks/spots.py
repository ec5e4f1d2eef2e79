"""Our spot finder beside DIALS' thresholding, on the same frames, one core: CPU times and their ratios.

Ours includes everything up to centroids and intensities, DIALS' only which pixels are strong. Needs Debian's `dials` package.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frames import BACKGROUNDS, DETECTORS, frame, run_of
from benchmarks.timing import repeats_from, show, timed
from triage.core import Pixels
from triage.spots import DispersionFinder

PYTHON_WITH_DIALS = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("dials_threshold.py")
COLUMNS = ("frame", "photons/px", "spots found", "ours", "dispersion", "ratio", "dispersion_extended", "ratio")


def main(arguments: Sequence[str] | None = None) -> None:
    repeats = repeats_from(arguments, __doc__)
    if not _has_dials():
        print(f"spots: skipped, {PYTHON_WITH_DIALS} has no DIALS (apt-get install --no-install-recommends dials)")
        return
    cases = [(detector, background) for detector in DETECTORS for background in BACKGROUNDS]
    frames = [frame(detector, background, seed=2) for detector, background in cases]
    theirs = _dials(frames, max(3, repeats // 4))
    finder, rows = DispersionFinder(), []
    for (detector, background), pixels, dials in zip(cases, frames, theirs, strict=True):
        run = run_of(detector)
        ours = timed(lambda pixels=pixels, run=run: finder.find(pixels, run), repeats).cpu_ms  # type: ignore[misc]
        plain, extended = dials["DispersionThreshold"]["ms"], dials["DispersionExtendedThreshold"]["ms"]
        found = len(finder.find(pixels, run))
        times = [f"{ours:.2f}", f"{plain:.1f}", f"{plain / ours:.1f}", f"{extended:.1f}", f"{extended / ours:.1f}"]
        rows.append([detector.name, f"{background:g}", str(found), *times])
    show("spot finding, one core (CPU ms)", COLUMNS, rows, notes=("ours: whole spots; DIALS: thresholding alone",))


def _has_dials() -> bool:
    try:
        probe = subprocess.run([PYTHON_WITH_DIALS, "-c", "import dials.algorithms.image.threshold"], capture_output=True, check=False)
    except OSError:
        return False
    return probe.returncode == 0


def _dials(frames: Sequence[Pixels], repeats: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{k}.npy") for k in range(len(frames))]
        for path, pixels in zip(paths, frames, strict=True):
            np.save(path, pixels)
        command = [PYTHON_WITH_DIALS, str(SCRIPT), str(repeats), *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


if __name__ == "__main__":
    main()
