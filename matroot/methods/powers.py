"""Integer powers, and positive powers from the inverse root."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np

from matroot._status import Status
from matroot.backends.base import Backend
from matroot.backends.linalg import add_to_diagonal, hermitian_part
from matroot.methods.base import Array, Method, Problem, Raw, iterative_refusal


def power(A: Array, k: int, backend: Backend) -> Array:
    """Compute A^k as a new stack, by `power_products(k)` products."""
    X = A.copy()
    if k == 0:
        X *= 0
        add_to_diagonal(X, 1)
    for bit in bin(k)[3:]:
        X = backend.matmul(X, X)
        if bit == "1":
            X = backend.matmul(X, A)
    return X


def power_products(k: int) -> int:
    """Return the number of products that `power` issues."""
    return k.bit_length() + k.bit_count() - 2 if k else 0


@dataclass(frozen=True, repr=False)
class InverseRoot(Method):
    """Base of the methods that compute A^{-a/p} by products; a positive power follows from A^{-1/p}."""

    on_device: ClassVar[bool] = True

    def refuses(self, problem: Problem, n: int) -> str | None:
        return super().refuses(problem, n) or iterative_refusal(problem)

    def run(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        if problem.s < 0:
            raw = self.inverse_root(A, problem, backend)
            raw.negative = raw.x, float(problem.s)
            return raw
        return self._positive(A, problem, backend)

    @abstractmethod
    def inverse_root(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        """Compute A^s for a negative rational s; A may be overwritten."""

    def _positive(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        """Compute A^s, s >= 0, from Z = A^(-1/p); A may be overwritten.

        With k the integer part of s and h = ceil(k / 2), the result is A^h A^(s - 2h) A^h. The powers on both sides
        damp the errors of Z in the directions of the small eigenvalues. The factor in the middle is a power of Z for
        odd k, and of its inverse for even k.
        """
        s, p = problem.rational, problem.p
        k = math.floor(s)
        if p == 1:
            done = backend.xp.zeros(len(A), backend.xp.int8)
            return Raw(power(A, k, backend), done, np.zeros(len(A), np.int64), power_products(k))
        odd, h = k % 2 == 1, (k + 1) // 2
        side = power(A, h, backend) if h else None
        raw = self.inverse_root(A, replace(problem, s=Fraction(-1, p)), backend)
        raw.negative = raw.x, -1 / p
        r = (k + 1 - s if odd else s - k).numerator
        raw.x = power(_usable(raw, backend) if odd else self._inverted(raw, problem, backend), r, backend)
        raw.n_products += power_products(r)
        if side is not None:
            raw.x = backend.matmul(backend.matmul(side, raw.x), side)
            raw.n_products += power_products(h) + 2
        return raw

    def _inverted(self, raw: Raw, problem: Problem, backend: Backend) -> Array:
        """Compute the inverse of raw.x = A^{-1/p}, which is well-conditioned; on a device by products."""
        H = _usable(raw, backend)
        if not backend.sync_free():
            raw.n_products += 1
            return backend.xp.linalg.inv(H)
        # If A has an eigenvalue 0, H has a large eigenvalue that depends on the steps; leave a margin for it.
        least = backend.eps(H.dtype) * math.sqrt(H.shape[-1]) / 4
        promised = 0.0 if problem.floor is None else float(problem.floor.min(initial=1.0))
        floor = np.full(len(H), 0.1 * max(least, promised) ** (1 / problem.p))
        second = self.inverse_root(H, replace(problem, s=Fraction(-1), floor=floor, max_iter=None), backend)
        raw.n_products += second.n_products
        converged = raw.status == int(Status.CONVERGED)
        raw.status = backend.xp.where(converged, second.status, raw.status)
        return second.x


def _usable(raw: Raw, backend: Backend) -> Array:
    """Return the Hermitian part of raw.x, and the identity where there is nothing to go on with.

    On a device that is where x is not finite: iterations that stalled at an eigenvalue 0 still give positive powers.
    """
    xp = backend.xp
    usable = xp.isfinite(raw.x).all((-1, -2)) if backend.sync_free() else raw.status == int(Status.CONVERGED)
    return hermitian_part(xp.where(usable[:, None, None], raw.x, xp.eye(raw.x.shape[-1], dtype=raw.x.dtype)))
