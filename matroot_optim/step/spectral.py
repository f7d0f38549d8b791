"""Stage 3 without statistics: the direction U S^s V^T of a matrix M = U S V^T; for s = 0, that of Muon.

Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
"""

from __future__ import annotations

import sys

import numpy as np

from matroot import spectral_power
from matroot_optim.arrays import Array, is_traced, namespace


def spectral(M: Array, s: float) -> Array:
    """Return U S^s V^T of every block of a stack, whose last two dimensions are those of the matrices."""
    xp = namespace(M)
    if not is_traced(M):
        return xp.asarray(spectral_power(M, s).x)
    jax = sys.modules["jax"]
    found: Array = jax.pure_callback(
        lambda x: np.asarray(spectral_power(np.asarray(x), s).x, x.dtype),
        jax.ShapeDtypeStruct(M.shape, M.dtype),
        M,
        vmap_method="sequential",
    )
    return found


def operations(block: tuple[int, ...]) -> float:
    """Return the operations for one block: an inverse root of the smaller order, and the products beside it."""
    small, large = sorted(block[-2:])
    copies = float(np.prod(block[:-2]))
    return copies * (10.0 * small**3 + 4.0 * small**2 * large)
