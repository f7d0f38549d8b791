"""The root of a matrix that moved a little, to first order, in the eigenbasis it had before.

Of A, what is kept: Q with Q^H A Q = diag(w) + E, and X = Q diag(f) Q^H, f = (w + ridge)^s. Of A + D, asked for now,

    Q^H (A + D + ridge I) Q = diag(b) + E,      E <- E + offdiag(Q^H D Q)
    X <- X + Q (Gamma o E + diag(b^s - f)) Q^H,  Gamma_ij = f[b_i, b_j]        (Higham 2008, thm. 3.11)

Only differences are multiplied, so that half the precision loses nothing of A's or X's digits.

How good it is. With N = diag(b)^{-1/2} E diag(b)^{-1/2} and eta = ||N||_2 < 1,

    0 <= (X* - X) / sign(-s) <= |s| eta^2 / (1 - eta) diag(b)^s        in the basis Q, for -1 <= s <= 1,

hence the same in the 2-norm, relative to X*. Proof: x^s is an integral over t > 0 of +-(x + t)^{-1} with positive
weights, and what first order leaves of (B + t)^{-1} is (b+t)^{-1} E (B+t)^{-1} E (b+t)^{-1}, which lies between 0 and
eta^2 / (1 - eta) b (b+t)^{-2}, since |E| <= eta b <= eta (b + t).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from matroot.conditioning import forward_error_bound
from matroot.methods.base import Array
from matroot.methods.ogita_aishima import polished, rotation
from matroot.regularization import Regularization

#: What products in precision u may do to Q^H D Q, relative to u ||D||_F; measured 0.1 to 0.16.
PRODUCT_ERROR = 0.5
#: What LAPACK, or Q^H A Q, may do to the eigenvalues, relative to u lambda_max; see `eigen_error`.
EIGEN_ERROR = 10.0
#: Share of rtol that the rounding of the narrow products may take; beyond it, they are done in full precision.
ROUNDING_SHARE = 0.25
#: Gaussian vectors, and powers of the matrix, in the bound of a norm.
PROBES = 8
POWERS = (4, 16)
#: Rows worked on at a time, to stay in cache.
ROWS = 128
#: Rows of the eigenproblems from which the extreme eigenvalues are taken.
RITZ = 32


@dataclass
class Basis:
    """What is kept of one matrix; A, and with it all the rest, in units of `scale`, a power of two.

    Attributes
    ----------
    Q, A, X, E : array (n, n)
        E in `narrower` precision, and 0 after a full decomposition.
    w, f : array (n,) float64
    scale : float
    defect : float
        Bound of ||Q^H Q - I||_F.
    age : int
        Refinements since the last full decomposition.
    misses : int
        How many times in a row the matrix had moved too far for this basis.
    wait : int
        Updates for which first order is not tried after these.
    """

    Q: Array
    A: Array
    X: Array
    w: Array
    f: Array
    E: Array
    scale: float
    defect: float
    age: int = 0
    misses: int = 0
    wait: int = 0


@dataclass
class Moved:
    """Where a matrix has got to, seen from a basis: B = diag(b) + E, and what first order would make of it."""

    E: Array
    d: Array
    b: Array
    ridge: float
    largest: float
    eta: float
    error: float


def eigen_error(dtype: np.dtype[Any], n: int) -> float:
    """Relative to lambda_max, what rounding in `dtype` may do to the eigenvalues of an n x n matrix."""
    return float(EIGEN_ERROR * _unit(dtype) * max(1.0, n**0.5 / 4))


def narrower(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Half the precision of a dtype; float32 and complex64 are narrow already."""
    return np.dtype({"float64": "float32", "complex128": "complex64"}.get(dtype.name, dtype.name))


def hermitian_product(Y: Array, Z: Array, engine: Any) -> Array:
    """Y Z, known to be Hermitian: the upper block triangle, mirrored; 5/8 of a product."""
    n = len(Y)
    borders = [n * i // 4 for i in range(5)]
    H = engine.xp.empty((n, n), Y.dtype)
    for i, j in pairwise(borders):
        H[i:j, i:] = engine.matmul(Y[i:j], Z[:, i:])
        H[j:, i:j] = H[i:j, j:].conj().T
    return H


def moved(basis: Basis, A: Array, rule: Regularization | None, s: float, rtol: float, engine: Any) -> Moved:
    """A, in the units of the basis, seen from it: two products."""
    xp, wide = engine.xp, basis.Q.dtype
    narrow = narrower(wide)
    D = xp.empty(A.shape, narrow)
    xp.subtract(A, basis.A, out=D, casting="same_kind")
    size = float(xp.linalg.norm(D))
    least = float((basis.f ** (1 / s)).min())
    if not PRODUCT_ERROR * _unit(narrow) * size * abs(s) <= ROUNDING_SHARE * rtol * least:
        narrow, D = wide, A - basis.A
        size = float(xp.linalg.norm(D))
        if not np.isfinite(size):
            return Moved(D, basis.w, basis.w, 0.0, 0.0, np.inf, np.inf)
    Q = basis.Q.astype(narrow, copy=False)
    E = hermitian_product(Q.conj().T, engine.matmul(D, Q), engine)
    E += basis.E
    diagonal = E.reshape(-1)[:: len(E) + 1]
    d = basis.w + diagonal.real
    diagonal[...] = 0
    return seen(basis, E, d, rule, s, rtol, engine, PRODUCT_ERROR * _unit(narrow) * size)


def seen(
    basis: Basis,
    E: Array,
    d: Array,
    rule: Regularization | None,
    s: float,
    rtol: float,
    engine: Any,
    noise: float = 0.0,
) -> Moved:
    """Regularize diag(d) + E, known up to `noise`, and bound the error of a first-order root."""
    order = engine.xp.argsort(d)
    largest = float(_ritz(E, d, order[-RITZ:], engine.xp)[-1])
    from_lowest = rule is not None and rule.needs == "extremes"
    lowest = float(_ritz(E, d, order[:RITZ], engine.xp)[0]) if from_lowest else 0.0
    ridge = 0.0 if rule is None else float(rule.shift(np.asarray(largest), np.asarray(lowest), basis.scale))
    b = d + ridge
    least, most = float(b.min()), float(b.max())
    if not least > 0:
        return Moved(E, d, b, ridge, largest, np.inf, np.inf)
    cond = most / least
    u = eigen_error(basis.Q.dtype, len(b)) + noise / most
    rounding = float(forward_error_bound(np.asarray(cond), s, u)) + basis.defect * (1 + basis.defect * cond)
    # With a ridge that rests on lambda_min, which is known to second order, twice the error.
    weight = abs(s) * (2 if from_lowest else 1)
    eta = _norm_bound(E, b, engine, enough=(max(rtol - rounding, 0) / (3 * weight)) ** 0.5)
    drift = weight * eta**2 / (1 - eta) if eta < 1 else np.inf
    drift = drift / (1 - drift) if drift < 1 else np.inf
    return Moved(E, d, b, ridge, largest, eta, drift + rounding)


def root(basis: Basis, at: Moved, p: int, inverse: bool, engine: Any) -> Array:
    """X of the moved matrix, in the units of the basis: two products."""
    s = (-1 if inverse else 1) / p
    narrow = at.E.dtype
    Q = basis.Q.astype(narrow, copy=False)
    change = at.b**s - basis.f
    # In units of the smallest b, so that nothing leaves the range of a narrow dtype.
    least = float(at.b.min())
    u = ((at.b / least) ** (1 / p)).astype(narrow.type(0).real.dtype)
    F = at.E
    F *= least ** (s - 1)
    for i in range(0, len(u), ROWS):
        v = u[i : i + ROWS, None]
        F[i : i + ROWS] /= _power_sum(v, u, p)
        if inverse:
            F[i : i + ROWS] *= -1 / v
            F[i : i + ROWS] *= 1 / u
    F.reshape(-1)[:: len(u) + 1] = change
    return basis.X + hermitian_product(engine.matmul(Q, F), Q.conj().T, engine)


def full(A: Array, Q: Array, w: Array, ridge: float, X: Array, s: float, scale: float) -> Basis:
    """The basis that a full decomposition of A gives; w are the eigenvalues without the ridge."""
    f = (w.astype(np.float64) + ridge) ** s
    eps = float(np.finfo(Q.dtype).eps)
    E = np.zeros_like(A, dtype=narrower(A.dtype))
    return Basis(Q, A, X, w.astype(np.float64), f, E, scale, eps * len(w))


def refined(basis: Basis, A: Array, at: Moved, s: float, engine: Any) -> Basis | None:
    """The basis turned towards the eigenvectors of A, which becomes the matrix it is kept for; about 6 products.

    None where Q cannot be made orthonormal, or A is not positive in it.
    """
    xp = engine.xp
    narrow = at.E.dtype
    W = rotation(at.E, at.d, engine, basis.age)
    Q, defect = polished(engine.matmul(basis.Q, W.astype(basis.Q.dtype, copy=False)), engine, narrow)
    M = hermitian_product(Q.conj().T, engine.matmul(A, Q), engine)
    diagonal = M.reshape(-1)[:: len(M) + 1]
    w = diagonal.real.astype(np.float64)
    diagonal[...] = 0
    least = float(w.min()) + at.ridge
    if not (defect < 1 and least > 0):
        return None
    f = (w + at.ridge) ** s
    X = engine.rank_k(Q * xp.sqrt(f).astype(Q.real.dtype))
    return Basis(Q, A, X, w, f, M.astype(narrower(Q.dtype), copy=False), basis.scale, defect, basis.age + 1)


def _unit(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).eps) / 2


def _ritz(E: Array, d: Array, rows: Array, xp: Any) -> Array:
    """Eigenvalues of B restricted to a few of its rows and columns."""
    block = E[rows[:, None], rows].astype(np.result_type(E.dtype, np.float64))
    return xp.linalg.eigvalsh(block + xp.diag(d[rows]))


@lru_cache(maxsize=16)
def _probes(n: int, kind: str) -> np.ndarray:
    rng = np.random.default_rng([n, PROBES])
    V = rng.standard_normal((n, PROBES))
    return V + 1j * rng.standard_normal((n, PROBES)) if kind == "c" else V


def _norm_bound(E: Array, b: Array, engine: Any, enough: float = 0.0) -> float:
    """Upper bound of ||N||_2, N = E_ij / sqrt(b_i b_j), from N^4 or, where that is more than `enough`, N^16.

    With 8 Gaussian vectors v, P(||T|| > 10 sqrt(2/pi) max ||T v||) <= 10^-8 (Halko, Martinsson & Tropp, SIAM Review
    53(2), 2011, lemma 4.1); the 16th root of that factor is 1.14.
    """
    xp = engine.xp
    r = (1 / xp.sqrt(b))[:, None].astype(E.real.dtype)
    V = r * xp.asarray(_probes(len(b), E.dtype.kind)).astype(E.dtype)
    log_size, bound = 0.0, np.inf
    with np.errstate(all="ignore"):
        for power in range(1, POWERS[-1] + 1):
            V = engine.matmul(E, V)
            V *= r
            if power in POWERS:
                longest = float(xp.sqrt((abs(V) ** 2).sum(0)).max())
                bound = (10 * (2 / np.pi) ** 0.5 * longest) ** (1 / power) * np.exp(log_size / power)
                if bound <= enough:
                    break
            size = float(abs(V).max())
            if not size > 0:
                break
            log_size += np.log(size)
            V *= r / size
    return float(bound) if np.isfinite(bound) else 0.0 if size == 0 else np.inf


def _power_sum(u: Array, v: Array, p: int) -> Array:
    """sum_{k<p} u^k v^(p-1-k) = (u^p - v^p) / (u - v), without cancellation, by doubling."""
    total, m = 0 * (u + v) + 1, 1
    for bit in bin(p)[3:]:
        total, m = total * (u**m + v**m), 2 * m
        if bit == "1":
            total, m = total * v + u**m, m + 1
    return total
