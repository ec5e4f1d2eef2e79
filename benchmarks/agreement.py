"""Our spots beside DIALS' and the truth, on simulated frames drawn as for training, those of detectors with read noise left out.

    python -m benchmarks.agreement [--frames 120] [--seed 17]

Needs Debian's `dials` package and the train extra. A spot is in a list when one of the list lies within 2 px; it is true when a
reflection of the scene with a third of its photons or more lies within 3 px. On frames with powder or salt the reflections are not all
there is: no truth.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hdf5plugin
import numpy as np
import numpy.typing as npt

from benchmarks.timing import show
from training.simulate.background import transmission
from training.simulate.diffraction import reflections
from training.simulate.draw import draw_scene
from training.simulate.render import render
from training.simulate.scene import Scene
from training.simulate.writer import write_nxmx
from triage.spots import DispersionFinder

PYTHON_WITH_DIALS = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("dials_found.py")
CUTS = (5.0, 8.0, 13.0, 20.0)
SAME_PX, TRUE_PX, TRUE_SHARE = 2.0, 3.0, 1.0 / 3.0
LISTS = ("frames", "I/sigma >", "DIALS", "not in ours", "ours", "not in DIALS", "of these in DIALS at any size")
TRUTH = ("frames", "I/sigma >", "DIALS false", "ours false", "DIALS alone, true", "ours alone, true")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One frame; rows of slow, fast, intensity, I/sigma."""

    scene: Scene
    truth: Floats
    """(n, 3): slow, fast, photons."""
    ours: Floats
    dials: Floats
    dials_any: Floats

    @property
    def is_plain(self) -> bool:
        """Whether the reflections of the sample are all the spots there are."""
        return not (self.scene.ice or self.scene.powder or self.scene.salt or self.scene.harmonic)


def near(spots: Floats, others: Floats, within_px: float = SAME_PX) -> npt.NDArray[np.bool_]:
    """(spots, others): which lie close."""
    return np.hypot(*(spots[:, None, :2] - others[None, :, :2]).transpose(2, 0, 1)) < within_px


def is_true(spots: Floats, truth: Floats) -> npt.NDArray[np.bool_]:
    enough = truth[None, :, 2] >= TRUE_SHARE * spots[:, 2, None]
    return (near(spots, truth, TRUE_PX) & enough).any(axis=1)


def truth_of(scene: Scene, photons: float) -> Floats:
    """The sample's reflections, in photons that reach the detector; `photons` a unit of relative intensity."""
    shade, detector = transmission(scene), scene.detector_model()
    rows = [np.zeros((0, 3))]
    for lattice in scene.lattices:
        group = reflections(lattice, scene.beam, scene.geometry(), scene.d_min_A, detector.spread_px)
        at = group.positions_px.long().clamp(min=0)
        light = shade[at[:, 0].clamp(max=shade.shape[0] - 1), at[:, 1].clamp(max=shade.shape[1] - 1)]
        rows.append(np.column_stack([group.positions_px.numpy(), (photons * group.photons * light).numpy()]))
    return np.concatenate(rows)


def compared(scenes: Sequence[Scene]) -> list[Compared]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{k}.h5") for k in range(len(scenes))]
        for path, scene in zip(paths, scenes, strict=True):
            write_nxmx(Path(path), [scene])
        found = Path(folder) / "found.json"
        environment = {**os.environ, "HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH}
        subprocess.run([PYTHON_WITH_DIALS, str(SCRIPT), str(found), *paths], cwd=folder, env=environment, capture_output=True, check=True)
        theirs = json.loads(found.read_text())
    return [_compared(scene, theirs[path]) for path, scene in zip(paths, scenes, strict=True)]


def _compared(scene: Scene, theirs: dict[str, list[list[float]]]) -> Compared:
    frame = render(scene)
    spots = DispersionFinder().find(frame.counts, frame.run)
    ours = np.column_stack([spots.positions_px, spots.intensity, spots.intensity / spots.sigma]).astype(float)
    default, any_size = (np.reshape(theirs[name], (-1, 5)).astype(float)[:, :4] for name in ("default", "any"))
    return Compared(scene=scene, truth=truth_of(scene, frame.labels.photons), ours=ours, dials=default, dials_any=any_size)


def counts(frames: Sequence[Compared], cut: float) -> Counter[str]:
    """Over all frames, of the spots above `cut`."""
    n: Counter[str] = Counter()
    for one in frames:
        dials, ours = one.dials[one.dials[:, 3] > cut], one.ours[one.ours[:, 3] > cut]
        dials_alone, ours_alone = ~near(dials, one.ours).any(axis=1), ~near(ours, one.dials).any(axis=1)
        dials_true, ours_true = is_true(dials, one.truth), is_true(ours, one.truth)
        for name, chosen in (
            ("dials", np.ones(len(dials), dtype=bool)),
            ("ours", np.ones(len(ours), dtype=bool)),
            ("dials alone", dials_alone),
            ("ours alone", ours_alone),
            ("ours alone, any size", ours_alone & near(ours, one.dials_any).any(axis=1)),
            ("dials false", ~dials_true),
            ("ours false", ~ours_true),
            ("dials alone, true", dials_alone & dials_true),
            ("ours alone, true", ours_alone & ours_true),
        ):
            n[name] += int(chosen.sum())
    return n


def _share(n: Counter[str], part: str, whole: str) -> str:
    return f"{n[part]} ({n[part] / max(n[whole], 1):.1%})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--seed", type=int, default=17)
    given = parser.parse_args(arguments)
    drawn = [draw_scene(np.random.default_rng([given.seed, k])) for k in range(given.frames)]
    frames = compared([scene for scene in drawn if not scene.detector_model().read_noise])
    report(frames)


def report(frames: Sequence[Compared]) -> None:
    plain = [one for one in frames if one.is_plain]
    powder = [one for one in frames if one.scene.ice or one.scene.powder]
    groups = ((f"{len(plain)} without powder", plain), (f"{len(powder)} with powder", powder))
    counted = [(name, f"{cut:g}", counts(chosen, cut)) for name, chosen in groups for cut in CUTS]
    lists = [
        [
            name,
            cut,
            str(n["dials"]),
            _share(n, "dials alone", "dials"),
            str(n["ours"]),
            _share(n, "ours alone", "ours"),
            str(n["ours alone, any size"]),
        ]
        for name, cut, n in counted
    ]
    truth = [
        [
            name,
            cut,
            _share(n, "dials false", "dials"),
            _share(n, "ours false", "ours"),
            str(n["dials alone, true"]),
            str(n["ours alone, true"]),
        ]
        for name, cut, n in counted[: len(CUTS)]
    ]
    show("spots of simulated frames, ours and DIALS'", LISTS, lists)
    show("against the truth", TRUTH, truth)


if __name__ == "__main__":
    main()
