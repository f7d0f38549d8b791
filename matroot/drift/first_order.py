"""The root of a matrix that moved a little, to first order, in the eigenbasis it had before.

Of A, what is kept: Q with Q^H A Q = diag(w) + E, and X = Q diag(f) Q^H, f = (w + ridge)^s. Of A + D, asked for now,

    Q^H (A + D + ridge I) Q = diag(b) + E,      E <- E + offdiag(Q^H D Q)
    X <- X + Q (Gamma o E + diag(b^s - f)) Q^H,  Gamma_ij = f[b_i, b_j]        (Higham 2008, thm. 3.11)

Only differences are multiplied, so that half the precision loses nothing of A's or X's digits.

How good it is. With N = diag(b)^{-1/2} E diag(b)^{-1/2} and eta = ||N||_2 < 1,

    0 <= (X* - X) / sign(-s) <= |s| eta^2 / (1 - eta) diag(b)^s        in the basis Q, for -1 <= s <= 1.

Proof: x^s is an integral over t > 0 of +-(x + t)^{-1} with positive weights, and what first order leaves of
(B + t)^{-1} is (b+t)^{-1} E (B+t)^{-1} E (b+t)^{-1}, which lies between 0 and eta^2 / (1 - eta) b (b+t)^{-2}, since
|E| <= eta b <= eta (b + t). So half of the bound may be added to X, and the error is at most the other half; relative
to X* in the 2-norm too, because the largest entry of diag(b)^s is no larger than ||X*||_2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from matroot._bars import forward_error_bound
from matroot._regularization import Regularization
from matroot.backends.base import Backend
from matroot.methods.base import Array
from matroot.methods.hermitian import hermitian_product, hermitian_sum
from matroot.methods.ogita_aishima import polished, rotation

#: What a Hermitian product in precision u does to Q^H D Q mostly, relative to u ||D||_F; and at worst, relative to
#: sqrt(n) u ||D||_F. Measured up to 1.3 and 0.4; in the 2-norm, 0.2 where D = 1 1^T, whose rows round alike.
TYPICAL_ERROR, WORST_ERROR = 0.5, 0.5
#: What LAPACK, or Q^H A Q, may do to the eigenvalues, relative to u lambda_max; see `eigen_error`.
EIGEN_ERROR = 10.0
#: Share of rtol that the rounding of narrow products may take; beyond it, they are done in full precision.
ROUNDING_SHARE = 0.25
#: Gaussian vectors, and powers of the matrix, in the bound of a norm.
PROBES = 8
POWERS = 4, 8, 16
#: Rows worked on at a time, to stay in cache.
ROWS = 128
#: Rows of the eigenproblems from which the extreme eigenvalues are taken.
RITZ = 32


@dataclass
class Basis:
    """What is kept of one matrix; A, and with it all the rest, in units of `scale`, a power of two. Never written to.

    Attributes
    ----------
    Q, A, X : array (n, n)
    E : array (n, n) or None
        In `narrower` precision; None after a full decomposition, where it is 0.
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
    E: Array | None
    scale: float
    defect: float
    age: int = 0
    misses: int = 0
    wait: int = 0


@dataclass
class Moved:
    """Where a matrix has got to, seen from a basis: B = diag(b) + E, and how good first order is.

    Attributes
    ----------
    E : array (n, n)
    d, b : array (n,)
        The diagonal without the ridge, and with it.
    ridge, largest : float
    eta : float
        Bound of ||b^{-1/2} E b^{-1/2}||_2.
    middle : float
        To be added to the root, times b^s, on the side that the sign of -s tells.
    error, noise : float
        Bound of the relative error of the root, and what of it is due to rounding in E.
    """

    E: Array
    d: Array
    b: Array
    ridge: float = 0.0
    largest: float = 0.0
    eta: float = np.inf
    middle: float = np.inf
    noise: float = 0.0
    error: float = np.inf


def eigen_error(dtype: np.dtype[Any], n: int) -> float:
    """Relative to lambda_max, what rounding in `dtype` may do to the eigenvalues of an n x n matrix."""
    return float(EIGEN_ERROR * _unit(dtype) * max(1.0, n**0.5 / 4))


def full_error(cond: Array, s: Fraction, dtype: np.dtype[Any], n: int) -> Array:
    """Bound of the relative error of a root from a full solve: of its eigenvalues, and of putting it together."""
    u = eigen_error(dtype, n)
    return forward_error_bound(cond, s, u) + u


def narrower(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Half the precision of a dtype; float32 and complex64 are narrow already."""
    return np.dtype({"float64": "float32", "complex128": "complex64"}.get(dtype.name, dtype.name))


def moved(basis: Basis, A: Array, rule: Regularization | None, s: Fraction, rtol: float, backend: Backend) -> Moved:
    """A, in the units of the basis, seen from it: two products."""
    wide = basis.Q.dtype
    narrow = narrower(wide)
    D = np.empty(A.shape, narrow)
    np.subtract(A, basis.A, out=D, casting="same_kind")
    least = float((basis.f.max() if s < 0 else basis.f.min()) ** (1 / float(s)))
    if TYPICAL_ERROR * _unit(narrow) * float(np.linalg.norm(D)) * abs(float(s)) <= ROUNDING_SHARE * rtol * least:
        at = _rotated(basis, A, D, rule, s, rtol, backend)
        if narrow == wide or not at.error - at.noise <= rtol < at.error:
            return at
    D = A - basis.A
    if not np.isfinite(np.linalg.norm(D)):
        return Moved(D, basis.w, basis.w)
    return _rotated(basis, A, D, rule, s, rtol, backend)


def _rotated(
    basis: Basis, A: Array, D: Array, rule: Regularization | None, s: Fraction, rtol: float, backend: Backend
) -> Moved:
    """`moved`, in the precision of D = A - basis.A."""
    Q = basis.Q.astype(D.dtype, copy=False)
    E = hermitian_product(Q.conj().T, backend.matmul(D, Q), backend)
    if basis.E is not None:
        E += basis.E
    diagonal = E.reshape(-1)[:: len(E) + 1]
    change = diagonal.real.astype(np.float64)
    diagonal[...] = 0
    noise = WORST_ERROR * len(E) ** 0.5 * _unit(D.dtype) * float(np.linalg.norm(D))

    def measured(weights: Array, enough: float) -> float:
        """||W (E - Q^H D Q) W||_2, in float64."""
        exact = np.result_type(E.dtype, np.float64)
        Q, G = basis.Q.astype(exact, copy=False), E.astype(exact)
        if basis.E is not None:
            G -= basis.E
        G.reshape(-1)[:: len(G) + 1] += change
        D = np.subtract(A, basis.A, dtype=exact)
        W = weights[:, None]

        def apply(V: Array) -> Array:
            V = W * V
            V = backend.matmul(G, V) - backend.matmul(Q.conj().T, backend.matmul(D, backend.matmul(Q, V)))
            return W * V

        return norm_bound(apply, _probes(len(G), G.dtype.kind), enough, powers=(1, 2, 4))

    return seen(basis, E, basis.w + change, rule, s, rtol, backend, noise, measured)


def seen(
    basis: Basis,
    E: Array,
    d: Array,
    rule: Regularization | None,
    s: Fraction,
    rtol: float,
    backend: Backend,
    noise: float = 0.0,
    measured: Callable[[Array, float], float] | None = None,
) -> Moved:
    """Regularize diag(d) + E and bound the error of a first-order root.

    The error of E is at most `noise` in the 2-norm; ``measured(weights, enough)`` is a better bound of it, between
    weights.
    """
    power, n = float(s), len(d)
    order = np.argsort(d)
    largest = float(_ritz(E, d, order[-RITZ:])[-1])
    from_lowest = rule is not None and rule.needs == "extremes"
    lowest = float(_ritz(E, d, order[:RITZ])[0]) if from_lowest else 0.0
    ridge = 0.0 if rule is None else float(rule.shift(np.asarray(largest), np.asarray(lowest), basis.scale))
    b = d + ridge
    least, most = float(b.min()), float(b.max())
    if not least > 0:
        return Moved(E, d, b, ridge, largest)
    f = b**power
    steepest = abs(power) * least ** (power - 1) / float(f.max())

    # The decomposition has an error relative to the eigenvalues that there were then, and X to the root of then.
    u = eigen_error(basis.Q.dtype, n) * max(1.0, float(abs(basis.w).max()) / most)
    cond = most / least
    rounding = float(forward_error_bound(np.asarray(cond), s, u)) + basis.defect * (1 + basis.defect * cond)
    rounding += WORST_ERROR * n**0.5 * _unit(basis.Q.dtype) * float(np.linalg.norm(basis.f)) / float(f.max())
    # X keeps the error that it had, which was relative to what it was: larger, where the root has become smaller.
    smaller = float(basis.f.max() / f.max())
    before = float((basis.f.max() / basis.f.min()) ** (1 / abs(power)))
    rounding += max(smaller - 1, 0.0) * float(forward_error_bound(np.asarray(before), s, eigen_error(basis.Q.dtype, n)))

    # With a ridge that rests on lambda_min, which is known to second order, the bound counts once more.
    middle = 0.0 if s == 1 else abs(power) / 2
    extra = abs(power) if from_lowest else 0.0
    most_wanted = (1 - ROUNDING_SHARE) * rtol - rounding
    enough = (max(most_wanted, 0) / (2 * (2 * middle + extra))) ** 0.5 if middle or extra else np.inf
    r = (1 / np.sqrt(b))[:, None].astype(E.real.dtype)
    V = _probes(n, E.dtype.kind).astype(E.dtype)
    eta = norm_bound(lambda V: r * backend.matmul(E, r * V), V, enough)
    drift = eta**2 / (1 - eta) if eta < 1 else np.inf
    middle, error = (middle * drift, rounding + extra * drift) if middle or extra else (0.0, rounding)

    # An error of E shows in X by at most diag(g)^{1/2} (error) diag(g)^{1/2}, g = |f'(b)|: Gamma is semidefinite.
    noise *= steepest
    room = rtol - error - middle
    if measured is not None and room > 0 and noise > (room - middle if room > 2 * middle else room):
        noise = min(noise, steepest * measured((b / least) ** ((power - 1) / 2), room / steepest))
    error += noise
    # Half of the bound is added to the root where that is needed; without it, roots are mostly better than with it.
    if error + 2 * middle <= rtol:
        return Moved(E, d, b, ridge, largest, eta, 0.0, noise, error + 2 * middle)
    return Moved(E, d, b, ridge, largest, eta, middle, noise, error + middle)


def root(basis: Basis, at: Moved, s: Fraction, factor: float, out: Array, backend: Backend) -> float:
    """out <- factor * X of the moved matrix, X in the units of the basis: two products; `at.E` is used up.

    Returns what their rounding adds to the relative error.
    """
    power, narrow = float(s), at.E.dtype
    Q = basis.Q.astype(narrow, copy=False)
    # In units of the smallest b, so that nothing leaves the range of a narrow dtype.
    least = float(at.b.min())
    u = ((at.b / least) ** (1 / s.denominator)).astype(narrow.type(0).real.dtype)
    slope = least ** (power - 1) / (u**-s.numerator if s < 0 else 1)
    F = at.E
    for i in range(0, len(u), ROWS):
        block, v = F[i : i + ROWS], u[i : i + ROWS, None]
        if abs(s.numerator) > 1:
            block *= _power_sum(v, u, abs(s.numerator))
        block /= _power_sum(v, u, s.denominator)
        block *= slope
        if s < 0:
            block *= -(v**s.numerator)
    f = at.b**power
    F.reshape(-1)[:: len(u) + 1] = f - basis.f + (at.middle if s < 0 else -at.middle) * f
    hermitian_sum(basis.X, backend.matmul(Q, F), Q.conj().T, factor, backend, out)
    return float(WORST_ERROR * len(u) ** 0.5 * _unit(narrow) * np.linalg.norm(F) / f.max())


def full(A: Array, Q: Array, w: Array, ridge: float, X: Array, s: Fraction, scale: float) -> Basis:
    """The basis that a full decomposition of A gives; w are the eigenvalues without the ridge."""
    f = (w.astype(np.float64) + ridge) ** float(s)
    eps = float(np.finfo(Q.dtype).eps)
    return Basis(Q, A, X, w.astype(np.float64), f, None, scale, eps * len(w))


def refined(basis: Basis, A: Array, at: Moved, s: Fraction, backend: Backend) -> Basis | None:
    """The basis turned towards the eigenvectors of A, which becomes the matrix it is kept for; about 6 products.

    None where Q cannot be made orthonormal, or A is not positive in it.
    """
    xp = backend.xp
    narrow = at.E.dtype
    W = rotation(at.E, at.d, backend, basis.age)
    Q, defect = polished(backend.matmul(basis.Q, W.astype(basis.Q.dtype, copy=False)), backend, narrow)
    M = hermitian_product(Q.conj().T, backend.matmul(A, Q), backend)
    diagonal = M.reshape(-1)[:: len(M) + 1]
    w = diagonal.real.astype(np.float64)
    diagonal[...] = 0
    least = float(w.min()) + at.ridge
    if not (defect < 1 and least > 0):
        return None
    f = (w + at.ridge) ** float(s)
    X = backend.rank_k(Q * xp.sqrt(f).astype(Q.real.dtype))
    return Basis(Q, A, X, w, f, M.astype(narrower(Q.dtype), copy=False), basis.scale, defect, basis.age + 1)


def _unit(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).eps) / 2


def _ritz(E: Array, d: Array, rows: Array) -> Array:
    """Eigenvalues of B restricted to a few of its rows and columns."""
    block = E[rows[:, None], rows].astype(np.result_type(E.dtype, np.float64))
    return np.linalg.eigvalsh(block + np.diag(d[rows]))


@lru_cache(maxsize=16)
def _probes(n: int, kind: str) -> np.ndarray:
    rng = np.random.default_rng([n, PROBES])
    V = rng.standard_normal((n, PROBES))
    return V + 1j * rng.standard_normal((n, PROBES)) if kind == "c" else V


def norm_bound(
    apply: Callable[[Array], Array], V: Array, enough: float = 0.0, powers: tuple[int, ...] = POWERS
) -> float:
    """Upper bound of ||N||_2 of a Hermitian N, V -> N V, from the first power of N that makes it at most `enough`.

    With the 8 Gaussian vectors of `_probes`, P(||T|| > 10 sqrt(2/pi) max ||T v||) <= 10^-8 (Halko, Martinsson & Tropp,
    SIAM Review 53(2), 2011, lemma 4.1); of that factor, N^16 leaves 1.14, N^4 leaves 1.68.
    """
    log_size, bound = 0.0, np.inf
    with np.errstate(all="ignore"):
        for power in range(1, powers[-1] + 1):
            V = apply(V)
            if power in powers:
                longest = float(np.sqrt((abs(V) ** 2).sum(0)).max())
                bound = float((10 * (2 / np.pi) ** 0.5 * longest) ** (1 / power) * np.exp(log_size / power))
                if bound <= enough:
                    break
            size = float(abs(V).max())
            if not size > 0:
                return 0.0 if size == 0 else np.inf
            log_size += np.log(size)
            V = V / size
    return bound if np.isfinite(bound) else np.inf


def _power_sum(u: Array, v: Array, k: int) -> Any:
    """sum_{j<k} u^j v^(k-1-j) = (u^k - v^k) / (u - v), without cancellation, by doubling."""
    total, m = 1.0, 1
    for bit in bin(k)[3:]:
        step = u**m + v**m
        total, m = step if m == 1 else total * step, 2 * m
        if bit == "1":
            total, m = total * v + u**m, m + 1
    return total
