"""Derivatives of a power of the singular values, f(A) = U S^s V^H, of first and second order, without cancellation.

f(A) is a block of g(J), where J = [[0, A], [A^H, 0]] is Hermitian with the eigenvalues +-sigma and 0, and g is odd with
g(sigma) = sigma^s. So the derivatives are those of Daleckii and Krein with divided differences of g. With
K = U^H E V and N = (I - U U^H) E V,

    L(E) = U (Gamma o (K + K^H)/2 + Gamma+ o (K - K^H)/2) V^H + N S^(s-1) V^H,

where Gamma_ij = g[sigma_i, sigma_j], and Gamma+_ij = g[sigma_i, -sigma_j], which is
(sigma_i^s + sigma_j^s) / (sigma_i + sigma_j). L is its own adjoint, and <D(E, H), G> is the same for every order of
E, H and G.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from matroot._bars import zero_cuts
from matroot.autodiff.divided import first_differences, second_sums
from matroot.backends.base import Backend
from matroot.backends.linalg import adjoint, hermitian_part, thin_svd

Array = Any


#: Up to this condition number the singular vectors of a matrix with the rounding of float32 come from its Gram matrix:
#: float64 then leaves them errors of 1e-8 at most.
GRAM_COND = 1e4


class Parts(NamedTuple):
    """A direction in the bases of the singular vectors: the Hermitian and the skew part of U^H E V, and N."""

    even: Array
    odd: Array
    outer: Array


class Singular:
    """Derivatives at a stack of matrices A (B, m, n), finite and scaled to entries near 1.

    Attributes
    ----------
    failed : array (B,) of bool
        There is no derivative: s < 1, and a singular value is 0 up to relative errors `unit` of A. What is computed for
        these matrices is meaningless.
    """

    def __init__(self, A: Array, s: Fraction | float, unit: float, backend: Backend) -> None:
        self.backend, self.xp, self.s = backend, backend.xp, s
        self.flipped = A.shape[-2] < A.shape[-1]
        xp, power = self.xp, float(s)
        with np.errstate(all="ignore"):
            A = adjoint(A) if self.flipped else A
            self.U, w, self.Vh = decomposed(A, backend) if unit > 2.0**-53 else thin_svd(A, backend)
            m, n = self.U.shape[-2:]
            absolute, relative = zero_cuts(xp.sqrt((w**2).sum(-1)), m, n, unit)
            self.singular = w[:, -1] <= xp.maximum(absolute, relative * w[:, 0])
            self.failed = ~xp.isfinite(w).all(-1) | (self.singular & (power < 1))
            self.w = w = xp.where(self.failed[:, None], 1.0, w)
            total = w[:, :, None] + w[:, None, :]
            self.total = xp.where(total > 0, total, 1)
            self.value = w**power
            self.slope = w ** (power - 1)  # g[sigma, 0]
            self.same = first_differences(w, power, xp)
            opposite = (self.value[:, :, None] + self.value[:, None, :]) / self.total
            self.opposite = xp.where(total > 0, opposite, 1.0 * (power == 1))

    def derivative(self, E: Array) -> Array:
        """Compute L(E)."""
        E = self._into(E)
        return self._out(E.even * self.same, E.odd * self.opposite, E.outer * self.slope[:, None, :])

    def adjoint(self, G: Array) -> Array:
        """Compute L*(G), which is L(G)."""
        return self.derivative(G)

    def second_adjoint(self, E: Array, G: Array) -> Array:
        """Compute S(E, G), of which ``<S(E, G), H> = <G, second(E, H)>``: the second derivative in E and G."""
        return self.second(E, G)

    def second(self, E: Array, H: Array) -> Array:
        """Compute the second derivative in the directions E and H.

        g[a, -b, c] for positive a, b, c is ``(b g[a, c] - b^s + a c h[a, c]) / ((a + b) (c + b))`` with h(x) = x^(s-1),
        and g[a, 0, b] = h[a, b], so that all sums over the middle index but one are products.
        """
        xp, w, value, Fs = self.xp, self.w, self.value, self.same
        if 1 < self.s <= 2:  # g'' is infinite at 0, or jumps
            self.failed = self.failed | self.singular
        E, H = self._into(E), self._into(H)
        with np.errstate(all="ignore"):
            F1 = first_differences(w, float(self.s) - 1, xp)
            bend = (self.slope[:, None, :] - self.slope[:, :, None]) / self.total  # g[0, -a, b]
        rows, columns = w[:, :, None], w[:, None, :]
        X, Y = E.odd / self.total, H.odd / self.total

        def pairs(scale: Array) -> Array:  # X scale Y + Y scale X
            return (X * scale) @ Y + (Y * scale) @ X

        def turned(X: Array, even: Array) -> Array:
            two = rows * (X @ (Fs * even)) - value[:, :, None] * (X @ even)
            return (two + ((X * columns) @ (F1 * even)) * columns) / self.total

        N = adjoint(E.outer) @ H.outer
        N = N + adjoint(N)
        even = F1 * (N / 2 - rows * columns * pairs(xp.ones_like(columns)))
        even += pairs(value[:, None, :]) - Fs * pairs(columns)
        if self.s not in (0, 1):
            smooth = xp.ones(w.shape, bool)
            even += second_sums(w, self.s, Fs, smooth, E.even, H.even, self.failed, xp)
        odd = turned(X, H.even) + turned(Y, E.even)
        odd = odd - adjoint(odd) - bend * N / 2
        outer = E.outer @ (F1 * H.even - bend * H.odd) + H.outer @ (F1 * E.even - bend * E.odd)
        return self._out(even, odd, outer)

    def _into(self, E: Array) -> Parts:
        """Split a direction."""
        E = (adjoint(E) if self.flipped else E) @ adjoint(self.Vh)
        K = adjoint(self.U) @ E
        even = hermitian_part(K)
        square = self.U.shape[-2] == self.U.shape[-1]
        return Parts(even, K - even, self.xp.zeros_like(E) if square else E - self.U @ K)

    def _out(self, even: Array, odd: Array, outer: Array) -> Array:
        """Put the parts of a result together."""
        X = (self.U @ (even + odd) + outer) @ self.Vh
        return adjoint(X) if self.flipped else X


def decomposed(A: Array, backend: Backend) -> tuple[Array, Array, Array]:
    """Compute the thin SVD of a stack of tall matrices, by the Gram matrices of those that are conditioned for it."""
    xp = backend.xp
    w, V = backend.eigh(backend.rank_k(adjoint(A)))
    w, V = xp.sqrt(xp.maximum(w[:, ::-1], 0)), V[:, :, ::-1]
    U = (A @ V) / xp.where(w > 0, w, 1)[:, None, :]
    Vh = xp.ascontiguousarray(adjoint(V))
    hard = ~(w[:, -1] * GRAM_COND > w[:, 0])
    if backend.any(hard):
        U[hard], w[hard], Vh[hard] = thin_svd(A[hard], backend)
    return U, w, Vh
