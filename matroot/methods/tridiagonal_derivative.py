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
from matroot.backends.cpu.derivative.poles import DOUBLE, ROUNDED, SINGLE, derivative_table
from matroot.backends.cpu.kernels import compiled, in_use
from matroot.backends.linalg import hermitian_part
from matroot.backends.loading import deferred
from matroot.methods.base import Array
from matroot.methods.tridiagonal import room, tasks
from matroot.methods.tridiagonal_form import form_in, readable, room_of
from matroot.methods.tridiagonal_report import LANES, root_of

#: Up to this n the arithmetic is in float64 whatever the direction has.
WIDENED = 16
#: How many derivatives the way of large ones computes while lanes compute their eight, on one thread of an AMD EPYC of
#: family 26; up to the first n lanes always pay, and above the last there are none, as for roots.
SIZES = (64, 96, 128, 192, 224)
WORTH = (3.8, 5.4, 6.2, 7.4, 7.8)


def serves(s: Fraction | float, rule: Regularization | None, A: Array, E: Array) -> bool:
    """Return True if `derivatives` may serve a stack A and directions E of the same shape."""
    known = isinstance(s, Fraction) and -1 <= s < 1 and s != 0 and (rule is None or isinstance(rule, Ridge))
    return known and in_use() and A.dtype.kind != "c" and E.dtype.kind != "c" and A.size > 0


def lanes_are_faster(B: int, n: int) -> bool:
    """Return True if lanes serve B matrices faster than the way of large ones."""
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
        The tridiagonal forms of A: of lanes (B, `form_numbers`), or of LAPACK in the room of
        `tridiagonal_form.room_of`.

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
    asked = Asked(s, rule, adjoint, np.dtype(np.float32 if single and n > WIDENED else np.float64), single)
    groups = lanes_are_faster(B, n) if kept is None else kept.ndim == 2
    whole = n <= WIDENED
    one = (tiny if whole else small if groups else large)(asked, A, E, given, out, served, kept)
    if one is None:
        return out, served
    size = LANES * max(1, -(-B // (LANES * threads()))) if groups else -(-B // (4 * threads()))
    slices = tasks(B, n, threads(), False) if whole else [slice(i, min(i + size, B)) for i in range(0, B, size)]
    with np.errstate(all="ignore"):
        if whole or groups or kept is not None:  # without LAPACK
            in_threads(one, slices)
        else:
            with one_blas_thread():
                in_threads(held_in_its_thread(one), slices)
    return out, served & ~np.isnan(given)


class Asked(NamedTuple):
    """The options that all matrices of a stack share."""

    s: Fraction
    rule: Ridge | None
    adjoint: bool
    #: of the arithmetic
    dtype: np.dtype[Any]
    #: results are in float32
    single: bool

    @property
    def ridge(self) -> tuple[float, float]:
        """The relative and the absolute ridge."""
        return (0.0, 0.0) if self.rule is None else (float(self.rule.relative), float(self.rule.absolute))

    def table(self) -> tuple[Array, Array, Array]:
        """Return the poles for every class of condition numbers."""
        rounded = ROUNDED if self.single else DOUBLE
        return derivative_table(self.s, SINGLE if self.dtype == np.float32 else rounded)


def form_numbers(n: int) -> int:
    """Return how many numbers lanes keep of a matrix of order n."""
    found: int = deferred("matroot.backends.cpu.tridiagonal.layout").form_numbers(n)
    return found


def tiny(
    asked: Asked, A: Array, E: Array, ridge: Array, out: Array, served: Array, kept: Array | None
) -> Callable[[slice], None] | None:
    """Return the work on a part of a stack that lanes do whole; None if numba cannot compile."""
    kernel = compiled("matroot.backends.cpu.derivative.lanes")
    if kernel is None:
        return None
    table, s, n = asked.table(), asked.s, A.shape[-1]
    vectors = kernel.vectors(n, table[0].shape[1] + 1)

    def work(part: slice) -> None:
        stack, G = (np.ascontiguousarray(M[part], np.float64) for M in (A, E))
        direct = out.dtype == np.float64
        L = out[part] if direct else np.empty(stack.shape)
        exponent = s.numerator, s.denominator
        kernel.derived(
            stack, G, L, served[part], *exponent, asked.ridge, ridge[part], asked.adjoint, *table, room(vectors)
        )
        if not direct:
            out[part] = L

    return work


def small(
    asked: Asked, A: Array, E: Array, ridge: Array, out: Array, served: Array, kept: Array | None
) -> Callable[[slice], None] | None:
    """Return the work on a part of a stack that lanes reduce, or have reduced; None if numba cannot compile."""
    names = ("matroot.backends.cpu.derivative.reduction", "matroot.backends.cpu.derivative.kernel")
    reduction, kernel = (compiled(name) for name in names)
    if reduction is None or kernel is None:
        return None
    (_, absolute), table, s, n = asked.ridge, asked.table(), asked.s, A.shape[-1]
    power = s.numerator, s.denominator

    def work(part: slice) -> None:
        own, space = (np.empty((LANES, form_numbers(n))), room(reduction.vectors(n))) if kept is None else (None, None)
        step = LANES if kept is None else max(1, part.stop - part.start)
        for i in range(part.start, part.stop, step):
            rows = slice(i, min(i + step, part.stop))
            forms = own if kept is None else kept[rows]
            if kept is None:
                reduction.reduced(np.ascontiguousarray(A[rows], np.float64), absolute, space, forms)
            L = out[rows] if out.dtype == asked.dtype else np.empty((rows.stop - i, n, n), asked.dtype)
            kernel.applied(
                *(forms, *ready(E[rows], asked.dtype), L, served[rows]),
                *(power, asked.ridge, ridge[rows], asked.adjoint, table),
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

    def reduce(S: Array, form: Any, halves: Array) -> bool:
        S = S if readable(S) else np.array(S, np.float64, order="C")
        if not reduction.reduced(S, *form, halves, absolute)[0]:
            S = hermitian_part(S.astype(np.float64))
            return bool(np.isfinite(S).all()) and bool(reduction.reduced(S, *form, halves, absolute)[0])
        return True

    def work(part: slice) -> None:
        space, own = kernel.room(n, asked.dtype), room_of(int(kept is None), n)
        for i in range(part.start, part.stop):
            form, halves, ends = form_in(own[0] if kept is None else kept[i], n)
            if kept is None and not reduce(A[i], form, halves):
                continue
            reflectors, d, e, tau = form
            low, high = reduction.ends(d, e) if kept is None else ends.tolist()
            exponent = -sum(math.frexp(half)[1] - 1 for half in halves)
            L = out[i] if out.dtype == asked.dtype else np.empty((n, n), asked.dtype)
            served[i] = kernel.applied(
                *(reflectors, d, e, tau, low, high, halves, root_of(exponent, s - 1)),
                *(*ready(E[i], asked.dtype), L, space),
                *(float(s), asked.ridge, float(ridge[i]), asked.adjoint, table),
            )
            if out.dtype != asked.dtype:
                out[i] = L

    return work


def ready(E: Array, dtype: Any) -> tuple[Array, Array]:
    """Return an array as the compiled loops take it, and its bits; numba has another type for read-only arrays."""
    usable = E.dtype == dtype and E.flags.c_contiguous and E.flags.aligned and E.flags.writeable
    E = E if usable else np.array(E, dtype, order="C")
    return E, E.view(np.int32 if dtype == np.float32 else np.int64)
