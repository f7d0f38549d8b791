# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""To tridiagonal form and back, eight matrices at a time; imported with the kernels of `small_numba`.

A symmetric matrix of lanes is its lower triangle by rows, entry (i, j) at i (i + 1) / 2 + j, so that the
leading blocks, on which everything here works, are the beginnings of memory.
"""

from __future__ import annotations

from numba import njit

from matroot.engines.small_lanes import any_less, fma, full, load, signed, size, sqrt, store, where_less

jit = njit(cache=True, error_model="numpy", nogil=True)

#: Squares of a row below this, in a matrix whose largest entry is about 1, count as zero: reflectors made of
#: numbers that underflow are not orthogonal.
NOTHING = 1e-280
#: Laguerre steps at most, and the relative size of a step after which the next would change nothing.
STEPS, SETTLED = 40, 1e-6


@jit
def less(a, vi, wc, wi, vc):
    """a - (vi wc + wi vc): the sum is small beside a, so that there is one rounding error that matters."""
    return a - fma(wi, vc, vi * wc)


@jit
def update_and_multiply(A, m, v, w, u, y):
    """A -= v w^T + w v^T on the leading m x m block, and y = A u, in one passage over memory.

    Four rows at a time, so that a load of v, w, u, y serves four entries; the rows' own columns are left to
    `corner`.
    """
    for c in range(m):
        store(y, c, full(0.0))
    for i in range(0, m, 4):
        column = 0
        if i + 4 <= m:
            column = i
            a, v0, w0, u0, y0 = (i * (i + 1)) // 2, load(v, i), load(w, i), load(u, i), full(0.0)
            b, v1, w1, u1, y1 = a + i + 1, load(v, i + 1), load(w, i + 1), load(u, i + 1), full(0.0)
            c, v2, w2, u2, y2 = b + i + 2, load(v, i + 2), load(w, i + 2), load(u, i + 2), full(0.0)
            d, v3, w3, u3, y3 = c + i + 3, load(v, i + 3), load(w, i + 3), load(u, i + 3), full(0.0)
            for j in range(i):
                vj, wj, uj = load(v, j), load(w, j), load(u, j)
                a0 = less(load(A, a + j), v0, wj, w0, vj)
                a1 = less(load(A, b + j), v1, wj, w1, vj)
                a2 = less(load(A, c + j), v2, wj, w2, vj)
                a3 = less(load(A, d + j), v3, wj, w3, vj)
                store(A, a + j, a0)
                store(A, b + j, a1)
                store(A, c + j, a2)
                store(A, d + j, a3)
                y0 = fma(a0, uj, y0)
                y1 = fma(a1, uj, y1)
                y2 = fma(a2, uj, y2)
                y3 = fma(a3, uj, y3)
                store(y, j, load(y, j) + (fma(a0, u0, a1 * u1) + fma(a2, u2, a3 * u3)))
            store(y, i, y0)
            store(y, i + 1, y1)
            store(y, i + 2, y2)
            store(y, i + 3, y3)
        corner(A, i, min(i + 4, m), column, v, w, u, y)


@jit
def corner(A, first, last, column, v, w, u, y):
    """What `update_and_multiply` does, on the entries of rows first <= i < last from `column` on."""
    for i in range(first, last):
        row, vi, wi, ui, yi = (i * (i + 1)) // 2, load(v, i), load(w, i), load(u, i), load(y, i)
        for j in range(column, i):
            a = less(load(A, row + j), vi, load(w, j), wi, load(v, j))
            store(A, row + j, a)
            yi = fma(a, load(u, j), yi)
            store(y, j, fma(a, ui, load(y, j)))
        a = less(load(A, row + i), vi, wi, wi, vi)
        store(A, row + i, a)
        store(y, i, fma(a, ui, yi))


@jit
def dot(x, y, m):
    """x . y as a sum of two numbers, by error-free transformations (Ogita, Rump & Oishi 2005, Dot2)."""
    high, low = full(0.0), full(0.0)
    for c in range(m):
        a, b = load(x, c), load(y, c)
        product = a * b
        total = high + product
        z = total - high
        low = low + ((high - (total - z)) + (product - z) + fma(a, b, -product))
        high = total
    return high, low


@jit
def rank_two(y, u, tau, tau_low, m, v, w):
    """v = u and w such that H A H = A - v w^T - w v^T, H = I - tau u u^T and y = A u."""
    high, low = dot(y, u, m)
    half = full(0.5) * tau
    k = half * high
    k_low = fma(half, high, -k) + half * low + full(0.5) * tau_low * high
    for c in range(m):
        uc = load(u, c)
        store(v, c, uc)
        z = fma(-k_low, uc, fma(-k, uc, load(y, c)))
        store(w, c, fma(tau_low, z, tau * z))


@jit
def tridiagonalize(A, n, d, e, tau, work):
    """Diagonal d and subdiagonal e of H A H, H the product of the reflectors that take the place of A.

    From the last row up: row i holds u of I - tau u u^T, which makes the row zero left of its subdiagonal entry
    e[i - 1]; tau = tau[i] + tau[n + i] = 2 / u^T u to twice the working precision, since whatever a reflector
    lacks in orthogonality is an error of the eigenvalues.
    """
    v, w, u, y = work[: 8 * n], work[8 * n : 16 * n], work[16 * n : 24 * n], work[24 * n : 32 * n]
    zero, two = full(0.0), full(2.0)
    for c in range(n):
        store(v, c, zero)
        store(w, c, zero)
        store(e, c, zero)
        store(tau, c, zero)
    for i in range(n - 1, 1, -1):
        row = (i * (i + 1)) // 2
        vi, wi = load(v, i), load(w, i)
        for c in range(i):
            store(u, c, less(load(A, row + c), vi, load(w, c), wi, load(v, c)))
        store(d, i, less(load(A, row + i), vi, wi, wi, vi))
        s, s_low = dot(u, u, i - 1)
        last = load(u, i - 1)
        norm = sqrt(fma(last, last, s))
        tiny = full(NOTHING)
        store(e, i - 1, where_less(s, tiny, last, -signed(norm, last)))
        last = last + signed(norm, last)
        store(u, i - 1, last)
        square = last * last
        uu = square + s
        uu_low = (square - uu) + s + fma(last, last, -square) + s_low
        t = two / uu
        t_low = fma(-t, uu_low, fma(-t, uu, two)) / uu
        t = where_less(s, tiny, zero, t)
        t_low = where_less(s, tiny, zero, t_low)
        store(tau, i, t)
        store(tau, n + i, t_low)
        for c in range(i):
            store(A, row + c, load(u, c))
        update_and_multiply(A, i, v, w, u, y)
        rank_two(y, u, t, t_low, i, v, w)
    if n > 1:
        v0, w0, v1, w1 = load(v, 0), load(w, 0), load(v, 1), load(w, 1)
        store(e, 0, fma(-v1, w0, fma(-w1, v0, load(A, 1))))
        store(d, 1, fma(-v1, w1, fma(-w1, v1, load(A, 2))))
        store(d, 0, fma(-v0, w0, fma(-w0, v0, load(A, 0))))
    else:
        store(d, 0, load(A, 0))


@jit
def transform_back(F, A, n, tau, work):
    """F = H F H with the reflectors that `tridiagonalize` left in A and tau."""
    from_the_right(F, A, n, tau)
    v, w, u, y = work[: 8 * n], work[8 * n : 16 * n], work[16 * n : 24 * n], work[24 * n : 32 * n]
    zero = full(0.0)
    for c in range(n):
        store(v, c, zero)
        store(w, c, zero)
    for i in range(2, n + 1):
        row = (i * (i + 1)) // 2
        for c in range(i):
            store(u, c, load(A, row + c) if i < n else zero)
        update_and_multiply(F, i, v, w, u, y)
        if i < n:
            rank_two(y, u, load(tau, i), load(tau, n + i), i, v, w)
            store(v, i, zero)
            store(w, i, zero)


@jit
def from_the_right(F, A, n, tau):
    """Row k of F, without its last entry, times I - tau[i] u u^T for i = 2, ..., k.

    What the two-sided products do to the rows below their block.
    """
    for k in range(0, n - 3, 4):
        four_rows(F, A, k, n, tau)
    for k in range(n):
        one_row(F, A, k, max(2, k - k % 4 + 1) if k < n - n % 4 else 2, n, tau)


@jit
def four_rows(F, A, k, n, tau):
    """Rows k to k + 3 times the reflectors up to the k-th; each passage also multiplies by the next reflector's u."""
    a = (k * (k + 1)) // 2
    b = a + k + 1
    c = b + k + 2
    d = c + k + 3
    sa, sb, sc, sd = full(0.0), full(0.0), full(0.0), full(0.0)
    if k > 1:
        for j in range(2):
            uj = load(A, 3 + j)
            sa = fma(load(F, a + j), uj, sa)
            sb = fma(load(F, b + j), uj, sb)
            sc = fma(load(F, c + j), uj, sc)
            sd = fma(load(F, d + j), uj, sd)
    for i in range(2, k + 1):
        t, low = load(tau, i), load(tau, n + i)
        ta, tb, tc, td = -fma(t, sa, low * sa), -fma(t, sb, low * sb), -fma(t, sc, low * sc), -fma(t, sd, low * sd)
        u, v = (i * (i + 1)) // 2, ((i + 1) * (i + 2)) // 2 if i < k else 0  # at the end, the products are not used
        sa, sb, sc, sd = full(0.0), full(0.0), full(0.0), full(0.0)
        for j in range(i):
            uj, vj = load(A, u + j), load(A, v + j)
            xa = fma(ta, uj, load(F, a + j))
            xb = fma(tb, uj, load(F, b + j))
            xc = fma(tc, uj, load(F, c + j))
            xd = fma(td, uj, load(F, d + j))
            store(F, a + j, xa)
            store(F, b + j, xb)
            store(F, c + j, xc)
            store(F, d + j, xd)
            sa, sb, sc, sd = fma(xa, vj, sa), fma(xb, vj, sb), fma(xc, vj, sc), fma(xd, vj, sd)
        vj = load(A, v + i)
        sa = fma(load(F, a + i), vj, sa)
        sb = fma(load(F, b + i), vj, sb)
        sc = fma(load(F, c + i), vj, sc)
        sd = fma(load(F, d + i), vj, sd)


@jit
def one_row(F, A, k, first, n, tau):
    """Row k times the reflectors from the first one up to the k-th."""
    a = (k * (k + 1)) // 2
    for i in range(first, k + 1):
        u, s = (i * (i + 1)) // 2, full(0.0)
        for j in range(i):
            s = fma(load(F, a + j), load(A, u + j), s)
        s = -fma(load(tau, i), s, load(tau, n + i) * s)
        for j in range(i):
            store(F, a + j, fma(s, load(A, u + j), load(F, a + j)))


@jit
def slopes(d, e, x, sign, n):
    """sum 1/(l - x), sum 1/(l - x)^2 over the eigenvalues l of sign T, and how many pivots of it - x are > 0.

    By the pivots of sign T - x and their first two derivatives, as multiples g and h of the pivot.
    """
    zero, one, two = full(0.0), full(1.0), full(2.0)
    s1, s2, count = zero, zero, zero
    g, h, r, squared = zero, zero, zero, zero
    for i in range(n):
        c = squared * r
        pivot = fma(sign, load(d, i), -x) - c
        r = one / pivot
        h, g = c * fma(-two * g, g, h) * r, fma(c, g, -one) * r
        s1 = s1 - g
        s2 = s2 + fma(g, g, -h)
        count = count + where_less(zero, pivot, one, zero)
        squared = load(e, i)
        squared = squared * squared
    return s1, s2, count


@jit
def smallest_eigenvalue(d, e, sign, n):
    """Smallest eigenvalue of sign T, from below, by Laguerre's iteration.

    Its step never passes the eigenvalue, and converges in third order, but slowly to a cluster of many. The step
    for a zero of the multiplicity that the sums suggest is quick there, and can pass: then the count tells, and the
    cautious step is taken.
    """
    zero, one, order = full(0.0), full(1.0), full(float(n))
    low, high = full(1e300), zero
    before = zero
    for i in range(n):
        after = size(load(e, i))
        a = sign * load(d, i)
        bound = a - before - after
        low = where_less(bound, low, bound, low)
        bound = size(a) + before + after
        high = where_less(high, bound, bound, high)
        before = after
    low = fma(full(-1e-15), high, low)
    rounding = full(1e-16) * high
    _, _, count = slopes(d, e, zero, sign, n)
    positive = where_less(count, order, zero, one)
    x = where_less(zero, positive, zero, low)
    trial, cautious, bold = x, x, zero
    done, answer = zero, x
    for step in range(STEPS):
        s1, s2, count = slopes(d, e, trial, sign, n)
        fine = where_less(count, order, zero, one)
        x = where_less(zero, fine, trial, x)
        spread = fma(order, s2, -(s1 * s1))
        spread = where_less(zero, spread, spread, zero)
        safe = order / (s1 + sqrt((order - one) * spread))
        many = s1 * s1 / s2
        quick = order / (s1 + sqrt((order - many) / many * spread))
        next_safe = trial + safe
        close = fma(full(SETTLED), size(next_safe), rounding)
        # A cautious trial that is past the eigenvalue is past it by a rounding error.
        finished = where_less(zero, fine, where_less(safe, close, one, zero), one - bold)
        answer = where_less(zero, done, answer, where_less(zero, fine, next_safe, trial))
        done = where_less(zero, finished, one, done)
        if not any_less(done, one):
            break
        bold = where_less(zero, fine, full(1.0 if step > 2 else 0.0), zero)
        cautious = where_less(zero, fine, next_safe, cautious)
        trial = where_less(zero, bold, trial + quick, cautious)
    return answer
