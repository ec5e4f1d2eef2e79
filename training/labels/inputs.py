"""Labelled frames as the network's inputs: made by the runtime's own path, kept in a folder that names the preprocessing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.labels.frames import FrameLibrary
from training.labels.label import Label
from triage.core import Frame, FrameError, Pixels, Run, SourceError
from triage.preprocess import Inputs, Preprocess
from triage.spots import DispersionFinder

LOG = logging.getLogger(__name__)


def inputs_of(pixels: Pixels, run: Run, preprocess: Preprocess) -> Inputs:
    """What the network sees of a frame (slow, fast)."""
    return preprocess(pixels, DispersionFinder().find(pixels, run), run)


@dataclass(frozen=True, slots=True)
class InputCache:
    """Network inputs on disk, one file each, found again by what they were made from."""

    folder: Path
    """One subfolder for each preprocessing: version, spot finder and sizes."""
    preprocess: Preprocess

    def path(self, made_from: Mapping[str, Any]) -> Path:
        """Where the inputs lie, or will."""
        return self.folder / _digest(json.loads(self.preprocess.to_json())) / f"{_digest(made_from)}.npz"

    def made(self, made_from: Mapping[str, Any], make: Callable[[], Inputs | None]) -> Path | None:
        """The file of the inputs, made if it is not there; None, and no file, where there are none to make."""
        path = self.path(made_from)
        if path.exists():
            return path
        inputs = make()
        if inputs is None:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part.npz")  # several processes of one training may make the same
        np.savez(part, image=inputs.image, crops=inputs.crops, features=inputs.features, faint=inputs.faint)
        part.replace(path)
        return path


def load_inputs(path: Path) -> Inputs:
    """What `InputCache` keeps."""
    with np.load(path) as arrays:
        return Inputs(image=arrays["image"], crops=arrays["crops"], features=arrays["features"], faint=arrays["faint"])


def labelled_inputs(labels: Iterable[Label], library: FrameLibrary, cache: InputCache) -> list[tuple[Label, Path]]:
    """Each label with the file of its frame's inputs. A frame that cannot be read costs itself, and a line in the log."""
    found = []
    for label in labels:
        try:
            file = library.path(label)
            made = cache.made(identity(file, label.frame), lambda label=label: _inputs_of_frame(library.frame(label), cache.preprocess))  # type: ignore[misc]
        except (SourceError, FrameError) as error:
            LOG.warning("labelled frame left out: %s", error)
            continue
        if made is not None:
            found.append((label, made))
    return found


def identity(file: Path, frame: int) -> dict[str, Any]:
    """What a frame is known by: a file that was written again is another one."""
    state = file.stat()
    return {"file": str(file.resolve()), "frame": frame, "bytes": state.st_size, "written_ns": state.st_mtime_ns}


def _inputs_of_frame(frame: Frame, preprocess: Preprocess) -> Inputs:
    return inputs_of(frame.decode(), frame.run, preprocess)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]
