"""Batched products by direct calls of cuBLAS, with rounded factors or with parts of matrices.

cupy.matmul supports neither: it multiplies float32 stacks in full float32, and copies arrays that are not contiguous.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from matroot.backends.cuda.stacks import mirror

Array = Any

#: cudaDataType_t and cublasComputeType_t of a dtype.
TYPES = {"float32": (0, 68), "float64": (1, 70), "complex64": (4, 68), "complex128": (5, 70)}
#: cublasComputeType_t that rounds the factors, and accumulates in float32.
ROUNDING = {"tf32": 77, "bfloat16": 75}
#: Number of row panels of a symmetric product, each computed up to the diagonal: (1 + 1 / PANELS) / 2 of the work.
PANELS = 4
#: Panels begin at multiples of this, for the alignment that tensor cores and caches need.
GRID = 32


def gemm(a: Array, b: Array, out: Array, backend: Any, rounding: str = "") -> None:
    """Compute out = a @ b for stacks (B, m, k), (B, k, n) and (B, m, n) of one dtype, with contiguous rows.

    They may be parts of larger stacks; `out` overlaps neither. `rounding` is a key of `ROUNDING`, for float32 and
    complex64.
    """
    size = out.dtype.itemsize
    kind, compute = TYPES[out.dtype.name]
    one, zero = np.ones(1, out.dtype), np.zeros(1, out.dtype)
    (B, m, n), k = out.shape, a.shape[-1]

    def stored(x: Array) -> tuple[int, int, int, int]:
        return x.data.ptr, kind, x.strides[1] // size, x.strides[0] // size

    # cuBLAS reads rows as columns, and computes out^T = b^T a^T.
    if backend.recording is None:
        call = partial(backend.xp.cuda.cublas.gemmStridedBatchedEx, backend.xp.cuda.get_cublas_handle())
    else:
        call = backend.recording.gemm
    call(
        *(0, 0, n, m, k, one.ctypes.data),
        *stored(b),
        *stored(a),
        zero.ctypes.data,
        *stored(out),
        *(B, ROUNDING[rounding] if rounding else compute, -1),
    )


def symmetric_gemm(a: Array, b: Array, out: Array, backend: Any) -> None:
    """Compute out = a @ b for real symmetric stacks (B, n, n) that commute, by mirroring the lower triangle."""
    n = out.shape[-1]
    height = -(-n // (PANELS * GRID)) * GRID
    for first in range(0, n, height):
        end = min(first + height, n)
        gemm(a[:, first:end], b[:, :, :end], out[:, first:end, :end], backend)
    mirror(out, backend)
