"""First-order root of a matrix that changed a little, in the eigenbasis of the earlier matrix.

The basis keeps Q with Q^H A Q = diag(w) + E, and X = Q diag(f) Q^H, f = (w + ridge)^s. For the new matrix A + D,

    Q^H (A + D + ridge I) Q = diag(b) + E,      E <- E + offdiag(Q^H D Q)
    X <- X + Q (Gamma o E + diag(b^s - f)) Q^H,  Gamma_ij = f[b_i, b_j]        (Higham 2008, thm. 3.11)

Only differences are multiplied, so that half the precision loses no digits of A or X.

The error bound: with N = diag(b)^{-1/2} E diag(b)^{-1/2} and eta = ||N||_2 < 1,

    0 <= (X* - X) / sign(-s) <= |s| eta^2 / (1 - eta) diag(b)^s        in the basis Q, for -1 <= s <= 1.

Proof: x^s is an integral over t > 0 of +-(x + t)^{-1} with positive weights, and the error of first order in
(B + t)^{-1} is (b+t)^{-1} E (B+t)^{-1} E (b+t)^{-1}, which lies between 0 and eta^2 / (1 - eta) b (b+t)^{-2}, since
|E| <= eta b <= eta (b + t). So if half of the bound is added to X, the error is at most the other half. The bound also
holds relative to X* in the 2-norm, because the largest entry of diag(b)^s is at most ||X*||_2.
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

#: Rounding error of Q^H D Q in precision u: the typical error relative to u ||D||_F, and the worst error relative to
#: sqrt(n) u ||D||_F. Measured up to 1.3 and 0.4; in the 2-norm, 0.2 where D = 1 1^T, whose rows round alike.
TYPICAL_ERROR, WORST_ERROR = 0.5, 0.5
#: Error of eigenvalues from LAPACK, or from Q^H A Q, relative to u lambda_max; see `eigen_error`.
EIGEN_ERROR = 10.0
#: Share of rtol allowed for the rounding error of narrow products; beyond it, full precision is used.
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
    """Kept eigenbasis, matrix and root of one matrix, all in units of `scale`, a power of two. Never written to."""

    Q: Array
    A: Array
    X: Array
    w: Array
    f: Array
    #: in `narrower` precision; None after a full decomposition, where it is 0
    E: Array | None
    scale: float
    #: bound of ||Q^H Q - I||_F
    defect: float
    #: refinements since the last full decomposition
    age: int = 0
    #: consecutive updates in which the matrix had changed too much for this basis
    misses: int = 0
    #: updates before first order is tried again
    wait: int = 0


@dataclass
class Moved:
    """A changed matrix in the coordinates of a basis, B = diag(b) + E, and the error of its first-order root."""

    E: Array
    #: the diagonal without the ridge, and with it
    d: Array
    b: Array
    ridge: float = 0.0
    largest: float = 0.0
    #: bound of ||b^{-1/2} E b^{-1/2}||_2
    eta: float = np.inf
    #: times b^s, the correction to add to the root; its sign is that of -s
    middle: float = np.inf
    #: the part of `error` that is due to rounding in E
    noise: float = 0.0
    #: bound of the relative error of the root
    error: float = np.inf


def eigen_error(dtype: np.dtype[Any], n: int) -> float:
    """Bound the rounding error of the eigenvalues of an n x n matrix in `dtype`, relative to lambda_max."""
    return float(EIGEN_ERROR * _unit(dtype) * max(1.0, n**0.5 / 4))


def full_error(cond: Array, s: Fraction, dtype: np.dtype[Any], n: int, excess: Array | float = 1.0) -> Array:
    """Bound the relative error of a root from a full solve: from the eigenvalues, and from forming the root.

    `excess` is that of `pipeline.status.excess_of`, for matrices that a rule cancels.
    """
    u = eigen_error(dtype, n)
    return forward_error_bound(cond, s, u * excess) + u


def narrower(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of half the precision; float32 and complex64 are returned unchanged."""
    return np.dtype({"float64": "float32", "complex128": "complex64"}.get(dtype.name, dtype.name))


def moved(basis: Basis, A: Array, rule: Regularization | None, s: Fraction, rtol: float, backend: Backend) -> Moved:
    """Express A, given in the units of the basis, in its coordinates; two products."""
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
    """Do the work of `moved` in the precision of D = A - basis.A."""
    Q = basis.Q.astype(D.dtype, copy=False)
    E = hermitian_product(Q.conj().T, backend.matmul(D, Q), backend)
    if basis.E is not None:
        E += basis.E
    diagonal = E.reshape(-1)[:: len(E) + 1]
    change = diagonal.real.astype(np.float64)
    diagonal[...] = 0
    noise = WORST_ERROR * len(E) ** 0.5 * _unit(D.dtype) * float(np.linalg.norm(D))

    def measured(weights: Array, enough: float) -> float:
        """Bound ||W (E - Q^H D Q) W||_2, in float64."""
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

    The error of E is at most `noise` in the 2-norm. ``measured(weights, enough)`` returns a sharper bound of the error,
    multiplied by the weights from both sides.
    """
    power, n = float(s), len(d)
    order = np.argsort(d)
    largest = float(_ritz(E, d, order[-RITZ:])[-1])
    from_lowest = rule is not None and rule.needs == "extremes"
    lowest = float(_ritz(E, d, order[:RITZ])[0]) if from_lowest else 0.0
    ridge = 0.0 if rule is None else float(rule.shift(np.asarray(largest), np.asarray(lowest), basis.scale))
    b = d + ridge
    least, most = b.min(), b.max()  # of numpy: powers of a Python float raise where they overflow
    if not least > 0:
        return Moved(E, d, b, ridge, largest)
    f = b**power
    steepest = abs(power) * least ** (power - 1) / float(f.max())

    # The errors of the decomposition and of X are relative to the eigenvalues and the root of the earlier matrix.
    u = eigen_error(basis.Q.dtype, n) * max(1.0, float(abs(basis.w).max()) / most)
    cond = most / least
    # X keeps its earlier error; relative to the new root, the error is larger if the root has become smaller.
    smaller = float(basis.f.max() / f.max())
    before = float((basis.f.max() / basis.f.min()) ** (1 / abs(power)))
    earlier = float(forward_error_bound(np.asarray(before), s, eigen_error(basis.Q.dtype, n)))
    rounding = max(float(forward_error_bound(np.asarray(cond), s, u)), earlier) + max(smaller - 1, 0.0) * earlier
    rounding += basis.defect * (1 + basis.defect * cond)
    rounding += WORST_ERROR * n**0.5 * _unit(basis.Q.dtype) * float(np.linalg.norm(basis.f)) / float(f.max())

    # A ridge computed from lambda_min, which is right to second order, adds the bound once more.
    middle = 0.0 if s == 1 else abs(power) / 2
    extra = abs(power) if from_lowest else 0.0
    most_wanted = (1 - ROUNDING_SHARE) * rtol - rounding
    enough = (max(most_wanted, 0) / (2 * (2 * middle + extra))) ** 0.5 if middle or extra else np.inf
    r = (1 / np.sqrt(b))[:, None].astype(E.real.dtype)
    V = _probes(n, E.dtype.kind).astype(E.dtype)
    eta = norm_bound(lambda V: r * backend.matmul(E, r * V), V, enough)
    drift = eta**2 / (1 - eta) if eta < 1 else np.inf
    middle, error = (middle * drift, rounding + extra * drift) if middle or extra else (0.0, rounding)

    # An error of E changes X by at most diag(g)^{1/2} (error) diag(g)^{1/2}, g = |f'(b)|, since Gamma is semidefinite.
    noise *= steepest
    room = rtol - error - middle
    if measured is not None and room > 0 and noise > (room - middle if room > 2 * middle else room):
        noise = min(noise, steepest * measured((b / least) ** ((power - 1) / 2), room / steepest))
    error += noise
    # Add half of the bound to the root only if rtol needs it: without the correction most roots are more accurate.
    if error + 2 * middle <= rtol:
        return Moved(E, d, b, ridge, largest, eta, 0.0, noise, error + 2 * middle)
    return Moved(E, d, b, ridge, largest, eta, middle, noise, error + middle)


def root(basis: Basis, at: Moved, s: Fraction, factor: float, out: Array, backend: Backend) -> float:
    """Write factor * X of the changed matrix to `out`, X in the units of the basis; two products.

    `at.E` is overwritten. Return the relative error added by rounding in the products.
    """
    power, narrow = float(s), at.E.dtype
    Q = basis.Q.astype(narrow, copy=False)
    # Use units of the smallest b, so that nothing overflows in a narrow dtype.
    least = at.b.min()
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
    """Return the basis from a full decomposition of A; w are the eigenvalues without the ridge."""
    f = (w.astype(np.float64) + ridge) ** float(s)
    eps = float(np.finfo(Q.dtype).eps)
    return Basis(Q, A, X, w.astype(np.float64), f, None, scale, eps * len(w))


def refined(basis: Basis, A: Array, at: Moved, s: Fraction, backend: Backend) -> Basis | None:
    """Rotate the basis towards the eigenvectors of A, and return the basis of A; about 6 products.

    Return None if Q cannot be made orthonormal, or the diagonal of Q^H A Q with the ridge is not positive, or what is
    off the diagonal leaves the range of `narrower`.
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
    X = backend.rank_k(Q * xp.sqrt(f).astype(Q.real.dtype)).astype(basis.X.dtype, copy=False)  # one dtype in a state
    E = M.astype(narrower(Q.dtype), copy=False)
    if not np.isfinite(E).all():  # A is far beyond the units of the basis
        return None
    return Basis(Q, A, X, w, f, E, basis.scale, defect, basis.age + 1)


def _unit(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).eps) / 2


def _ritz(E: Array, d: Array, rows: Array) -> Array:
    """Compute the eigenvalues of B restricted to a few of its rows and columns."""
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
    """Bound ||N||_2 of a Hermitian N, V -> N V, from above, by powers of N until the bound is at most `enough`.

    With the 8 Gaussian vectors of `_probes`, P(||T|| > 10 sqrt(2/pi) max ||T v||) <= 10^-8 (Halko, Martinsson & Tropp,
    SIAM Review 53(2), 2011, lemma 4.1). The factor 10 sqrt(2/pi) shrinks to 1.14 for T = N^16, and to 1.68 for N^4.
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
    """Compute sum_{j<k} u^j v^(k-1-j) = (u^k - v^k) / (u - v), without cancellation, by doubling."""
    total, m = 1.0, 1
    for bit in bin(k)[3:]:
        step = u**m + v**m
        total, m = step if m == 1 else total * step, 2 * m
        if bit == "1":
            total, m = total * v + u**m, m + 1
    return total
