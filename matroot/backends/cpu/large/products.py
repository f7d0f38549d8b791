# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Products of large real matrices on one thread, by tiles: of half of a symmetric one, BLAS makes three quarters."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from matroot.backends.cpu.compiled import compiled
from matroot.backends.cpu.large.rows import REGISTER
from matroot.backends.cpu.large.tiles import add_product, mirror, product
from matroot.backends.cpu.tridiagonal.stage import stage

#: Rows of C, and terms of its sums, that go together: what they take of A stays in the second-level cache.
HEIGHT, DEPTH = 256, 256


@stage()
def multiply(A, B, C, turned, half):
    """Set C = A B, or A^T B if `turned`; if `half`, C is symmetric. Rows and columns of C fill registers."""
    (rows, columns), inner, wide = C.shape, B.shape[0], np.int64(REGISTER // C.itemsize)
    across, along = (1, A.shape[1]) if turned else (A.shape[1], 1)
    a, b, c = A.reshape(A.size), B.reshape(B.size), C.reshape(C.size)
    for k in range(0, inner, DEPTH):
        n = min(DEPTH, inner - k)
        for i in range(0, rows, HEIGHT):
            first, some = i if half else 0, min(HEIGHT, rows - i)
            place = (a, i * across + k * along, across, along, b, k * columns + first, columns)
            target = (c, i * columns + first, columns)
            if k == 0:
                product(*place, *target, some, columns - first, n, wide, half)
            else:
                add_product(*place, *target, some, columns - first, n, wide, half)
    if half:
        mirror(c, columns, columns, wide)


def _entry(sources):
    """Return the kernel; `sources` is in its closure, which numba's cache on disk uses as a key."""

    @compiled(error_model="numpy", nogil=True)
    def multiplied(A, B, C, turned, half):
        """Set C = A B, or A^T B if `turned`; if `half`, C is symmetric."""
        sources  # noqa: B018
        multiply(A, B, C, turned, half)

    return multiplied


def _digest() -> int:
    """Return a checksum of the sources of the kernel."""
    here = Path(__file__).parent
    files = [here / f"{name}.py" for name in ("products", "rows", "tiles")]
    files += sorted((here.parent / "tridiagonal").glob("*.py"))
    return zlib.crc32(b"".join(path.read_bytes() for path in files))


multiplied = _entry(_digest())
