"""Refinement of an approximate eigenbasis by products alone, with re-orthonormalization.

With d the diagonal of M = Q^H A Q and E the rest, Q (I + K), K_ij = E_ij / (d_j - d_i), diagonalizes A up to second
order (Ogita & Aishima, Iterative refinement for symmetric eigenvalue decomposition, Japan J. Indust. Appl. Math. 35,
2018, sec. 3). For close eigenvalues K is large and inaccurate, and Q (I + K) is far from orthonormal. So here

- neighbours in the spectrum are diagonalized by small eigenproblems first;
- entries of K that are still large are set to 0;
- I + K, orthogonal to first order only, is replaced by exp(K), and the new Q is orthonormalized by its Gram matrix.

The root of a matrix does not need the individual eigenvectors of a cluster, since the divided differences are smooth
there. So dropping entries of K only leaves some entries of E nonzero.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from matroot.backends.base import Backend
from matroot.backends.linalg import add_to_diagonal
from matroot.methods.base import Array

#: Largest entry of K that is used. With the gaps that this implies, ||K||_2 < pi CLIP (Hilbert's bound).
CLIP = 0.2
#: The small eigenproblems have n / BLOCKS rows, but at least NEIGHBOURS; together they take less time than a product.
BLOCKS = 8
NEIGHBOURS = 64
#: ||Q^H Q - I||_F up to which one polishing step, of third order, reaches rounding error.
NEAR = 1e-4


def rotation(E: Array, d: Array, backend: Backend, turn: int = 0) -> Array:
    """Compute W, orthogonal to about the precision of E, that makes W^H (diag(d) + E) W more diagonal.

    E is Hermitian with zero diagonal, and d about ascending. Odd turns move the borders of the blocks by half a block,
    so that two turns cover every pair of neighbours.
    """
    xp = backend.xp
    n = len(d)
    width = max(NEIGHBOURS, n // BLOCKS)
    first = width // 2 if turn % 2 else width
    borders = [0, *range(first, n - width // 2, width), n]
    E, d = E.copy(), d.copy()
    blocks = []
    for i, j in pairwise(borders):
        block = E[i:j, i:j] + xp.diag(d[i:j].astype(E.dtype))
        w, V = xp.linalg.eigh(block)
        blocks.append((i, j, V))
        d[i:j] = w
        E[:, i:j] = backend.matmul(E[:, i:j], V)
        E[i:j, :] = backend.matmul(V.conj().T, E[i:j, :])
        E[i:j, i:j] = 0
    gap = (d[None, :] - d[:, None]).astype(E.real.dtype)
    far = abs(E) <= CLIP * abs(gap)
    K = xp.where(far, E, 0) / xp.where(far & (gap != 0), gap, 1)

    # exp(K) to fourth order; polishing removes the remainder, about ||K||^5 / 120.
    K2 = backend.matmul(K, K)
    tail = K / 6 + K2 / 24
    add_to_diagonal(tail, 0.5)
    W = backend.matmul(K2, tail)
    W += K
    add_to_diagonal(W, 1)
    for i, j, V in blocks:
        W[i:j] = backend.matmul(V, W[i:j])
    return W


def polished(Q: Array, backend: Backend, narrow: Any) -> tuple[Array, float]:
    """Compute the orthonormal matrix nearest to Q, and a bound of its ||Q^H Q - I||_F.

    A step is Q <- Q (I - R/2 + 3 R^2 / 8), R = Q^H Q - I, the polar factor up to 5/16 R^3. R is computed in the
    precision of Q, and the small correction in the precision `narrow`.
    """
    n = len(Q)
    eps = float(np.finfo(Q.dtype).eps)
    while True:
        R = backend.matmul(Q.conj().T, Q)
        add_to_diagonal(R, -1)
        g = float(backend.xp.linalg.norm(R))
        if not g < 0.5:  # Q is too far from orthonormal, or NaN
            return Q, g
        R = R.astype(narrow)
        correction = backend.matmul(R, R)
        correction *= 0.375
        correction -= R / 2
        Q = Q + backend.matmul(Q.astype(narrow), correction)
        if g <= NEAR:
            return Q, g**3 + n**0.5 * g * float(np.finfo(narrow).eps) + n * eps
