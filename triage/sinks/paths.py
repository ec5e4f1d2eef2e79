"""Files of sinks: one a run, named safely whatever the run is called."""

from __future__ import annotations

import re
from pathlib import Path

from triage.core import TriageError

_UNFIT = re.compile(r"[^A-Za-z0-9._+=@-]+")
_LONGEST = 120


class SinkError(TriageError):
    """Results could not be written; the message names the file and the mend."""


def safe_name(run_id: str) -> str:
    """The run's id without what file systems and shells mind: separators, spaces, leading dots, excessive length."""
    return _UNFIT.sub("_", run_id).lstrip("._-")[:_LONGEST] or "run"


class RunPaths:
    """One file a run from a template that contains `{run}`; two runs never share a file.

    Raises SinkError where the template has no `{run}`.
    """

    def __init__(self, template: str, key: str) -> None:
        if "{run}" not in template:
            raise SinkError(f"{key}={template}: the path must contain {{run}}, for there is one file a run")
        self._template = template
        self._taken: set[str] = set()

    def of(self, run_id: str) -> Path:
        """The run's own path; its folder is made. Raises SinkError where it cannot be."""
        wanted = name = safe_name(run_id)
        nth = 1
        while name.lower() in self._taken:  # some file systems take upper for lower case
            nth += 1
            name = f"{wanted}-{nth}"
        self._taken.add(name.lower())
        path = Path(self._template.replace("{run}", name)).expanduser()
        make_folder(path)
        return path


def make_folder(path: Path) -> None:
    """The folder that the file is to lie in. Raises SinkError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"{path}: its folder cannot be made ({error.strerror or error}); set another path") from error
