"""Stage 3 without statistics: the direction U S^s V^T of a matrix M = U S V^T; for s = 0, that of Muon.

Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
"""

from __future__ import annotations

import sys

import numpy as np

from matroot import Ridge, solve, spectral_power
from matroot_optim.arrays import Array, cast, dtype_name, is_jax, is_traced, like, namespace, to_host
from matroot_optim.callbacks import call

#: Singular values fade out below so many roundings of float32, times the root of the order, of the largest.
FADING = 16


def spectral(M: Array, s: float) -> Array:
    """Return U S^s V^T of every block of a stack, whose last two dimensions are those of the matrices."""
    xp = namespace(M)
    if not is_traced(M):
        return like(powers(to_host(M), s), M) if is_jax(M) else xp.asarray(powers(M, s))  # jax may have no float64
    jax = sys.modules["jax"]
    shape = jax.ShapeDtypeStruct(M.shape, M.dtype)
    return call(lambda x: [np.asarray(powers(np.asarray(x), s), x.dtype)], [shape], M)[0]


def powers(M: Array, s: float) -> Array:
    """Compute `spectral`; in float32 by M (M^T M + r^2 sigma_1^2 I)^((s - 1) / 2), without an SVD of any gradient.

    Singular values below r sigma_1, which float32 hardly resolves, come near 0, and not to 1.
    """
    if dtype_name(M) != "float32" or s == 1:
        return spectral_power(M, s).x
    xp, wide = namespace(M), M.shape[-2] < M.shape[-1]
    A = cast(xp.matrix_transpose(M) if wide else M, "float64")
    G = xp.matmul(xp.matrix_transpose(A), A)
    ridge = Ridge(relative=(FADING * 2.0**-24) ** 2 * G.shape[-1])
    root = solve(G, s=(s - 1) / 2, regularization=ridge)
    if np.asarray(to_host(root.status)).any():  # such as of zeros
        return spectral_power(M, s).x
    X = cast(xp.matmul(A, root.x), "float32")
    return xp.matrix_transpose(X) if wide else X


def operations(block: tuple[int, ...]) -> float:
    """Return the operations for one block: an inverse root of the smaller order, and the products beside it."""
    small, large = sorted(block[-2:])
    copies = float(np.prod(block[:-2]))
    return copies * (10.0 * small**3 + 4.0 * small**2 * large)
