"""The command line: which verb, and what its exit status is."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path

from triage.core import TriageError

VERBS = {
    "run": ("triage.commands.run", "judge the frames of files"),
    "listen": ("triage.commands.listen", "judge a detector's stream as it comes"),
    "replay": ("triage.commands.replay", "a detector in a box: send a recorded run as a stream"),
    "demo": ("triage.commands.demo", "a detector in a box, the listener and the live page, in one"),
}
DEVELOPER_VERBS = {
    "simulate": "simulate labelled training frames",
    "train": "train a network",
    "evaluate": "measure a network on the frozen evaluation set",
    "export": "write a trained network as ONNX",
    "label": "the label store: import, export, merge, list, undo",
}
LATER_VERBS = ("relay", "tune")
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `triage ARGV...` and gives the exit status: 0, 1 when files or frames could not be processed, 2 for bad usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    _choose_numba_cache()
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if verb in ("-h", "--help", "help"):
        print(_overview())
        return OK
    if verb == "--version":
        print(f"triage {_version()}")
        return OK
    try:
        return _run_verb(verb, rest)
    except BrokenPipeError:
        _forget_stdout()
        return OK
    except TriageError as error:
        print(f"triage {verb}: {error}", file=sys.stderr)
        return USAGE if _is_usage(error) else FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _run_verb(verb: str, rest: list[str]) -> int:
    if verb in VERBS:
        module = import_module(VERBS[verb][0])
        if any(argument in ("-h", "--help") for argument in rest):
            print(module.HELP, end="")
            return OK
        run: Callable[[Sequence[str]], int] = getattr(module, verb)
        return run(rest)
    if verb in DEVELOPER_VERBS:
        return _developer_verb(verb)(rest)
    if verb in LATER_VERBS:
        print(f"triage {verb}: not in this version", file=sys.stderr)
        return USAGE
    print(f"triage: no verb {verb!r}; the verbs are {', '.join([*VERBS, *DEVELOPER_VERBS])}", file=sys.stderr)
    return USAGE


def _developer_verb(verb: str) -> Callable[[list[str]], int]:
    """A verb of the checkout, found by its entry point; where it is absent, one that says so."""

    def absent(_argv: list[str]) -> int:
        print(f"triage {verb}: only in a checkout with the train extra: pip install -e '.[train]'", file=sys.stderr)
        return USAGE

    for entry in metadata.entry_points(group="triage.verbs", name=verb):
        try:
            found: Callable[[list[str]], int] = entry.load()
        except ImportError:
            return absent
        return found
    return absent


def _is_usage(error: TriageError) -> bool:
    """Whether the configuration is to blame: exit status 2."""
    from triage.refusal import ConfigError  # pydantic takes a tenth of a second to import, and `--help` does without

    return isinstance(error, ConfigError)


def _overview() -> str:
    verbs = [(name, what) for name, (_, what) in VERBS.items()]
    lines = [f"  {name:<10} {what}" for name, what in verbs]
    developer = [f"  {name:<10} {what}" for name, what in DEVELOPER_VERBS.items()]
    return "\n".join(
        [
            "triage: early red flags for X-ray diffraction frames",
            "",
            "usage: triage VERB [FILE...] [key=value ...]",
            "",
            *lines,
            "",
            "from a checkout with the train extra (pip install -e '.[train]'):",
            *developer,
            "",
            "triage VERB --help shows examples.",
        ]
    )


def _version() -> str:
    try:
        return metadata.version("triage")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _choose_numba_cache() -> None:
    """Lets compiled loops be kept where neither the package's folder nor the user's cache can be written to."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    user_wide = cache if cache.exists() else cache.parent
    if "NUMBA_CACHE_DIR" in os.environ or os.access(Path(__file__).parent, os.W_OK) or os.access(user_wide, os.W_OK):
        return
    folder = Path(tempfile.gettempdir()) / f"triage-numba-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    owner = folder.stat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o077:  # somebody else's: what is compiled there must not be run
        folder = Path(tempfile.mkdtemp(prefix="triage-numba-"))
    os.environ["NUMBA_CACHE_DIR"] = str(folder)


def _forget_stdout() -> None:
    """Whoever read standard output has gone; Python must not complain of it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
