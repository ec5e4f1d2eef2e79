"""From the command line's overrides to checked settings: Hydra composes `conf/`, then every key, type and range is checked.

Values of keys that hold text (paths, endpoints) are set as they are, past Hydra's grammar: `{run}` and `=` need no quotes.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

import triage
from triage.refusal import ConfigError, problem_line

T = TypeVar("T", bound=BaseModel)

log = logging.getLogger(__name__)

PACKAGE = Path(triage.__file__).resolve().parent
NOT_YET = {
    "flags.false_alarms_per_1000": "flags.false_alarms_per_1000: only null works in this version; set flags.FLAG.raise_at instead",
}
"""Keys of later versions; null is the one value each takes for now."""


def conf_dir() -> Path:
    """The folder of configuration files: in the installed package, or beside it in a checkout."""
    for folder in (PACKAGE / "conf", PACKAGE.parent / "conf"):
        if (folder / "run.yaml").is_file():
            return folder
    raise ConfigError(f"no configuration in {PACKAGE / 'conf'} or {PACKAGE.parent / 'conf'}: install triage again")


def released_dir() -> Path:
    """The folder of what is released with the program (network, demo run): in the installed package, or in a checkout's models/."""
    installed = PACKAGE / "released"
    return installed if installed.is_dir() else PACKAGE.parent / "models" / "released"


@dataclass(frozen=True, slots=True)
class Override:
    """One `key=value` of the command line."""

    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


def compose_settings(config_name: str, arguments: Sequence[str], schema: type[T]) -> T:
    """The checked settings of conf/`config_name`.yaml with these overrides.

    Raises ConfigError: one line that names the key and the mend.
    """
    overrides = [_parse(argument) for argument in arguments]
    folder = conf_dir()
    groups = {path.name: _options(path) for path in folder.iterdir() if path.is_dir()}
    choices: list[Override] = []
    values: list[Override] = []
    for override in map(_sugar, overrides):
        _refuse_later_versions(override)
        (choices if override.key.lstrip("+~") in groups else values).append(override)
    for choice in choices:
        _check_choice(choice, groups[choice.key.lstrip("+~")])
    tree = _compose(folder, config_name, [str(choice) for choice in choices])
    known = sorted(_dotted(tree))
    text_keys = {key for key, types in _leaf_types(schema) if _is_text(types)}
    hydra_values = []
    for override in values:
        _check_known(override.key, known, groups)
        if override.key not in text_keys:
            _check_grammar(override)
            hydra_values.append(str(override))
    if hydra_values:
        tree = _compose(folder, config_name, [*map(str, choices), *hydra_values])
    for override in values:
        if override.key in text_keys:
            _set(tree, override.key, _text(override.value))
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(problem_line(error, known)) from None


def _parse(argument: str) -> Override:
    key, equals, value = argument.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{argument!r} is not an override: write key=value")
    return Override(key.strip(), value)


def _sugar(override: Override) -> Override:
    """`model=PATH` is short for `model.path=PATH`."""
    return Override("model.path", override.value) if override.key == "model" and override.value != "default" else override


def _refuse_later_versions(override: Override) -> None:
    for key, line in NOT_YET.items():
        within = override.key == key or override.key.startswith(f"{key}.")
        if within and _unquoted(override.value) != "null":
            raise ConfigError(line)


def _options(group: Path) -> list[str]:
    return sorted(path.stem for path in group.glob("*.yaml"))


def _check_choice(choice: Override, options: list[str]) -> None:
    if _unquoted(choice.value) not in options:
        raise ConfigError(f"{choice.key}: {choice.value!r} is not one of {', '.join(options)}{_meant(choice.value, options)}")


def _check_known(key: str, known: list[str], groups: dict[str, list[str]]) -> None:
    plain = key.lstrip("+~")
    if plain in known:
        return
    if plain in groups or any(plain.startswith(f"{name}@") for name in groups):
        raise ConfigError(f"{key}: write {plain.split('@')[0]}=OPTION")
    raise ConfigError(f"{key}: no such key{_meant(plain, [*known, *groups])}; `triage --help` and conf/ list them")


def _check_grammar(override: Override) -> None:
    try:
        OverridesParser.create().parse_override(str(override))
    except HydraException:
        raise ConfigError(f"{override.key}: cannot read the value {override.value!r}; quote it: {override.key}='...'") from None


def _meant(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _compose(folder: Path, config_name: str, overrides: list[str]) -> dict[str, Any]:
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(folder), job_name="triage"):
            config = compose(config_name=config_name, overrides=overrides)
        tree = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error, overrides)) from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{folder / config_name}.yaml is not a mapping")
    return {str(key): value for key, value in tree.items()}


def _one_line(error: Exception, overrides: list[str]) -> str:
    """Hydra's complaint without its advice on several lines, with the override it is about where that can be told."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    guilty = [override for override in overrides if override.partition("=")[0].rpartition(".")[2] in str(error)]
    return first if not guilty or guilty[0] in first else f"{guilty[0]}: {first}"


def _dotted(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of a tree, inner ones too, in dotted form."""
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")


def _leaf_types(annotation: Any, prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Dotted key and possible types of every leaf of a pydantic model."""
    for name, field in annotation.model_fields.items():
        types = _alternatives(field.annotation)
        models = [t for t in types if isinstance(t, type) and issubclass(t, BaseModel)]
        for model in models:
            yield from _leaf_types(model, f"{prefix}{name}.")
        if not models:
            yield f"{prefix}{name}", types


def _alternatives(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [inner for part in get_args(annotation) for inner in _alternatives(part)]
    if origin is Literal:
        return [type(value) for value in get_args(annotation)]
    return [annotation]


def _is_text(types: list[Any]) -> bool:
    return set(types) - {type(None)} == {str}


def _unquoted(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"" else value


def _text(value: str) -> str | None:
    return None if value.strip() in ("null", "") else _unquoted(value)


def _set(tree: dict[str, Any], key: str, value: str | None) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        tree = tree[parent]
    tree[leaf] = value
