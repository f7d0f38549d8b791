"""Extreme eigenvalues, condition numbers, and the residual that certifies a root."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from matroot.backends.base import Backend
from matroot.methods.base import Array, Changed

#: Columns of the random-probe certificate; see `residual` for the spread it gives.
PROBES = 8


@lru_cache(maxsize=64)
def random_columns(n: int, k: int) -> np.ndarray:
    """Return a fixed n x k matrix of random rows of norm sqrt(k), so that a repeated solve gives identical bits.

    Single coordinates are seen exactly, and differences of two as well as other vectors. Rows of +-1 are alike for one
    pair in 2^k, whose difference would not be seen at all: that of two features that are nearly the same, say.
    """
    V = np.random.default_rng([n, k]).standard_normal((n, k))
    return np.asarray(V * (k**0.5 / np.linalg.norm(V, axis=1))[:, None])


def largest_eigenvalue(A: Array, backend: Backend, steps: int = 16) -> Array:
    """Estimate the largest eigenvalue (B,) of each Hermitian matrix of a stack, from below, by Lanczos.

    At most 16 steps with full reorthogonalization, O(16 n^2): exact for n <= 16, and for larger n within some 1e-3 for
    usual spectra. The estimate is never too large.
    """
    return lanczos(lambda v: backend.matmul(A, v), A.shape[0], A.shape[-1], A.dtype, backend, steps)


def norm2(A: Array, backend: Backend) -> Array:
    """Estimate the 2-norm of each matrix of a stack, from below: Lanczos on A^H A, to some 1e-3 in O(32 n^2)."""
    Ah = _h(A)
    top = lanczos(lambda v: backend.matmul(Ah, backend.matmul(A, v)), A.shape[0], A.shape[-1], A.dtype, backend)
    return backend.xp.sqrt(backend.xp.maximum(top, 0))


def lanczos(apply: Any, B: int, n: int, dtype: Any, backend: Backend, steps: int = 16) -> Array:
    """Estimate the largest eigenvalue (B,), from below, of Hermitian operators ``apply``: (B, n, 1) -> (B, n, 1)."""
    return ritz_values(apply, B, n, dtype, backend, steps)[:, -1]


def ritz_values(apply: Any, B: int, n: int, dtype: Any, backend: Backend, steps: int = 16) -> Array:
    """Compute Ritz values (B, k), ascending, by k = min(steps, n) Lanczos steps on ``apply``: (B, n, 1) -> (B, n, 1).

    The Ritz values lie between the extreme eigenvalues, up to rounding, and the extreme Ritz values converge to the
    extreme eigenvalues. NaN where the operator is not finite.
    """
    xp = backend.xp
    k = min(steps, n)
    V = xp.zeros((B, k, n), dtype)
    T = xp.zeros((B, k, k), xp.float64)
    tiny = np.finfo(dtype).tiny
    # The start vector has no symmetry, and is the same for every matrix, so that a batch equals a loop.
    start = xp.asarray(start_vector(n), dtype=dtype)
    v = xp.broadcast_to(start[:, None], (B, n, 1))
    for j in range(k):
        V[:, j] = v[..., 0]
        w = apply(v)
        basis, rows = V[:, : j + 1].conj(), V[:, : j + 1].swapaxes(-1, -2)
        h = backend.matmul(basis, w)
        # After breakdown v = 0; repeat T[0, 0] so that the extra Ritz value is harmless.
        T[:, j, j] = h[:, j, 0].real if j == 0 else xp.where(v[:, :, 0].any(-1), h[:, j, 0].real, T[:, 0, 0])
        if j + 1 == k:
            break
        w = w - backend.matmul(rows, h)
        beta = _norm(w, xp)
        T[:, j, j + 1] = T[:, j + 1, j] = beta
        # Once the basis spans an invariant subspace, w is rounding noise. It has to be normalized before it can be made
        # orthogonal; the iteration then continues in an arbitrary direction.
        v = w / xp.maximum(beta, tiny)[:, None, None]
        for _ in range(2):
            v = v - backend.matmul(rows, backend.matmul(basis, v))
            v = v / xp.maximum(_norm(v, xp), tiny)[:, None, None]
    finite = xp.isfinite(T).all((-1, -2))
    w = xp.linalg.eigvalsh(xp.where(finite[:, None, None], T, 0))
    return xp.where(finite[:, None], w, xp.nan)


@lru_cache(maxsize=64)
def start_vector(n: int) -> np.ndarray:
    """Return a unit vector of length n with no symmetry: always the same, so that a batch equals a loop."""
    v = np.random.default_rng(n).standard_normal(n)
    return v / np.linalg.norm(v)


def residual(
    A: Array,
    X: Array,
    s: Fraction | float,
    backend: Backend,
    changed: Changed | None = None,
    factor: Array | None = None,
    whole_up_to: int = 32,
) -> tuple[Array, str]:
    """Compute the residual (B,) of the defining equation of X = A^s, in float64, and "full" or "probes".

    The residual is ``||X^p A - I||_F / sqrt(n)`` for s = -1/p. For every other exponent it is ``||X^b - A^(s b)||_F /
    ||A^(s b)||_F``, about b times the relative error of X, where b is the denominator of s, or 1 for an irrational s.
    (``X^b A^a - I`` for s = -a/b would be as large as ``eps cond^a``, for the best X too.)

    Up to n = `whole_up_to` whole products are used; for larger n `PROBES` = 8 fixed random vectors, see
    `random_columns`. The square of the estimate is unbiased, with relative variance at most 2/8, reached when the error
    is in one eigenvector. In that case the estimate follows sqrt(chi^2_8 / 8), or is closer where the eigenvector has
    few entries: 90 % of the time within a factor 0.58 to 1.39 of the residual, and below a tenth of it once in 10^7.

    `changed` is the change of single eigenvalues of A by a regularization. `factor` (B, n, n) replaces A: A^s for an
    irrational s, A^{-1} for s = -a/b with a > 1; see `matroot.pipeline.reference.factor`.
    """
    xp = backend.xp
    B, n, _ = A.shape
    a, b = (abs(s.numerator), s.denominator) if isinstance(s, Fraction) else (1, 1)
    full = n <= PROBES or (n <= whole_up_to and a + b <= 16)
    V = xp.eye(n) if full else xp.asarray(random_columns(n, PROBES))
    V = xp.broadcast_to(V.astype(A.dtype), (B, *V.shape))

    # If a rule drops all eigenvalues, A' is exactly 0, whereas A - A computed by products has rounding errors.
    nothing = None if changed is None else changed.dropped.all(-1)[:, None, None]

    def apply_A(W: Array) -> Array:
        if factor is not None:
            return backend.matmul(factor, W)
        Y = backend.matmul(A, W)
        if changed is not None:
            Y = Y + backend.matmul(changed.Q * changed.delta[:, None, :], _h(changed.Q) @ W)
            Y = xp.where(nothing, 0, Y)
        return Y

    size = (n * (1 if full else PROBES)) ** 0.5
    with np.errstate(all="ignore"):
        W = goal = V
        for step in steps(s):
            if step == RESTART:
                goal, W = W, V
            else:
                W = backend.matmul(X, W) if step == ROOT else apply_A(W)
        R = W - goal
        if goal is V:
            if changed is not None:
                dropped = backend.matmul(changed.Q * changed.dropped[:, None, :], _h(changed.Q) @ V)
                R = R + xp.where(nothing, V, dropped)
        else:
            size = _norm(goal, xp)
            size = xp.where(size > 0, size, 1)
        value = _norm(R, xp) / size
    value = xp.where(xp.isnan(value) & xp.isfinite(X).all((-1, -2)), xp.inf, value)
    return value, "full" if full else "probes"


#: The steps of a certificate: multiply by A, multiply by X, store the columns as the goal and restart from V.
MATRIX, ROOT, RESTART = range(3)


@lru_cache(maxsize=64, typed=True)  # Fraction(1, 2) and 0.5 are equal, and have other steps
def steps(s: Fraction | float) -> tuple[int, ...]:
    """Return the products that take the columns V to the goal: V itself, or the columns stored at RESTART.

    >>> from fractions import Fraction
    >>> ["".join("AX|"[step] for step in steps(s)) for s in (Fraction(-1, 2), Fraction(2, 3))]
    ['AXX', 'AA|XXX']
    """
    a, b = (abs(s.numerator), s.denominator) if isinstance(s, Fraction) else (1, 1)
    power, roots = (MATRIX,) * a, (ROOT,) * b
    inverse_root = isinstance(s, Fraction) and s.numerator == -1
    return (*power, *roots) if inverse_root else (*power, RESTART, *roots)


def _norm(R: Array, xp: Any) -> Array:
    return xp.sqrt((abs(R) ** 2).sum((-1, -2)))


def _h(Q: Array) -> Array:
    return Q.conj().swapaxes(-1, -2)


def bits_lost(cond: Array, s: Fraction | float) -> Array:
    """Return log2(cond |s|), at least 0: the bits that A -> A^s can lose."""
    if s == 0:
        return np.minimum(cond, 0.0)  # NaN stays NaN, and inf is none of a constant
    return np.log2(np.maximum(cond * abs(float(s)), 1))


def divided_differences(w: Array, p: int) -> Array:
    """Compute Gamma_ij = f[w_i, w_j] (..., n, n) of f(x) = x^{-1/p}, without cancellation, for positive w (..., n).

    With u = w_i^{1/p}, v = w_j^{1/p}: -1 / (u v sum_{k<p} u^k v^{p-1-k}); equal eigenvalues need no special case.
    """
    u = w ** (1 / p)
    ui, uj = u[..., :, None], u[..., None, :]
    power = 1 + 0 * (ui + uj)
    total = 0 * power
    for _ in range(p):
        total = total * uj + power
        power = power * ui
    return -1 / (ui * uj * total)


def cond_from_eigenvalues(w: Array, p: int, share: float = 0.0, inverse: bool = True) -> Array:
    """Compute the relative condition number of A -> A^{-1/p}, or A^{1/p}, in the Frobenius norm from eigenvalues w.

    w (..., n) is ascending. The result is infinite where the smallest eigenvalue is at most `share` of the largest; for
    A itself, where it is more than that below 0.
    """
    n = w.shape[-1]
    if n == 0:
        return 1 + w.sum(-1)
    if p == 1 and not inverse:
        return np.where(w[..., 0] >= -share * abs(w[..., -1]), 1.0, np.inf)
    positive = (w > 0).all(-1) & (w[..., 0] > share * w[..., -1])
    # Relative numbers do not change with the scale of A, and scaled eigenvalues neither overflow nor vanish.
    w = np.where(positive[..., None], w / np.where(positive, w[..., -1], 1)[..., None], 1)
    with np.errstate(over="ignore"):
        if inverse:
            steepest = abs(divided_differences(w, p)).max((-1, -2))
        else:
            steepest = w[..., 0] ** (1 / p - 1) / p
        cond = steepest * np.linalg.norm(w, axis=-1) / np.linalg.norm(w ** ((-1 if inverse else 1) / p), axis=-1)
    return np.where(positive, cond, np.inf)
