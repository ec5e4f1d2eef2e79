"""`python -m training.import_log RUN_FOLDER [URI [EXPERIMENT]]`: a training that ran without MLflow, recorded in it afterwards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from training.recording import ImportRefused, import_run

DEFAULTS = ("sqlite:///mlflow.db", "triage")
"""Where `triage train` records, and under which experiment."""
_MOST = 1 + len(DEFAULTS)


def main(argv: Sequence[str]) -> int:
    """The command line; the exit status."""
    if not 1 <= len(argv) <= _MOST or argv[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    folder, *given = argv
    uri, experiment = (*given, *DEFAULTS[len(given) :])
    try:
        run = import_run(Path(folder), uri, experiment)
    except ImportRefused as error:
        print(error, file=sys.stderr)
        return 2
    print(f"imported: {folder}: run {run} of {uri}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
