# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Roots of small matrices whose eigenvalues below a cut are raised to it, or dropped: by eigenvectors, eight at a time.

A = Q diag(w) Q^T, A' = A + Q diag(delta) Q^T, X = Q diag((w + delta)^s) Q^T; the certificate is that of A'.
Powers s > 0 of singular matrices are computed like this too, with A' = A.
"""

from __future__ import annotations

from numba import types
from numba.types import boolean, float64, int64

from matroot.backends.cpu.compiled import compiled
from matroot.backends.cpu.tridiagonal.certificate import distance, products
from matroot.backends.cpu.tridiagonal.eigenvectors import add_outer, add_projection, basis, diagonalize, outer
from matroot.backends.cpu.tridiagonal.kernel import (
    ASYMMETRY,
    COND,
    HIGH,
    LARGEST,
    LOW,
    REFUSED,
    RESIDUAL,
    RIDGE,
    ROOT,
    SERVED,
    array,
    digest,
)
from matroot.backends.cpu.tridiagonal.layout import gather, in_units, scaled, scatter
from matroot.backends.cpu.tridiagonal.memory import address, after, load, number, put, store, triangle
from matroot.backends.cpu.tridiagonal.reduction import tridiagonalize
from matroot.backends.cpu.tridiagonal.stage import stage

#: Further columns of a report: how many eigenvalues were changed, and `status.excess_of`.
CHANGED, EXCESS = 7, 8
COLUMNS = 9
#: Matrices with a larger condition number are not served.
LARGEST_COND = 2.0**48


@stage()
def regularize(w, powers, deltas, dropped, report, line, t, n, s, relative, absolute, drops, halves):
    """Cut the spectrum w of lane t: fill its powers, its changes, and 1 for what is dropped; fill the report.

    An identity takes the place of a matrix that is not served.
    """
    top, low = number(w, t), number(w, t)
    for k in range(1, n):
        x = number(w, 8 * k + t)
        top = x if x > top else top
        low = x if x < low else low
    one, two = number(halves, t), number(halves, 8 + t)
    cut = relative * (top if top > 0.0 or not drops else 0.0) + absolute * one * two
    least, most, below, changed = LARGEST, 0.0, -LARGEST, 0
    for k in range(n):
        x = number(w, 8 * k + t)
        y = x
        if drops and not x > cut:
            y = 0.0
            below = x if x > below else below
        elif x < cut:
            y = cut
        changed += y != x or (drops and y == 0.0)
        if y > 0.0 or not drops:
            least = y if y < least else least
        most = y if y > most else most
        put(deltas, 8 * k + t, y - x)
        put(dropped, 8 * k + t, 1.0 if drops and y == 0.0 else 0.0)
        put(powers, 8 * k + t, y**s if y > 0.0 else 0.0)
    excess = -low / most
    if below > -LARGEST:
        jump = least / ((least - below) * abs(s))
        excess = jump if jump > excess else excess
    cond = most / least
    served = least > 0.0 and most > 0.0 and cond <= LARGEST_COND
    if not served:
        for k in range(n):
            put(deltas, 8 * k + t, 0.0)
            put(dropped, 8 * k + t, 0.0)
            put(powers, 8 * k + t, 1.0)
    put(report, line + SERVED, ROOT if served else REFUSED)
    put(report, line + LOW, (0.0 if below > -LARGEST else least) / one / two)
    put(report, line + HIGH, top / one / two)
    put(report, line + RIDGE, 0.0)
    put(report, line + COND, cond)
    put(report, line + CHANGED, 1.0 * changed)
    put(report, line + EXCESS, excess if served and excess > 1.0 else 1.0)


@stage()
def semidefinite(w, powers, deltas, dropped, report, line, t, n, s, noise, halves):
    """Fill the powers s > 0 of a spectrum w whose negative numbers are rounding errors, up to a share `noise` of it.

    Nothing is changed by this: the root is one of A. Else it is as `regularize`.
    """
    top, low = number(w, t), number(w, t)
    for k in range(1, n):
        x = number(w, 8 * k + t)
        top = x if x > top else top
        low = x if x < low else low
    served = top > 0.0 and low >= -noise * top
    low = low if low > 0.0 else 0.0
    for k in range(n):
        x = number(w, 8 * k + t)
        put(deltas, 8 * k + t, 0.0)
        put(dropped, 8 * k + t, 0.0)
        put(powers, 8 * k + t, (x**s if x > 0.0 else 0.0) if served else 1.0)
    one, two = number(halves, t), number(halves, 8 + t)
    put(report, line + SERVED, ROOT if served else REFUSED)
    put(report, line + LOW, low / one / two)
    put(report, line + HIGH, top / one / two)
    put(report, line + RIDGE, 0.0)
    put(report, line + COND, top / low)
    put(report, line + CHANGED, 0.0)
    put(report, line + EXCESS, 1.0)


@stage()
def solve(stack, out, report, B, n, a, b, relative, absolute, drops, noise, probes, order, steps, single, room):
    """Compute A'^(a/b) for the matrices of a stack; most parameters are those of `kernel.solve`.

    With `noise` > 0 there is no rule, and a > 0: see `semidefinite`. The asymmetry counts as noise too.
    """
    entries = triangle(n)
    A = room
    A0 = after(A, entries)
    F = after(A0, entries)
    d = after(F, entries)
    e = after(d, n)
    tau = after(e, n)
    powers = after(tau, 2 * n)
    deltas = after(powers, n)
    dropped = after(deltas, n)
    Q = after(dropped, n)
    facts = after(Q, 4 * n * ((n + 3) >> 2))
    work = after(facts, 6)
    halves, finite, gap, factor, rest = facts, after(facts, 2), after(facts, 3), after(facts, 4), after(facts, 5)
    s = a / b
    for first in range(0, B, 8):
        count = B - first if B - first < 8 else 8
        gather(stack, first, count, n, A, A0, work)
        store(finite, 0, scaled(A, A0, n, a, b, absolute, halves, factor, gap))
        tridiagonalize(A, n, d, e, tau, work)
        basis(Q, A, n, tau, work)
        store(rest, 0, diagonalize(d, e, Q, n, work) + load(finite, 0))
        for t in range(count):
            line = COLUMNS * (first + t)
            put(report, line + ASYMMETRY, number(gap, t))
            if noise > 0.0:
                zero = noise + n * number(gap, t) / 2
                semidefinite(d, powers, deltas, dropped, report, line, t, n, s, zero, halves)
            else:
                regularize(d, powers, deltas, dropped, report, line, t, n, s, relative, absolute, drops, halves)
            if not number(rest, t) == 0.0:
                put(report, line + SERVED, REFUSED)
        for k in range(n):
            for t in range(count, 8):
                put(powers, 8 * k + t, 1.0)
                put(deltas, 8 * k + t, 0.0)
                put(dropped, 8 * k + t, 0.0)
        add_outer(A0, Q, deltas, n)
        outer(F, Q, powers, n, work)
        in_units(F, A, n, load(factor, 0), single)
        scatter(F, first, count, n, out, work)
        products(A0, A, n, probes, order, steps, False, work)
        if a < 0:
            add_projection(work, Q, dropped, probes, n)
        store(finite, 0, distance(work, after(work, 8 * n), n))
        for t in range(count):
            line = COLUMNS * (first + t)
            put(report, line + RESIDUAL, number(finite, t))
            if not number(finite, t) <= LARGEST:
                put(report, line + SERVED, REFUSED)


def _kernel(sources):
    """`solve` for Python; see `kernel`."""

    @compiled(
        types.void(
            *(array(float64, 3), array(float64, 3, False), array(float64, 2, False)),
            *(int64, int64, float64, float64, boolean, float64),
            *(array(float64, 2), array(float64, 1), boolean, array(float64, 1, False)),
        ),
        error_model="numpy",
        nogil=True,
    )
    def roots(stack, out, report, a, b, relative, absolute, drops, noise, probes, order, single, room):
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
            drops,
            noise,
            address(probes),
            address(order),
            order.shape[0],
            single,
            address(room),
        )

    return roots


roots = _kernel(digest())
