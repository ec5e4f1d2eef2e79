"""CBOR with the typed arrays of RFC 8746 and the DECTRIS compression tag.

Tags are read after parsing: cbor2's tag hooks have another signature in every major version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cbor2

from triage.wire.arrays import EncodedArray
from triage.wire.compression import Compression, promised_bytes
from triage.wire.errors import WireError, brief

SELF_DESCRIBED = 55799
ROW_MAJOR, COLUMN_MAJOR = 40, 1040
COMPRESSED = 56500
MAX_DEPTH = 32

DTYPE_OF_TAG: dict[int, str] = {
    64: "|u1", 65: ">u2", 66: ">u4", 67: ">u8", 68: "|u1", 69: "<u2", 70: "<u4", 71: "<u8",
    72: "|i1", 73: ">i2", 74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8",
    81: ">f4", 82: ">f8", 85: "<f4", 86: "<f8",
}  # fmt: skip
"""RFC 8746, table 1. Halves (80, 84) and quadruples (83, 87) do not occur on detectors and are refused; 76 is reserved."""
TAG_OF_DTYPE = {dtype: tag for tag, dtype in DTYPE_OF_TAG.items() if tag != 68}
TYPED_TAGS = range(64, 88)


def loads(data: bytes) -> Mapping[Any, Any]:
    """The top-level map of a message. Raises WireError when there is none."""
    try:
        value = cbor2.loads(data, max_depth=MAX_DEPTH)
    except (cbor2.CBORDecodeError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise WireError(f"not a CBOR message: {str(error)[:120]}") from None
    if not isinstance(value, Mapping):
        raise WireError(f"not a CBOR map but {brief(value)}")
    return value


def dumps(value: Mapping[str, Any]) -> bytes:
    """A self-described CBOR map."""
    return cbor2.dumps(cbor2.CBORTag(SELF_DESCRIBED, value))


def read_image(value: object, name: str) -> EncodedArray:
    """A two-dimensional array (tag 40 or 1040), still compressed. Raises WireError naming `name`."""
    if not isinstance(value, cbor2.CBORTag) or value.tag not in (ROW_MAJOR, COLUMN_MAJOR):
        raise WireError(f"{name}: {_what(value)} is not a multi-dimensional array (tag 40)")
    content = value.value
    if not isinstance(content, (list, tuple)) or len(content) != 2:
        raise WireError(f"{name}: tag {value.tag} must hold dimensions and an array")
    shape, array = content
    if not isinstance(shape, (list, tuple)) or len(shape) != 2:
        raise WireError(f"{name}: an image needs two dimensions")
    return _typed(array, name, tuple(shape), column_major=value.tag == COLUMN_MAJOR)


def read_table(value: object, name: str) -> EncodedArray:
    """A typed array of one dimension (tags 64 to 87). Raises WireError naming `name`."""
    return _typed(value, name, None, column_major=False)


def write_image(array: EncodedArray) -> cbor2.CBORTag:
    """The inverse of `read_image`."""
    return cbor2.CBORTag(COLUMN_MAJOR if array.column_major else ROW_MAJOR, [list(array.shape), write_table(array)])


def write_table(array: EncodedArray) -> cbor2.CBORTag:
    """The inverse of `read_table`."""
    if array.compression == "lz4_block":
        raise WireError("stream2 has no raw LZ4 blocks; encode the array as lz4 or bslz4")
    payload: Any = array.payload
    if array.compression != "none":
        element_size = (array.element_size or array.itemsize) if array.compression == "bslz4" else 0
        payload = cbor2.CBORTag(COMPRESSED, [array.compression, element_size, payload])
    return cbor2.CBORTag(TAG_OF_DTYPE[array.dtype], payload)


def _typed(value: object, name: str, shape: tuple[int, ...] | None, *, column_major: bool) -> EncodedArray:
    if not isinstance(value, cbor2.CBORTag) or value.tag not in TYPED_TAGS:
        raise WireError(f"{name}: {_what(value)} is not a typed array (tags 64 to 87)")
    dtype = DTYPE_OF_TAG.get(value.tag)
    if dtype is None:
        raise WireError(f"{name}: element type of tag {value.tag} is not understood")
    compression, element_size, payload = _bytes(value.value, name)
    itemsize = int(dtype[2:])
    if shape is None:
        shape = ((len(payload) if compression == "none" else promised_bytes(payload)) // itemsize,)
    try:
        return EncodedArray(
            shape=shape,
            dtype=dtype,
            payload=payload,
            compression=compression,
            element_size=0 if element_size == itemsize else element_size,
            column_major=column_major,
        )
    except WireError as error:
        raise WireError(f"{name}: {error}") from None


def _bytes(value: object, name: str) -> tuple[Compression, int, bytes]:
    if isinstance(value, bytes):
        return "none", 0, value
    if not isinstance(value, cbor2.CBORTag) or value.tag != COMPRESSED:
        raise WireError(f"{name}: {_what(value)} is not a byte string")
    content = value.value
    if not isinstance(content, (list, tuple)) or len(content) != 3:
        raise WireError(f"{name}: tag 56500 must hold algorithm, modifier and bytes")
    algorithm, modifier, payload = content
    if not isinstance(payload, bytes):
        raise WireError(f"{name}: the compressed data is {brief(payload)}, not bytes")
    if algorithm == "lz4":
        return "lz4", 0, payload
    if algorithm != "bslz4":
        raise WireError(f"{name}: compression {brief(algorithm)} is not understood")
    if type(modifier) is not int or modifier not in (1, 2, 4, 8):
        raise WireError(f"{name}: bslz4 element size {brief(modifier)} cannot be")
    return "bslz4", modifier, payload


def _what(value: object) -> str:
    return f"tag {value.tag}" if isinstance(value, cbor2.CBORTag) else brief(value)
