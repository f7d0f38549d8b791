"""A^s B for a sparse matrix, an operator or a function: choice of the way, units, and statuses."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from matroot._bars import ILL_FORWARD_ERROR, ILL_INPUT_ERROR, forward_error_bound
from matroot._regularization import Regularization, Ridge, as_regularization
from matroot._result import on_host
from matroot._status import Status
from matroot.applied.bounds import Approximation, Wanted, nothing
from matroot.applied.factored import SINGULAR, Factored, by_poles, cheaper_steps
from matroot.applied.lanczos import by_lanczos
from matroot.applied.operators import Operator, operator, spectrum
from matroot.applied.result import ApplyResult
from matroot.applied.shifted import Floats, rule
from matroot.backends import backend_of
from matroot.backends.arrays import Origin, check_numbers, is_inexact, readable, round_to, take, unit_roundoff

Array = Any

METHODS = ("auto", "lanczos", "poles")
#: Steps of Lanczos, if max_iter is None.
STEPS = 5000
#: A lower bound of the eigenvalues below this times the upper one is none: so many poles are never taken.
USEFUL = 2.0**-900
#: Below so many steps Lanczos is not tried where factorizations cost no more.
FEW_STEPS = 64


def apply_operator(
    a: Any,
    s: Fraction | float,
    b: Any,
    *,
    method: Any = "auto",
    regularization: Regularization | float | None = None,
    rtol: float | None = None,
    max_iter: int | None = None,
    lambda_min: float | None = None,
) -> ApplyResult[Any]:
    """Compute A^s B, -1 <= s < 1, not 0; see `matroot.solve_apply`."""
    columns, origin = take(b, "b")
    if columns.dtype.kind != "b":
        check_numbers(columns.dtype, origin, "b")
    vector = columns.ndim == 1
    if columns.ndim not in (1, 2):
        raise ValueError(f"b must be (n,) or (n, m) where a is no array, got {tuple(columns.shape)}")
    ridge = _checked(method, regularization, s)
    backend = backend_of(columns)
    with backend.here(origin):
        B = columns[:, None] if vector else columns
        A = operator(a, B, origin, vector, ridge.absolute)
        if method == "poles" and A.matrix is None:
            raise ValueError("method='poles' factorizes A: a must be a scipy.sparse matrix, and b a numpy array")
        V, units = _normalized(B, A)
        least, largest, above = spectrum(A)
        delta = ridge.relative * max(largest, 0.0) + float(_scaled(ridge.absolute, -A.exponent))
        A.add(delta)
        given = float(_scaled(lambda_min or 0.0, -A.exponent))
        low = given + delta if given + delta > USEFUL * (above + delta) else None
        if given and given - 1e-6 * abs(largest) > least:
            value = float(_scaled(least, A.exponent))
            raise ValueError(f"lambda_min = {lambda_min:.3e} is no lower bound: a has a Ritz value of {value:.3e}")
        dtype, name = _out_dtype(A, origin)
        wanted = Wanted(s, rtol, unit_roundoff(name), above + delta, low)
        some = np.flatnonzero(units.norm > 0)
        found, used, factored = _run(A, V[:, some], wanted, method, max_iter, least + delta)
        X, error = _in_units(_spread(found, some, V), units, A.exponent, wanted)
        with np.errstate(over="ignore"):
            X = round_to(X.astype(dtype), name)
        cond = (largest + delta) / found.smallest if found.smallest > 0 else math.inf
        status = _statuses(found, error, cond, wanted, A, units)
        over = ~on_host(A.xp.isfinite(X).all(0)) & (status < int(Status.DIVERGED))
        status = np.where(over, int(Status.DIVERGED), status).astype(np.int8)
        bad = status > int(Status.STAGNATED)
        X[:, A.xp.asarray(bad)] = np.nan
        error = np.where(bad, np.nan, error)
    return ApplyResult(
        x=origin.give_back(X[:, 0] if vector else X, as_input=name == origin.dtype_name),
        status=status[0] if vector else status,
        error=error[0] if vector else error,
        certificate=found.bound.certificate,
        lambda_min=_scaled(found.smallest, A.exponent),
        lambda_max=_scaled(largest + delta, A.exponent),
        cond=np.float64(cond),
        ridge=_scaled(delta, A.exponent),
        n_iter=found.n_iter,
        n_products=A.count,
        n_factorizations=factored,
        method=used,
        exponent=s,
        rtol=rtol,
    )


def _checked(method: Any, regularization: Any, s: Fraction | float) -> Ridge:
    """Return the ridge; raise if an argument is wrong."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {[*METHODS]} where a is no dense array, got {method!r}")
    if not -1 <= s <= 1 or s in (0, 1):
        raise ValueError(f"where a is no dense array, s must be in [-1, 1), and not 0; got {s}")
    ridge = as_regularization(regularization) or Ridge()
    if not isinstance(ridge, Ridge):
        raise ValueError(f"{type(ridge).__name__} needs a dense array; use Ridge")
    return ridge


def _out_dtype(A: Operator, origin: Origin) -> tuple[np.dtype[Any], str]:
    """Return the dtype that X is computed to, and its name, which may be that of a half precision."""
    given = np.dtype(readable(origin.dtype_name)) if is_inexact(origin.dtype_name) else np.dtype("float64")
    declared = np.dtype(readable(A.declared)) if is_inexact(A.declared) else np.dtype("float64")
    dtype = np.result_type(given, declared)
    if A.dtype.kind == "c":
        dtype = np.result_type(dtype, np.complex64)
    return dtype, origin.dtype_name if dtype == given else dtype.name


class _Units(NamedTuple):
    """B = V diag(norm) 2^exponent; columns that are not finite are 0 in V."""

    norm: Floats
    exponent: Any
    finite: Any


def _normalized(B: Array, A: Operator) -> tuple[Array, _Units]:
    """Return columns of norm 1, or 0, and what they have to be multiplied by."""
    xp = A.xp
    finite = on_host(xp.isfinite(B).all(0))
    V = xp.where(xp.asarray(finite), B, 0).astype(A.dtype)
    size = on_host(abs(V).max(0)) if A.n else np.zeros(V.shape[1])
    exponent = np.frexp(size)[1]
    half = np.ldexp(1.0, -(exponent // 2)), np.ldexp(1.0, -(exponent - exponent // 2))
    V = V * xp.asarray(half[0]) * xp.asarray(half[1])
    norm = _norms(V, xp)
    V = V * xp.asarray(1 / np.where(norm > 0, norm, 1))
    return V, _Units(norm, exponent, finite)


def _in_units(found: Approximation, units: _Units, exponent: int, wanted: Wanted) -> tuple[Array, Floats]:
    """Return A^s B in the units of the caller, and the bound of its relative error."""
    xp = backend_of(found.y).xp
    error = found.bound.error(_norms(found.y, xp)) + (wanted.unit if wanted.unit > 2.0**-53 else 0.0)
    moved = Fraction(wanted.s) * exponent  # exact: rounding it would be an error that large of its power of two
    scale = units.norm * 2.0 ** float(moved - math.floor(moved))
    power = units.exponent + math.floor(moved)
    with np.errstate(over="ignore", under="ignore"):
        X = found.y * xp.asarray(scale)
        for part in (power // 2, power - power // 2):
            X = X * xp.asarray(np.ldexp(1.0, part))
    return X, np.where(units.norm == 0, 0.0, error)


def _spread(found: Approximation, some: Any, V: Array) -> Approximation:
    """Return what was found for `some` columns of V in the place of all, the others of which are 0."""
    if len(some) == V.shape[1]:
        return found
    y, bounds = backend_of(V).xp.zeros_like(V), np.zeros((2, V.shape[1]))
    y[:, some] = found.y
    bounds[:, some] = found.bound.truncated, found.bound.rounded
    return found._replace(y=y, bound=found.bound._replace(truncated=bounds[0], rounded=bounds[1]))


def _run(
    A: Operator, V: Array, wanted: Wanted, method: str, max_iter: int | None, least: float
) -> tuple[Approximation, str, int]:
    """Choose between Lanczos and factorizations; return what was found, the method, and how often A was factorized."""
    if V.shape[1] and least < -SINGULAR * A.unit * wanted.above:  # above is 0 for a negative definite function
        return nothing(V, Status.NOT_POSITIVE, least), "lanczos" if method == "auto" else method, 0
    if not math.isfinite(least) or not V.shape[1] or not A.n or not wanted.above > 0:
        status = Status.NONFINITE_INPUT if not math.isfinite(least) else Status.CONVERGED
        if status is Status.CONVERGED and A.n and V.shape[1] and wanted.s < 0:
            status = Status.SINGULAR
        named = "lanczos" if method == "auto" else method
        return nothing(V, status, 0.0 if math.isfinite(least) else math.nan), named, 0
    most = max_iter or STEPS
    worth = 0.0
    if method == "auto" and A.matrix is None:
        method = "lanczos"
    if method == "auto":
        systems = len(rule(wanted.s, 1e-6, 1.0, wanted.accuracy).t) + 2
        worth = cheaper_steps(A, V.shape[1], systems)
        method = "poles" if worth < FEW_STEPS else "auto"
    found = None
    if method != "poles":
        found = by_lanczos(A, V, wanted, min(most, math.ceil(worth)) if worth else most, least)
        if method == "lanczos" or found.status is not Status.MAX_ITER or not worth < most:
            return found, "lanczos", 0
    factored = Factored(A)
    return by_poles(A, factored, V, wanted), "poles", factored.count


def _statuses(found: Approximation, error: Floats, cond: float, wanted: Wanted, A: Operator, units: _Units) -> Any:
    """Return the status of every column."""
    met = error <= (wanted.rtol or ILL_FORWARD_ERROR)
    if wanted.rtol is None:  # the dtype's accuracy, or what rounding leaves of it
        met &= found.status is not Status.MAX_ITER
    ended = Status.ILL_CONDITIONED if found.status is Status.CONVERGED else found.status
    status = np.where(met, int(Status.CONVERGED), int(ended))
    if found.status > Status.STAGNATED:
        status[:] = int(found.status)
    with np.errstate(all="ignore"):
        lost = not forward_error_bound(np.float64(cond), wanted.s, A.given) <= ILL_INPUT_ERROR
    status = np.where((status == 0) & lost, int(Status.ILL_CONDITIONED), status)
    zero = (units.norm == 0) & (status < int(Status.DIVERGED))
    return np.where(units.finite, np.where(zero, 0, status), int(Status.NONFINITE_INPUT))


def _scaled(value: float, exponent: int) -> Any:
    with np.errstate(all="ignore"):
        return np.ldexp(np.float64(value), exponent)


def _norms(X: Array, xp: Any) -> Floats:
    return np.asarray(on_host(xp.sqrt(xp.einsum("ij,ij->j", X.conj(), X).real)))
