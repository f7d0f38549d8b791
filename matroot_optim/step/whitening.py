"""KL-Shampoo's statistics: the gradient is whitened by the roots of the other dimensions before its products.

For a block G (m x n) with statistics L and R, whose roots are L^{-1/2} and R^{-1/2}:

    L <- b2 L + (1 - b2) G R^{-1} G^T / n        R <- b2 R + (1 - b2) G^T L^{-1} G / m

The roots are those in use. Under SOAP they are Q diag(Q^T R Q)^{-1/2} Q^T, with the basis Q in use, the current R, and
eigenvalues of at least a ridge times the largest. L and R together have the size of G^2, in any division. Before there
are roots, each gets its share of G^2; and the first gradient leaves a multiple of I of its own size beside its product,
as the published code starts from a multiple of I: without it the second gradient would be whitened by the inverse of a
singular matrix.

Lin et al., Understanding and improving Shampoo and SOAP via Kullback-Leibler minimization, arXiv 2509.03378.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, is_traced, largest, like, to_host
from matroot_optim.layout.parts import Stack
from matroot_optim.rules import relative_ridge
from matroot_optim.step.grafting import bias_correction
from matroot_optim.step.inputs import same
from matroot_optim.step.precondition import along, multiply
from matroot_optim.step.statistics import gram, packed_size, unpack


def whitened_gram(s: Stack, arrays: Mapping[str, Array], G: Array, axis: int, xp: Any) -> Array:
    """Compute the packed product of every block of a stack along one dimension, of the whitened gradient."""
    others = [i for i in s.axes if i != axis]
    here = to_host if isinstance(G, np.ndarray) else same  # beside blocks of tensors in numpy
    U = G  # up to a rotation of the other dimensions, which the products do not see
    for i in others:
        X = here(arrays[f"{s.axis_name(i)}/root"])
        if s.in_basis:
            U = _whitened_in_basis(s, arrays, here(arrays[f"{s.axis_name(i)}/statistic"]), U, X, i, xp)
        else:
            U = multiply(U, X, i, xp)
    product = gram(U, axis, xp) / (math.prod(s.shape) // s.shape[axis])
    known, begun = (_mask(x, G, xp) for x in _history(s, arrays, axis, others))
    if known is not None:
        squares = xp.sum(xp.reshape(G * G, (G.shape[0], -1)), axis=1) / math.prod(s.shape)
        share = xp.where(squares > 0, squares, xp.ones_like(squares)) ** (-len(others) / len(s.axes))
        product = product * xp.where(known, xp.ones_like(share), share)[:, None]
    if begun is not None:
        diagonal = like(_diagonal(s.shape[axis]).astype(s.dtype), G)
        size = xp.sum(product * diagonal, axis=1) / s.shape[axis]
        product = product + xp.where(begun, xp.zeros_like(size), size)[:, None] * diagonal
    return product


def _whitened_in_basis(
    s: Stack, arrays: Mapping[str, Array], statistic: Array, U: Array, Q: Array, axis: int, xp: Any
) -> Array:
    """Turn U into the basis Q of one dimension and divide it by the roots of the eigenvalues diag(Q^T A Q)."""
    A, n = unpack(statistic), s.shape[axis]
    w = xp.sum(Q * xp.matmul(A, Q), axis=-2)
    if s.options.bias_correction:  # the statistic lacks the gradient of this step
        before = arrays["accumulated"][s.leaf_of_block] - 1
        share = bias_correction(s.options.betas[1], before + (before < 1))
        w = w / (like(share.astype(s.dtype), w)[:, None] if isinstance(share, np.ndarray) else share)
    least = max(relative_ridge(s.options.rule) or 0.0, n * float(np.finfo(s.dtype).eps))
    top = largest(w)[:, None]
    w = xp.where(w > least * top, w, least * top)
    shape = [len(Q), *(n if i == axis else 1 for i in range(len(s.shape)))]
    w = xp.where(w > 0, w, xp.ones_like(w)) ** -0.5
    return along(U, Q, axis, xp, transposed=True) * xp.reshape(w, tuple(shape))


def _history(s: Stack, arrays: Mapping[str, Array], axis: int, others: list[int]) -> tuple[Any, Any]:
    """Return masks (blocks,) of the blocks whose other dimensions have roots, and of those with a statistic."""
    known: Any = np.ones(s.blocks, bool)
    for i in others:
        known = known & (arrays[f"{s.axis_name(i)}/taken"] != 0)
    statistic = arrays[f"{s.axis_name(axis)}/statistic"]
    rooted = arrays[f"{s.axis_name(axis)}/taken"] != 0
    if not is_traced(rooted) and rooted.all():  # inside of a branch, jax traces what it computes from values too
        return known, np.ones(s.blocks, bool)
    return known, abs(statistic).sum(-1) > 0


def _mask(x: Any, G: Array, xp: Any) -> Any:
    """Return a mask in the library of G; None if it is true everywhere."""
    x = to_host(x) if isinstance(G, np.ndarray) else x
    if isinstance(x, np.ndarray):
        return None if x.all() else like(x, G)
    return x


@lru_cache(maxsize=64)
def _diagonal(n: int) -> Any:
    """Return the packed identity."""
    found = np.zeros(packed_size(n))
    k = np.arange(n)
    found[k * (k + 3) // 2] = 1.0
    return found


def share_of_units(s: Stack, axis: int, shift: Any) -> Any:
    """Return the power of two by which a statistic changes when gradients are divided by 2^shift more.

    The product of all dimensions' statistics changes by 2^(-2 shift).
    """
    r = len(s.axes)
    return -2 * shift - (r - 1) * ((-2 * shift) // r) if axis == s.axes[0] else (-2 * shift) // r
