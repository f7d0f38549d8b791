"""Derivatives of the principal power of a general matrix, from powers of block triangular matrices.

    f([[A, E], [0, A]]) = [[f(A), L(E)], [0, f(A)]]

(Higham 2008, eq. 3.16). In the Schur basis of A the block matrix is triangular already, and all recurrences of
`schur_newton` are linear in the block E: with a small E, the square roots, shifts and degrees are those for A itself,
and L(E) has no error but rounding. The second derivative is in the corner of the power of

    [[A, E, H, 0], [0, A, 0, H], [0, 0, A, E], [0, 0, 0, A]]
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matroot._status import Status
from matroot.backends.cpu import triangular as tri
from matroot.backends.cpu.triangular_norms import extreme_singular_values
from matroot.methods.schur_newton import has_principal_power, schur_newton
from matroot.methods.schur_singular import Deflated, rank_factors

Matrix = NDArray[Any]

#: The size of the directions beside A: no decision for the block matrix depends on them.
SMALL = 2.0**-60


class General:
    """Derivatives at one general matrix A (n, n), finite and scaled to entries near 1."""

    def __init__(self, A: Matrix, s: Fraction | float) -> None:
        from scipy.linalg import schur

        self.s = s
        self.R, self.Q = schur(A, output="complex" if np.iscomplexobj(A) else "real", check_finite=False)
        # A semisimple eigenvalue 0 has a power for s > 0, but a derivative for s >= 1 only.
        ends = tri.eigenvalues(np.asfortranarray(self.R)), s, *extreme_singular_values(self.R), not np.tril(A, -1).any()
        self.failed, self.zeros = not has_principal_power(*ends), None
        if self.failed and s > 1:
            self.zeros = rank_factors(A, 2.0**-53)
            self.failed = self.zeros is None or not self.zeros.semisimple

    def derivative(self, E: Matrix) -> Matrix:
        """Compute L(E)."""
        return self._corner(E) if self.zeros is None else self._beside_zeros(self.zeros, E)

    def second(self, E: Matrix, H: Matrix) -> Matrix:
        """Compute the second derivative in the directions E and H."""
        return self._corner(E, H)

    def adjoint(self, G: Matrix) -> Matrix:
        """Compute L*(G) = L(G^H)^H."""
        return self.derivative(G.conj().T).conj().T

    def second_adjoint(self, E: Matrix, G: Matrix) -> Matrix:
        """Compute S(E, G), of which ``<S(E, G), H> = <G, second(E, H)>``."""
        return self._corner(E, G.conj().T).conj().T

    def _beside_zeros(self, factors: Deflated, E: Matrix) -> Matrix:
        """Compute L(E) for s > 1 at A = B C, M = C B, where 0 is semisimple.

        In the sum of range and null space A is diag(M, 0), and since f(0) = f'(0) = 0 the blocks of L(E) are
        ``L_M(E_11)``, ``M^(s-1) E_12``, ``E_21 M^(s-1)`` and 0.
        """
        if not factors.rank:
            return np.zeros_like(E)
        B, D = factors.B, np.linalg.solve(factors.M, factors.C)  # D B = I
        at, power = General(factors.M, self.s), schur_newton(factors.M, self.s - 1)
        left, right = D @ E, E @ B
        kept = at.derivative(left @ B)
        self.failed = self.failed or at.failed or power.status != Status.CONVERGED
        left, right = left - (left @ B) @ D, right - B @ (D @ right)
        return np.asarray(B @ (kept @ D + power.x @ left) + right @ (power.x @ D))

    def _corner(self, *directions: Matrix) -> Matrix:
        """Compute the block in the upper right corner of the power of the block matrix."""
        n = len(self.R)
        dtype = np.result_type(self.R, *directions)
        if self.failed or self.zeros is not None:  # of these, second derivatives are not known
            self.failed = True
            return np.full((n, n), np.nan, dtype)
        if dtype.kind == "c" and self.R.dtype.kind != "c":  # the real Schur form has blocks that a complex one has not
            real, imaginary = [[E.real for E in directions], [E.imag for E in directions]]
            if len(directions) == 1:
                return self._corner(*real) + 1j * self._corner(*imaginary)
            (a, b), (c, d) = real, imaginary
            return (self._corner(a, b) - self._corner(c, d)) + 1j * (self._corner(a, d) + self._corner(c, b))
        M, size = self.R.astype(dtype), 1.0
        for E in directions:
            norm = float(np.abs(E).max(initial=0.0)) or 1.0
            size *= norm / SMALL
            block = self.Q.conj().T @ (E * (SMALL / norm)) @ self.Q
            M = np.block([[M, np.kron(np.eye(len(M) // n), block)], [np.zeros_like(M), M]])
        power = schur_newton(M, self.s)
        if power.status != Status.CONVERGED:
            self.failed = True
            return np.full((n, n), np.nan, dtype)
        return np.asarray(self.Q @ (power.x[:n, -n:] * size) @ self.Q.conj().T)
