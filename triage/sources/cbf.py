"""CBF files: bytes to header text and pixels (imgCIF/CBF, International Tables G, 2.3; the byte-offset compression of CBFlib)."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from fabio.compression import decByteOffset

from triage.core import FrameError, Pixels, SourceError

STARTER = b"\x0c\x1a\x04\xd5"
"""Precedes the binary data of every CBF section."""
HEADER_LIMIT = 1 << 20
"""No CBF header is longer; a file without a binary section is not read to its end."""
HEADER_CHUNK = 1 << 16
PIXEL_LIMIT = 1 << 28
"""No detector has more pixels; a larger promise is refused before anything is allocated."""
ELEMENT_TYPES = {
    "signed 8-bit integer": "int8",
    "unsigned 8-bit integer": "uint8",
    "signed 16-bit integer": "int16",
    "unsigned 16-bit integer": "uint16",
    "signed 32-bit integer": "int32",
    "unsigned 32-bit integer": "uint32",
}
UNREADABLE = (OSError, EOFError, zlib.error, ValueError)
"""What reading a damaged or absent file raises, compressed or not."""


def open_compressed(path: Path) -> IO[bytes]:
    """A file opened for reading bytes; `.gz` and `.bz2` are decompressed."""
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".bz2":
        return cast(IO[bytes], bz2.open(path, "rb"))
    return path.open("rb")


@dataclass(frozen=True, slots=True, kw_only=True)
class CbfHeader:
    """What stands before the pixels of a CBF file."""

    text: str
    """All of the CIF text before the binary section."""
    mime: dict[str, str]
    """The binary section's own header, keys in lower case."""
    shape_px: tuple[int, int]
    dtype: np.dtype[Any]
    data_start: int
    """Offset of the first compressed byte."""


def read_header(path: Path) -> CbfHeader:
    """The header of a CBF file, without its pixels. Raises SourceError in one line."""
    try:
        with open_compressed(path) as file:
            content = file.read(HEADER_CHUNK)
            while STARTER not in content and len(content) < HEADER_LIMIT and (more := file.read(HEADER_CHUNK)):
                content += more
        return parse_header(content, str(path))
    except UNREADABLE as error:
        raise SourceError(f"{path}: cannot be read ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """An exception in at most one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def parse_header(content: bytes, name: str) -> CbfHeader:
    """The header at the start of `content`. Raises SourceError naming what is absent or unknown."""
    end = content.find(STARTER)
    if end < 0:
        raise SourceError(f"{name}: no binary section in the first {len(content)} bytes: not a CBF image, or cut short")
    text = content[:end].decode("latin-1").replace("\r\n", "\n")
    head, _, binary = text.partition("--CIF-BINARY-FORMAT-SECTION--")
    mime = {key.lower(): value.strip(' "') for key, value in re.findall(r"^([\w-]+): *(.*?);?\s*$", binary, re.MULTILINE)}
    if "x-CBF_BYTE_OFFSET" not in binary:
        raise SourceError(f"{name}: its pixels are not packed as x-CBF_BYTE_OFFSET; convert it with cif2cbf or fabio")
    element = mime.get("x-binary-element-type", "signed 32-bit integer")
    if element not in ELEMENT_TYPES:
        raise SourceError(f"{name}: unknown X-Binary-Element-Type {element!r}")
    return CbfHeader(
        text=head, mime=mime, shape_px=_shape(mime, name), dtype=np.dtype(ELEMENT_TYPES[element]), data_start=end + len(STARTER)
    )


def _shape(mime: dict[str, str], name: str) -> tuple[int, int]:
    try:
        slow, fast = int(mime["x-binary-size-second-dimension"]), int(mime["x-binary-size-fastest-dimension"])
    except (KeyError, ValueError) as error:
        raise SourceError(f"{name}: the binary section states no X-Binary-Size-Fastest-Dimension and -Second-Dimension") from error
    if slow < 1 or fast < 1 or slow * fast > PIXEL_LIMIT:
        raise SourceError(f"{name}: a frame of {slow} x {fast} pixels is not plausible")
    return slow, fast


def read_pixels(path: Path) -> Pixels:
    """The pixels of a CBF file, (slow, fast). Raises FrameError when they are cut short or fail their checksum."""
    try:
        with open_compressed(path) as file:
            content = file.read()
        return parse_pixels(content, str(path))
    except UNREADABLE as error:
        raise FrameError(f"{path}: cannot be read ({reason(error)})") from error
    except SourceError as error:
        raise FrameError(str(error)) from error


def parse_pixels(content: bytes, name: str) -> Pixels:
    """The pixels of a CBF image given as bytes, (slow, fast)."""
    header = parse_header(content, name)
    slow, fast = header.shape_px
    try:
        size = int(header.mime.get("x-binary-size", len(content) - header.data_start))
    except ValueError as error:
        raise FrameError(f"{name}: X-Binary-Size is not a number") from error
    packed = content[header.data_start : header.data_start + size]
    if len(packed) < size or size < slow * fast:  # byte offset spends at least one byte a pixel
        raise FrameError(f"{name}: cut short: {len(packed)} of {max(size, slow * fast)} bytes of pixels")
    checksum = header.mime.get("content-md5")
    if checksum and base64.b64encode(hashlib.md5(packed, usedforsecurity=False).digest()).decode() != checksum:
        raise FrameError(f"{name}: damaged: the pixels do not have the checksum that the header states")
    pixels = decByteOffset(packed, size=slow * fast, dtype="int32" if header.dtype == np.int32 else "int64")
    if pixels.size != slow * fast:
        raise FrameError(f"{name}: damaged: {pixels.size} of {slow * fast} pixels")
    return np.asarray(pixels, dtype=header.dtype).reshape(slow, fast)
