"""A network on frames of another simulator, which works pixel by pixel and shares no physics with `training.simulate`.

    python -m benchmarks.pixelwise --frames 400 --seed 1 --out runs/pixelwise
    python -m benchmarks.pixelwise --frames 400 --seed 1 --out runs/pixelwise --model new.onnx --model models/released/triage.onnx

Frames are kept in the folder, one file each, so that a run that was cut short goes on, and another model is judged on the same frames.
A table goes to standard output, it and pictures of the worst frames (worst_*.png) to the folder. Some 1.5 CPU seconds a frame. Needs the
`train` extra.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pixelwise_frame import Made, make, run_of
from benchmarks.pixelwise_report import Said, report, sheets
from triage.classify import ModelError, OnnxClassifier
from triage.core import Judgement
from triage.spots import DispersionFinder

LOG = logging.getLogger(__name__)
RELEASED = Path(__file__).resolve().parents[1] / "models" / "released" / "triage.onnx"
VERSION = 1
"""Of the frames: raised whenever a seed makes others."""
_RECIPE = "recipe.json"
_TOLD_EVERY = 20


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pixelwise", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--frames", type=int, default=400, help="how many (400)")
    parser.add_argument("--seed", type=int, default=1, help="which (1)")
    parser.add_argument("--out", type=Path, default=Path("runs/pixelwise"), help="folder of the frames (runs/pixelwise)")
    parser.add_argument(
        "--model", type=Path, action="append", help="an ONNX file; several to compare, the first against each (the released one)"
    )
    parser.add_argument("--only-make", action="store_true", help="make the frames and judge nothing")
    told = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        classifiers = [] if told.only_make else [OnnxClassifier(path, device="cpu") for path in told.model or [RELEASED]]
        paths = frames(told.out, told.seed, told.frames)
    except (ModelError, FolderError) as error:
        parser.error(str(error))
    if classifiers:
        names = [f"{one.model.name} {one.model.version}" for one in classifiers]
        names = names if len(set(names)) == len(names) else [str(path) for path in told.model]
        said = judge(paths, dict(zip(names, classifiers, strict=True)))
        text = report(said)
        (told.out / "report.md").write_text(text)
        for name, png in sheets(paths, said, names[0]):
            (told.out / f"worst_{name.replace(' ', '_')}.png").write_bytes(png)
        print(text)
    return 0


class FolderError(ValueError):
    """A folder that holds other frames; the message names it and the mend."""


def frames(folder: Path, seed: int, number: int) -> list[Path]:
    """Files of the first `number` frames of a seed; those not there yet are made. Raises FolderError where others lie in the folder."""
    recipe, stated = folder / _RECIPE, {"seed": seed, "version": VERSION}
    folder.mkdir(parents=True, exist_ok=True)
    if recipe.is_file() and (found := json.loads(recipe.read_text())) != stated:
        raise FolderError(f"{folder}: holds frames of {found}, not of {stated}; name another folder by --out")
    recipe.write_text(json.dumps(stated))
    paths, began = [folder / f"frame_{index:05d}.npz" for index in range(number)], time.process_time()
    missing = [(index, path) for index, path in enumerate(paths) if not path.is_file()]
    for done, (index, path) in enumerate(missing, start=1):
        _write(make(seed, index), path)
        if done % _TOLD_EVERY == 0 or done == len(missing):
            LOG.info("%d of %d frames made, %.1f CPU s each", done, len(missing), (time.process_time() - began) / done)
    return paths


def _write(made: Made, path: Path) -> None:
    """All of it or nothing: under another name first."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    text = json.dumps({"header": made.header, "truth": made.truth})
    spots: dict[str, Any] = {f"spots_{k}": centres.astype(np.float32) for k, centres in enumerate(made.spots)}
    with partial.open("wb") as file:
        np.savez_compressed(file, counts=made.counts, about=np.array(text), **spots)
    partial.replace(path)


def judge(paths: Sequence[Path], classifiers: dict[str, OnnxClassifier]) -> Said:
    """What each network says of each frame, as `triage run` has it: spots found, input prepared, judged."""
    finder, truths = DispersionFinder(), []
    judgements: dict[str, list[Judgement]] = {name: [] for name in classifiers}
    for path in paths:
        with np.load(path) as kept:
            counts, about = kept["counts"], json.loads(str(kept["about"]))
        run = run_of(about["header"])
        spots = finder.find(counts, run)
        truths.append(about["truth"])
        for name, classifier in classifiers.items():
            judgements[name].append(classifier.score(counts, spots, run))
    return Said(truths=truths, judgements=judgements)


if __name__ == "__main__":
    sys.exit(main())
