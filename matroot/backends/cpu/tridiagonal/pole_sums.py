# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Sums of poles of eight tridiagonal matrices at a time; imported with `kernel`."""

from __future__ import annotations

from matroot.backends.cpu.tridiagonal.lanes import fma, full, full_wide, total
from matroot.backends.cpu.tridiagonal.memory import after, load, load_four, store, store_four, triangle
from matroot.backends.cpu.tridiagonal.stage import stage


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
