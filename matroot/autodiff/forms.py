"""Linear and bilinear forms of the derivatives of A -> A'^s, for stacks of matrices of any size and scale.

Matrices may be rectangular, and the power then is that of the singular values, U S^s V^H.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from matroot._regularization import Regularization, Ridge
from matroot.autodiff.general import General
from matroot.autodiff.singular import Singular
from matroot.autodiff.spectral import Spectral
from matroot.backends import backend_of
from matroot.backends.arrays import is_inexact, unit_roundoff
from matroot.backends.base import Backend
from matroot.backends.linalg import hermitian_part
from matroot.methods.tridiagonal_derivative import derivatives, serves
from matroot.pipeline.scaling import power_of_two, prepared, scale_exponent, scale_root

Array = Any

#: L(e), L*(g), D(e, h) and S(e, g), where L is the derivative of the power at A, D the second derivative, and
#: <S(e, g), h> = <g, D(e, h)>. All are real-linear in the directions, and differentiate one another:
#:
#:     of L(e)      in A by h: D(e, h);  cotangent g gives L*(g) for e, S(e, g) for A
#:     of L*(g)     in A by h: S(h, g);  cotangent e gives L(e) for g, S(e, g) for A
FORMS = ("derivative", "adjoint", "second", "second_adjoint")

#: Chunks are this many times larger than those of roots, since the decomposition takes most of the time.
CHUNKS = 4
#: Stands for the shift that the rule itself gives.
OF_THE_RULE = -1.0


@dataclass(frozen=True)
class Power:
    """The function that is differentiated: A -> (A changed by the rule)^s.

    Attributes
    ----------
    s : Fraction or float
    rule : Regularization or None
    assume_a : {"pos", "gen", "any"}
        "any" is a power of the singular values, without a rule.
    dtype_name : str
        Of the caller's A, which tells its rounding.
    """

    s: Fraction | float
    rule: Regularization | None
    assume_a: str
    dtype_name: str


def evaluate(
    form: str,
    power: Power,
    A: Array,
    directions: tuple[Array, ...],
    ridge: Array | None = None,
    kept: Array | None = None,
) -> tuple[Array, Array]:
    """Evaluate a form of `FORMS` at every matrix of a stack, in double precision.

    Parameters
    ----------
    form : str
    power : Power
    A : array (B, n, n), or (B, m, n) under "any"
        Of numpy or cupy, any dtype. Under "pos" its Hermitian part counts, and that of the directions.
    directions : arrays of the shape of A
        One, or two for the forms of second order.
    ridge : array (B,), optional
        The shift that was added when the root was computed, absolute; NaN where the root failed, `OF_THE_RULE` where
        no root was computed.
    kept : array (B, n + 4, ...), optional
        The tridiagonal forms of the matrices, where the solve has left them (`pipeline.kernel.solve_kept`).

    Returns
    -------
    value : array of the shape of A
        NaN where there is no derivative.
    failed : array (B,) of bool

    Raises
    ------
    ValueError
        The form is not known for the rule.
    """
    if isinstance(power.rule, Ridge) and power.rule.relative and power.assume_a == "gen" and len(directions) > 1:
        raise ValueError(
            "second derivatives of general matrices are not known for a relative ridge; use Ridge(absolute=...)"
        )
    if power.assume_a == "pos" and form in FORMS[:2] and backend_of(A).name == "cpu":
        if serves(power.s, power.rule, A, directions[0]):
            return _by_poles(form, power, A, directions[0], ridge, kept)
    return _decomposed(form, power, A, directions, ridge)


def _by_poles(
    form: str, power: Power, A: Array, E: Array, ridge: Array | None, kept: Array | None
) -> tuple[Array, Array]:
    """Evaluate a form of first order without eigenvectors where that is possible."""
    out, served = derivatives(A, E, power.s, power.rule, ridge, form == "adjoint", kept)
    failed = np.zeros(len(A), bool)
    hard = np.flatnonzero(~served)
    if len(hard):
        some = None if ridge is None else ridge[hard]
        found, failed[hard] = _decomposed(form, power, A[hard], (E[hard],), some)
        with np.errstate(over="ignore", under="ignore"):
            out[hard] = found
    return out, failed


def _decomposed(
    form: str, power: Power, A: Array, directions: tuple[Array, ...], ridge: Array | None
) -> tuple[Array, Array]:
    backend = backend_of(A)
    xp = backend.xp
    dtype = np.result_type(A.dtype, *(E.dtype for E in directions), np.float64)
    out, failed = xp.zeros(A.shape, dtype), xp.zeros(len(A), bool)

    def work(part: slice) -> None:
        parts = tuple(E[part] for E in directions)
        out[part], failed[part] = _chunk(form, power, A[part], parts, None if ridge is None else ridge[part], backend)

    if out.size:
        backend.run_chunks(work, len(A), A.shape[-1], max(1, dtype.itemsize // CHUNKS))
    return out, failed


def _chunk(
    form: str, power: Power, A: Array, directions: tuple[Array, ...], ridge: Array | None, backend: Backend
) -> tuple[Array, Array]:
    xp, n = backend.xp, A.shape[-1]
    A, exponent, finite = _scaled(A, power.rule, backend)
    if ridge is not None:
        finite = finite & ~xp.isnan(ridge)
    scaled, moved = [], 0
    for E in directions:
        direction, own, usable = _scaled(E, None, backend)
        scaled.append(direction)
        moved, finite = moved + own, finite & usable
    scale = power_of_two(exponent, xp)
    with np.errstate(all="ignore"):
        given = unit_roundoff(power.dtype_name) if is_inexact(power.dtype_name) else 0.0
        if power.assume_a == "gen":
            X, failed = _general(form, power, A, scaled, scale, ridge)
        elif power.assume_a == "any":
            values = Singular(A, power.s, max(given, 2.0**-53), backend)
            X, failed = getattr(values, form)(*scaled), values.failed
        else:
            rounding = n * max(2.0**-52, 2 * given)
            at = Spectral(hermitian_part(A), power.s, power.rule, scale, ridge, rounding, backend)
            X, failed = getattr(at, form)(*scaled), at.failed
        scale_root(X, exponent, power.s, backend, moved - len(directions) * exponent)  # s - 1 would be rounded
    failed = failed | ~finite
    if backend.any(failed):
        X = xp.where(failed[:, None, None], xp.nan, X)
    return X, failed


def _scaled(E: Array, rule: Regularization | None, backend: Backend) -> tuple[Array, Array, Array]:
    """Return E / 2^e in double precision with entries up to 1, e, and where E is finite; I where it is not."""
    xp, wide = backend.xp, np.result_type(E.dtype, np.float64)
    if E.dtype.kind in "iu":  # abs() of the smallest integer overflows
        E = E.astype(wide)
    size = abs(E).max((-1, -2))
    finite = xp.isfinite(size)
    exponent = scale_exponent(xp.where(finite, size, 1), rule, xp)
    return prepared(E, finite, exponent, wide, backend), exponent, finite


def _general(
    form: str, power: Power, A: Array, directions: list[Array], scale: Array, ridge: Array | None
) -> tuple[Array, Array]:
    found, failed = [], np.zeros(len(A), bool)
    rule, eye = power.rule, np.eye(A.shape[-1])
    for i, M in enumerate(A):
        vectors = None
        if isinstance(rule, Ridge):
            U, sigma, Vh = np.linalg.svd(M)
            asked = ridge is None or ridge[i] == OF_THE_RULE
            delta = rule.shift(sigma[0], sigma[0], scale[i]) if ridge is None or asked else ridge[i] / scale[i]
            M = M + delta * eye
            vectors = rule.relative * np.outer(U[:, 0], Vh[0])  # the derivative of relative * ||A||_2
        at = General(M, power.s)
        given = [E[i] for E in directions]
        if vectors is not None and form == "derivative":
            given[0] = given[0] + (vectors.conj() * given[0]).sum().real * eye
        X = getattr(at, form)(*given)
        if vectors is not None and form == "adjoint":
            X = X + np.trace(X).real * vectors
        found.append(X)
        failed[i] = at.failed
    return np.array(found), failed
