# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Small matrices reduced to tridiagonal form, eight at a time, with the orthogonal factor."""

from __future__ import annotations

import zlib
from pathlib import Path

from numba import types
from numba.types import float64, int64

from matroot.backends.cpu.compiled import compiled
from matroot.backends.cpu.tridiagonal.eigenvectors import basis
from matroot.backends.cpu.tridiagonal.layout import gather, scaled, write
from matroot.backends.cpu.tridiagonal.memory import address, after, load, number, store, triangle
from matroot.backends.cpu.tridiagonal.reduction import extreme_eigenvalues, tridiagonalize
from matroot.backends.cpu.tridiagonal.stage import stage

#: Columns of the facts about a matrix: 0 if it is finite, the extreme eigenvalues of T, two factors that have scaled
#: the matrix to T, and the root of the factor by which a derivative of T's power is scaled back.
FINITE, LOW, HIGH, ONE, OTHER, FACTOR = range(6)


def vectors(n: int) -> int:
    """Return the size of the work space for order n, in vectors."""
    return n * (n + 1) + 4 * n + 7 + 4 * n * ((n + 3) // 4) + 5 * n + 24


@stage()
def reduce(stack, count, n, a, b, absolute, room, H, D, E, facts):
    """Reduce up to eight matrices A = H T H^T: the diagonals of T to D, what is beside them to E."""
    entries = triangle(n)
    A = room
    A0 = after(A, entries)
    d = after(A0, entries)
    e = after(d, n)
    tau = after(e, n)
    halves = after(tau, 2 * n)
    low, high = after(halves, 2), after(halves, 3)
    factor, gap, finite = after(halves, 4), after(halves, 5), after(halves, 6)
    Q = after(halves, 7)
    work = after(Q, 4 * n * ((n + 3) >> 2))
    gather(stack, 0, count, n, A, A0, work)
    store(finite, 0, scaled(A, A0, n, a, b, absolute, halves, factor, gap))
    tridiagonalize(A, n, d, e, tau, work)
    bottom, top = extreme_eigenvalues(d, e, n)
    store(low, 0, bottom)
    store(high, 0, top)
    basis(Q, A, n, tau, work)
    for i in range(n):
        for j in range(n):
            store(work, j, load(Q, 4 * ((i >> 2) * n + j) + (i & 3)))
        write(work, address(H), i * n, n, n * n, count)
    for t in range(count):
        for i in range(n):
            D[t, i] = number(d, 8 * i + t)
            E[t, i] = number(e, 8 * i + t)
        facts[t, FINITE], facts[t, LOW], facts[t, HIGH] = number(finite, t), number(low, t), number(high, t)
        facts[t, ONE], facts[t, OTHER], facts[t, FACTOR] = number(halves, t), number(halves, 8 + t), number(factor, t)


def _entry(sources):
    """Return the kernel; `sources` is in its closure, which numba's cache on disk uses as a key."""
    matrices = types.Array(float64, 3, "C")

    @compiled(
        types.void(
            *(types.Array(float64, 3, "C", readonly=True), int64, int64, float64, types.Array(float64, 1, "C")),
            *(matrices, types.Array(float64, 2, "C"), types.Array(float64, 2, "C"), types.Array(float64, 2, "C")),
        ),
        error_model="numpy",
        nogil=True,
    )
    def reduced(stack, a, b, absolute, room, H, D, E, facts):
        """Reduce up to eight matrices; a / b is the power of their scale that a derivative takes."""
        sources  # noqa: B018
        reduce(address(stack), stack.shape[0], stack.shape[1], a, b, absolute, address(room), H, D, E, facts)

    return reduced


def digest() -> int:
    """Return a checksum of the sources of the kernels."""
    here = Path(__file__).parent
    folders = (here, here.parent / "large", here.parent / "tridiagonal")
    return zlib.crc32(b"".join(path.read_bytes() for folder in folders for path in sorted(folder.glob("*.py"))))


reduced = _entry(digest())
