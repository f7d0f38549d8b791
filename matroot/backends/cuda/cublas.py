"""Batched products straight from cuBLAS: of rounded numbers, and of parts of matrices.

cupy.matmul does neither: float32 stacks are multiplied in float32 proper, and what is not contiguous is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from matroot.backends.cuda.stacks import mirror

Array = Any

#: cudaDataType_t and cublasComputeType_t of a dtype.
TYPES = {"float32": (0, 68), "float64": (1, 70), "complex64": (4, 68), "complex128": (5, 70)}
#: cublasComputeType_t that rounds what it multiplies, and adds up in float32.
ROUNDING = {"tf32": 77, "bfloat16": 75}
#: A symmetric product is computed in so many panels of rows, each up to the diagonal: (1 + 1 / PANELS) / 2 of the work.
PANELS = 4
#: Panels begin at multiples of this, where tensor cores and caches like them to.
GRID = 32


def gemm(a: Array, b: Array, out: Array, backend: Any, rounding: str = "") -> None:
    """out = a @ b for stacks (B, m, k), (B, k, n) and (B, m, n) of one dtype, each row contiguous.

    Parameters
    ----------
    a, b, out : array
        May be parts of larger stacks; `out` overlaps neither.
    backend : GPU
    rounding : str, optional
        A key of `ROUNDING`, for float32 and complex64.
    """
    size = out.dtype.itemsize
    kind, compute = TYPES[out.dtype.name]
    one, zero = np.ones(1, out.dtype), np.zeros(1, out.dtype)
    (B, m, n), k = out.shape, a.shape[-1]

    def stored(x: Array) -> tuple[int, int, int, int]:
        return x.data.ptr, kind, x.strides[1] // size, x.strides[0] // size

    # Rows are cuBLAS's columns: it computes out^T = b^T a^T.
    call = _by_cupy(backend.xp.cuda) if backend.recording is None else backend.recording.gemm
    call(
        *(0, 0, n, m, k, one.ctypes.data),
        *stored(b),
        *stored(a),
        zero.ctypes.data,
        *stored(out),
        *(B, ROUNDING[rounding] if rounding else compute, -1),
    )


def _by_cupy(cuda: Any) -> Callable[..., None]:
    return partial(cuda.cublas.gemmStridedBatchedEx, cuda.get_cublas_handle())


def symmetric_gemm(a: Array, b: Array, out: Array, backend: Any) -> None:
    """out = a @ b for real symmetric stacks (B, n, n) that commute: the lower triangle, and its mirror image."""
    n = out.shape[-1]
    height = -(-n // (PANELS * GRID)) * GRID
    for first in range(0, n, height):
        end = min(first + height, n)
        gemm(a[:, first:end], b[:, :, :end], out[:, first:end, :end], backend)
    mirror(out, backend)
