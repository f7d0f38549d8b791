"""Condition number of A -> A^s for a general matrix, from the Frechet derivative of the power.

The derivative L(A, E) follows the computation A -> R^{2^{-k}} -> power series -> squarings, each stage
differentiated (Higham & Lin, SIAM J. Matrix Anal. Appl. 34(3), 2013, 1341-1360): a square root U of R gives
U L + L U = E, a triangular Sylvester equation, as stable as the square root itself. The Frobenius norm is
unitarily invariant, so the whole computation stays in the basis of the Schur form.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matroot.backends.cpu import triangular as tri
from matroot.backends.cpu.triangular_norms import extreme_singular_values, norm_from_gram, power_radius, start
from matroot.methods import schur_plan as plan
from matroot.methods.schur_condition import whole_derivative_bound
from matroot.methods.schur_newton import MAX_SQUARE_ROOTS, has_principal_power

Matrix = NDArray[Any]

#: The power series is truncated so that its derivative has an error of some 1e-3, far less than an estimate needs.
RADIUS, DEGREE = 0.25, 6
#: The iteration stops when a Lanczos step increases the estimate by less than this, relative.
RTOL = 1e-2


def cond_pth_root_general(A: Matrix, s: Fraction | float) -> float:
    """Estimate the relative condition number of the principal power A -> A^s of one matrix in the Frobenius norm.

    ``cond = ||L||_F ||A||_F / ||A^s||_F`` with the Frechet derivative L at A. The largest singular value of L is
    estimated from below by Lanczos on L* L, usually to a few per cent. A relative perturbation eps of A changes A^s by
    up to eps cond, relative. For integer s the number is bounded by norms, exactly for s = -1. It is infinite when A
    has an eigenvalue on the closed negative real axis.

    The estimate takes 3 to 16 Lanczos steps of one derivative and one adjoint each. With k square roots (5 to 10), a
    derivative costs about 3 k + 6 full products: in total some 15 to 25 times the root. Memory is some 2 k + 15
    matrices.

    >>> round(cond_pth_root_general(np.diag([1.0, 1e-4]), -0.5), -1)
    5000.0
    """
    n = A.shape[0]
    if n == 0:
        return 0.0
    A = np.asarray(A, np.result_type(A.dtype, np.float64))
    size = float(np.abs(A).max())
    if size == 0:
        return float("inf")
    with np.errstate(all="ignore"):
        return _condition(A * 2.0 ** -min(max(int(np.frexp(size)[1]), -1000), 1000), s)


def _condition(A: Matrix, s: Fraction | float) -> float:
    from scipy.linalg import schur

    R = np.asfortranarray(schur(A, output="complex" if np.iscomplexobj(A) else "real", check_finite=False)[0])
    exact = not np.tril(A, -1).any()
    largest, smallest = extreme_singular_values(R)
    if not has_principal_power(tri.eigenvalues(R), s, largest, smallest, exact):
        return float("inf")
    norm_A = float(np.linalg.norm(R))
    if float(s).is_integer():  # negative eigenvalues are allowed, but have no principal square roots
        X = np.linalg.matrix_power(R, int(s))
        return relative(whole_derivative_bound(int(s), largest, smallest) * norm_A, X)
    power = DifferentiablePower(R, float(s))

    def gram(E: Matrix) -> Matrix:  # the adjoint of L is E -> L(E^H)^H
        return power.derivative(power.derivative(E).conj().T).conj().T

    norm_L = norm_from_gram(gram, start(R.shape, R.dtype), rtol=RTOL)
    return relative(norm_L * norm_A, power.value)


def relative(size: float, X: Matrix) -> float:
    """Divide `size` by the norm of X; infinite where X is 0, as A^2 is for a nilpotent A, or not finite."""
    found = float(np.float64(size) / np.linalg.norm(X))
    return float("inf") if np.isnan(found) else found


class DifferentiablePower:
    """R^s of an upper (quasi-)triangular R, with the intermediates that its derivative needs; R is overwritten.

    ``value`` is R^s. Integer and large s are computed by squarings, as any other s.
    """

    def __init__(self, R: Matrix, s: float) -> None:
        self.blocks = tri.cuts(R)
        self.roots: list[Matrix] = []
        while True:
            c, radius = plan.disc(tri.eigenvalues(R))
            radius = max(radius, power_radius(R, enough=RADIUS, c=c))
            if radius <= RADIUS or not np.isfinite(radius) or len(self.roots) == MAX_SQUARE_ROOTS:
                break
            tri.sqrt_triangular(R, self.blocks)
            self.roots.append(R.copy(order="F"))
        e = plan.exponent(s, 0, len(self.roots))
        self.c, self.factor = c, c**-e.sigma
        self.coefficients = plan.binomial(e.sigma, DEGREE)
        self.Z = np.asfortranarray(np.eye(R.shape[0], dtype=R.dtype) - c * R)
        self.horner = [self.coefficients[-1] * np.eye(R.shape[0], dtype=R.dtype)]
        for a in reversed(self.coefficients[:-1]):
            self.horner.append(self.horner[-1] @ self.Z + a * np.eye(R.shape[0], dtype=R.dtype))
        self.squares = [self.factor * self.horner.pop()]
        for _ in range(e.squarings):
            self.squares.append(self.squares[-1] @ self.squares[-1])
        self.value = self.squares.pop()

    def derivative(self, E: Matrix) -> Matrix:
        """Compute L(R, E), the term of first order in (R + E)^s - R^s."""
        E = E.copy(order="F")
        for U in self.roots:
            tri.sylvester(U, E, self.blocks)
        dZ = -self.c * E
        L = np.zeros_like(E)
        for P in self.horner:  # (P Z + a)' = P' Z + P Z'
            L = tri.right(L, self.Z, self.blocks) + tri.left(P, dZ, self.blocks)
        L *= self.factor
        for Y in self.squares:
            L = tri.left(Y, L, self.blocks) + tri.right(L, Y, self.blocks)
        return L
