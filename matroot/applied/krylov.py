"""Lanczos on the columns of B in lockstep, with bounded memory: what cannot be kept is computed again at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from matroot._result import on_host
from matroot.applied.shifted import Floats, Tridiagonal

Array = Any

#: A remainder below this many units of rounding of the operator is nothing: the space is invariant.
NOTHING = 16
#: Bytes of basis vectors that are kept.
KEPT = 2**28


class Krylov:
    """Lanczos without reorthogonalization, for every column of an array (n, k) of norm 1, or 0.

    A rounding error of a product disturbs A V = V T + (the next vector) by as much, so that V f(T) e_1 and the
    residuals of shifted systems hold although V loses its orthogonality (Greenbaum 1989; Druskin & Knizhnerman 1991).
    Reorthogonalization would need all of V and O(n m^2) operations. At most `kept` bytes of vectors are kept, but two.
    """

    def __init__(self, product: Callable[[Array], Array], start: Array, xp: Any, kept: int = KEPT) -> None:
        self.product, self.xp = product, xp
        self.vectors: list[Array] = [start]
        self.last, self.before = start, xp.zeros_like(start)
        self.most = max(2, kept // max(1, start.nbytes))
        self.alpha: list[Floats] = []
        self.beta: list[Floats] = []
        self.size = np.zeros(start.shape[1])
        self.ended = ~on_host(start.any(0))
        self.finite = True

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def tridiagonal(self) -> Tridiagonal:
        """T of every column. A column whose space was invariant goes on with zeros beside the first entry again."""
        return Tridiagonal(np.array(self.alpha), np.array(self.beta))

    def step(self, unit: float) -> None:
        """Append one vector; none if `finite` becomes False."""
        xp = self.xp
        W = self.product(self.last)
        with np.errstate(over="ignore", invalid="ignore"):  # W need not be finite
            a = xp.einsum("ij,ij->j", self.last.conj(), W).real
            alpha = on_host(a)
            W -= self.last * a
            if self.beta:
                W -= self.before * xp.asarray(self.beta[-1])
            beta = on_host(xp.sqrt(xp.einsum("ij,ij->j", W.conj(), W).real))
        self.finite = self.finite and bool(np.isfinite(alpha).all() and np.isfinite(beta).all())
        if not self.finite:
            return
        if self.alpha:
            alpha = np.where(self.ended, self.alpha[0], alpha)
        self.size = np.maximum(self.size, abs(alpha) + beta)
        self.ended = self.ended | (beta <= NOTHING * unit * self.size)
        beta = np.where(self.ended, 0, beta)
        W *= xp.asarray(np.where(self.ended, 0, 1 / np.where(self.ended, 1, beta)))
        self.alpha.append(alpha)
        self.beta.append(beta)
        self.before, self.last = self.last, W
        if len(self.vectors) < self.most:
            self.vectors.append(W)

    def combined(self, C: Floats) -> tuple[Array, Floats, int]:
        """Return sum_i v_i C[i], the norm of the vector after the last, and how many vectors were computed again.

        C is (m, k) for the first m = len(self) vectors.
        """
        xp = self.xp
        m = len(self)
        Y = xp.zeros_like(self.vectors[0])
        for V, c in zip(self.vectors, C, strict=False):
            Y += V * xp.asarray(c)
        again = max(0, m - len(self.vectors))
        if not again:
            return Y, np.where(self.ended, 0.0, 1.0), 0
        before, last = self.vectors[-2:]
        for i in range(len(self.vectors), m + 1):
            W = self.product(last)
            W -= last * xp.asarray(self.alpha[i - 1])
            W -= before * xp.asarray(self.beta[i - 2])
            beta = self.beta[i - 1]
            W *= xp.asarray(np.where(beta > 0, 1 / np.where(beta > 0, beta, 1), 0))
            before, last = last, W
            if i < m:
                Y += W * xp.asarray(C[i])
        return Y, on_host(xp.sqrt(xp.einsum("ij,ij->j", last.conj(), last).real)), again + 1
