# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Small matrices reduced to tridiagonal form, eight at a time, with their reflectors."""

from __future__ import annotations

import zlib
from pathlib import Path

from numba import types
from numba.types import float64

from matroot.backends.cpu.compiled import compiled
from matroot.backends.cpu.tridiagonal.layout import gather, keep_form, scaled
from matroot.backends.cpu.tridiagonal.memory import address, after, store, triangle
from matroot.backends.cpu.tridiagonal.reduction import extreme_eigenvalues, tridiagonalize
from matroot.backends.cpu.tridiagonal.stage import stage


def vectors(n: int) -> int:
    """Return the size of the work space for order n, in vectors."""
    return n * (n + 1) + 4 * n + 7 + 5 * n + 24


@stage()
def reduce(stack, count, n, absolute, room, forms):
    """Reduce up to eight matrices, and write their `forms`."""
    entries = triangle(n)
    A = room
    A0 = after(A, entries)
    d = after(A0, entries)
    e = after(d, n)
    tau = after(e, n)
    halves = after(tau, 2 * n)
    low, high = after(halves, 2), after(halves, 3)
    factor, gap, finite = after(halves, 4), after(halves, 5), after(halves, 6)
    work = after(halves, 7)
    gather(stack, 0, count, n, A, A0, work)
    store(finite, 0, scaled(A, A0, n, 1, 1, absolute, halves, factor, gap))
    tridiagonalize(A, n, d, e, tau, work)
    bottom, top = extreme_eigenvalues(d, e, n)
    store(low, 0, bottom)
    store(high, 0, top)
    keep_form(A, d, e, tau, halves, low, high, finite, n, 0, count, forms, work)


def _entry(sources):
    """Return the kernel; `sources` is in its closure, which numba's cache on disk uses as a key."""

    @compiled(
        types.void(
            *(types.Array(float64, 3, "C", readonly=True), float64, types.Array(float64, 1, "C")),
            types.Array(float64, 2, "C"),
        ),
        error_model="numpy",
        nogil=True,
    )
    def reduced(stack, absolute, room, forms):
        """Reduce up to eight matrices."""
        sources  # noqa: B018
        reduce(address(stack), stack.shape[0], stack.shape[1], absolute, address(room), address(forms))

    return reduced


def digest() -> int:
    """Return a checksum of the sources of the kernels."""
    here = Path(__file__).parent
    folders = (here, here.parent / "large", here.parent / "tridiagonal")
    return zlib.crc32(b"".join(path.read_bytes() for folder in folders for path in sorted(folder.glob("*.py"))))


reduced = _entry(digest())
