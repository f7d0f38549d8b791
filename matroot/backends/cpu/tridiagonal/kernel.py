# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Roots of many small matrices: eight at a time through reduction, poles, the way back and the certificate.

A = H T H^T with T tridiagonal; A^s = H r(T) H^T, where r is a sum of poles (`poles`) and the inverse of
a shifted tridiagonal matrix costs two operations an entry. No eigenvector is ever formed.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

from numba import types
from numba.types import boolean, float64, int64

from matroot.backends.cpu.compiled import compiled
from matroot.backends.cpu.tridiagonal.lanes import fma, full, full_wide, lanes, sqrt, total
from matroot.backends.cpu.tridiagonal.layout import gather, in_units, move_diagonal, scaled, scatter
from matroot.backends.cpu.tridiagonal.memory import (
    address,
    after,
    index,
    load,
    load_four,
    number,
    put,
    store,
    store_four,
    triangle,
)
from matroot.backends.cpu.tridiagonal.reduction import smallest_eigenvalue, transform_back, tridiagonalize
from matroot.backends.cpu.tridiagonal.stage import stage

#: Columns of a report: 1 if served here, asymmetry, residual, lambda_min(A'), lambda_max(A), ridge, cond.
SERVED, ASYMMETRY, RESIDUAL, LOW, HIGH, RIDGE, COND = range(7)
#: The largest number.
LARGEST = sys.float_info.max


@stage()
def add_poles(F, d, e, b, w, first, last, n, work):
    """F += sum over first <= k < last of w_k (T + b_k)^{-1}; four poles at a time.

    With the pivots of T + b from below, r_j = 1 / (d_j + b - e_j^2 r_{j+1}), the inverse G has
    G_jj = r_j (1 + e_{j-1}^2 r_j G_{j-1,j-1}) and G_{i+1,j} = -e_i r_{i+1} G_ij: sums and products of what is
    positive.
    """
    q, g = work, after(work, 4 * n)
    zero, one = full(0.0), full(1.0)
    for k in range(first, last, 4):
        for t in range(4):
            inside = k + t < last
            store(g, t, load(b, k + t) if inside else one)
            store(g, 4 + t, load(w, k + t) if inside else zero)
        bk, wk, r = load_four(g, 0), load_four(g, 4), full_wide(0.0)
        for j in range(n - 1, -1, -1):
            ej = load(e, j)
            p = -ej * r
            store_four(q, 4 * j, p)
            r = one / fma(ej, p, load(d, j) + bk)
            store_four(g, 4 * j + 8, r)
        start = r * wk
        for j in range(n):
            x = start
            at = triangle(j) + j
            store(F, at, load(F, at) + total(x))
            for i in range(j, n - 1):
                x = x * load_four(q, 4 * i)
                at += i + 1
                store(F, at, load(F, at) + total(x))
            if j + 1 < n:
                start = load_four(g, 4 * j + 12) * fma(-load(e, j) * load_four(q, 4 * j), start, wk)


@stage()
def multiply(A, W, Y, n):
    """Y = A W for n x 8 matrices of lanes, by blocks of two rows and four columns."""
    for t in range(0, 8, 4):
        for i in range(0, n, 2):
            second = 1 if i + 1 < n else 0  # 0 where the last row has no partner
            at = triangle(i)
            y, z = full_wide(0.0), full_wide(0.0)
            for j in range(n):
                x = load_four(W, 8 * j + t)
                y = fma(load(A, at), x, y)
                z = fma(load(A, at + (second * (i + 1) if j <= i else second)), x, z)
                at += 1 if j < i else j + 1
            store_four(Y, 8 * (i + second) + t, z)
            store_four(Y, 8 * i + t, y)


@stage()
def times_tridiagonal(F, d, e, n):
    """F = T F for F = r(T), which commutes with T; from the last column, so that F's neighbours are still old."""
    zero = full(0.0)
    for j in range(n - 1, -1, -1):
        at = triangle(j) + j
        before = load(F, at - 1) if j > 0 else zero
        for i in range(j, n):
            here = load(F, at)
            after = load(F, at + i + 1) if i + 1 < n else zero
            left = load(e, i - 1) if i > 0 else zero
            store(F, at, fma(left, before, fma(load(d, i), here, load(e, i) * after)))
            before = here
            at += i + 1


@stage(lanes)
def residual(A, X, n, probes, order, steps, work):
    """||W - G|| / ||G||, where the steps take the probes V (n, 8) to W, and to G on the way.

    Their codes in `order` are those of `conditioning.steps`: a product with A (0), with X (1), or W is kept as G and
    begins anew at V (2). Where it is not, G is V.
    """
    W, G, Y = work, after(work, 8 * n), after(work, 16 * n)
    for k in range(8 * n):
        v = full(number(probes, k))
        store(W, k, v)
        store(G, k, v)
    for k in range(steps):
        code = number(order, k)
        if code > 1.0:
            for i in range(8 * n):
                store(G, i, load(W, i))
                store(W, i, full(number(probes, i)))
        else:
            multiply(X if code > 0.0 else A, W, Y, n)
            for i in range(8 * n):
                store(W, i, load(Y, i))
    error, whole = full(0.0), full(0.0)
    for k in range(8 * n):
        goal = load(G, k)
        gap = load(W, k) - goal
        error = fma(gap, gap, error)
        whole = fma(goal, goal, whole)
    return sqrt(error / whole)


@stage()
def solve(
    stack,
    out,
    report,
    B,
    n,
    a,
    b,
    relative,
    absolute,
    poles,
    weights,
    counts,
    classes,
    K,
    direct,
    probes,
    order,
    steps,
    single,
    room,
):
    """A^(a/b) for the matrices of a stack.

    Parameters
    ----------
    stack, out : B x n x n numbers
    report : B x 7
        Filled in; its columns are named at the top of this file.
    a, b : int
        -b <= a <= b and not 0.
    relative, absolute : float
        A + (relative lambda_max + absolute) I is what is served.
    poles, weights, counts, direct : classes x K, classes x K, classes, and int
        See `poles.table`; the first `direct` poles lie beyond lambda_max.
    probes, order : n x 8, steps
        See `residual`.
    single : bool
        Whether X is rounded to float32.
    room
        Work space, of `methods.small.room`.
    """
    entries = triangle(n)
    A = room
    A0 = after(A, entries)
    F = after(A0, entries)
    d = after(F, entries)
    e = after(d, n)
    tau = after(e, n)
    lane_poles = after(tau, 2 * n)
    lane_weights = after(lane_poles, K)
    facts = after(lane_weights, K)
    work = after(facts, 12)
    halves, low, high, finite = facts, after(facts, 2), after(facts, 3), after(facts, 4)
    gap, factor, shift, added = after(facts, 5), after(facts, 6), after(facts, 7), after(facts, 8)
    rows, tops, scales = after(facts, 9), after(facts, 10), after(facts, 11)
    zero, one, s = full(0.0), full(1.0), a / b
    power = 1.0 + s if s < 0.0 else s
    for first in range(0, B, 8):
        count = B - first if B - first < 8 else 8
        gather(stack, first, count, n, A, A0, work)
        store(finite, 0, scaled(A, A0, n, a, b, absolute, halves, factor, gap))
        tridiagonalize(A, n, d, e, tau, work)
        for end in range(2):  # `high` comes after `low`
            sign = one if end == 0 else -one
            store(low, end, sign * smallest_eigenvalue(d, e, sign, n))
        longest = 0
        for t in range(8):
            one_half, other_half = number(halves, t), number(halves, 8 + t)
            top = number(high, t)
            moved = relative * top + absolute * one_half * other_half
            bottom = number(low, t) + moved
            largest = top / one_half / other_half
            top += moved
            cond = top / bottom
            row, bound = 0, 4.0
            while row < classes and not cond <= bound:
                row, bound = row + 1, 4.0 * bound
            served = number(finite, t) == 0.0 and bottom > 0.0 and row < classes
            if t < count:
                line = 7 * (first + t)
                put(report, line + SERVED, 1.0 if served else 0.0)
                put(report, line + ASYMMETRY, number(gap, t))
                put(report, line + LOW, bottom / one_half / other_half)
                put(report, line + HIGH, largest)
                put(report, line + COND, 1.0 if cond < 1.0 else cond)
                put(report, line + RIDGE, moved / one_half / other_half)
            if not served:  # an identity takes its place
                row, top, moved = 0, 1.0, 0.0
                put(factor, t, 1.0)
                for i in range(n):
                    put(d, 8 * i + t, 1.0)
                    put(e, 8 * i + t, 0.0)
            if longest < index(counts, row):
                longest = index(counts, row)
            put(rows, t, float(row))
            put(tops, t, top)
            put(scales, t, top**power)
            put(shift, t, moved)
        constant, unit, scale = zero, load(tops, 0), load(scales, 0)
        for t in range(8):
            at = K * index(rows, t)
            for k in range(longest):
                put(lane_poles, 8 * k + t, number(poles, at + k))
                put(lane_weights, 8 * k + t, number(weights, at + k))
        for k in range(longest):
            pole, weight = load(lane_poles, k) * unit, load(lane_weights, k) * scale
            if s > 0.0 and k >= direct:
                constant = constant + weight
                weight = -pole * weight
            store(lane_poles, k, pole)
            store(lane_weights, k, weight)
        store(added, 0, constant)
        delta = load(shift, 0)
        move_diagonal(A0, n, delta)
        for i in range(n):
            store(d, i, load(d, i) + delta)
        for k in range(entries):
            store(F, k, zero)
        split = direct if s > 0.0 else longest
        for second in range(2):  # poles above lambda_max, whose sum is multiplied by T for s > 0, and the others
            if second == 1 and s > 0.0:
                times_tridiagonal(F, d, e, n)
                move_diagonal(F, n, load(added, 0))
            add_poles(F, d, e, lane_poles, lane_weights, split * second, longest if second else split, n, work)
        transform_back(F, A, n, tau, work)
        in_units(F, A, n, load(factor, 0), single)
        scatter(F, first, count, n, out, work)
        store(finite, 0, residual(A0, A, n, probes, order, steps, work))
        for t in range(count):
            line = 7 * (first + t)
            put(report, line + RESIDUAL, number(finite, t))
            if not number(finite, t) <= LARGEST:  # a root that overflows, say
                put(report, line + SERVED, 0.0)


def _array(kind, ndim, readonly=True):
    return types.Array(kind, ndim, "C", readonly=readonly)


def _kernel(sources):
    """`solve` for Python. numba's cache on disk knows a function by its file and by what it closes over."""

    # One signature, so that nothing is compiled twice: an array that can be written also passes for one that cannot.
    @compiled(
        types.void(
            *(_array(float64, 3), _array(float64, 3, False), _array(float64, 2, False)),
            *(int64, int64, float64, float64),
            *(_array(float64, 2), _array(float64, 2), _array(float64, 1), int64),
            *(_array(float64, 2), _array(float64, 1), boolean, _array(float64, 1, False)),
        ),
        error_model="numpy",
        nogil=True,
    )
    def roots(
        stack, out, report, a, b, relative, absolute, poles, weights, counts, direct, probes, order, single, room
    ):
        sources  # noqa: B018
        solve(
            address(stack),
            address(out),
            address(report),
            stack.shape[0],
            stack.shape[1],
            a,
            b,
            relative,
            absolute,
            address(poles),
            address(weights),
            address(counts),
            poles.shape[0],
            poles.shape[1],
            direct,
            address(probes),
            address(order),
            order.shape[0],
            single,
            address(room),
        )

    return roots


def _digest() -> int:
    """Of this file and those that it is made of."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return zlib.crc32(b"".join(path.read_bytes() for path in files))


roots = _kernel(_digest())
