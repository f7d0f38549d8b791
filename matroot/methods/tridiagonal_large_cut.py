"""Large matrices whose spectrum a rule cuts: the eigenvalues above the cut, and their vectors."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from matroot.backends.cpu.cpu import CPU
from matroot.backends.loading import deferred
from matroot.methods.base import Array, FloatArray
from matroot.methods.conditioning import MATRIX, RESTART
from matroot.methods.hermitian import hermitian_product
from matroot.methods.tridiagonal_form import Form

#: Matrices with a larger condition number are not served.
LARGEST_COND = 2.0**48


class Kept(NamedTuple):
    """The eigenvalues above a cut, their vectors, and how many lie below; `highest` is the largest of these."""

    w: FloatArray
    vectors: Array
    changed: int
    highest: float

    def below(self, W: Array) -> Array:
        """Project the columns of W on what is orthogonal to the vectors."""
        return W - self.vectors @ (self.vectors.conj().T @ W)

    def root(self, s: float, goal: float, factor: float, X: Array) -> None:
        """Set X to the power s of the matrix, in units of factor^2, with `goal` for all eigenvalues below the cut."""
        X[...] = 0
        np.fill_diagonal(X, goal * factor * factor)
        values = self.w**s - goal
        for sign in (1.0, -1.0):  # one of them, but for rounding errors
            some = sign * values > 0
            if some.any():
                W = self.vectors[:, some] * (np.sqrt(abs(values[some])) * factor)
                real = W.dtype.kind != "c"
                part = W @ W.T if real else hermitian_product(W, W.conj().T, CPU())  # numpy calls syrk for real ones
                X += sign * part

    def excess(self, s: Fraction, low: float, most: float, drops: bool) -> float:
        """Compute `pipeline.status.excess_of`."""
        ratio = max(1.0, -low / most)
        if drops and self.changed:
            ratio = max(ratio, self.w[0] / ((self.w[0] - self.highest) * abs(float(s))))
        return float(ratio)


def kept(form: Form, cut: float, drops: bool) -> Kept | None:
    """Decompose a matrix in tridiagonal form as far as it lies above a cut; None where LAPACK fails.

    All vectors of T come from divide and conquer, which is faster than any way to a tenth of them or more; that of A
    takes the vectors above the cut back.
    """
    A, d, e, tau = form
    n = len(d)
    if n < 2:
        return None
    lapack = deferred("scipy.linalg").lapack
    try:
        if hasattr(lapack, "dstevd"):
            w, Z, failed = lapack.dstevd(d, e[: n - 1])
        else:  # SciPy 1.13 has only slower ways, or less accurate ones
            (w, Z), failed = np.linalg.eigh(np.diag(d) + np.diag(e[: n - 1], -1)), 0
    except (np.linalg.LinAlgError, ValueError):
        return None
    if failed:
        return None
    changed = int(np.searchsorted(w, cut, "right" if drops else "left"))
    Y = np.asfortranarray(Z[:, changed:], A.dtype)
    if Y.size:
        turn = lapack.zunmqr if A.dtype.kind == "c" else lapack.dormqr
        Y[1:] = turn("L", "N", A.T[1:n, : n - 1], tau[: n - 1], Y[1:], 64 * Y.shape[1])[0]
    # LAPACK has read the transpose, which is the conjugate.
    return Kept(w[changed:], Y.conj(), changed, float(w[changed - 1]) if changed else -math.inf)


def residual(
    S: Array,
    X: Array,
    found: Kept,
    floor: float | None,
    halves: FloatArray,
    factor: float,
    probes: Array,
    order: Array,
) -> float:
    """Compute the residual of the returned X as `conditioning.residual` does; A is S times both halves.

    With R the projection on the vectors below the cut, A' = A + floor R - R A R; they are dropped if floor is None.
    X is in the units of the caller, and divided by factor^2.
    """
    one, two = halves.tolist()
    inverse, k = 1 / factor, probes.shape[1]
    below = found.below(probes)
    W, goal = probes, probes - below if floor is None else probes
    size = float(np.linalg.norm(probes))
    for code in order:
        if code == RESTART:
            goal, W = W, probes
            size = float(np.linalg.norm(goal))
        elif code == MATRIX:
            U = found.below(W)
            Y = (S @ (np.hstack([W, U]) * one)) * two
            W = Y[:, :k] - found.below(Y[:, k:]) + (floor or 0.0) * U
        else:
            W = (X @ (W * inverse)) * inverse
    return float(np.linalg.norm(W - goal)) / size
