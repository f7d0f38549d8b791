# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Eigenvectors of eight matrices at a time, from the tridiagonal form; imported with `decomposition`.

Q is n x n numbers of lanes, four rows together: entry (i, k) is vector 4 ((i // 4) n + k) + i % 4. Rotations of
neighbouring columns and products of rows both go through memory in order. Rows from n on are 0.
"""

from __future__ import annotations

from matroot.backends.cpu.tridiagonal.lanes import (
    any_less,
    fma,
    full,
    full_wide,
    lanes,
    signed,
    size,
    sqrt,
    total,
    where_less,
)
from matroot.backends.cpu.tridiagonal.memory import (
    after,
    index,
    load,
    load_four,
    number,
    store,
    store_four,
    triangle,
)
from matroot.backends.cpu.tridiagonal.stage import stage

#: An entry beside the diagonal is negligible below EPS times its neighbours on it, plus NOTHING.
EPS, NOTHING = 2.0**-53, 1e-22
#: Squares below this count as 0 in a rotation.
TINY = 1e-280
#: Sweeps at most, times n.
SWEEPS = 30


@stage()
def basis(Q, A, n, tau, work):
    """Q = H, the product of the reflectors that `tridiagonalize` left in A and tau.

    Four columns go through all reflectors together: they fit into the first cache, and each is a sum of its own.
    """
    zero, one = full(0.0), full(1.0)
    blocks = (n + 3) >> 2
    for k in range(4 * blocks * n):
        store(Q, k, zero)
    for i in range(n):
        store(Q, 4 * ((i >> 2) * n + i) + (i & 3), one)
    for first in range(0, n, 4):
        for i in range(max(first + 1, 2), n):
            row, some = triangle(i), (i + 3) >> 2
            for c in range(4):  # what follows in the row's last four is no part of the reflector
                k = 4 * some - 4 + c
                store(work, c, load(A, row + k) if k < i else zero)
            for j in range(first, n, 4 if first + 4 <= n else 1):
                if j >= first + 4:
                    break
                reflect(Q, A, row, some, j, n, 4 if first + 4 <= n else 1, load(tau, i), load(tau, n + i), work)


@stage()
def reflect(Q, A, row, some, j, n, columns, t, t_low, end):
    """Apply a reflector, of which `end` has the last four numbers, to one column of Q or four."""
    p, q, r = (1, 2, 3) if columns == 4 else (0, 0, 0)
    u = load_four(end, 0)
    at = 4 * ((some - 1) * n + j)
    w, x = u * load_four(Q, at), u * load_four(Q, at + 4 * p)
    y, z = u * load_four(Q, at + 4 * q), u * load_four(Q, at + 4 * r)
    for block in range(some - 1):
        u = load_four(A, row + 4 * block)
        at = 4 * (block * n + j)
        w, x = fma(u, load_four(Q, at), w), fma(u, load_four(Q, at + 4 * p), x)
        y, z = fma(u, load_four(Q, at + 4 * q), y), fma(u, load_four(Q, at + 4 * r), z)
    a, b, c, d = total(w), total(x), total(y), total(z)
    a, b = -fma(t, a, t_low * a), -fma(t, b, t_low * b)
    c, d = -fma(t, c, t_low * c), -fma(t, d, t_low * d)
    for block in range(some):
        u = load_four(A, row + 4 * block) if block + 1 < some else load_four(end, 0)
        at = 4 * (block * n + j)
        store_four(Q, at, fma(a, u, load_four(Q, at)))
        if columns == 4:
            store_four(Q, at + 4, fma(b, u, load_four(Q, at + 4)))
            store_four(Q, at + 8, fma(c, u, load_four(Q, at + 8)))
            store_four(Q, at + 12, fma(d, u, load_four(Q, at + 12)))


@stage(lanes)
def diagonalize(d, e, Q, n, work):
    """Rotate T to its eigenvalues d by the implicit QR iteration, and the columns of Q with it.

    Every lane works on its own last block that is not yet diagonal, from its row `low` to its row `high`: other lanes
    rotate by exactly 0 there. Returned is a number that is 0 in the lanes that are diagonal, else positive.

    References
    ----------
    Golub & Van Loan, Matrix Computations, 4th ed., sec. 8.3.
    """
    cosines, sines, ends = work, after(work, n), after(work, 2 * n)
    zero, half, one = full(0.0), full(0.5), full(1.0)
    high = zero
    for _ in range(SWEEPS * n):
        low, high, begin = zero, zero, zero
        above, beside, below = zero, one, zero
        for k in range(n - 1):
            a, b, g = load(d, k), load(e, k), load(d, k + 1)
            least = fma(full(EPS), size(a) + size(g), full(NOTHING))
            there = where_less(least, size(b), one, zero)
            store(e, k, where_less(zero, there, b, zero))
            begin = where_less(zero, there, begin, full(k + 1.0))
            low = where_less(zero, there, begin, low)
            high = where_less(zero, there, full(k + 1.0), high)
            above = where_less(zero, there, a, above)
            beside = where_less(zero, there, b, beside)
            below = where_less(zero, there, g, below)
        if not any_less(zero, high):
            break
        store(ends, 0, low)
        store(ends, 1, high)
        first, last = n, 0
        for t in range(8):
            if index(ends, 8 + t) > 0:
                first = min(first, index(ends, t))
                last = max(last, index(ends, 8 + t))
        gap = half * (above - below)
        shift = below - beside * beside / (gap + signed(sqrt(fma(gap, gap, beside * beside)), gap))
        rotate(d, e, low, high, shift, first, last, n, cosines, sines)
        for block in range((n + 3) >> 2):
            at = 4 * (block * n + first)
            x = load_four(Q, at)
            for k in range(first, last):
                at = 4 * (block * n + k)
                c, s = load(cosines, k), load(sines, k)
                y = load_four(Q, at + 4)
                store_four(Q, at, fma(c, x, s * y))
                x = fma(c, y, -(s * x))
            store_four(Q, at + 4, x)
    return high


@stage()
def rotate(d, e, low, high, shift, first, last, n, cosines, sines):
    """Chase the bulge through T, in every lane from its row `low` to its row `high`; keep the rotations."""
    zero, one, tiny = full(0.0), full(1.0), full(TINY)
    x, z = zero, zero
    for k in range(first, last):
        here = full(1.0 * k)
        a, b, g = load(d, k), load(e, k), load(d, k + 1)
        begins = where_less(low, here, zero, where_less(here, low, zero, one))
        inside = where_less(here, low, zero, where_less(here, high, one, zero))
        x = where_less(zero, begins, a - shift, x)
        z = where_less(zero, begins, b, z)
        square = fma(x, x, z * z)
        norm = sqrt(square)
        turns = where_less(tiny, square, inside, zero)
        c = where_less(zero, turns, x / norm, one)
        s = where_less(zero, turns, z / norm, zero)
        store(cosines, k, c)
        store(sines, k, s)
        if k > first:
            before = load(e, k - 1)
            store(e, k - 1, where_less(low, here, where_less(zero, turns, norm, before), before))
        p, q = fma(c, a, s * b), fma(c, b, s * g)
        u, v = fma(c, b, -(s * a)), fma(c, g, -(s * b))
        store(d, k, fma(c, p, s * q))
        store(d, k + 1, fma(c, v, -(s * u)))
        x = fma(c, q, -(s * p))
        store(e, k, x)
        if k + 2 < n:
            after = load(e, k + 1)
            z = s * after
            store(e, k + 1, c * after)


@stage()
def add_outer(F, Q, w, n):
    """F += Q diag(w) Q^T, for a lower triangle F; columns with a weight of 0 in every lane are passed over."""
    zero = full(0.0)
    for k in range(n):
        wk = load(w, k)
        if not any_less(zero, size(wk)):
            continue
        for i in range(n):
            row, x = triangle(i), wk * load(Q, 4 * ((i >> 2) * n + k) + (i & 3))
            for j in range(i + 1):
                y = load(Q, 4 * ((j >> 2) * n + k) + (j & 3))
                store(F, row + j, fma(x, y, load(F, row + j)))


@stage()
def outer(F, Q, w, n, work):
    """F = Q diag(w) Q^T, for a lower triangle F, by blocks of four rows and two columns."""
    for first in range(0, n, 4):
        rows = first * n  # where four rows of Q begin, in fours
        for j in range(0, min(first + 4, n), 2):
            p, q = 4 * (j >> 2) * n + (j & 3), 1 if j + 1 < n else 0
            x, y = full_wide(0.0), full_wide(0.0)
            for k in range(n):
                four, wk = load_four(Q, rows + 4 * k), load(w, k)
                x = fma(wk * load(Q, p + 4 * k), four, x)
                y = fma(wk * load(Q, p + 4 * k + q), four, y)
            store_four(work, 0, x)
            store_four(work, 4, y)
            for i in range(first, min(first + 4, n)):
                if j <= i:
                    store(F, triangle(i) + j, load(work, i - first))
                if j < i:
                    store(F, triangle(i) + j + 1, load(work, 4 + i - first))


@stage()
def add_projection(W, Q, w, V, n):
    """W += Q diag(w) Q^T V for the columns V (n, 8), numbers; as `add_outer`."""
    zero = full(0.0)
    for k in range(n):
        wk = load(w, k)
        if not any_less(zero, size(wk)):
            continue
        for t in range(8):
            x = zero
            for i in range(n):
                x = fma(load(Q, 4 * ((i >> 2) * n + k) + (i & 3)), full(number(V, 8 * i + t)), x)
            x = wk * x
            for i in range(n):
                at = 8 * i + t
                store(W, at, fma(x, load(Q, 4 * ((i >> 2) * n + k) + (i & 3)), load(W, at)))
