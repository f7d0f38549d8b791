"""Sparse matrices, operators with `matvec` and functions as one kind, and the facts that a few products tell."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from matroot.applied.krylov import Krylov
from matroot.backends import backend_of
from matroot.backends.arrays import Origin, dtype_name, is_inexact, library_of, take, unit_roundoff
from matroot.backends.loading import deferred
from matroot.methods.conditioning import random_columns, start_vector
from matroot.pipeline.scaling import SUMMED_IN_FLOAT32

Array = Any

#: Steps of the Lanczos run that bounds the largest eigenvalue.
STEPS = 16
#: A random start vector finds more than a quarter of the largest eigenvalue in 16 steps, except with probability
#: 1.65 sqrt(n) exp(-31 sqrt(3/4)) = 4e-12 sqrt(n) (Kuczynski & Wozniakowski 1992, theorem 4.1, for A >= 0).
ABOVE = 4.0


@dataclass
class Operator:
    """A as a function of arrays (n, k), divided by 2^exponent."""

    n: int
    product: Callable[[Array], Array]
    exponent: int
    #: of the arithmetic, and by name of the numbers that A was given in
    dtype: np.dtype[Any]
    declared: str
    #: rounding of a product, relative to |A| |x|
    unit: float
    xp: Any
    #: in compressed columns, scaled like the products; None if only products are known
    matrix: Any = None
    #: products with one column so far
    count: int = 0

    def __call__(self, V: Array) -> Array:
        self.count += V.shape[1]
        return self.product(V)

    @property
    def given(self) -> float:
        """Unit roundoff of the numbers that A was given in."""
        return unit_roundoff(self.declared) if is_inexact(self.declared) else 2.0**-53

    def add(self, delta: float) -> None:
        """Replace A by A + delta I, in the units of the products."""
        if delta and self.matrix is not None:
            eye = deferred("scipy.sparse").identity(self.n, dtype=self.matrix.dtype, format="csc")
            self.matrix = (self.matrix + delta * eye).tocsc()
            rows = self.matrix.tocsr()
            self.product = lambda V: rows @ V
        elif delta:
            before = self.product
            self.product = lambda V: before(V) + delta * V


class Spectrum(NamedTuple):
    """Extremes of the eigenvalues, in the units of the operator."""

    #: the extreme Ritz values, and what no eigenvalue exceeds
    smallest: float
    largest: float
    above: float


def sparse_library(a: Any) -> str | None:
    """Return the module whose sparse matrix `a` is, or None."""
    for name in ("scipy.sparse", "cupyx.scipy.sparse"):
        module = sys.modules.get(name)
        if module is not None and module.issparse(a):
            return name
    layout = getattr(a, "layout", None)
    return "torch" if layout is not None and library_of(a) == "torch" and str(layout) != "torch.strided" else None


def is_operator(a: Any) -> bool:
    """Return True for what is no dense array: sparse matrices, operators with `matvec`, functions."""
    if isinstance(a, np.ndarray):
        return False
    return sparse_library(a) is not None or hasattr(a, "matvec") or (library_of(a) is None and callable(a))


def operator(a: Any, columns: Array, origin: Origin, vector: bool, absolute: float) -> Operator:
    """Check `a` against B, given as `columns` (n, k) with its origin, and return it as an `Operator`.

    It is in units in which `absolute`, the number that is going to be added to the diagonal, is at most about 1, too.
    """
    n = len(columns)
    shape = getattr(a, "shape", None)
    if shape is not None and tuple(shape) != (n, n):
        raise ValueError(f"a must be (n, n) for a b of n = {n} rows, got {tuple(shape)}")
    if sparse_library(a) == "scipy.sparse" and origin.library == "numpy":
        return _of_sparse(a, columns, absolute)
    return _of_products(a, columns, origin, vector, absolute)


def _of_sparse(a: Any, columns: Array, absolute: float) -> Operator:
    name = dtype_name(a.dtype)
    if a.dtype.kind not in "fciub" or a.dtype.itemsize > (16 if a.dtype.kind == "c" else 8):
        raise TypeError(f"a must be real or complex, of float64 precision at most, got dtype {name}")
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    A = a.tocsc().astype(wide)  # a copy, with duplicates summed
    A.sum_duplicates()
    size = float(abs(A.data).max(initial=0.0))
    exponent = _exponent(size, absolute)
    given = unit_roundoff(name) if is_inexact(name) else 2.0**-53
    A.data = np.ldexp(A.data.view(np.float64), -exponent).view(wide)
    if not np.isfinite(size):
        A = A * np.nan
    else:
        other = A.T.conj().tocsc()
        gap = float(abs((A - other).data).max(initial=0.0))
        share = gap / (np.ldexp(size, -exponent) or 1.0)
        if share > max(given**0.5, SUMMED_IN_FLOAT32):
            _refuse(f"max|A - A^H| is {share:.1e} of max|A|", a.dtype.kind == "c")
        A = A if gap == 0 else ((A + other) * 0.5).tocsc()
    dtype = np.dtype(np.result_type(wide, columns.dtype))
    rows = A.tocsr()
    terms = float(np.diff(A.indptr).max(initial=1))
    return Operator(A.shape[0], lambda V: rows @ V, exponent, dtype, name, _unit(terms), np, A)


def _of_products(a: Any, columns: Array, origin: Origin, vector: bool, absolute: float) -> Operator:
    """Take an operator with `matvec`, a sparse matrix of another library, or a function."""
    n, xp = len(columns), backend_of(columns).xp
    is_function = sparse_library(a) is None and not hasattr(a, "matvec")
    call = a if is_function else (lambda V: a @ V)
    native = origin.library == "numpy" or origin.library == "cupy"
    # A function gets what its caller has: other dtypes may be none of its business.
    as_input = is_function or not native

    def one(V: Array) -> Array:
        W = call(origin.give_back(V, as_input=as_input))
        values, other = take(W, "the product A v")
        if tuple(values.shape) != tuple(V.shape) or type(values) is not type(V):
            raise ValueError(
                f"a(v) must be an array like v, {tuple(V.shape)} of {origin.library}, "
                f"got {tuple(values.shape)} of {other.library}"
            )
        return values

    def raw(V: Array) -> Array:
        if not vector:
            return one(V)
        return xp.stack([one(xp.ascontiguousarray(V[:, j])) for j in range(V.shape[1])], axis=1)

    start = xp.asarray(start_vector(n)[:, None]) if n else xp.zeros((0, 1))
    first = raw(start)
    size = float(abs(first).max()) if n else 0.0
    exponent = _exponent(size, absolute)
    exponent = exponent if abs(exponent) > 64 else 0
    wide = np.dtype(np.complex128 if first.dtype.kind == "c" else np.float64)
    dtype = np.dtype(np.result_type(wide, columns.dtype))
    declared = origin.dtype_name if is_function else dtype_name(getattr(a, "dtype", None) or first.dtype)
    arithmetic = unit_roundoff(dtype_name(first.dtype))
    if as_input and is_inexact(origin.dtype_name):
        arithmetic = max(arithmetic, unit_roundoff(origin.dtype_name))
    halves = [math.ldexp(1.0, -(exponent // 2)), math.ldexp(1.0, -(exponent - exponent // 2))]

    def product(V: Array) -> Array:
        W = raw(V).astype(dtype, copy=True)  # an operator may return what it keeps
        if exponent:
            for half in halves:  # the whole may be beyond the largest number
                W *= half
        return W

    return Operator(n, product, exponent, dtype, declared, _unit(float(n)) * (arithmetic / 2.0**-53), xp, count=1)


def spectrum(A: Operator) -> Spectrum:
    """Find the extremes by Lanczos from two random vectors; raise if the products are not those of a Hermitian matrix.

    A sparse matrix is bounded by its largest sum of a row.
    """
    xp, n = A.xp, A.n
    if not n:
        return Spectrum(0.0, 0.0, 0.0)
    start = xp.asarray(np.stack([start_vector(n), random_columns(n, 1)[:, 0] / n**0.5], axis=1)).astype(A.dtype)
    krylov = Krylov(A, start, xp)
    asymmetric = 0.0
    for j in range(min(STEPS, n)):
        krylov.step(A.unit)
        if not krylov.finite:
            return Spectrum(np.nan, np.nan, np.nan)
        if j == 0 and A.matrix is None:
            asymmetric = _asymmetry(A, start)
    if asymmetric > max(A.given**0.5, SUMMED_IN_FLOAT32):
        gap = f"u^H A v and (v^H A u)^* differ by {asymmetric:.1e} of their size for random u, v"
        _refuse(gap, A.dtype.kind == "c")
    smallest, largest = extremes(krylov)
    above = ABOVE * max(largest, 0.0)
    if A.matrix is not None:
        above = float(abs(A.matrix).sum(axis=0).max()) if A.matrix.nnz else 0.0
    return Spectrum(smallest, largest, above)


def extremes(krylov: Krylov) -> tuple[float, float]:
    """Return the smallest and the largest Ritz value over all columns."""
    eigvalsh_tridiagonal = deferred("scipy.linalg").eigvalsh_tridiagonal
    T = krylov.tridiagonal
    m, ends = len(krylov), []
    for d, e in zip(T.diagonal.T, T.beside[:-1].T, strict=True):
        for i in (0, m - 1):
            ends.append(eigvalsh_tridiagonal(d, e, select="i", select_range=(i, i))[0] if m > 1 else d[0])
    return float(min(ends)), float(max(ends))


def _asymmetry(A: Operator, start: Array) -> float:
    """Return |u^H A v - (v^H A u)^*| over the size of the products."""
    W = A(start)
    both = start.conj().swapaxes(0, 1) @ W
    gap = abs(complex(both[0, 1]) - complex(both[1, 0]).conjugate())
    size = float(A.xp.linalg.norm(W[:, 0]) + A.xp.linalg.norm(W[:, 1])) / 2
    return gap * A.n**0.5 / size if size else 0.0


def _refuse(what: str, is_complex: bool) -> None:
    kind = "Hermitian" if is_complex else "symmetric"
    raise ValueError(f"a is not {kind}: {what}; pass (A + A^T) / 2 if that is rounding of your own")


def _exponent(size: float, absolute: float) -> int:
    return int(np.frexp(max(size, absolute))[1]) if np.isfinite(size) and max(size, absolute) > 0 else 0


def _unit(terms: float) -> float:
    """Return the rounding of a product whose rows have so many terms, relative to sum |a_ij| |x_j|.

    Rounding errors add up like random numbers (Higham & Mary 2019).
    """
    return float((2 + terms**0.5) * 2.0**-53)
