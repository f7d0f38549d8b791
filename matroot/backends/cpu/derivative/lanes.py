# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Derivatives at many small matrices, eight at a time from the reduction to the way back, in float64; see `kernel`."""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.types import boolean, float64, int64

from matroot.backends.cpu.compiled import compiled
from matroot.backends.cpu.derivative.reduction import digest
from matroot.backends.cpu.derivative.shifts import shift_of, take_poles, top_eigenvector
from matroot.backends.cpu.tridiagonal.lanes import fma, full, lanes, size, where_less
from matroot.backends.cpu.tridiagonal.layout import gather, move_diagonal, scaled, scatter
from matroot.backends.cpu.tridiagonal.memory import address, after, load, number, put, store, triangle
from matroot.backends.cpu.tridiagonal.reduction import extreme_eigenvalues, tridiagonalize
from matroot.backends.cpu.tridiagonal.stage import stage

#: Powers of two beyond this cannot be undone by one factor.
MOST = 1000


def vectors(n: int, K: int) -> int:
    """Return the size of the work space for order n and K poles, in vectors."""
    return 3 * (n * (n + 1) // 2) + 2 * n * n + 12 * n + 2 * K + 80


@stage()
def reflect(F, u, t, t_low, i, n, w):
    """F = R F R for a lower triangle F and R = I - (t + t_low) u u^T on the first i coordinates."""
    product = full(0.0)
    for r in range(i):
        store(w, r, product)
    for r in range(i):
        row, x, y = triangle(r), load(u, r), full(0.0)
        for c in range(r):
            f = load(F, row + c)
            y = fma(f, load(u, c), y)
            store(w, c, fma(f, x, load(w, c)))
        store(w, r, load(w, r) + fma(load(F, row + r), x, y))
    for r in range(i):
        product = fma(load(u, r), load(w, r), product)
    half = full(-0.5) * fma(t, product, t_low * product)
    for r in range(i):
        y = fma(half, load(u, r), load(w, r))
        store(w, r, -fma(t, y, t_low * y))
    for r in range(i):
        row, x, y = triangle(r), load(u, r), load(w, r)
        for c in range(r + 1):
            store(F, row + c, fma(x, load(w, c), fma(y, load(u, c), load(F, row + c))))
    for r in range(i, n):
        row, y = triangle(r), full(0.0)
        for c in range(i):
            y = fma(load(F, row + c), load(u, c), y)
        y = -fma(t, y, t_low * y)
        for c in range(i):
            store(F, row + c, fma(y, load(u, c), load(F, row + c)))


@stage(lanes)
def take_direction(F, U, n, scales, bounds):
    """F = the symmetric part of F, its upper triangle in U, divided by the power of two above its largest entry.

    `scales` are two factors that undo that. Returned is a number that is 0 in the lanes of finite directions, else NaN.
    """
    zero, half, largest, finite = full(0.0), full(0.5), full(0.0), full(0.0)
    for k in range(triangle(n)):
        x, y = load(F, k), load(U, k)
        finite = fma(x, zero, fma(y, zero, finite))
        x, y = size(x), size(y)
        largest = where_less(largest, x, x, largest)
        largest = where_less(largest, y, y, largest)
    store(bounds, 0, largest)
    for t in range(8):
        _, exponent = math.frexp(number(bounds, t))
        exponent = max(-MOST, min(MOST, exponent))
        put(bounds, t, math.ldexp(1.0, -exponent))
        put(scales, t, math.ldexp(1.0, exponent >> 1))
        put(scales, 8 + t, math.ldexp(1.0, exponent - (exponent >> 1)))
    half = half * load(bounds, 0)
    for k in range(triangle(n)):
        store(F, k, fma(half, load(F, k), half * load(U, k)))
    return finite


@stage()
def add_pole(P, X, Z, d, e, b, w, n, q, r):
    """Z += w R P R, the lower triangle, for R = (T + b)^{-1} and the whole of P; see `pole_solves`."""
    one = full(1.0)
    x = one / (load(d, n - 1) + b)
    store(r, n - 1, x)
    for j in range(n - 2, -1, -1):
        y = -load(e, j) * x
        store(q, j, y)
        x = one / fma(load(e, j), y, load(d, j) + b)
        store(r, j, x)
    for i in range(n):
        store(X, (n - 1) * n + i, load(P, (n - 1) * n + i))
    for j in range(n - 2, -1, -1):
        y = load(q, j)
        for i in range(n):
            store(X, j * n + i, fma(y, load(X, (j + 1) * n + i), load(P, j * n + i)))
    x = load(r, 0)
    for i in range(n):
        store(X, i, x * load(X, i))
    for j in range(1, n):
        x, y = load(r, j), load(q, j - 1)
        for i in range(n):
            store(X, j * n + i, fma(y, load(X, (j - 1) * n + i), x * load(X, j * n + i)))
    for j in range(n - 2, -1, -1):
        y = load(q, j)
        for i in range(n):
            store(X, i * n + j, fma(y, load(X, i * n + j + 1), load(X, i * n + j)))
    for j in range(n):
        x, y = w * load(r, j), load(q, j - 1 if j > 0 else 0)
        for i in range(j, n):
            z = x * load(X, i * n + j)
            if j > 0:
                z = fma(y, load(X, i * n + j - 1), z)
            store(X, i * n + j, z)
            store(Z, triangle(i) + j, load(Z, triangle(i) + j) + z)


@stage()
def solve(stack, G, out, served, B, n, a, c, relative, absolute, ridges, adjoint, poles, weights, counts, room):
    """Fill `out` with the derivatives of A^(a/c); see `kernel.applied`."""
    entries, K = triangle(n), poles.shape[1] + 1
    A = room
    A0, Z = after(A, entries), after(A, 2 * entries)
    P = after(Z, entries)
    X = after(P, n * n)
    d = after(X, n * n)
    e, tau, v, q = after(d, n), after(d, 2 * n), after(d, 4 * n), after(d, 5 * n)
    r = after(q, n)
    b = after(r, n)
    w = after(b, K)
    halves = after(w, K)
    low, high, factor, finite = after(halves, 2), after(halves, 3), after(halves, 4), after(halves, 5)
    scales, shift, slopes, usable = after(halves, 6), after(halves, 8), after(halves, 9), after(halves, 10)
    work = after(halves, 12)
    zero = full(0.0)
    numbers, pairs, line = np.empty((2, n)), np.empty((2, K)), np.empty(3 * n)
    for first in range(0, B, 8):
        count = B - first if B - first < 8 else 8
        gather(stack, first, count, n, A, A0, work)
        store(finite, 0, scaled(A, A0, n, a - c, c, absolute, halves, factor, work))
        tridiagonalize(A, n, d, e, tau, work)
        bottom, top = extreme_eigenvalues(d, e, n)
        store(low, 0, bottom)
        store(high, 0, top)
        gather(G, first, count, n, Z, A0, work)
        store(usable, 0, take_direction(Z, A0, n, scales, work))
        longest, moves = 0, False
        for t in range(8):
            given = ridges[first + t if t < count else first + count - 1]
            units = number(halves, t) * number(halves, 8 + t)
            delta, slope = shift_of(given, relative, absolute, number(high, t), units)
            k = take_poles(
                number(low, t) + delta, number(high, t) + delta, a / c, poles, weights, counts, pairs[0], pairs[1]
            )
            fine = k > 0 and number(finite, t) == 0.0 and number(usable, t) == 0.0
            if fine and slope:
                for i in range(n):
                    numbers[0, i], numbers[1, i] = number(d, 8 * i + t), number(e, 8 * i + t)
                fine = top_eigenvector(numbers[0], numbers[1], number(high, t), line)
                for i in range(n):
                    put(v, 8 * i + t, line[i])
                moves = True
            else:
                for i in range(n):
                    put(v, 8 * i + t, 0.0)
            put(shift, t, delta)
            put(slopes, t, slope)
            for i in range(k):
                put(b, 8 * i + t, pairs[0, i])
                put(w, 8 * i + t, pairs[1, i])
            for i in range(k if k < longest else longest, k if k > longest else longest):
                for lane in range(t) if k > longest else range(t, t + 1):
                    put(b, 8 * i + lane, 1.0)
                    put(w, 8 * i + lane, 0.0)
            longest = k if k > longest else longest
            if t < count:
                served[first + t] = fine
        for i in range(n - 1, 1, -1):
            reflect(Z, after(A, triangle(i)), load(tau, i), load(tau, n + i), i, n, work)
        moved = zero
        if moves and not adjoint:
            for i in range(n):
                x = load(v, i)
                for j in range(i + 1):
                    y = x * load(v, j) * load(Z, triangle(i) + j)
                    moved = moved + (y if i == j else y + y)
            move_diagonal(Z, n, load(slopes, 0) * moved)
        for i in range(n):
            for j in range(i + 1):
                x = load(Z, triangle(i) + j)
                store(P, i * n + j, x)
                store(P, j * n + i, x)
                store(Z, triangle(i) + j, zero)
        for k in range(longest):
            add_pole(P, X, Z, d, e, load(b, k) + load(shift, 0), load(w, k), n, q, r)
        if moves and adjoint:
            for i in range(n):
                moved = moved + load(Z, triangle(i) + i)
            moved = moved * load(slopes, 0)
            for i in range(n):
                x = moved * load(v, i)
                for j in range(i + 1):
                    store(Z, triangle(i) + j, fma(x, load(v, j), load(Z, triangle(i) + j)))
        for i in range(2, n):
            reflect(Z, after(A, triangle(i)), load(tau, i), load(tau, n + i), i, n, work)
        one, two = load(factor, 0) * load(scales, 0), load(factor, 0) * load(scales, 1)
        for k in range(entries):
            store(Z, k, load(Z, k) * one * two)
        scatter(Z, first, count, n, out, work)


def _entry(sources):
    """Return the kernel; `sources` is in its closure, which numba's cache on disk uses as a key."""

    def array(kind, ndim, readonly=False):
        return types.Array(kind, ndim, "C", readonly=readonly)

    pair = types.UniTuple(float64, 2)

    @compiled(
        types.void(
            *(array(float64, 3, True), array(float64, 3, True), array(float64, 3), array(boolean, 1)),
            *(int64, int64, pair, array(float64, 1, True), boolean),
            *(array(float64, 2), array(float64, 2), array(int64, 1), array(float64, 1)),
        ),
        error_model="numpy",
        nogil=True,
    )
    def derived(stack, G, out, served, a, c, rule, ridges, adjoint, poles, weights, counts, room):
        """Fill `out` with the derivatives of A^(a/c) at the matrices of a stack, in the directions G."""
        sources  # noqa: B018
        (relative, absolute), (B, n, _) = rule, stack.shape
        solve(
            *(address(stack), address(G), address(out), served, B, n, a, c, relative, absolute, ridges, adjoint),
            *(poles, weights, counts, address(room)),
        )

    return derived


derived = _entry(digest())
