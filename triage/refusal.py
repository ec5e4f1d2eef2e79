"""What is wrong with a configuration, as one line that names the key and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from triage.core import TriageError


class ConfigError(TriageError):
    """The configuration cannot be used; the message names the key and the mend."""


def problem_line(error: ValidationError, known: Sequence[str]) -> str:
    """The first problem as one line that names the key and the mend; `known` are the keys that exist."""
    problems = error.errors(include_url=False)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return _describe(problems[0], known) + more


_RELATIONS = {"greater_than": ("gt", ">"), "greater_than_equal": ("ge", ">="), "less_than": ("lt", "<"), "less_than_equal": ("le", "<=")}


_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "none_required": "null, in this version",
    "model_type": "a mapping of keys",
    "tuple_type": "a list of numbers",
    "list_type": "a list",
}


def _describe(problem: ErrorDetails, known: Sequence[str]) -> str:
    key = _key(problem, known)
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    shown = "null" if value is None else repr(value)
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(key, [name for name in known if name != key], n=1)
        return f"{key}: no such key" + (f"; did you mean {close[0]}?" if close else "")
    if kind == "too_long" or (kind == "missing" and isinstance(problem["loc"][-1], int)):
        return f"{key}: {shown} has the wrong number of values" + (
            "; [slow, fast] is wanted" if key.endswith("_px") or key.endswith("_mm") else ""
        )
    if kind == "missing" and isinstance(problem["loc"][-1], str):
        return f"{key}: missing; it has no default"
    if kind in _RELATIONS:
        name, relation = _RELATIONS[kind]
        return f"{key}: {value} is out of range, must be {relation} {context[name]:g}"
    if kind in ("literal_error", "enum"):
        return f"{key}: {shown} is not one of {str(context['expected']).replace(' or ', ', ')}"
    if kind == "value_error":
        return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
    return f"{key}: {shown} is not accepted, must be {_WANTED.get(kind, problem['msg'].removeprefix('Input should be '))}"


def _key(problem: ErrorDetails, known: Sequence[str]) -> str:
    """The dotted key, without the union members and list positions that pydantic puts into it."""
    key = ""
    for part in problem["loc"]:
        longer = f"{key}.{part}" if key else str(part)
        last = part == problem["loc"][-1] and isinstance(part, str) and problem["type"] in ("extra_forbidden", "missing")
        if longer in known or last:
            key = longer
    return key or ".".join(map(str, problem["loc"]))
