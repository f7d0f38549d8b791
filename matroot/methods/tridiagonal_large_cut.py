"""Large matrices whose spectrum a rule cuts: the eigenvalues above the cut, and their vectors."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from matroot.backends.cpu.cpu import CPU
from matroot.backends.loading import deferred
from matroot.methods.base import Array, FloatArray
from matroot.methods.conditioning import MATRIX, RESTART
from matroot.methods.hermitian import hermitian_product
from matroot.methods.tridiagonal_form import Form, Taken, in_pairs, readable
from matroot.methods.tridiagonal_report import SERVED

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


def cut(solver: Any, M: Taken, out: Array) -> tuple[float, ...] | None:
    """Fill `out` with the root of a matrix that the solver's rule cuts; return the fields of `CutReport`."""
    drops, cut, s = solver.rule.drops, M.shift, solver.s
    if not (M.high > 0 and (drops or cut > 0)):
        return None
    found = kept(M.form, cut, drops)
    if found is None or (drops and not len(found.w)):
        return None
    most = max(M.high, 0.0 if drops else cut)
    least = cut if found.changed and not drops else float(found.w[0])
    if not most <= LARGEST_COND * least:
        return None
    X = written(solver, M, found, 0.0 if drops else cut ** float(s), out)
    with np.errstate(over="ignore", invalid="ignore"):
        floor = None if drops else cut
        error = residual(M.S, X, found, floor, M.halves, M.factor, solver.probes, solver.order)
    if not math.isfinite(error):
        return None
    facts = M.facts(SERVED, error, 0.0 if drops and found.changed else least, 0.0, most / least)
    return *facts, float(found.changed), found.excess(s, M.low, most, drops)


def semidefinite(solver: Any, M: Taken, out: Array) -> tuple[float, ...] | None:
    """Fill `out` with a power s > 0 of a matrix whose negative eigenvalues are noise; return the fields of `Report`."""
    if not M._replace(shift=0.0).is_semidefinite(solver.noise):
        return None
    found = kept(M.form, 0.0, drops=True)
    if found is None or not len(found.w):
        return None
    X = written(solver, M, found, 0.0, out)  # the certificate is that of A, which is not cut
    pairs = in_pairs(M.S), in_pairs(X)
    error = solver.compiled.certificate(*pairs, 0.0, M.halves, M.factor, solver.pairs, solver.order)
    if not math.isfinite(error):
        return None
    least = 0.0 if found.changed else float(found.w[0])
    return M.facts(SERVED, error, least, 0.0, M.high / least if least else math.inf)


def written(solver: Any, M: Taken, found: Kept, goal: float, out: Array) -> Array:
    """Write the root of a decomposed matrix to `out`, with `goal` for what is not kept; return it in double."""
    X = out if out.dtype == solver.double and readable(out) else np.empty(out.shape, solver.double)
    with np.errstate(over="ignore", invalid="ignore"):
        found.root(float(solver.s), goal, M.factor, X)
        if X is not out:
            out[...] = X
            X[...] = out
    return X
