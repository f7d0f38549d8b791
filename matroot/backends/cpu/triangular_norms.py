"""Norms of triangular matrices, of their inverses and powers, in O(n^2) by a few matrix-vector products."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]

#: Up to this n an SVD costs no more than the estimate.
SMALL = 48
#: Lanczos steps, which give the largest singular value to a few per cent, in practice far better.
LANCZOS_STEPS = 16


def extreme_singular_values(R: Matrix) -> tuple[float, float]:
    """Return the 2-norm of the upper (quasi-)triangular R, and 1 / ||R^{-1}||_2 (0 if R is singular).

    Both are exact for small n. Otherwise they are computed by Lanczos on R^H R and on its inverse: the first is a
    lower bound, the second an upper bound.
    """
    from scipy.linalg import get_blas_funcs

    n = R.shape[0]
    if n <= SMALL:
        w = np.linalg.svd(R, compute_uv=False)
        return float(w[0]), float(w[-1])
    T = without_subdiagonal(R)
    adjoint = 2 if np.iscomplexobj(T) else 1
    trmv, trsv = get_blas_funcs(("trmv", "trsv"), (T,))
    v = start(n, T.dtype)
    largest = norm_from_gram(lambda v: trmv(T, trmv(T, v), trans=adjoint), v)
    if not np.diagonal(T).all():
        return largest, 0.0
    with np.errstate(all="ignore"):
        inverse = norm_from_gram(lambda v: trsv(T, trsv(T, v, trans=adjoint)), v)
    return largest, 1 / inverse if np.isfinite(inverse) else 0.0


def without_subdiagonal(R: Matrix) -> Matrix:
    """Return the upper triangular G R: one Givens rotation for each 2 x 2 diagonal block, all on disjoint rows."""
    T = R.copy(order="F")
    i = np.flatnonzero(np.diagonal(R, -1))
    if not len(i):
        return T
    a, c = T[i, i], T[i + 1, i]
    g = np.hypot(a, c)
    cos, sin = (a / g)[:, None], (c / g)[:, None]
    top, bottom = T[i], T[i + 1]
    T[i] = cos * top + sin * bottom
    T[i + 1] = cos * bottom - sin * top
    T[i + 1, i] = 0
    return T


def norm_from_gram(
    gram: Callable[[Matrix], Matrix], v: Matrix, *, steps: int = LANCZOS_STEPS, rtol: float = 0.0
) -> float:
    """Estimate the 2-norm of a linear map L from v -> L^H L v, from below, by Lanczos from the unit vector v.

    The iteration stops early when a step raises the estimate by less than `rtol`, relative. The estimate is infinite
    after an overflow.
    """
    before = np.zeros_like(v)
    alpha: list[float] = []
    beta: list[float] = []
    b = estimate = 0.0
    for _ in range(min(v.size, steps)):
        w = gram(v) - b * before
        alpha.append(float(np.vdot(v, w).real))
        w -= alpha[-1] * v
        b = float(np.linalg.norm(w))
        if not np.isfinite(b):
            return float("inf")
        last, estimate = estimate, _largest_eigenvalue(alpha, beta) ** 0.5
        if b == 0 or (len(alpha) > 2 and estimate <= (1 + rtol) * last):
            break
        beta.append(b)
        before, v = v, w / b
    return estimate


def _largest_eigenvalue(alpha: list[float], beta: list[float]) -> float:
    J = np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)
    return max(0.0, float(np.linalg.eigvalsh(J)[-1]))


def power_radius(Z: Matrix, enough: float, c: float | None = None, steps: int = 3) -> float:
    """Estimate max(||Z^2||^{1/2}, ||Z^3||^{1/3}); with `c`, of I - c Z instead of Z.

    The maximum bounds ||Z^i||^{1/i} for every i >= 2 (Al-Mohy & Higham, SIAM J. Matrix Anal. Appl. 31(3), 2009, thm.
    4.2). A few power steps give the norms to within some 20 per cent, and taking roots reduces this error.
    If ||Z||, which is cheaper, is at most `enough`, it is returned instead.
    """

    def times(v: Matrix) -> Matrix:
        return np.asarray(Z @ v if c is None else v - c * (Z @ v))

    def adjoint(v: Matrix) -> Matrix:
        v = v.conj()
        return np.asarray(v @ Z if c is None else v - c * (v @ Z)).conj()

    def norm_of_power(j: int) -> float:
        v, size = start(Z.shape[0], Z.dtype), 0.0
        for _ in range(steps):
            for _ in range(j):
                v = times(v)
            for _ in range(j):
                v = adjoint(v)
            size = float(np.linalg.norm(v))
            if size == 0 or not np.isfinite(size):
                break
            v /= size
        return float(size**0.5)

    size = norm_of_power(1)
    return size if size <= enough else max(norm_of_power(2) ** (1 / 2), norm_of_power(3) ** (1 / 3))


def start(shape: int | tuple[int, ...], dtype: Any) -> Matrix:
    """Return a fixed random array of Frobenius norm 1; a vector is kept, and is not to be written to."""
    return _vector(shape, dtype) if isinstance(shape, int) else _random(shape, dtype)


@lru_cache(maxsize=64)
def _vector(n: int, dtype: Any) -> Matrix:
    v = _random((n,), dtype)
    v.flags.writeable = False
    return v


def _random(shape: tuple[int, ...], dtype: Any) -> Matrix:
    v = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return np.asarray(v / np.linalg.norm(v))
