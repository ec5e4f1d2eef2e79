"""bitshuffle-LZ4 and LZ4 as DECTRIS detectors send them, decoded within the size that the array's header promises.

Formats: the DECTRIS CBOR tag 56500, whose `bslz4` and `lz4` carry the 12-byte head of the HDF5 filters (big-endian uint64 size, uint32
block size; bitshuffle's bshuf_h5filter.c, HDFGroup's LZ4_HDF5_format.md), and the raw LZ4 block of stream v1's `lz4<` (SIMPLON API manual).
"""

from __future__ import annotations

import struct
from typing import Any, Literal

import bitshuffle
import lz4.block
import numpy as np
import numpy.typing as npt

from triage.wire.errors import WireError

Compression = Literal["none", "bslz4", "lz4", "lz4_block"]
"""`lz4` has HDF5 framing, `lz4_block` is one raw LZ4 block."""
Bytes = npt.NDArray[np.uint8]

MAX_DECODED_BYTES = 1 << 30
"""Four times a 64-megapixel detector at 32 bits; more is refused before anything is allocated."""
LZ4_MAX_RATIO = 255
"""LZ4 cannot compress better than this (lz4.github.io, "LZ4_compressBound"); a larger promise is a lie."""
HEAD = struct.Struct(">QI")
BLOCK_HEAD = struct.Struct(">I")
BLOCK_BYTES = 8192
"""bitshuffle's default block (BSHUF_TARGET_BLOCK_SIZE_B), and what SIMPLON sends."""
SHUFFLED_TOGETHER = 8
"""bitshuffle works on multiples of 8 elements (BSHUF_BLOCKED_MULT); the rest is appended as it is."""
ELEMENT_TYPES = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8"}


def decompress(compression: Compression, payload: bytes, n_bytes: int, element_size: int) -> Bytes:
    """The `n_bytes` decoded bytes of `payload`; `element_size` in bytes matters to bslz4 only.

    Raises WireError when the payload is cut, corrupt, or of another size than promised.
    """
    if n_bytes > MAX_DECODED_BYTES:
        raise WireError(f"an array of {n_bytes} bytes is refused (at most {MAX_DECODED_BYTES})")
    if compression != "none" and n_bytes > LZ4_MAX_RATIO * len(payload):
        raise WireError(
            f"{compression}: cut, or a bomb: {len(payload)} bytes cannot hold the {n_bytes} bytes that its shape and type promise"
        )
    if compression == "bslz4":
        return _bslz4(payload, n_bytes, element_size)
    if compression == "lz4":
        return _lz4(payload, n_bytes)
    if compression == "lz4_block":
        return np.frombuffer(_block(payload, n_bytes), dtype=np.uint8)
    if len(payload) != n_bytes:
        raise WireError(f"the array has {len(payload)} bytes but its shape and type need {n_bytes}")
    return np.frombuffer(bytearray(payload), dtype=np.uint8)


def compress(compression: Compression, array: npt.NDArray[Any]) -> bytes:
    """The bytes of a C-contiguous array; bslz4 shuffles by its element size."""
    raw = np.ascontiguousarray(array)
    if compression == "none":
        return raw.tobytes()
    if compression == "lz4_block":
        return bytes(lz4.block.compress(raw.tobytes(), store_size=False))
    if compression == "bslz4":
        unsigned = raw.reshape(-1).view(ELEMENT_TYPES[raw.itemsize])
        return HEAD.pack(raw.nbytes, BLOCK_BYTES) + bytes(bitshuffle.compress_lz4(unsigned, BLOCK_BYTES // raw.itemsize))
    return _lz4_framed(raw.tobytes())


def promised_bytes(payload: bytes) -> int:
    """The decoded size that the 12-byte head of a `bslz4` or `lz4` payload states."""
    return _head("the payload", payload)[0]


def _head(name: str, payload: bytes) -> tuple[int, int]:
    if len(payload) < HEAD.size:
        raise WireError(f"{name}: cut within its 12-byte head ({len(payload)} bytes)")
    total, block = HEAD.unpack_from(payload)
    return total, block


def _checked_head(name: str, payload: bytes, n_bytes: int) -> int:
    total, block = _head(name, payload)
    if total != n_bytes:
        raise WireError(f"{name}: its head states {total} bytes but the array's shape and type need {n_bytes}")
    return block


def _bslz4(payload: bytes, n_bytes: int, element_size: int) -> Bytes:
    block_bytes = _checked_head("bslz4", payload, n_bytes) or BLOCK_BYTES
    if element_size not in ELEMENT_TYPES or n_bytes % element_size:
        raise WireError(f"bslz4: element size {element_size} does not divide {n_bytes} bytes")
    if block_bytes % (SHUFFLED_TOGETHER * element_size):
        raise WireError(f"bslz4: a block of {block_bytes} bytes is not a multiple of 8 elements of {element_size} bytes")
    n_elements, block = n_bytes // element_size, block_bytes // element_size
    rest = n_elements % SHUFFLED_TOGETHER
    _check_blocks(payload, -(-(n_elements - rest) // block), rest * element_size)
    data = np.frombuffer(payload, dtype=np.uint8, offset=HEAD.size)
    try:
        shuffled: npt.NDArray[Any] = bitshuffle.decompress_lz4(data, (n_elements,), np.dtype(ELEMENT_TYPES[element_size]), block)
    except (RuntimeError, ValueError) as error:
        raise WireError(f"bslz4: corrupt payload ({error})") from None
    return shuffled.view(np.uint8)


def _check_blocks(payload: bytes, n_blocks: int, tail: int) -> None:
    """Walk the block lengths: bitshuffle's decoder trusts them, and would read beyond a cut payload."""
    position, end, length_at = HEAD.size, len(payload), BLOCK_HEAD.unpack_from
    for _ in range(n_blocks):
        if position + 4 > end:
            raise WireError(f"bslz4: the payload is cut ({end} bytes)")
        position += 4 + length_at(payload, position)[0]
    if position + tail > end:
        raise WireError(f"bslz4: the payload is cut or a block length is corrupt ({end} bytes, {position + tail} needed)")


def _lz4(payload: bytes, n_bytes: int) -> Bytes:
    block_bytes = _checked_head("lz4", payload, n_bytes)
    if block_bytes == 0:
        raise WireError("lz4: block size 0")
    decoded = bytearray()
    position = HEAD.size
    while len(decoded) < n_bytes:
        if position + 4 > len(payload):
            raise WireError(f"lz4: the payload is cut ({len(payload)} bytes)")
        (length,) = BLOCK_HEAD.unpack_from(payload, position)
        chunk = payload[position + 4 : position + 4 + length]
        if len(chunk) != length or length == 0:
            raise WireError(f"lz4: the payload is cut or a block length is corrupt ({len(payload)} bytes)")
        size = min(block_bytes, n_bytes - len(decoded))
        decoded += chunk if length == size else _block(chunk, size)
        position += 4 + length
    return np.frombuffer(decoded, dtype=np.uint8)


def _block(payload: bytes, n_bytes: int) -> bytearray:
    try:
        decoded: bytearray = lz4.block.decompress(payload, uncompressed_size=n_bytes, return_bytearray=True)
    except (lz4.block.LZ4BlockError, ValueError, OverflowError) as error:
        raise WireError(f"lz4: corrupt or cut payload ({error})") from None
    if len(decoded) != n_bytes:
        raise WireError(f"lz4: a block decodes to {len(decoded)} bytes, {n_bytes} were promised")
    return decoded


def _lz4_framed(raw: bytes, block_bytes: int = 1 << 16) -> bytes:
    parts = [HEAD.pack(len(raw), block_bytes)]
    for start in range(0, len(raw), block_bytes):
        chunk = raw[start : start + block_bytes]
        packed = bytes(lz4.block.compress(chunk, store_size=False))
        packed = chunk if len(packed) >= len(chunk) else packed  # a block that does not shrink is stored, and told by its length
        parts += [BLOCK_HEAD.pack(len(packed)), packed]
    return b"".join(parts)
