"""Stage 3, the direction: every preconditioned dimension of a stack is multiplied by its root, or by its eigenbasis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matroot_optim.arrays import Array


def multiply(P: Array, X: Array, axis: int, xp: Any) -> Array:
    """Multiply stacked blocks P (blocks, *shape) by symmetric roots X (blocks, n, n) along one dimension."""
    shape = tuple(P.shape)
    if len(shape) == 3:
        return xp.matmul(P, X) if axis else xp.matmul(X, P)
    before, n, after = math.prod(shape[1 : axis + 1]), shape[axis + 1], math.prod(shape[axis + 2 :])
    if before == 1:
        product = xp.matmul(X, P.reshape((shape[0], n, after)))
    elif after == 1:
        product = xp.matmul(P.reshape((shape[0], before, n)), X)
    else:
        product = xp.matmul(X[:, None], P.reshape((shape[0], before, n, after)))
    return product.reshape(shape)


def precondition(G: Array, roots: Sequence[Array], axes: Sequence[int], xp: Any) -> Array:
    """Multiply the stack G by all its roots."""
    P = G
    for axis, X in zip(axes, roots, strict=True):
        P = multiply(P, X, axis, xp)
    return P


def along(P: Array, X: Array, axis: int, xp: Any, *, transposed: bool = False) -> Array:
    """Multiply stacked blocks P (blocks, *shape) by any matrices X, or their transposes, along one dimension."""
    shape, m = tuple(P.shape), X.shape[-1 if transposed else -2]
    if len(shape) == 3:
        if transposed != bool(axis):
            X = xp.matrix_transpose(X)
        return xp.matmul(P, X) if axis else xp.matmul(X, P)
    before, n, after = math.prod(shape[1 : axis + 1]), shape[axis + 1], math.prod(shape[axis + 2 :])
    right = before > 1 and after == 1
    if transposed != right:
        X = xp.matrix_transpose(X)
    if right:
        product = xp.matmul(P.reshape((shape[0], before, n)), X)
    elif before == 1:
        product = xp.matmul(X, P.reshape((shape[0], n, after)))
    else:
        product = xp.matmul(X[:, None], P.reshape((shape[0], before, n, after)))
    return product.reshape((*shape[: axis + 1], m, *shape[axis + 2 :]))


def rotated(G: Array, bases: Sequence[Array], axes: Sequence[int], xp: Any, *, back: bool) -> Array:
    """Return the coordinates of the stack G in bases, whose columns are the basis vectors, or go `back` from them."""
    for axis, Q in zip(axes, bases, strict=True):
        G = along(G, Q, axis, xp, transposed=not back)
    return G
