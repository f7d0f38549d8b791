# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Roots of many small matrices: eight at a time through reduction, poles, the way back and the certificate.

A = H T H^T with T tridiagonal; A^s = H r(T) H^T, where r is a sum of poles (`small_poles`) and the inverse of
a shifted tridiagonal matrix costs two operations an entry. No eigenvector is ever formed.
"""

from __future__ import annotations

import math

from matroot.engines.small_lanes import (
    fma,
    full,
    load,
    sqrt,
    store,
)
from matroot.engines.small_layout import aligned, gather, in_units, move_diagonal, scaled, scatter
from matroot.engines.small_tridiagonal import jit, smallest_eigenvalue, transform_back, tridiagonalize

#: Columns of a report: 1 if served here, asymmetry, residual, lambda_min(A'), lambda_max(A), ridge, cond.
SERVED, ASYMMETRY, RESIDUAL, LOW, HIGH, RIDGE, COND = range(7)


@jit
def add_poles(F, d, e, b, w, first, last, n, work):
    """F += sum over first <= k < last of w_k (T + b_k)^{-1}; four poles at a time.

    With the pivots of T + b from below, r_j = 1 / (d_j + b - e_j^2 r_{j+1}), the inverse G has
    G_jj = r_j (1 + e_{j-1}^2 r_j G_{j-1,j-1}) and G_{i+1,j} = -e_i r_{i+1} G_ij: sums and products of what is
    positive.
    """
    q = work
    g = work[8 * 4 * n :]
    zero, one = full(0.0), full(1.0)
    for k in range(first, last, 4):
        for t in range(4):
            inside = k + t < last
            store(g, t, load(b, k + t) if inside else one)
            store(g, 4 + t, load(w, k + t) if inside else zero)
        b0, b1, b2, b3 = load(g, 0), load(g, 1), load(g, 2), load(g, 3)
        r0, r1, r2, r3 = zero, zero, zero, zero
        for j in range(n - 1, -1, -1):
            ej, dj = load(e, j), load(d, j)
            c = -ej
            q0, q1, q2, q3 = c * r0, c * r1, c * r2, c * r3
            store(q, 4 * j, q0)
            store(q, 4 * j + 1, q1)
            store(q, 4 * j + 2, q2)
            store(q, 4 * j + 3, q3)
            r0 = one / fma(ej, q0, dj + b0)
            r1 = one / fma(ej, q1, dj + b1)
            r2 = one / fma(ej, q2, dj + b2)
            r3 = one / fma(ej, q3, dj + b3)
            store(g, 4 * j + 8, r0)
            store(g, 4 * j + 9, r1)
            store(g, 4 * j + 10, r2)
            store(g, 4 * j + 11, r3)
        w0, w1, w2, w3 = load(g, 4), load(g, 5), load(g, 6), load(g, 7)
        g0, g1, g2, g3 = w0 * r0, w1 * r1, w2 * r2, w3 * r3
        for j in range(n):
            x0, x1, x2, x3 = g0, g1, g2, g3
            at = (j * (j + 1)) // 2 + j
            store(F, at, load(F, at) + ((x0 + x1) + (x2 + x3)))
            for i in range(j, n - 1):
                x0 = x0 * load(q, 4 * i)
                x1 = x1 * load(q, 4 * i + 1)
                x2 = x2 * load(q, 4 * i + 2)
                x3 = x3 * load(q, 4 * i + 3)
                at += i + 1
                store(F, at, load(F, at) + ((x0 + x1) + (x2 + x3)))
            if j + 1 < n:
                c = -load(e, j)
                r0, r1, r2, r3 = (
                    load(g, 4 * j + 12),
                    load(g, 4 * j + 13),
                    load(g, 4 * j + 14),
                    load(g, 4 * j + 15),
                )
                g0 = r0 * fma(c * load(q, 4 * j), g0, w0)
                g1 = r1 * fma(c * load(q, 4 * j + 1), g1, w1)
                g2 = r2 * fma(c * load(q, 4 * j + 2), g2, w2)
                g3 = r3 * fma(c * load(q, 4 * j + 3), g3, w3)
    return 0


@jit
def multiply(A, W, Y, n):
    """Y = A W for n x 8 matrices of lanes, by blocks of two rows and four columns."""
    for t in range(0, 8, 4):
        for i in range(0, n, 2):
            second = min(i + 1, n - 1) - i  # 0 where the last row has no partner
            at = (i * (i + 1)) // 2
            y0, y1, y2, y3 = full(0.0), full(0.0), full(0.0), full(0.0)
            z0, z1, z2, z3 = full(0.0), full(0.0), full(0.0), full(0.0)
            for j in range(n):
                a, b = load(A, at), load(A, at + (second * (i + 1) if j <= i else second))
                w0, w1, w2, w3 = (
                    load(W, 8 * j + t),
                    load(W, 8 * j + t + 1),
                    load(W, 8 * j + t + 2),
                    load(W, 8 * j + t + 3),
                )
                y0, y1, y2, y3 = fma(a, w0, y0), fma(a, w1, y1), fma(a, w2, y2), fma(a, w3, y3)
                z0, z1, z2, z3 = fma(b, w0, z0), fma(b, w1, z1), fma(b, w2, z2), fma(b, w3, z3)
                at += 1 if j < i else j + 1
            k = 8 * (i + second) + t
            store(Y, k, z0)
            store(Y, k + 1, z1)
            store(Y, k + 2, z2)
            store(Y, k + 3, z3)
            k = 8 * i + t
            store(Y, k, y0)
            store(Y, k + 1, y1)
            store(Y, k + 2, y2)
            store(Y, k + 3, y3)


@jit
def times_tridiagonal(F, d, e, n):
    """F = T F for F = r(T), which commutes with T; from the last column, so that F's neighbours are still old."""
    zero = full(0.0)
    for j in range(n - 1, -1, -1):
        at = (j * (j + 1)) // 2 + j
        before = load(F, at - 1) if j > 0 else zero
        for i in range(j, n):
            here = load(F, at)
            after = load(F, at + i + 1) if i + 1 < n else zero
            left = load(e, i - 1) if i > 0 else zero
            store(F, at, fma(left, before, fma(load(d, i), here, load(e, i) * after)))
            before = here
            at += i + 1


@jit
def apply(A, times, W, Y, n):
    """W = A^times W for n x 8 matrices of lanes; Y is overwritten."""
    for _ in range(times):
        multiply(A, W, Y, n)
        for k in range(8 * n):
            store(W, k, load(Y, k))


@jit
def residual(A, X, n, probes, a, b, work):
    """||(X^b A^-a - I) V|| / ||V|| for a < 0, ||(X^b - A^a) V|| / ||A^a V|| for a > 0; probes V (n, 8)."""
    W, G, Y = work[: 64 * n], work[64 * n : 128 * n], work[128 * n : 192 * n]
    for i in range(n):
        for t in range(8):
            store(W, 8 * i + t, full(probes[i, t]))
            store(G, 8 * i + t, full(probes[i, t]))
    if a > 0:
        apply(A, a, G, Y, n)
    else:
        apply(A, -a, W, Y, n)
    apply(X, b, W, Y, n)
    error, whole = full(0.0), full(0.0)
    for k in range(8 * n):
        goal = load(G, k)
        gap = load(W, k) - goal
        error = fma(gap, gap, error)
        whole = fma(goal, goal, whole)
    return sqrt(error / whole)


@jit
def roots(stack, out, report, a, b, relative, absolute, poles, weights, counts, direct, probes, single):
    """A^(a/b) for the matrices of a stack.

    Parameters
    ----------
    stack, out : float64 (B, n, n), C-ordered
    report : float64 (B, 7)
        Filled in; its columns are named at the top of this file.
    a, b : int
        -b <= a < b and not 0.
    relative, absolute : float
        A + (relative lambda_max + absolute) I is what is served.
    poles, weights, counts, direct : arrays (classes, K), (classes, K), (classes,) and int
        See `small_poles.table`; the first `direct` poles lie beyond lambda_max.
    probes : float64 (n, 8)
    single : bool
        Whether X is rounded to float32.
    """
    B, n = stack.shape[0], stack.shape[1]
    entries, K, classes = (n * (n + 1)) // 2, poles.shape[1], len(counts)
    room = aligned(3 * entries + 28 * n + 8 + 2 * K + 10)
    A, A0, F = room[: 8 * entries], room[8 * entries : 16 * entries], room[16 * entries : 24 * entries]
    rest = room[24 * entries :]
    d, e, tau = rest[: 8 * n], rest[8 * n : 16 * n], rest[16 * n : 32 * n]
    work, rest = rest[32 * n : 8 * (28 * n + 8)], rest[8 * (28 * n + 8) :]
    lane_poles, lane_weights, rest = rest[: 8 * K], rest[8 * K : 16 * K], rest[16 * K :]
    halves, low, high, finite = rest[:16], rest[16:24], rest[24:32], rest[32:40]
    gap, factor, shift, added = rest[40:48], rest[48:56], rest[56:64], rest[64:72]
    zero, one, s = full(0.0), full(1.0), a / b
    for first in range(0, B, 8):
        count = min(8, B - first)
        gather(stack, first, count, n, A, A0)
        store(finite, 0, scaled(A, A0, n, halves, gap, absolute))
        tridiagonalize(A, n, d, e, tau, work)
        store(low, 0, smallest_eigenvalue(d, e, one, n))
        store(high, 0, -smallest_eigenvalue(d, e, -one, n))
        longest = 0
        for t in range(8):
            one_half, other_half = halves[t], halves[8 + t]
            shift[t] = relative * high[t] + absolute * one_half * other_half
            low[t] += shift[t]
            top = high[t] + shift[t]
            served = finite[t] == 0.0 and low[t] > 0.0 and top <= low[t] * 4.0**classes
            if t < count:
                line = report[first + t]
                line[SERVED] = 1.0 if served else 0.0
                line[ASYMMETRY] = gap[t]
                line[LOW] = low[t] / one_half / other_half
                line[HIGH] = high[t] / one_half / other_half
                line[COND] = max(1.0, top / low[t])
                line[RIDGE] = shift[t] / one_half / other_half
            if not served:  # an identity takes its place
                top, low[t], shift[t], one_half, other_half = 1.0, 1.0, 0.0, 1.0, 1.0
                for i in range(n):
                    d[8 * i + t], e[8 * i + t] = 1.0, 0.0
            row = min(classes - 1, max(0, math.ceil(0.5 * math.log2(top / low[t])) - 1))
            longest = max(longest, counts[row])
            scale = top ** (1.0 + s) if s < 0.0 else top**s
            added[t] = 0.0
            for k in range(K):
                lane_poles[8 * k + t] = poles[row, k] * top
                lane_weights[8 * k + t] = weights[row, k] * scale
                if s > 0.0 and k >= direct:
                    added[t] += lane_weights[8 * k + t]
                    lane_weights[8 * k + t] *= -lane_poles[8 * k + t]
            factor[t] = math.sqrt(one_half) ** -s * math.sqrt(other_half) ** -s
        move_diagonal(A0, n, load(shift, 0))
        delta = load(shift, 0)
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
        scatter(F, first, count, n, out)
        store(finite, 0, residual(A0, A, n, probes, a, b, work))
        for t in range(count):
            report[first + t, RESIDUAL] = finite[t]
