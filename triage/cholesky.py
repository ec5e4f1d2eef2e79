"""Small symmetric systems of equations in compiled code, which numba alone would need SciPy for."""

from __future__ import annotations

import math

import numba

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def solve_in_place(a, b):  # type: ignore[no-untyped-def]
    """Solves a x = b for a symmetric positive a (n, n) by Cholesky; x replaces b. False where a is not positive."""
    n = len(b)
    for j in range(n):
        for k in range(j):
            a[j, j] -= a[j, k] * a[j, k]
        if not a[j, j] > 1e-30:
            return False
        a[j, j] = math.sqrt(a[j, j])
        for i in range(j + 1, n):
            for k in range(j):
                a[i, j] -= a[i, k] * a[j, k]
            a[i, j] /= a[j, j]
    for i in range(n):
        for k in range(i):
            b[i] -= a[i, k] * b[k]
        b[i] /= a[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            b[i] -= a[k, i] * b[k]
        b[i] /= a[i, i]
    return True
