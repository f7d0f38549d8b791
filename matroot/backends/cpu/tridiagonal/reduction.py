# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""To tridiagonal form and back, eight matrices at a time; imported with `kernel`.

A symmetric matrix of lanes is its lower triangle by rows, entry (i, j) at i (i + 1) / 2 + j, so that the
leading blocks, on which everything here works, are the beginnings of memory.
"""

from __future__ import annotations

from matroot.backends.cpu.tridiagonal.lanes import (
    any_less,
    both,
    first_of,
    fma,
    full,
    full_wide,
    inner,
    lanes,
    less,
    pair,
    second_of,
    signed,
    size,
    sqrt,
    where_less,
)
from matroot.backends.cpu.tridiagonal.memory import (
    after,
    load,
    load_four,
    load_rows,
    store,
    store_four,
    store_rows,
    triangle,
)
from matroot.backends.cpu.tridiagonal.stage import stage

#: Squares of a row below this, in a matrix whose largest entry is about 1, count as zero: reflectors made of
#: numbers that underflow are not orthogonal.
NOTHING = 1e-280
#: Laguerre steps at most, and the relative size of a step after which the next would change nothing.
STEPS, SETTLED = 16, 1e-6
#: Zeros of a semidefinite matrix come out above minus this, times the largest eigenvalue.
NOISE = 2.0**-48
#: Halvings at most, and the relative width at which they end.
HALVINGS, NARROW = 70, 1e-14


@stage()
def update_and_multiply(A, m, v, w, u, y):
    """Set A -= v w^T + w v^T on the leading m x m block, and y = A u, in one passage over memory.

    Four rows at a time, so that a load of v, w, u, y serves four entries; the rows' own columns come one by one.
    """
    for c in range(m):
        store(y, c, full(0.0))
    for first in range(0, m, 4):
        column, last = 0, m
        if first + 4 <= m:
            column, last = first, first + 4
            vi = load_four(v, first)
            wi = load_four(w, first)
            ui = load_four(u, first)
            yi = full_wide(0.0)
            for j in range(first):
                uj = load(u, j)
                a = less(load_rows(A, first, j), vi, load(w, j), wi, load(v, j))
                store_rows(A, first, j, a)
                yi = fma(a, uj, yi)
                store(y, j, load(y, j) + inner(a, ui))
            store_four(y, first, yi)
        for i in range(first, last):
            row = triangle(i)
            vc = load(v, i)
            wc = load(w, i)
            uc = load(u, i)
            yc = load(y, i)
            for j in range(column, i):
                b = less(load(A, row + j), vc, load(w, j), wc, load(v, j))
                store(A, row + j, b)
                yc = fma(b, load(u, j), yc)
                store(y, j, fma(b, uc, load(y, j)))
            b = less(load(A, row + i), vc, wc, wc, vc)
            store(A, row + i, b)
            store(y, i, fma(b, uc, yc))


@stage(lanes, lanes)
def dot(x, y, m):
    """x . y as a sum of two numbers, by error-free transformations (Ogita, Rump & Oishi 2005, Dot2)."""
    high, low = full(0.0), full(0.0)
    for c in range(m):
        a, b = load(x, c), load(y, c)
        product = a * b
        sum = high + product
        z = sum - high
        low = low + ((high - (sum - z)) + (product - z) + fma(a, b, -product))
        high = sum
    return high, low


@stage()
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


@stage()
def tridiagonalize(A, n, d, e, tau, work):
    """Diagonal d and subdiagonal e of H A H, H the product of the reflectors that take the place of A.

    From the last row up: row i holds u of I - tau u u^T, which makes the row zero left of its subdiagonal entry
    e[i - 1]; tau = tau[i] + tau[n + i] = 2 / u^T u to twice the working precision, since whatever a reflector
    lacks in orthogonality is an error of the eigenvalues.
    """
    v, w = work, after(work, n)
    u, y = after(w, n), after(w, 2 * n)
    zero, two, tiny = full(0.0), full(2.0), full(NOTHING)
    for c in range(n):
        store(v, c, zero)
        store(w, c, zero)
        store(e, c, zero)
        store(tau, c, zero)
    for i in range(n - 1, -1, -1):
        row = triangle(i)
        vi, wi = load(v, i), load(w, i)
        for c in range(i + 1):
            store(u, c, less(load(A, row + c), vi, load(w, c), wi, load(v, c)))
        store(d, i, load(u, i))
        if i == 1:
            store(e, 0, load(u, 0))
        if i > 1:
            s, s_low = dot(u, u, i - 1)
            last = load(u, i - 1)
            norm = sqrt(fma(last, last, s))
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


@stage()
def transform_back(F, A, n, tau, work):
    """F = H F H with the reflectors that `tridiagonalize` left in A and tau."""
    from_the_right(F, A, n, tau)
    v, w = work, after(work, n)
    u, y = after(w, n), after(w, 2 * n)
    zero = full(0.0)
    for c in range(n):
        store(v, c, zero)
        store(w, c, zero)
    for i in range(2, n + 1):
        row = triangle(i)
        for c in range(i):
            store(u, c, load(A, row + c) if i < n else zero)
        update_and_multiply(F, i, v, w, u, y)
        if i < n:
            rank_two(y, u, load(tau, i), load(tau, n + i), i, v, w)
            store(v, i, zero)
            store(w, i, zero)


@stage()
def from_the_right(F, A, n, tau):
    """Row k of F, without its last entry, times I - tau[i] u u^T for i = 2, ..., k.

    What the two-sided products do to the rows below their block. Four rows go together through the reflectors up
    to the first one's; each passage also multiplies by the next reflector's u.
    """
    for k in range(n):
        first = (k & ~3) + 1 if k < n - (n & 3) else 2
        a = triangle(k)
        if k & 3 == 0 and k + 4 <= n:
            s = full_wide(0.0)
            if k > 1:
                for j in range(2):
                    s = fma(load_rows(F, k, j), load(A, 3 + j), s)
            for i in range(2, k + 1):
                t = load(tau, i) * s
                t = -fma(load(tau, n + i), s, t)
                p, q = triangle(i), triangle(i + 1) if i < k else 0  # at the end, the products are not used
                s = full_wide(0.0)
                for j in range(i):
                    x = fma(t, load(A, p + j), load_rows(F, k, j))
                    store_rows(F, k, j, x)
                    s = fma(x, load(A, q + j), s)
                s = fma(load_rows(F, k, i), load(A, q + i), s)
        for i in range(first if first > 2 else 2, k + 1):
            p = triangle(i)
            z = full(0.0)
            for j in range(i):
                z = fma(load(F, a + j), load(A, p + j), z)
            z = -fma(load(tau, i), z, load(tau, n + i) * z)
            for j in range(i):
                store(F, a + j, fma(z, load(A, p + j), load(F, a + j)))


@stage(pair, pair, pair)
def slopes(d, e, x, sign, n):
    """sum 1/(l - x), sum 1/(l - x)^2 over the eigenvalues l of sign T, and how many pivots of it - x are > 0.

    By the pivots of sign T - x and their first two derivatives, as multiples g and h of the pivot.
    """
    one, two = full(1.0), full(2.0)
    zero = both(full(0.0), full(0.0))
    s1, s2, count = zero, zero, zero
    g, h, c = zero, zero, zero
    for i in range(n):
        pivot = fma(sign, load(d, i), -x) - c
        r = one / pivot
        h = c * fma(-two * g, g, h) * r
        g = fma(c, g, -one) * r
        s1 = s1 - g
        s2 = s2 + fma(g, g, -h)
        count = count + where_less(zero, pivot, one, zero)
        ei = load(e, i)
        c = ei * ei * r
    return s1, s2, count


@stage(pair)
def positive_pivots(d, e, x, sign, n):
    """Count the eigenvalues of sign T above x (Sturm)."""
    one, zero = full(1.0), both(full(0.0), full(0.0))
    count, c = zero, zero
    for i in range(n):
        pivot = fma(sign, load(d, i), -x) - c
        count = count + where_less(zero, pivot, one, zero)
        ei = load(e, i)
        c = ei * ei / pivot
    return count


@stage(lanes, lanes)
def extreme_eigenvalues(d, e, n):
    """Smallest and largest eigenvalue of T: the smallest ones of T and -T, from below, by Laguerre's iteration.

    Its step never passes the eigenvalue, and converges in third order, but slowly to a cluster of many. The step
    for a zero of the multiplicity that the sums suggest is quick there, and can pass: then the count tells, and the
    cautious step is taken. As the last one, it makes up for what the cautious steps have left of a cluster. Among
    eigenvalues that crowd on a logarithmic scale every step is short, and halving the interval is quicker.
    """
    one, order = full(1.0), full(float(n))
    zero, sign = both(full(0.0), full(0.0)), both(one, -one)
    low, high, above = zero + full(1e300), zero, zero + full(1e300)
    before = full(0.0)
    for i in range(n):
        after = size(load(e, i))
        a = sign * load(d, i)
        bound = a - before - after
        low = where_less(bound, low, bound, low)
        bound = size(a) + before + after
        high = where_less(high, bound, bound, high)
        before = after
        above = where_less(a, above, a, above)
    low = fma(full(-1e-15), high, low)
    rounding, whole = full(1e-16) * high, full(1.5 * 2.0**52)
    trial, answer, done = both(full(0.0), second_of(low)), zero, zero  # positive matrices have no use for 0 in -T
    # A trial of 0 that is past the eigenvalue is followed by one beyond the rounding of zeros, and by the lower bound.
    # Zeros of which rounding has made a cluster lie between these two trials, and halving is quicker there.
    cautious, bold, noise = low, zero + one, full(-NOISE) * high
    past, zeros = zero, zero
    for step in range(STEPS):
        s1, s2, count = slopes(d, e, trial, sign, n)
        fine = where_less(count, order, zero, one)
        spread = fma(order, s2, -(s1 * s1))
        spread = where_less(zero, spread, spread, zero)
        safe = order / (s1 + sqrt((order - one) * spread))
        many = (s1 * s1 / s2 - full(0.49) + whole) - whole  # rounded down, but for rounding errors
        quick = order / (s1 + sqrt((order - many) / many * spread))
        next_safe = trial + safe
        close = fma(full(SETTLED), size(next_safe), rounding)
        if step == 1:
            zeros = where_less(zero, past, fine, zero)
            above, cautious = where_less(zero, zeros, zero, above), where_less(zero, zeros, noise, cautious)
        # A cautious trial that is past the eigenvalue is past it by a rounding error.
        finished = where_less(zero, fine, where_less(safe, close, one, zero), one - bold)
        finished = where_less(zero, zeros, zero, finished)
        answer = where_less(zero, done, answer, where_less(zero, fine, trial + quick, trial))
        done = where_less(zero, finished, one, done)
        if not any_less(done + zeros, one):
            break
        bold = where_less(zero, fine, full(1.0 if step > 2 else 0.0), zero)
        cautious = where_less(zero, zeros, cautious, where_less(zero, fine, next_safe, cautious))
        trial = where_less(zero, bold, trial + quick, cautious)
        if step == 0:
            trial, bold, past = where_less(zero, fine, trial, noise), where_less(zero, fine, bold, one), one - fine
    if any_less(done, one):
        half, below, settled = full(0.5), cautious, done
        for _ in range(HALVINGS):
            trial = half * (below + above)
            count = positive_pivots(d, e, trial, sign, n)
            low = where_less(count, order, below, trial)
            high = where_less(count, order, trial, above)
            below = where_less(zero, settled, below, low)  # no lane sees how long the others take
            above = where_less(zero, settled, above, high)
            close = fma(full(NARROW), size(below), rounding)
            settled = where_less(zero, settled, one, where_less(close, above - below, zero, one))
            if not any_less(settled, one):
                break
        below = where_less(
            zero, zeros, where_less(above, zero, below, zero), below
        )  # 0 unless some are beyond rounding
        answer = where_less(zero, done, answer, below)
    return first_of(answer), -second_of(answer)
