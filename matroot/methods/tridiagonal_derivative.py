"""Derivatives of roots through the tridiagonal form, without eigenvectors.

A^s = sum of w_k (A + b_k I)^{-1}, up to a factor A for s > 0, has the derivative

    L(A, E) = sum of c_k R_k E R_k,  R_k = (A + b_k I)^{-1},

with c_k = -w_k, or b_k w_k for s > 0: all of one sign, so that no digit is lost between them, and equal eigenvalues are
no special case. With A = H T H^T, one pole costs a solve with the tridiagonal T + b_k I from either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from matroot._regularization import Regularization, Ridge
from matroot.backends.cpu.blas import held_in_its_thread, one_blas_thread
from matroot.backends.cpu.cpu import in_threads, threads
from matroot.backends.cpu.derivative.poles import derivative_table
from matroot.backends.cpu.kernels import in_use
from matroot.backends.linalg import hermitian_part
from matroot.backends.loading import deferred
from matroot.methods.base import Array
from matroot.methods.tridiagonal import compiled, room
from matroot.methods.tridiagonal_large import form_in, panel_width, readable, room_of
from matroot.methods.tridiagonal_report import LANES, root_of

#: Up to this n the arithmetic is in float64 whatever the direction has.
WIDENED = 16
#: How many matrices LAPACK's way serves while lanes serve their eight; above the last n, lanes do not pay.
SIZES = (32, 64, 96, 128)
WORTH = (2.8, 3.5, 4.7, 6.6)


def serves(s: Fraction | float, rule: Regularization | None, A: Array, E: Array) -> bool:
    """Return True if `derivatives` may serve a stack A and directions E of the same shape."""
    known = isinstance(s, Fraction) and -1 <= s < 1 and s != 0 and (rule is None or isinstance(rule, Ridge))
    return known and in_use() and A.dtype.kind != "c" and E.dtype.kind != "c" and A.size > 0


def lanes_are_faster(B: int, n: int) -> bool:
    """Return True if lanes serve B matrices faster than LAPACK's way."""
    a_group = B / max(1, -(-B // LANES))
    return n <= SIZES[0] or (n <= SIZES[-1] and a_group >= float(np.interp(n, SIZES, WORTH)))


def derivatives(
    A: Array, E: Array, s: Any, rule: Any, ridge: Array | None, adjoint: bool, kept: Array | None = None
) -> tuple[Array, Array]:
    """Compute the derivative of A -> (A + ridge)^s in the direction E, or its adjoint, at every matrix of a stack.

    Parameters
    ----------
    A, E : array (B, n, n)
        Real; the symmetric parts count.
    s : Fraction
        -1 <= s < 1, not 0.
    rule : Ridge or None
    ridge : array (B,) or None
        The shift that was used; that of the rule where it is negative, and without it.
    adjoint : bool
    kept : array, optional
        The tridiagonal forms of A, in the room of `tridiagonal_large.room_of`.

    Returns
    -------
    array (B, n, n)
        float32 if both inputs have at most that precision.
    array (B,) of bool
        Where the first is filled in. Matrices are not served that are not positive or not finite, have a condition
        number above 1e14, or a multiple largest eigenvalue that a ridge moves with.
    """
    B, n, _ = A.shape
    single = max(A.dtype.itemsize, E.dtype.itemsize) <= 4 and A.dtype.kind == E.dtype.kind == "f"
    out, served = np.empty(A.shape, np.float32 if single else np.float64), np.zeros(B, bool)
    given = np.full(B, -1.0) if ridge is None else np.array(ridge, np.float64)
    asked = Asked(s, rule, adjoint, np.dtype(np.float32 if single and n > WIDENED else np.float64))
    groups = kept is None and lanes_are_faster(B, n)
    one = small(asked, A, E, given, out, served) if groups else large(asked, A, E, given, out, served, kept)
    if one is None:
        return out, served
    size = LANES * max(1, -(-B // (LANES * threads()))) if groups else -(-B // (4 * threads()))
    with one_blas_thread(), np.errstate(all="ignore"):
        in_threads(held_in_its_thread(one), [slice(i, min(i + size, B)) for i in range(0, B, size)])
    return out, served & ~np.isnan(given)


class Asked(NamedTuple):
    """The options that all matrices of a stack share."""

    s: Fraction
    rule: Ridge | None
    adjoint: bool
    dtype: np.dtype[Any]

    @property
    def ridge(self) -> tuple[float, float]:
        """The relative and the absolute ridge."""
        return (0.0, 0.0) if self.rule is None else (float(self.rule.relative), float(self.rule.absolute))

    def table(self) -> tuple[Array, Array, Array]:
        """Return the poles for every class of condition numbers."""
        return derivative_table(self.s, self.dtype == np.float32)


def small(asked: Asked, A: Array, E: Array, ridge: Array, out: Array, served: Array) -> Callable[[slice], None] | None:
    """Return the work on a part of a stack of small matrices, eight at a time; None if numba cannot compile."""
    names = ("matroot.backends.cpu.derivative.reduction", "matroot.backends.cpu.derivative.kernel")
    reduction, kernel = (compiled(name) for name in names)
    if reduction is None or kernel is None:
        return None
    (_, absolute), table, s, n = asked.ridge, asked.table(), asked.s, A.shape[-1]
    blas, power = routines(asked.dtype), (s - 1).numerator

    def work(part: slice) -> None:
        space = room(reduction.vectors(n))
        H, D, T, facts = np.empty((LANES, n, n)), np.empty((LANES, n)), np.empty((LANES, n)), np.empty((LANES, 6))
        for i in range(part.start, part.stop, LANES):
            rows = slice(i, min(i + LANES, part.stop))
            stack = np.ascontiguousarray(A[rows], np.float64)
            reduction.reduced(stack, power, s.denominator, absolute, space, H, D, T, facts)
            L = out[rows] if out.dtype == asked.dtype else np.empty(stack.shape, asked.dtype)
            kernel.applied(
                *(blas, H, D, T, facts, *ready(E[rows], asked.dtype), L, served[rows]),
                *(float(s), asked.ridge, ridge[rows], asked.adjoint, table),
            )
            if out.dtype != asked.dtype:
                out[rows] = L

    return work


def large(
    asked: Asked, A: Array, E: Array, ridge: Array, out: Array, served: Array, kept: Array | None
) -> Callable[[slice], None] | None:
    """Return the work on a part of a stack of large matrices; None if numba cannot compile."""
    names = ("matroot.backends.cpu.large.kernel", "matroot.backends.cpu.derivative.large")
    reduction, kernel = (compiled(name) for name in names)
    if reduction is None or kernel is None:
        return None
    (_, absolute), table, s, n = asked.ridge, asked.table(), asked.s, A.shape[-1]
    blas, double, width = routines(asked.dtype), routines(np.float64), panel_width(n)

    def reduce(S: Array, form: Any, halves: Array) -> bool:
        S = S if readable(S) else np.array(S, np.float64, order="C")
        if not reduction.reduced(double, S, *form, halves, absolute)[0]:
            S = hermitian_part(S.astype(np.float64))
            return bool(np.isfinite(S).all()) and bool(reduction.reduced(double, S, *form, halves, absolute)[0])
        return True

    def work(part: slice) -> None:
        space, own = kernel.room(n, asked.dtype), room_of(int(kept is None), n)
        for i in range(part.start, part.stop):
            (reflectors, d, e, tau), halves = form = form_in(own[0] if kept is None else kept[i])
            if kept is None and not reduce(A[i], *form):
                continue
            low, high = reduction.ends(d, e)
            exponent = -sum(math.frexp(half)[1] - 1 for half in halves)
            L = out[i] if out.dtype == asked.dtype else np.empty((n, n), asked.dtype)
            served[i] = kernel.applied(
                *(blas, reflectors, d, e, tau, low, high, halves, root_of(exponent, s - 1)),
                *(*ready(E[i], asked.dtype), L, space),
                *(float(s), asked.ridge, float(ridge[i]), asked.adjoint, table, width),
            )
            if out.dtype != asked.dtype:
                out[i] = L

    return work


def routines(dtype: Any) -> Array:
    """Return the addresses of BLAS for a precision, as the kernels take them."""
    found: Array = deferred("matroot.backends.cpu.large.blas").routines("s" if dtype == np.float32 else "d")
    return found


def ready(E: Array, dtype: Any) -> tuple[Array, Array]:
    """Return an array as the compiled loops take it, and its bits; numba has another type for read-only arrays."""
    usable = E.dtype == dtype and E.flags.c_contiguous and E.flags.aligned and E.flags.writeable
    E = E if usable else np.array(E, dtype, order="C")
    return E, E.view(np.int32 if dtype == np.float32 else np.int64)
