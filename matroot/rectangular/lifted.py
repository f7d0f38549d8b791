"""Orthogonalizers as differentiable functions of A, for torch and jax alike.

The columns of X = Q_k L_k^{-1/2} are known up to a unitary matrix from the right, if no more is known of A than that it
is near. This is the one among them that moves least, so that nothing is divided by differences between eigenvalues
that are kept; X X^H, which is the same for all, has its derivatives exactly, of first and second order.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from matroot._regularization import PseudoInverse
from matroot._solve import solve_power

Array = Any

#: On A / cut.
RULE = PseudoInverse(rtol=0.0, absolute=1.0)


def lifted(A: Array, X: Array, cut: Array, eye: Array) -> Array:
    """Return X as a function of A.

    Parameters
    ----------
    A : array (..., n, n)
        Differentiated.
    X : array (..., n, k)
        Constant, in the same precision; columns of padding are 0.
    cut : array (..., 1, 1)
        Between the eigenvalues dropped and kept; below 1 where none is kept.
    eye : array (n, n)
    """
    size = (abs(X) ** 2).sum(-2) ** 0.5
    kept = size > 0
    none = ~kept.any(-1)[..., None, None]
    A = A * ~none + eye * none  # any A has the X of no columns, and 0 has no root
    R = solve_power(A / cut, Fraction(-1, 2), regularization=RULE).x / cut**0.5
    Q = X / (size + ~kept)[..., None, :]
    Y = R @ Q
    H = Y.conj().swapaxes(-1, -2)
    E = H @ A @ Y - eye[: X.shape[-1], : X.shape[-1]] * kept[..., None, :]  # 0 but for its derivatives
    # Y (I + E)^(-1/2) up to second order
    return Y - Y @ E / 2 + 3 * (Y @ E @ E) / 8
