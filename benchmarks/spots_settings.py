"""Our spots of real frames beside DIALS' with several of its settings: which of them look for the same.

    python -m benchmarks.spots_settings FILE... [--lattices]

Single-frame CBF files. Needs Debian's `dials` package. A spot is in a list when one of the list lies within 2 px. I/sigma > 5 on
either side. With --lattices the spots that only one of the two has, DIALS with its default settings, are counted with one and the same
I/sigma for both, and held against the lattice of the spots that both have (`benchmarks.spots_predicted`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.spots_predicted import chosen, i_over_sigma, lattices_of, near
from benchmarks.timing import show
from triage.core import Frame, Spots
from triage.sources.files import FileSource
from triage.sources.resolve import RunResolver
from triage.spots import DispersionFinder

PYTHON_WITH_DIALS = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("dials_settings.py")
CUT = 5.0
DEFAULT, ANY_SIZE = "dispersion_extended, 3 pixels (default)", ("dispersion_extended, 1 pixel", "dispersion, 1 pixel")
COMMON = "both"
LATTICE_COLUMNS = ("file", "whose", "spots", "predicted", "by chance", "I/sigma (median)")

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def frames_of(files: Sequence[Path]) -> list[Frame]:
    """The one frame of each file."""
    return [event for event in FileSource(files, resolver=RunResolver(), group="file") if isinstance(event, Frame)]


def listed(spots: Spots) -> Floats:
    """Rows (n, 4) of slow, fast, intensity, I/sigma."""
    return np.column_stack([spots.positions_px, spots.intensity, spots.intensity / spots.sigma]).astype(float)


def alone(spots: Floats, others: Floats) -> int:
    """How many spots above the cut have none of the others near."""
    return int((~near(spots[spots[:, 3] > CUT][:, :2], others[:, :2])).sum())


def settings_rows(name: str, mine: Floats, theirs: Mapping[str, Floats]) -> list[list[str]]:
    """How many spots either has that the other lacks, a row for each setting of DIALS."""
    rows = []
    for setting, dials in theirs.items():
        n_dials, n_ours = int((dials[:, 3] > CUT).sum()), int((mine[:, 3] > CUT).sum())
        missing, others = alone(dials, mine), alone(mine, dials)
        found = f"{1 - missing / max(n_dials, 1):.1%}"
        rows.append([name, setting, str(n_dials), found, str(n_ours), f"{others} ({others / max(n_ours, 1):.1%})"])
    return rows


def sorted_out(mine: Floats, theirs: Mapping[str, Floats], trusted: Bools) -> dict[str, tuple[Floats, Bools]]:
    """Positions (n, 2) of the spots of either, and which belong to each class of them: why DIALS has none there, as far as it tells.

    `mine` and `theirs` are rows whose fourth column is I/sigma, above CUT in every class; `trusted` are DIALS' own trusted pixels.
    """
    default, any_size = theirs[DEFAULT], np.concatenate([theirs[name] for name in ANY_SIZE])
    at, dials_at = mine[:, :2], default[:, :2]
    strong, both = mine[:, 3] > CUT, near(mine[:, :2], dials_at)
    pixels = np.clip(np.floor(at).astype(int), 0, np.array(trusted.shape) - 1)
    masked, seen = ~trusted[pixels[:, 0], pixels[:, 1]], near(at, any_size[:, :2])
    return {
        COMMON: (at, strong & both),
        "only triage, on pixels that DIALS does not trust": (at, strong & ~both & masked),
        "only triage, of 1 or 2 strong pixels or by dispersion in DIALS": (at, strong & ~both & ~masked & seen),
        "only triage, not seen by DIALS at all": (at, strong & ~both & ~masked & ~seen),
        "only DIALS": (dials_at, (default[:, 3] > CUT) & ~near(dials_at, at)),
    }


def lattice_rows(frame: Frame, theirs: Mapping[str, Floats], trusted: Bools) -> tuple[list[list[str]], str]:
    """Of each class of spots how many the lattice of the common ones predicts, and how many it would by chance; what that lattice is."""
    pixels = frame.decode()
    spots = DispersionFinder().find(pixels, frame.run)
    low, high = frame.run.valid_range(pixels.dtype)
    usable = trusted & (pixels >= low) & (pixels <= high)
    every = np.concatenate([np.asarray(spots.positions_px, dtype=float), theirs[DEFAULT][:, :2]])
    alike = {
        whose: np.column_stack([rows, i_over_sigma(pixels, usable, rows[:, :2], every)])[:, [0, 1, 2, -1]]
        for whose, rows in (("ours", listed(spots)), *theirs.items())
        if whose in ("ours", DEFAULT)
    }
    mine, classes = alike["ours"], sorted_out(alike["ours"], {**theirs, DEFAULT: alike[DEFAULT]}, trusted)
    indexed, lattices = lattices_of(chosen(spots, classes[COMMON][1]), frame.run)
    name, rows = Path(str(frame.file)).name, []
    for whose, (positions, which) in classes.items():
        strengths = (alike[DEFAULT] if whose == "only DIALS" else mine)[which, 3]
        middle = f"{np.median(strengths):.1f}" if which.any() else "-"
        if whose == COMMON:
            n, chance = sum(len(lattice.held) for lattice in lattices), ""
        else:
            hits = [lattice.fresh(positions[which]) for lattice in lattices]
            n = int(np.any(hits, axis=0).sum()) if hits else 0
            chance = f"{sum(lattice.by_chance(positions[which]) for lattice in lattices):.1f}" if which.any() else ""
        rows.append([name, whose, str(int(which.sum())), str(n), chance, middle])
    told = "; ".join(f"{one.bravais} {' '.join(f'{x:.1f}' for x in one.cell)}, {one.n_indexed} spots" for one in indexed.solutions)
    within = "; ".join("within {:.2f} px and {:.4f} rad".format(*lattice.within) for lattice in lattices)
    return rows, f"{name}: {told or indexed.reason} of {int(classes[COMMON][1].sum())}; {within}"


def asked(paths: Sequence[str]) -> tuple[dict[str, dict[str, Floats]], dict[str, Bools]]:
    """Of each file DIALS' spots with each setting, rows of `listed` and the number of pixels, and its trusted pixels."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        subprocess.run([PYTHON_WITH_DIALS, str(SCRIPT), str(found), *paths], cwd=folder, capture_output=True, check=True)
        answers = json.loads(found.read_text())
        trusted = {path: np.load(Path(folder) / f"trusted_{k}.npy") for k, path in enumerate(paths)}
    return {path: {name: np.reshape(rows, (-1, 5)).astype(float) for name, rows in answers[path].items()} for path in paths}, trusted


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--lattices", action="store_true", help="hold the spots that only one has against the frame's lattice")
    given = parser.parse_args(arguments)
    paths = [path.resolve() for path in given.files]
    theirs, trusted = asked([str(path) for path in paths])
    frames = {str(frame.file): frame for frame in frames_of(paths)}
    rows = []
    for path, frame in frames.items():
        mine = listed(DispersionFinder().find(frame.decode(), frame.run))
        rows += settings_rows(Path(path).name, mine, theirs[path])
    show("spots of I/sigma > 5", ("file", "DIALS", "its spots", "of them found", "ours", "not in DIALS"), rows)
    if given.lattices:
        told = [lattice_rows(frame, theirs[path], trusted[path]) for path, frame in frames.items()]
        rows, notes = [row for its_rows, _ in told for row in its_rows], [note for _, note in told]
        show("spots of I/sigma > 5 by plain summation, and the lattice of those of both", LATTICE_COLUMNS, rows, notes=notes)


if __name__ == "__main__":
    main()
