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
        return (Q * (w ** (-1 / p))[..., None, :]) @ (Q.conj().mT if A.dtype.kind == "c" else Q.mT)

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


def random_matrices(shape: tuple[int, ...], dtype: str) -> Array:
    """Gaussian matrices."""
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def numpy_polar(A: Array) -> Callable[[], Array]:
    """The polar factors U and H from numpy.linalg.svd."""

    def run() -> Array:
        U, S, Vh = np.linalg.svd(A, full_matrices=False)
        return U @ Vh, (Vh.mT.conj() * S[..., None, :]) @ Vh

    return run


def torch_polar(A: Array) -> Callable[[], Array]:
    """The same from torch.linalg.svd, on the cores that we use ourselves."""
    import torch

    torch.set_num_threads(CORES)
    a = torch.from_numpy(A)

    def run() -> Array:
        U, S, Vh = torch.linalg.svd(a, full_matrices=False)
        return U @ Vh, (Vh.mH * S[..., None, :]) @ Vh

    return run


def scipy_polar(A: Array) -> Callable[[], Array]:
    """scipy.linalg.polar, a matrix at a time."""
    from scipy.linalg import polar

    return lambda: [polar(a) for a in A.reshape(-1, *A.shape[-2:])]


def muon(A: Array, steps: int = 5) -> Callable[[], Array]:
    """The iteration of torch.optim.Muon, in the dtype of A; it leaves singular values of .7 to 1.2."""
    import torch

    torch.set_num_threads(CORES)
    first = torch.from_numpy(A)
    first = first.mT if A.shape[-2] > A.shape[-1] else first

    def run() -> Array:
        X = first / first.norm(dim=(-2, -1), keepdim=True)
        for _ in range(steps):
            G = X @ X.mT
            X = 3.4445 * X + (-4.7750 * G + 2.0315 * G @ G) @ X
        return X

    return run


def numpy_orthogonalizer(A: Array, rtol: float) -> Callable[[], Array]:
    """Canonical orthogonalisation by numpy.linalg.eigh."""

    def run() -> Array:
        w, Q = np.linalg.eigh(A[0])
        keep = w > rtol * w[-1]
        return Q[:, keep] * w[keep] ** -0.5

    return run
