"""The frames that labels are about: read by triage's own sources, one at a time."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from training.labels.label import Label
from triage.core import Frame, FrameError, RunEnd, SourceError
from triage.sources.files import FileSource
from triage.sources.naming import is_hdf5, series, template
from triage.sources.resolve import RunResolver

_DATA_FILE = re.compile(r"_data_\d+(?=\.\w+$)")
_OPEN_SOURCES = 64


class FrameLibrary:
    """Finds frames by source and number. Sources with relative paths are looked for here, then beside the label store.

    A source is an HDF5 file, or an image file: then frame k is the k-th file of its series from that file on, which is frame 0.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._frames_of = lru_cache(maxsize=_OPEN_SOURCES)(_frames_of)

    def frame(self, label: Label) -> Frame:
        """The frame of a label, still compressed. Raises SourceError or FrameError, one line, where it cannot be had."""
        path = self.path(label)
        frames = self._frames_of(str(path))
        if is_hdf5(path):
            if label.frame not in frames:
                raise FrameError(f"{path}: it has no frame {label.frame}")
            return frames[label.frame]
        return frames[0]

    def path(self, label: Label) -> Path:
        """The file that holds the frame. Raises SourceError where there is none."""
        source = Path(label.source).expanduser()
        path = next((p for p in (source, self._folder / source) if p.is_file()), None)
        if path is None:
            raise SourceError(f"{label.source}: no such file; run where its path is true, or put the label store beside it")
        if label.frame == 0 or is_hdf5(path):
            return path
        following = _series_from(path)
        if label.frame >= len(following):
            raise FrameError(f"{path}: its series has no frame {label.frame}")
        return Path(following[label.frame])


def run_key(source: str) -> str:
    """What all frames of one run have in common: the HDF5 file (data files of one master are one), the images' name template."""
    path = Path(source)
    return _DATA_FILE.sub("_data_#", source) if is_hdf5(path) else template(path)[0]


def is_validation(source: str, share: float) -> bool:
    """Whether a source's run is validated on: by a hash of its name, so that it is for good, whatever is labelled later."""
    digest = hashlib.sha256(Path(run_key(source)).name.encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def _frames_of(path: str) -> dict[int, Frame]:
    """Every frame of one file by its number. Raises SourceError where it cannot be read."""
    events = list(FileSource([path], resolver=RunResolver(), group="file"))
    frames = {event.index: event for event in events if isinstance(event, Frame)}
    if not frames:
        reasons = [event.reason for event in events if isinstance(event, RunEnd) and event.reason]
        raise SourceError(reasons[0] if reasons else f"{path}: it has no frames")
    return frames


def _series_from(path: Path) -> list[str]:
    """The image files of one folder and name template, in number order, from this one on."""
    [same] = series([str(other) for other in path.parent.iterdir() if template(other)[0] == template(path)[0]])
    return same[same.index(str(path)) :]
