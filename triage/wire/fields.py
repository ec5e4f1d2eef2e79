"""Reading loosely typed maps: what is absent is None, what is there but wrong is None and noted, nothing is guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from triage.wire.errors import WireError, brief

MAX_COUNT = 1 << 53
"""Image numbers and sizes beyond this are nonsense."""
MAX_DEPTH = 32
MAX_NODES = 100_000
"""Of user data: more is refused (references may repeat one part exponentially often)."""


class Fields:
    """The fields of one received map; `problems` collects a line for each that is there but cannot be used."""

    def __init__(self, values: Mapping[Any, Any]) -> None:
        self._values = values
        self.problems: list[str] = []

    def _note(self, key: str, wanted: str, value: object) -> None:
        self.problems.append(f"{key} is {brief(value)}, not {wanted}")

    def raw(self, key: str) -> Any:
        """Whatever is there, or None."""
        return self._values.get(key)

    def number(self, key: str) -> float | None:
        """A finite number."""
        value = self._values.get(key)
        number = finite(value)
        if number is None and value is not None:
            self._note(key, "a finite number", value)
        return number

    def count(self, key: str) -> int | None:
        """A whole number, zero or more."""
        value = self._values.get(key)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value <= MAX_COUNT:
            self._note(key, "a whole number", value)
            return None
        return value

    def text(self, key: str) -> str | None:
        """A text."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, str):
            self._note(key, "a text", value)
            return None
        return value

    def flag(self, key: str) -> bool | None:
        """A boolean; stream v1 writers also send 0 and 1."""
        value = self._values.get(key)
        if value is None or isinstance(value, bool):
            return value
        if value in (0, 1):
            return bool(value)
        self._note(key, "true or false", value)
        return None

    def date(self, key: str) -> datetime | None:
        """A date and time."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, datetime):
            self._note(key, "a date", value)
            return None
        return value

    def vector(self, key: str, length: int) -> tuple[float, ...] | None:
        """`length` finite numbers."""
        value = self._values.get(key)
        if value is None:
            return None
        numbers = [finite(x) for x in value] if isinstance(value, (list, tuple)) and len(value) == length else [None]
        known = tuple(x for x in numbers if x is not None)
        if len(known) != length:
            self._note(key, f"{length} finite numbers", value)
            return None
        return known

    def pair(self, slow_key: str, fast_key: str) -> tuple[float, float] | None:
        """Two numbers as (slow, fast); None unless both are there."""
        slow, fast = self.number(slow_key), self.number(fast_key)
        return None if slow is None or fast is None else (slow, fast)

    def map(self, key: str) -> Mapping[str, Any]:
        """A map with text keys; empty where there is none."""
        value = self._values.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._note(key, "a map", value)
            return {}
        return {k: v for k, v in value.items() if isinstance(k, str)}

    def required_count(self, key: str, what: str) -> int:
        """A whole number without which the message means nothing. Raises WireError."""
        value = self.count(key)
        if value is None:
            raise WireError(f"{what}: {key} is {brief(self._values.get(key))}, not a whole number")
        return value


def finite(value: object) -> float | None:
    """`value` as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def plain(value: Any) -> Any:
    """User data in plain dicts, tuples and scalars; whatever else is in it is left out. Raises WireError when it is endless."""
    return _plain(value, MAX_DEPTH, [MAX_NODES])


def _plain(value: Any, depth: int, nodes: list[int]) -> Any:
    nodes[0] -= 1
    if depth == 0 or nodes[0] < 0:
        raise WireError(f"user data nested deeper than {MAX_DEPTH} or larger than {MAX_NODES} items")
    if isinstance(value, Mapping):
        return {k: _plain(v, depth - 1, nodes) for k, v in value.items() if isinstance(k, (str, int))}
    if isinstance(value, (list, tuple)):
        return tuple(_plain(v, depth - 1, nodes) for v in value)
    return value if isinstance(value, (str, bytes, int, float, bool)) else None
