"""What can be wrong with a message."""

from __future__ import annotations

from triage.core import FrameError


class WireError(FrameError):
    """A message, or the pixels in it, cannot be understood; the text names what is wrong with it."""


def brief(value: object, limit: int = 60) -> str:
    """`repr` of a received value, short enough for one line of a log; large containers are only named."""
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    if isinstance(value, (int, float, str, bool)) or value is None:
        text = repr(value) if not isinstance(value, int) or value.bit_length() < 200 else f"an integer of {value.bit_length()} bits"
        return text if len(text) <= limit else text[: limit - 3] + "..."
    return f"a {type(value).__name__}"
