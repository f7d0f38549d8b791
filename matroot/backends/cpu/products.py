"""Products of stacks of real matrices by the compiled tiles, in float64 and on one thread of BLAS."""

from __future__ import annotations

from typing import Any

import numpy as np

from matroot.backends.cpu.blas import blas_threads
from matroot.backends.cpu.kernels import compiled, in_use

NDArray = np.ndarray

#: Sizes of a product are multiples of this, and at least so many columns are worth a call.
WIDE, LEAST = 8, 64
#: From so many columns on, whole products by BLAS are as fast: longer rows push each other out of the cache.
LONG = 512


def gram(A: NDArray) -> NDArray | None:
    """Return A^T A for a matrix or a stack, symmetric to the last bit; None if tiles do not serve."""
    n = A.shape[-1]
    G = np.empty((*A.shape[:-2], n, n), A.dtype)
    return G if _multiplied(A, A, G, turned=True, half=True) else None


def multiplied(A: NDArray, B: NDArray, C: NDArray) -> bool:
    """Set C = A B for stacks of matrices; return False if BLAS is faster, or tiles do not serve."""
    return C.shape[-1] < LONG and _multiplied(A, B, C, turned=False, half=False)


def commuting(A: NDArray, B: NDArray) -> NDArray | None:
    """Return A B for stacks of symmetric matrices that commute, symmetric to the last bit; None as for `gram`."""
    C = np.empty_like(A)
    return C if _multiplied(A, B, C, turned=False, half=True) else None


def _multiplied(A: NDArray, B: NDArray, C: NDArray, turned: bool, half: bool) -> bool:
    *_, m, n = C.shape
    ready = all(M.dtype == np.float64 and M.flags.c_contiguous and M.flags.writeable for M in (A, B, C))
    if not ready or m % WIDE or n % WIDE or n < LEAST or blas_threads() > 1 or not in_use():
        return False
    kernel: Any = compiled("matroot.backends.cpu.large.products")
    if kernel is None:
        return False
    stacks = (M.reshape(-1, *M.shape[-2:]) for M in (A, B, C))
    for a, b, c in zip(*stacks, strict=True):
        kernel.multiplied(a, b, c, turned, half)
    return True
