# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""L = sum over k of c_k (A + b_k I)^{-1} G (A + b_k I)^{-1} for a reduced A = H T H^T, in the precision of G."""

from __future__ import annotations

import math

import numpy as np

from matroot.backends.cpu.compiled import compiled
from matroot.backends.cpu.derivative.middle import ROOM, begin, by_products, sizes
from matroot.backends.cpu.derivative.reduction import digest
from matroot.backends.cpu.derivative.reflectors import basis_of_lanes
from matroot.backends.cpu.derivative.shifts import (
    NOT_FINITE,
    exponent_of,
    root_of,
    shift_of,
    take_poles,
    top_eigenvector,
)
from matroot.backends.cpu.tridiagonal.layout import FINITE, HIGH, LOW, ONE, OTHER


def _entry(sources):
    """Return the kernel; `sources` is in its closure, which numba's cache on disk uses as a key."""

    @compiled(error_model="numpy", fastmath={"contract"}, nogil=True)
    def applied(forms, G, bits, out, served, power, rule, ridge, adjoint, table):
        """Fill `out` with the derivatives in the directions G, of their precision; `bits` are G as integers.

        `forms` are those of `keep_form`, `power` the numerator and the denominator of s.
        """
        sources  # noqa: B018
        n, (a, c), (relative, absolute), (poles, weights, counts) = G.shape[1], power, rule, table
        K, end = poles.shape[1] + 1, n * (n - 1) // 2
        wide, rows, step = sizes(n, G)
        space = np.zeros(ROOM * rows * step + wide, G.dtype)
        start = begin(space, wide)
        M = space[start : start + ROOM * rows * step].reshape(ROOM, rows, step)
        q, r, scaled = np.empty(n * K, G.dtype), np.empty(n * K, G.dtype), np.empty(n * K, G.dtype)
        b, w, line, v = np.empty(K), np.empty(K), np.empty(K), np.empty(3 * n)
        for i in range(G.shape[0]):
            d, e, facts = forms[i, end : end + n], forms[i, end + n : end + 2 * n], forms[i, end + 2 * n :]
            top = facts[HIGH]
            delta, slope = shift_of(ridge[i], relative, absolute, top, facts[ONE] * facts[OTHER])
            k = take_poles(facts[LOW] + delta, top + delta, a / c, poles, weights, counts, b, w)
            exponent = exponent_of(bits[i])
            served[i] = facts[FINITE] == 0.0 and k > 0 and exponent != NOT_FINITE
            if served[i] and slope:
                served[i] = top_eigenvector(d, e, top, v)
            if not served[i]:
                continue
            basis_of_lanes(forms[i], n, M[0])
            factor = root_of(2 - math.frexp(facts[ONE])[1] - math.frexp(facts[OTHER])[1], a - c, c)
            by_products(
                *(M, G[i], exponent, factor, d, e, delta, b, w, k, slope, v, adjoint),
                *(q, r, scaled, line, out[i]),
            )

    return applied


applied = _entry(digest())
