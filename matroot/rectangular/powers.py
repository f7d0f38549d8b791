"""U S^s V^H of tall matrices in float64: through the Gram matrix, which takes only products and a root, or by an SVD.

With G = A^H A the power is A G^((s-1)/2). G has the square of the condition number kappa of A. Its rounding, u = 1e-16,
changes the polar factor by u kappa as a backward error, and by u kappa^2 in its orthogonality, which one Newton-Schulz
step restores; it changes the other powers by `gram_error`. For input in float32 or less this is below the rounding of
the input up to a large kappa. For input in float64 it is not, and the Gram matrix is used only where kappa is small.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

import numpy as np

from matroot._bars import zero_cuts
from matroot._result import on_host
from matroot._solve import solve_power
from matroot._status import USABLE
from matroot.backends.base import Backend
from matroot.backends.cpu import products
from matroot.backends.linalg import add_to_diagonal, adjoint, hermitian_part, thin_svd
from matroot.methods.hermitian import hermitian_product
from matroot.rectangular.stack import Stack

Array = Any

#: Unit roundoff of float64, in which everything is computed.
ROUNDING = 2.0**-53
#: Backward error of the polar factor by the Gram matrix, in unit roundoffs of the input, up to which it is used.
BACKWARD = 32
#: Up to this orthogonality error one Newton-Schulz step, which squares it, restores U.
RESTORED = 1e-5
#: From this n on, half of a Hermitian product is computed, in blocks.
TILED = 192
#: kappa is an estimate from below in large matrices: the products are used up to 1/MARGIN of what they can serve.
MARGIN = 2


@dataclass
class Found:
    """Powers of a stack, in float64: x (B, m, n), h (B, n, n) if wanted, and numbers of every matrix.

    `failed` is True where there is no x, `by_svd` where an SVD was taken, `kept` counts the singular values that were
    not taken for 0, and `dropped` is the share of the others in ||A||_F. `largest` is sigma_max, or an estimate, and
    `cond` its ratio to the smallest one kept.
    """

    x: Array
    h: Any
    kept: Array
    cond: Array
    largest: Array
    dropped: Array
    failed: Array
    by_svd: Array

    def part(self, rows: slice) -> Found:
        """Return the numbers of some matrices."""
        return Found(
            **{f.name: None if getattr(self, f.name) is None else getattr(self, f.name)[rows] for f in fields(self)}
        )


def spectral(stack: Stack, s: Fraction, rtol: float | None, method: str, wants_h: bool) -> Found:
    """Compute U S^s V^H, and V S V^H if wanted, of every matrix of a stack."""
    xp, A = stack.backend.xp, stack.A
    B, m, n = A.shape
    found = Found(
        x=xp.empty_like(A),
        h=xp.empty((B, n, n), A.dtype) if wants_h else None,
        kept=xp.zeros(B, np.int64),
        cond=xp.ones(B),
        largest=xp.ones(B),
        dropped=xp.zeros(B),
        failed=xp.zeros(B, bool),
        by_svd=xp.zeros(B, bool),
    )
    if not A.size:
        found.x[...] = 0
        if found.h is not None:
            found.h[...] = 0
        return found
    rest = np.arange(B)
    if method == "products" or (method == "auto" and (stack.unit > ROUNDING or m >= 2 * n)):
        fine = by_products(stack, s, rtol, found, anyway=method == "products")
        rest = np.flatnonzero(~fine)
    if len(rest):
        rows: Any = slice(None) if len(rest) == B else rest
        polish = s == 0 and stack.unit <= ROUNDING  # LAPACK's vectors are orthogonal to some 50 eps
        by_svd(A[rows], cuts(A[rows], stack.unit, rtol), s, rows, found, stack.backend, polish)
    return found


def cuts(A: Array, unit: float, rtol: float | None) -> tuple[Array, float]:
    """Return the absolute and the relative size, of sigma_max, below which a singular value counts as 0."""
    norm, (m, n) = stack_norm(A), A.shape[1:]
    return zero_cuts(norm, m, n, unit) if rtol is None else (norm * 0, rtol)


def by_products(stack: Stack, s: Fraction, rtol: float | None, found: Found, anyway: bool) -> np.ndarray:
    """Fill in the powers of the matrices that are conditioned well enough, or of all; return which they are."""
    backend, A = stack.backend, stack.A
    xp = backend.xp
    B, m, n = A.shape
    G = xp.empty((B, n, n), A.dtype)

    def gram(part: slice) -> None:
        G[part] = backend.rank_k(adjoint(A[part]))

    def multiply(part: slice) -> None:
        tall_products(A[part], M[part], found.x[part], backend)
        if found.h is not None:
            found.h[part] = hermitian_products(G[part], M[part], backend)

    backend.run_chunks(gram, B, m, A.dtype.itemsize)
    root = solve_power(G, (s - 1) / 2, waits=True)
    M = root.x
    with np.errstate(all="ignore"):
        cond = xp.sqrt(root.cond)
        largest = xp.sqrt(xp.maximum(root.lambda_max, 0))
        usable = among(root.status, xp)
        resolved = usable & (cond**2 * n * ROUNDING < 1)
        if not anyway:
            absolute, relative = cuts(A, stack.unit, rtol)
            resolved &= largest > MARGIN * cond * xp.maximum(absolute, relative * largest)
            resolved &= MARGIN * cond <= largest_cond(s, stack.unit)
        fine = on_host(resolved if not anyway else usable)
        backend.run_chunks(multiply, B, m, A.dtype.itemsize)
        if s == 0:
            rough = np.flatnonzero(on_host(cond**2 * ROUNDING > stack.unit / 4) & fine)
            if len(rough):
                found.x[rough] = restored(found.x[rough], backend)
    found.kept[...] = n
    found.cond[...], found.largest[...] = cond, largest
    if anyway:
        found.failed[...] = ~usable
        return np.ones(B, bool)
    return fine


def largest_cond(s: Fraction, unit: float) -> float:
    """Return the condition number up to which products are as accurate as the rounding of the input."""
    if s == 0:
        return float(min(BACKWARD * unit / ROUNDING, (RESTORED / ROUNDING) ** 0.5))
    return float((4 * unit / ROUNDING / (1 + abs(s))) ** (1 / (2 - max(float(s), 0.0)))) if s < 2 else np.inf


def gram_error(cond: Array, s: Fraction) -> Array:
    """Bound the relative error of a power other than the polar factor by the Gram matrix."""
    return ROUNDING * (1 + abs(float(s))) * cond ** max(0.0, 2 - max(float(s), 0.0))


def by_svd(
    A: Array, cut: tuple[Array, float], s: Fraction, rows: Any, found: Found, backend: Backend, polish: bool
) -> None:
    """Fill in the powers of the matrices A, which are the `rows` of the stack."""
    xp = backend.xp
    B, m, n = A.shape
    x, sigma = xp.empty_like(A), xp.empty((B, n))
    h = None if found.h is None else xp.empty((B, n, n), A.dtype)
    kept = xp.empty((B, n), bool)

    def work(part: slice) -> None:
        U, S, Vh = thin_svd(A[part], backend)
        absolute, relative = cut
        keep = S > xp.maximum(absolute[part], relative * S[:, 0])[:, None]
        power = xp.where(keep, xp.where(keep, S, 1) ** float(s), 0)
        x[part] = backend.matmul(U * power[:, None, :], Vh)
        if polish:
            x[part] = restored(x[part], backend)
        if h is not None:
            h[part] = backend.rank_k(adjoint(Vh) * xp.sqrt(S * keep)[:, None, :])
        sigma[part], kept[part] = S, keep

    with np.errstate(all="ignore"):
        backend.run_chunks(work, B, m, A.dtype.itemsize)
        found.x[rows] = x
        if found.h is not None:
            found.h[rows] = h
        found.failed[rows] = ~xp.isfinite(sigma).all(-1)
        found.by_svd[rows] = True
        found.largest[rows] = sigma[:, 0]
        found.kept[rows] = kept.sum(-1)
        size = (sigma**2).sum(-1)
        found.dropped[rows] = xp.sqrt(xp.where(kept, 0, sigma**2).sum(-1) / xp.where(size > 0, size, 1))
        found.cond[rows] = xp.where(kept.any(-1), sigma[:, 0] / xp.where(kept, sigma, xp.inf).min(-1), 1)


def hermitian_products(G: Array, M: Array, backend: Backend) -> Array:
    """Multiply stacks that commute, Hermitian to the last bit; large matrices on the CPU by halves."""
    H = None if backend.sync_free() else products.commuting(G, M)
    if H is not None:
        return H
    if backend.sync_free() or G.shape[-1] < TILED:
        return hermitian_part(backend.matmul(G, M))
    return np.stack([hermitian_product(*pair, backend) for pair in zip(G, M, strict=True)])


def tall_products(A: Array, M: Array, out: Array, backend: Backend) -> None:
    """Set out = A M for stacks of which that of A may have more rows."""
    if backend.sync_free() or not products.multiplied(A, M, out):
        backend.matmul(A, M, out=out)


def restored(X: Array, backend: Backend) -> Array:
    """Make X, nearly orthogonal or a partial isometry, orthogonal to second order: X (3 I - X^H X) / 2."""
    gap, change = -backend.rank_k(adjoint(X)), backend.xp.empty_like(X)
    add_to_diagonal(gap, 1.0)
    tall_products(X, gap, change, backend)
    return X + change / 2


def stack_norm(A: Array) -> Array:
    """Compute the Frobenius norm of every matrix."""
    F = A.reshape(len(A), 1, A.shape[-2] * A.shape[-1])
    return (F @ adjoint(F)).real[:, 0, 0] ** 0.5


def among(status: Array, xp: Any) -> Array:
    """Return True where x is a root."""
    return (status == int(USABLE[0])) | (status == int(USABLE[1]))
