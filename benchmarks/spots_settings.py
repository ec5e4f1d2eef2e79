"""Our spots of real frames beside DIALS' with several of its settings: which of them look for the same.

    python -m benchmarks.spots_settings FILE...

Single-frame CBF files. Needs Debian's `dials` package. A spot is in a list when one of the list lies within 2 px. I/sigma > 5 on
either side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.timing import show
from triage.core import Frame
from triage.sources.files import FileSource
from triage.sources.resolve import RunResolver
from triage.spots import DispersionFinder

PYTHON_WITH_DIALS = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("dials_settings.py")
CUT, SAME_PX = 5.0, 2.0

Floats = npt.NDArray[np.float64]


def ours(files: Sequence[Path]) -> dict[str, Floats]:
    """Rows of slow, fast, intensity, I/sigma by file."""
    found = {}
    for event in FileSource(files, resolver=RunResolver(), group="file"):
        if isinstance(event, Frame):
            spots = DispersionFinder().find(event.decode(), event.run)
            found[str(event.file)] = np.column_stack([spots.positions_px, spots.intensity, spots.intensity / spots.sigma]).astype(float)
    return found


def alone(spots: Floats, others: Floats) -> int:
    """How many spots above the cut have none of the others near."""
    strong = spots[spots[:, 3] > CUT]
    apart = np.hypot(*(strong[:, None, :2] - others[None, :, :2]).transpose(2, 0, 1))
    return int((apart >= SAME_PX).all(axis=1).sum())


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        paths = [str(path.resolve()) for path in given.files]
        subprocess.run([PYTHON_WITH_DIALS, str(SCRIPT), str(found), *paths], cwd=folder, capture_output=True, check=True)
        theirs = json.loads(found.read_text())
    rows = []
    for path, mine in ours([Path(path) for path in paths]).items():
        for setting, listed in theirs[path].items():
            dials = np.reshape(listed, (-1, 5)).astype(float)
            n_dials, n_ours = int((dials[:, 3] > CUT).sum()), int((mine[:, 3] > CUT).sum())
            missing, others = alone(dials, mine), alone(mine, dials)
            rows.append(
                [
                    Path(path).name,
                    setting,
                    str(n_dials),
                    f"{1 - missing / max(n_dials, 1):.1%}",
                    str(n_ours),
                    f"{others} ({others / max(n_ours, 1):.1%})",
                ]
            )
    show("spots of I/sigma > 5", ("file", "DIALS", "its spots", "of them found", "ours", "not in DIALS"), rows)


if __name__ == "__main__":
    main()
