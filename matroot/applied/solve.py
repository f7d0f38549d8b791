"""A^s B for a sparse matrix, an operator or a function: the way is chosen, the error bounded, the status found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from matroot._bars import ILL_FORWARD_ERROR, ILL_INPUT_ERROR, forward_error_bound
from matroot._regularization import Regularization, Ridge, as_regularization
from matroot._status import Status
from matroot.applied.factored import SINGULAR, Factored, cheaper_steps
from matroot.applied.krylov import Krylov
from matroot.applied.operators import Operator, extremes, operator, spectrum
from matroot.applied.result import ApplyResult
from matroot.applied.shifted import Floats, Rule, Sums, Tridiagonal, of_tridiagonal, rule
from matroot.backends import backend_of
from matroot.backends.arrays import Origin, is_inexact, readable, round_to, take, unit_roundoff

Array = Any

METHODS = ("auto", "lanczos", "poles")
#: Steps of Lanczos, if max_iter is None.
STEPS = 5000
#: Steps between two evaluations of the bound, as a share of those before.
SPACING = 0.15
#: The accuracy wanted without rtol, in units of the dtype's rounding.
UNITS = 64
#: Truncation that is this share of what rounding may do is not reduced any more.
NEGLIGIBLE = 0.25
#: Rounding errors of a step of Lanczos: of the product, and of the vectors.
ROUNDINGS = 2
#: Below so many steps Lanczos is not tried where factorizations cost no more.
FEW_STEPS = 64
#: Where the poles begin for s > 0, as a share of the largest eigenvalue.
LEAST = 1e-30


@dataclass(frozen=True)
class Wanted:
    """What is asked for, in units in which A is about 1."""

    s: Fraction | float
    #: relative error of the result
    rtol: float | None
    #: unit roundoff of the result's dtype
    unit: float
    #: no eigenvalue exceeds it
    above: float
    #: a lower bound of the eigenvalues, or None
    low: float | None

    @property
    def target(self) -> float:
        return self.rtol if self.rtol is not None else UNITS * self.unit

    @property
    def accuracy(self) -> float:
        """Of the sum of poles."""
        return max(self.target / 100, 1e-15)

    @property
    def least(self) -> float:
        """Where the poles begin if the smallest eigenvalue may be 0."""
        if self.s < 0:
            return 0.0
        return float(self.above * max(LEAST, (self.target / 8) ** (1 / float(self.s))))


class Bound(NamedTuple):
    """Bounds of the parts of the error, per column, absolute."""

    #: of the shifted systems
    truncated: Floats
    #: of rounding, of the poles and of eigenvalues below them
    rounded: Floats
    certificate: str

    def error(self, size: Floats) -> Floats:
        """Return the bound of the relative error of a result of this size."""
        with np.errstate(all="ignore"):
            total = self.truncated + self.rounded
            known = np.where(total < size, total / (size - total), np.inf)
        return np.where(size + total == 0, 0.0, known)


class Approximation(NamedTuple):
    """A^s B for columns of norm 1."""

    y: Array
    bound: Bound
    n_iter: int
    status: Status
    smallest: float


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
    vector = columns.ndim == 1
    if columns.ndim not in (1, 2):
        raise ValueError(f"b must be (n,) or (n, m) where a is no array, got {tuple(columns.shape)}")
    ridge = _checked(method, regularization, s)
    backend = backend_of(columns)
    with backend.here(origin):
        B = columns[:, None] if vector else columns
        A = operator(a, B, origin, vector)
        if method == "poles" and A.matrix is None:
            raise ValueError("method='poles' factorizes A: a must be a scipy.sparse matrix, and b a numpy array")
        V, units = _normalized(B, A)
        least, largest, above = spectrum(A)
        delta = ridge.relative * max(largest, 0.0) + math.ldexp(ridge.absolute, -A.exponent)
        A.add(delta)
        low = None if lambda_min is None and not delta else math.ldexp(lambda_min or 0.0, -A.exponent) + delta
        if lambda_min is not None and least < math.ldexp(lambda_min, -A.exponent) - 1e-6 * abs(largest):
            value = math.ldexp(least, A.exponent)
            raise ValueError(f"lambda_min = {lambda_min:.3e} is no lower bound: a has a Ritz value of {value:.3e}")
        dtype, name = _out_dtype(A, origin)
        wanted = Wanted(s, rtol, unit_roundoff(name), above + delta, low)
        some = np.flatnonzero(units.norm > 0)
        found, used, factored = _run(A, V[:, some], wanted, method, max_iter, least + delta)
        X, error = _in_units(_spread(found, some, V), units, A.exponent, wanted)
        with np.errstate(over="ignore"):
            X = round_to(X.astype(dtype), name)
        cond = _cond(found, largest + delta)
        status = _statuses(found, error, cond, wanted, A, units)
        over = ~_host(A.xp.isfinite(X).all(0)) & (status < int(Status.DIVERGED))
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
    finite = _host(xp.isfinite(B).all(0))
    V = xp.where(xp.asarray(finite), B, 0).astype(A.dtype)
    size = _host(abs(V).max(0)) if A.n else np.zeros(V.shape[1])
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
    s = float(wanted.s) * exponent
    scale = units.norm * 2.0 ** (s - math.floor(s))
    power = units.exponent + math.floor(s)
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
    if not math.isfinite(least) or not V.shape[1] or not A.n or not wanted.above > 0:
        status = Status.NONFINITE_INPUT if not math.isfinite(least) else Status.CONVERGED
        if status is Status.CONVERGED and A.n and V.shape[1] and wanted.s < 0:
            status = Status.NOT_POSITIVE
        return _nothing(V, status, 0.0 if math.isfinite(least) else math.nan), method, 0
    if least < -SINGULAR * A.unit * wanted.above:
        return _nothing(V, Status.NOT_POSITIVE, least), "lanczos" if method == "auto" else method, 0
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
        found = by_lanczos(A, V, wanted, min(most, math.ceil(worth)) if worth else most)
        if method == "lanczos" or found.status is not Status.MAX_ITER or not worth < most:
            return found, "lanczos", 0
    factored = Factored(A)
    return by_poles(A, factored, V, wanted), "poles", factored.count


def by_poles(A: Operator, factored: Factored, V: Array, wanted: Wanted) -> Approximation:
    """Factorize A + t I for every pole t."""
    low, smallest = factored.lowest(wanted.above)
    if smallest < 0 or (wanted.s < 0 and low == 0):
        return _nothing(V, Status.NOT_POSITIVE, smallest)
    moved = 0.0
    if low == 0:  # A + least I is semidefinite, which is as much as rounding lets one know
        low = SINGULAR * A.unit * wanted.above
        moved = 2 * low
        A.add(moved)
    poles = rule(wanted.s, low, wanted.above + moved, wanted.accuracy)
    poles = poles._replace(below=moved ** max(float(wanted.s), 0.0) if moved else 0.0)
    sums = factored.sums(V, poles, wanted.above + moved)
    if sums is None:
        return _nothing(V, Status.STAGNATED, smallest)
    y, truncated, rounded = sums
    bound = _bound(poles, _norms(y, A.xp), truncated, rounded, A, "bound")
    return Approximation(y, bound, len(poles.t), Status.CONVERGED, smallest)


def by_lanczos(A: Operator, V: Array, wanted: Wanted, most: int) -> Approximation:
    """Run Lanczos until the bound is met in every column."""
    krylov = Krylov(A, V, A.xp)
    check = 8
    while True:
        krylov.step(A.unit)
        m = len(krylov)
        if not krylov.finite:
            return _nothing(V, Status.NONFINITE_INPUT, math.nan)
        done = m >= most or bool(krylov.ended.all())
        if m < check and not done:
            continue
        check = m + max(4, int(SPACING * m))
        smallest, _ = extremes(krylov)
        if smallest < -(SINGULAR + m) * A.unit * wanted.above:  # rounding errors of m steps
            return _nothing(V, Status.NOT_POSITIVE, smallest)
        evaluated = _evaluated(krylov.tridiagonal, wanted, A, smallest)
        if evaluated is None:  # the smallest eigenvalue cannot be told from 0
            return _nothing(V, Status.NOT_POSITIVE, smallest)
        sums, bound = evaluated
        met = _met(bound, _sizes(sums), wanted)
        if done or met.all():
            break
    y, drift, _ = krylov.combined(sums.x)
    bound = bound._replace(truncated=bound.truncated * np.maximum(drift, 1))
    status = Status.CONVERGED if met.all() else Status.MAX_ITER
    return Approximation(y, bound, m, status, smallest)


def _evaluated(T: Tridiagonal, wanted: Wanted, A: Operator, smallest: float) -> tuple[Sums, Bound] | None:
    """Return the solutions for T with the bound of their error; None if A seems singular, and s < 0."""
    noise = A.unit * wanted.above
    lows = [] if wanted.s < 0 else [(0.0, "bound")]
    if wanted.low is not None and 0 < wanted.low <= smallest + 4 * noise:
        lows = [(wanted.low, "bound")]
    elif smallest > noise:
        lows.append((smallest, "estimate"))
    found: tuple[Sums, Bound] | None = None
    least = np.inf
    for low, certificate in lows:
        poles = rule(wanted.s, low, wanted.above, wanted.accuracy, wanted.least)
        sums = of_tridiagonal(T, poles, wanted.above)
        if not sums.positive.all():
            shift = noise + max(0.0, -smallest)
            sums = of_tridiagonal(T._replace(diagonal=T.diagonal + shift), poles, wanted.above)
            poles = poles._replace(below=poles.below + 2 * shift ** max(float(wanted.s), 0.0))
        size = _sizes(sums)
        bound = _bound(poles, size, sums.truncated, ROUNDINGS * sums.rounded, A, certificate)
        error = bound.error(size)
        if found is None or error.max() < least / 2:  # an estimate has to be that much better than a bound
            found, least = (sums, bound), float(error.max())
        if least <= wanted.target:
            break
    return found


def _sizes(sums: Sums) -> Floats:
    return np.asarray(np.sqrt((sums.x * sums.x).sum(0)))


def _bound(poles: Rule, size: Floats, truncated: Floats, rounded: Floats, A: Operator, certificate: str) -> Bound:
    """Return the parts of the error."""
    fixed = A.unit * rounded + (8 * 2.0**-53 + poles.delta) * size + poles.below
    return Bound(truncated, fixed, certificate)


def _met(bound: Bound, size: Floats, wanted: Wanted) -> Any:
    """Return True where the error is as wanted, or rounding is most of it."""
    error = bound.error(size) if wanted.rtol is not None else bound.truncated / np.where(size > 0, size, 1)
    return (error <= wanted.target) | (bound.truncated <= NEGLIGIBLE * bound.rounded) | (size == 0)


def _nothing(V: Array, status: Status, smallest: float) -> Approximation:
    zero = np.zeros(V.shape[1])
    unknown = zero if status is Status.CONVERGED else zero + np.inf
    return Approximation(V * 0, Bound(unknown, zero, "bound"), 0, status, smallest)


def _cond(found: Approximation, largest: float) -> float:
    return largest / found.smallest if found.smallest > 0 else math.inf


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
    return np.asarray(_host(xp.sqrt(xp.einsum("ij,ij->j", X.conj(), X).real)))


def _host(values: Array) -> Any:
    get = getattr(values, "get", None)
    return np.asarray(values if get is None else get())
