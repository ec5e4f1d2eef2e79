"""Simulated experiments: files of frames that share detector, geometry and beam, each of another crystal, as serial data do.

An experiment is a pure function of (seed, number, detectors): its first frames are the same however many are asked for.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

import triage
from training.simulate.crystal import Crystal
from training.simulate.draw import draw_scene
from training.simulate.scene import Scene
from training.simulate.writer import SHARED, SimulationError, recipe_of, write_nxmx

STREAM = 3
"""Of random numbers: apart from the splits of `training.dataset`, whatever the seed."""
Progress = Callable[[int], None]
"""Told how many more frames are done."""


def draw_scenes_of_one_experiment(
    rng: np.random.Generator, n: int, *, crystals: tuple[Crystal, ...] = (), detectors: tuple[str, ...] | None = None
) -> tuple[Scene, ...]:
    """`n` frames of one detector, geometry, beam and beam stop; crystals, backgrounds and artefacts differ.

    `crystals` and `detectors` are drawn from where given, as `draw_scene` does.
    """
    first = draw_scene(rng, crystals=crystals, detectors=detectors)
    shared = {name: getattr(first, name) for name in (*SHARED, "shadows")}
    others = (draw_scene(rng, crystals=crystals, detectors=(first.detector,)) for _ in range(n - 1))
    return (first, *(dataclasses.replace(other, **shared) for other in others))


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlan:
    """One file that is to be there."""

    folder: Path
    seed: int
    number: int
    frames: int
    detectors: tuple[str, ...] | None = None
    device: str = "cpu"

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder / f"simulated_{self.seed}_{self.number:05d}.h5"

    @property
    def recipe(self) -> str:
        """What makes the same file again, as JSON."""
        values = {
            "seed": self.seed,
            "number": self.number,
            "frames": self.frames,
            "detectors": self.detectors,
            "version": triage.__version__,
            **({} if self.device == "cpu" else {"device": self.device}),
        }
        return json.dumps(values, sort_keys=True)

    def scenes(self) -> tuple[Scene, ...]:
        """Its frames' parameters."""
        rng = np.random.default_rng([self.seed, STREAM, self.number])
        return draw_scenes_of_one_experiment(rng, self.frames, detectors=self.detectors)

    def is_done(self) -> bool:
        """Whether the complete file is there. Raises SimulationError when one of the same name was made in another way."""
        found = recipe_of(self.path)
        if found is None or found == self.recipe:
            return found is not None
        theirs, ours = json.loads(found), json.loads(self.recipe)
        if {**theirs, "frames": None} == {**ours, "frames": None}:
            return False  # the same experiment with another number of frames: made again
        different = ", ".join(key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key))
        raise SimulationError(f"{self.path}: made with other {different}; set simulate.out to another folder, or remove the file")


def plan(
    folder: Path, *, n: int, seed: int, frames_per_file: int, detectors: tuple[str, ...] | None = None, device: str = "cpu"
) -> tuple[FilePlan, ...]:
    """The files of `n` frames; the last one takes what is left."""
    sizes = [min(frames_per_file, n - start) for start in range(0, n, frames_per_file)]
    return tuple(
        FilePlan(folder=folder, seed=seed, number=k, frames=size, detectors=detectors, device=device) for k, size in enumerate(sizes)
    )


def write_file(file: FilePlan, on_frame: Callable[[], None] = lambda: None) -> int:
    """Simulates one file; returns its number of frames."""
    torch.set_num_threads(1)  # files are simulated side by side; more threads a file wait for each other
    write_nxmx(file.path, file.scenes(), recipe=file.recipe, on_frame=on_frame, device=file.device)
    return file.frames


def write_files(files: Sequence[FilePlan], processes: int, progress: Progress) -> int:
    """Simulates the files that are missing; returns how many. A complete file is kept, also when another one fails."""
    missing = [file for file in files if not file.is_done()]
    progress(sum(file.frames for file in files) - sum(file.frames for file in missing))
    if processes == 1 or len(missing) < 2:
        for file in missing:
            write_file(file, on_frame=partial(progress, 1))
        return len(missing)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    workers = min(processes, len(missing))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_prepare_worker) as pool:
        futures = [pool.submit(write_file, file) for file in missing]
        try:
            for future in as_completed(futures):
                progress(future.result())
        except BrokenProcessPool:
            raise SimulationError("a worker was killed, perhaps for want of memory; run it again with fewer simulate.processes") from None
        except BaseException:  # Ctrl-C too: what has not begun must not begin
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return len(missing)


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker at once and in silence; its file is not complete then
