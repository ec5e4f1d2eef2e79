"""Which arguments are files, which are overrides, and who asks for help."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from triage.refusal import ConfigError

_KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w.@/]*\Z")


def wants_help(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for help."""
    return any(argument in ("-h", "--help", "help") for argument in arguments)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files and overrides. `key=value` is an override, unless a file of that name exists. Raises ConfigError for unknown options."""
    files, overrides = [], []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if argument.startswith("-"):
            raise ConfigError(f"unknown option {argument}; settings are written key=value (see --help)")
        if equals and _KEY.match(key) and not Path(argument).exists():
            overrides.append(argument)
        else:
            files.append(argument)
    return files, overrides


def overrides_only(verb: str, arguments: Sequence[str]) -> list[str]:
    """The overrides of a verb that takes no files."""
    files, overrides = split(arguments)
    if files:
        raise ConfigError(f"triage {verb} takes no files ({files[0]}); settings are written key=value (see triage {verb} --help)")
    return overrides


def files_of(verb: str, files: Sequence[str], configured: Sequence[str]) -> list[str]:
    """The files of a verb that needs some."""
    if not files and not configured:
        raise ConfigError(f"no files: write triage {verb} FILE... (see triage {verb} --help)")
    return [*files, *configured]
