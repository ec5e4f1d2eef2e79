"""An array as it travels: its shape and type, and bytes that stay compressed until somebody asks for the numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from triage.wire.compression import MAX_DECODED_BYTES, Compression, compress, decompress
from triage.wire.errors import WireError, brief

DTYPES = frozenset(
    {"|u1", "|i1"} | {f"{order}{kind}{size}" for order in "<>" for kind in "ui" for size in (2, 4, 8)} | {"<f4", ">f4", "<f8", ">f8"}
)
"""NumPy's names of the element types that are understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedArray:
    """An array still in its bytes. Raises WireError when its shape or type cannot be true; the bytes are not looked at before `decode`."""

    shape: tuple[int, ...]
    """(slow, fast) for images; (n,) for tables."""
    dtype: str
    """One of DTYPES."""
    payload: bytes
    compression: Compression = "none"
    element_size: int = 0
    """Bytes that bslz4 shuffled together; 0 means the size of `dtype`."""
    column_major: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise WireError(f"element type {brief(self.dtype)} is not understood")
        if not self.shape or any(type(n) is not int or n < 1 for n in self.shape):
            raise WireError(f"an array of shape {'x'.join(brief(n) for n in self.shape[:8]) or '()'} cannot be")
        if self.n_bytes > MAX_DECODED_BYTES:
            shape = "x".join(brief(n) for n in self.shape[:8])
            raise WireError(f"an array of shape {shape} and type {self.dtype} is refused (at most {MAX_DECODED_BYTES} bytes)")

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return int(self.dtype[2:])

    @property
    def n_bytes(self) -> int:
        """Decoded size."""
        return math.prod(self.shape) * self.itemsize

    def decode(self) -> npt.NDArray[Any]:
        """The numbers, C-contiguous, in the machine's byte order, not shared. Raises WireError when the bytes do not hold them."""
        flat = decompress(self.compression, self.payload, self.n_bytes, self.element_size or self.itemsize).view(self.dtype)
        array = flat.reshape(self.shape, order="F" if self.column_major else "C")
        return np.ascontiguousarray(array, dtype=np.dtype(self.dtype).newbyteorder("="))

    @classmethod
    def encode(cls, array: npt.NDArray[Any], compression: Compression = "bslz4") -> EncodedArray:
        """`array` as it would travel, little-endian, compressed. Raises WireError for element types that cannot travel."""
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        dtype = little.dtype.str
        if dtype not in DTYPES:
            raise WireError(f"element type {array.dtype} cannot be sent")
        return cls(shape=tuple(int(n) for n in array.shape), dtype=dtype, payload=compress(compression, little), compression=compression)
