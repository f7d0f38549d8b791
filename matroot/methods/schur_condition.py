"""Bound of the condition number of A -> A^s for a general A, from its resolvent on the negative real axis.

For 0 < |s| < 1 the Frechet derivative is

    L(E) = sin(pi |s|) / pi * integral over t > 0 of t^s (A + t I)^{-1} E (A + t I)^{-1} dt,

up to its sign (Higham, Functions of Matrices, SIAM 2008, eq. 1.36, differentiated), so that the integral of
t^s ||(A + t I)^{-1}||^2 bounds its norm. The bound is exact for a positive definite A, and for a conjugate pair of
a normal A. 1 / ||(A + t I)^{-1}|| is the distance of A to the matrices with the eigenvalue -t. If this distance is
small, A^s is close to a jump, whether the cause is an eigenvalue near the axis or coupling of eigenvectors.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matroot.backends.cpu import triangular as tri

Matrix = NDArray[Any]
Reals = NDArray[np.float64]

#: Apart from peaks, the integrand varies like a power of t; a grid of this ratio integrates it to some 20 per cent.
RATIO = 2.0
#: Maximum number of nodes of the grid, and of eigenvalues near the axis that get a node.
NODES, PEAKS = 64, 32


class Sensitivity(NamedTuple):
    """Sensitivity of A -> A^s to perturbations.

    A relative perturbation e of A changes A^s by up to e times `amplification`. A perturbation by n unit roundoffs of
    the data can change A^s by `jump`, which is 0 if no eigenvalue can cross the negative axis. Both are relative to
    A^s.
    """

    amplification: float
    jump: float

    def relative_to(self, norm: float) -> Sensitivity:
        """Divide both by the norm of A^s, which may be 0 for an integer power of a nilpotent matrix."""
        if norm == 0:
            return Sensitivity(np.inf, np.inf if self.jump else 0.0)
        return Sensitivity(self.amplification / norm, self.jump / norm)


def sensitivity(
    R: Matrix, lam: Matrix, s: Fraction | float, largest: float, smallest: float, eps: float
) -> Sensitivity:
    """Compute absolute bounds for an upper (quasi-)triangular R with eigenvalues lam, to be divided by the norm of R^s.

    `largest` and `smallest` are the extreme singular values of R, `eps` the unit roundoff of the data.
    """
    norm = float(np.linalg.norm(R))
    with np.errstate(all="ignore"):
        if float(s).is_integer():
            return Sensitivity(whole_derivative_bound(int(s), largest, smallest) * norm, 0.0)
        if not 0 < smallest / 4 < 4 * largest < np.inf:
            return Sensitivity(np.inf, 0.0)
        axis = negative_axis(R, lam, largest, smallest)
        bound = derivative_bound(s, axis, largest, smallest) * norm
        return Sensitivity(bound, axis.jump(float(s), len(R) * eps * largest))


class Axis(NamedTuple):
    """Norms of the resolvent on the negative axis, at nodes t with weights w, all between `low` and `high`.

    The last `peaks` nodes are at eigenvalues a + i y near the axis, with the weight of the peak, pi y.
    """

    t: Reals
    w: Reals
    norms: Reals
    low: float
    high: float
    peaks: int

    def jump(self, s: float, rounding: float) -> float:
        """Bound the jump of A^s if a perturbation of norm `rounding` can move an eigenvalue across the axis; else 0."""
        first = len(self.t) - self.peaks
        crossing = self.t[first:][self.norms[first:] * rounding >= 1]
        return float(2 * abs(math.sin(math.pi * s)) * (crossing**s).max(initial=0.0))

    def integral(self, s: float, power: int) -> float:
        """Integrate t^s ||(A + t I)^{-1}||^power over all t > 0, for -1 < s < power - 1."""
        rest = s + 1 - power  # t ||(A + t I)^{-1}|| needs no scaling
        inside = (self.w / self.t * (self.t * self.norms) ** power * self.t**rest).sum()
        below = (self.low * self.norms[0]) ** power * np.float64(self.low) ** rest / (s + 1)
        beyond = np.float64(self.high) ** rest / -rest
        return float(inside + below + beyond)


def negative_axis(R: Matrix, lam: Matrix, largest: float, smallest: float) -> Axis:
    """Compute norms of (R + t I)^{-1} of an upper (quasi-)triangular R with eigenvalues lam, at some 20 nodes t.

    Each node costs O(n^2). `largest` and `smallest` are the extreme singular values of R. Beyond four times their range
    the norm is 1 / t, or constant.
    """
    low, high = smallest / 4, 4 * largest
    count = min(NODES, 2 + math.ceil(math.log(high / low) / math.log(RATIO)))
    step = math.log(high / low) / (count - 1)
    grid = low * np.exp(step * np.arange(count))
    weights = grid * step
    weights[[0, -1]] /= 2
    near = np.flatnonzero((lam.real < 0) & (np.abs(lam.imag) < -lam.real) & ((lam.imag > 0) | np.iscomplexobj(R)))
    near = near[np.argsort(np.abs(lam.imag[near] / lam.real[near]))[:PEAKS]]
    peaks = lam[near].astype(np.complex128)
    t = np.concatenate((grid, -peaks.real))
    w = np.concatenate((weights, np.pi * np.abs(peaks.imag)))
    return Axis(t, w, tri.inverse_norms(R, t), low, high, len(near))


def derivative_bound(s: Fraction | float, axis: Axis, largest: float, smallest: float) -> float:
    """Bound the norm of the Frechet derivative of A -> A^s from above, up to quadrature error, for non-integer s.

    For |s| > 1 the product rule is applied to A^k A^sigma, with k the integer part of s.
    """
    k, sigma = divmod(abs(float(s)), 1)
    factor = math.sin(math.pi * sigma) / math.pi
    part = factor * axis.integral(math.copysign(sigma, s), 2)
    if k == 0:
        return part
    size = factor * (largest * axis.integral(sigma - 1, 1) if s > 0 else axis.integral(-sigma, 1))  # of A^sigma
    base = np.float64(largest if s > 0 else 1 / smallest)
    return whole_derivative_bound(int(math.copysign(k, s)), largest, smallest) * size + float(base**k) * part


def whole_derivative_bound(k: int, largest: float, smallest: float) -> float:
    """Bound the norm of the Frechet derivative of A -> A^k from above, from the singular values of A."""
    if k >= 0:
        return k * float(np.float64(largest) ** (k - 1))
    return -k * float(np.float64(smallest) ** (k - 1))
