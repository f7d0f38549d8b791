# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""The derivative at one large matrix that has been reduced, in the precision of the direction G; see `kernel`."""

from __future__ import annotations

import numpy as np

from matroot.backends.cpu.compiled import compiled
from matroot.backends.cpu.derivative.middle import PADDING, ROOM, begin, by_products, by_reflectors, sizes
from matroot.backends.cpu.derivative.reduction import digest
from matroot.backends.cpu.derivative.reflectors import basis_of_rows
from matroot.backends.cpu.derivative.shifts import NOT_FINITE, exponent_of, shift_of, take_poles, top_eigenvector
from matroot.backends.cpu.derivative.two_sided import PANEL, reflectors_of_rows, triangular_factors

#: From this n on reflectors in the precision of G are faster than products with H. They cost some 12 units, which are
#: less than the rest from there on.
LARGE = 192


def room(n, dtype):
    """Return work space for a matrix of order n."""
    wide = 64 // np.dtype(dtype).itemsize
    rows = -(-n // wide) * wide
    return np.zeros(ROOM * rows * (rows + PADDING) + wide, dtype)


def _entry(sources):
    """Return the kernel; `sources` is in its closure, which numba's cache on disk uses as a key."""

    @compiled(error_model="numpy", fastmath={"contract"}, nogil=True)
    def applied(A, d, e, tau, low, top, halves, factor, G, bits, out, space, s, rule, ridge, adjoint, table):
        """Fill `out` with the derivative in the direction G, with these `bits`, and return True if there is one."""
        sources  # noqa: B018
        n, (relative, absolute), (poles, weights, counts) = G.shape[0], rule, table
        K = poles.shape[1] + 1
        b, w, line, v = np.empty(K), np.empty(K), np.empty(K), np.empty(3 * n)
        delta, slope = shift_of(ridge, relative, absolute, top, halves[0] * halves[1])
        k = take_poles(low + delta, top + delta, s, poles, weights, counts, b, w)
        exponent = exponent_of(bits)
        if k == 0 or exponent == NOT_FINITE or (slope and not top_eigenvector(d, e, top, v)):
            return False
        wide, rows, step = sizes(n, G)
        start = begin(space, wide)
        M = space[start : start + ROOM * rows * step].reshape(ROOM, rows, step)
        q, r, scaled = np.empty(n * K, G.dtype), np.empty(n * K, G.dtype), np.empty(n * K, G.dtype)
        if n < LARGE:
            basis_of_rows(A, tau, M[0])
            by_products(M, G, exponent, factor, d, e, delta, b, w, k, slope, v, adjoint, q, r, scaled, line, out)
        else:
            T = np.empty((-(-n // PANEL) * PANEL, PANEL), G.dtype)
            reflectors_of_rows(A, tau, M[0])
            triangular_factors(M[0], T, n)
            by_reflectors(M, T, G, exponent, factor, d, e, delta, b, w, k, slope, v, adjoint, q, r, scaled, line, out)
        return True

    return applied


applied = _entry(digest())
