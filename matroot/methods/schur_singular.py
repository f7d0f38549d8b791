"""Powers of singular general matrices, where 0 is a semisimple eigenvalue.

A matrix of rank r is A = B C with B (n, r) and C (r, n). For a function f with f(0) = 0,

    f(A) = B M^{-1} f(M) C,    M = C B,

and M is nonsingular exactly where 0 is semisimple, that is, where it has no Jordan block (Higham, Functions of
Matrices, SIAM 2008, thm. 1.35). B and C are taken from the singular value decomposition, whose small values tell the
rank: they are of the size of rounding whatever the eigenvectors are, and the eigenvalues are not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matroot.methods.schur_condition import Sensitivity

Matrix = NDArray[Any]

#: M counts as singular if its smallest singular value is below this multiple of the cut for those of A.
JORDAN = 8


class Deflated(NamedTuple):
    """A = B C of rank r < n, M = C B, the singular values of A that were kept, and the cut."""

    B: Matrix
    C: Matrix
    M: Matrix
    S: NDArray[np.float64]
    cut: float

    @property
    def rank(self) -> int:
        """Number of singular values kept."""
        return len(self.S)

    @property
    def semisimple(self) -> bool:
        """True if 0 has no Jordan block."""
        return not self.rank or bool(np.linalg.svd(self.M, compute_uv=False)[-1] > JORDAN * self.cut)

    def lifted(self, F: Matrix, s: float, of_M: Sensitivity) -> tuple[Matrix, Sensitivity]:
        """Return A^s and its sensitivity, absolute, from F = M^s and that of M^s.

        A perturbation of the size of the cut gives eigenvalues of that size where the matrix has 0, and their powers
        are in the jump. Eigenvectors of 0 are coupled to the others by M^(s-1).
        """
        inner = np.linalg.solve(self.M, F)
        X = self.B @ inner @ self.C
        projector = float(
            np.linalg.norm(self.B @ np.linalg.solve(self.M, self.C), 2)
        )  # onto the range, along the null space
        top = float(self.S[0])
        amplification = projector * (of_M.amplification + 2 * top * float(np.linalg.norm(inner, 2)))
        jump = projector * (of_M.jump + top * float((self.cut / top) ** s) * top ** (s - 1))
        return X, Sensitivity(amplification, jump)


def deflated(A: Matrix, eps: float) -> Deflated | None:
    """Return the factors of A up to singular values of 2 n eps ||A||; None if there are none of these, or no others."""
    factors = rank_factors(A, eps)
    return None if factors is None or factors.rank in (0, len(A)) else factors


def rank_factors(A: Matrix, eps: float) -> Deflated | None:
    """Return the factors of A, of any rank; None if the singular value decomposition fails."""
    try:
        U, S, Vh = np.linalg.svd(A)
    except np.linalg.LinAlgError:
        return None
    cut = 2 * len(A) * eps * float(S[0])
    r = int((S > cut).sum())
    B, C = U[:, :r] * S[:r], Vh[:r]
    return Deflated(B, C, C @ B, S[:r], cut)
