"""Commonly used code for A^{-1/p} of a stack, written as its users write it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .common import CORES

Array = Any


def numpy_eigh(A: Array, p: int) -> Callable[[], Array]:
    """numpy.linalg.eigh and recombination."""

    def run() -> Array:
        w, Q = np.linalg.eigh(A)
        return (Q * (w ** (-1 / p))[..., None, :]) @ Q.mT

    return run


def torch_eigh(A: Array, p: int) -> Callable[[], Array]:
    """torch.linalg.eigh and recombination, on the cores that we use ourselves."""
    import torch

    torch.set_num_threads(CORES)
    a = torch.from_numpy(A)

    def run() -> Array:
        w, Q = torch.linalg.eigh(a)
        return (Q * (w ** (-1 / p))[..., None, :]) @ Q.mT

    return run


def scipy_power(A: Array, s: float) -> Callable[[], Array]:
    """scipy.linalg.fractional_matrix_power, a matrix at a time."""
    from scipy.linalg import fractional_matrix_power

    return lambda: np.stack([fractional_matrix_power(a, s) for a in A])


def optax_root(A: Array, p: int) -> Callable[[], Array]:
    """optax.matrix_inverse_pth_root, jitted, a matrix at a time (its loop does not batch)."""
    import jax
    import optax

    root = jax.jit(partial(optax.matrix_inverse_pth_root, p=p))
    stack = [jax.numpy.asarray(a) for a in A]
    return lambda: [jax.block_until_ready(root(a)) for a in stack]
