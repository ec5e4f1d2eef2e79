"""Matrices of three rows and columns in compiled code: NumPy's routines take ten times as long for so few numbers."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from triage.indexing.kernels import inverse3

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

_ROUNDS, _CONVERGED = 30, 1e-12
"""Of Newton's iteration, and the change of an element below which it has ended: near a rotation four or five are enough."""

Floats = npt.NDArray[np.floating[Any]]


@_jit
def _inverse(a):  # type: ignore[no-untyped-def]
    """(Determinant, inverse (3, 3)) of a (3, 3)."""
    result = np.empty((3, 3))
    return inverse3(a, result), result


def inverse(a: npt.ArrayLike) -> Floats:
    """The inverse of a matrix (3, 3); raises LinAlgError where there is none."""
    determinant, result = _inverse(np.ascontiguousarray(a, dtype=np.float64))
    if determinant == 0.0:
        raise np.linalg.LinAlgError("the matrix has no inverse")
    return np.asarray(result)


@_jit
def _polar(matrix):  # type: ignore[no-untyped-def]
    """(Whether there is one, the orthogonal factor (3, 3) of a matrix (3, 3)) by Newton's iteration (Higham, SIAM J. Sci. Stat. Comput. 7
    (1986) 1160); of a matrix with a positive determinant it is the nearest rotation.
    """
    here, inverted = matrix.copy(), np.empty((3, 3))
    for _ in range(_ROUNDS):
        if not inverse3(here, inverted) > 0.0:
            return False, here
        most = 0.0
        for i in range(3):
            for j in range(3):
                change = 0.5 * (inverted[j, i] - here[i, j])
                most = max(most, abs(change))
                here[i, j] += change
        if most < _CONVERGED:
            return True, here
    return False, here


def nearest_rotation(matrix: npt.ArrayLike) -> Floats:
    """The rotation nearest to a matrix (3, 3) (Kabsch, Acta Cryst. A32 (1976) 922)."""
    given = np.ascontiguousarray(matrix, dtype=np.float64)
    found, rotation = _polar(given)
    if found:
        return np.asarray(rotation)
    u, _, vt = np.linalg.svd(given)
    return np.asarray(u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt)


@_jit
def apart_rad(a, b):  # type: ignore[no-untyped-def]
    """The angle between the lattices of two matrices A (3, 3), float64, whatever their axes; infinite where they are of different cells."""
    change, inverted = np.empty((3, 3)), np.empty((3, 3))
    if inverse3(b, inverted) == 0.0:
        return np.inf
    for i in range(3):
        for j in range(3):
            change[i, j] = np.rint(inverted[i, 0] * a[0, j] + inverted[i, 1] * a[1, j] + inverted[i, 2] * a[2, j])
    back = np.empty((3, 3))
    if abs(abs(inverse3(change, back)) - 1.0) > 0.5:
        return np.inf
    turn = np.zeros((3, 3))  # a (b change)^-1 = a change^-1 b^-1
    for i in range(3):
        for j in range(3):
            for k in range(3):
                for m in range(3):
                    turn[i, j] += a[i, k] * back[k, m] * inverted[m, j]
    found, rotation = _polar(turn)
    if not found:
        return np.inf
    return math.acos(min(max((rotation[0, 0] + rotation[1, 1] + rotation[2, 2] - 1.0) / 2.0, -1.0), 1.0))
