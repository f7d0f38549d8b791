"""Roots inside a compiled graph: a minimax schedule, fixed beforehand, without decisions that depend on values.

    B = q_k(M);  X <- X B^a;  M <- B^b M      for A^{-a/b}

in the dtype of A, usually float32: at condition numbers of 1e6 about 4 bits remain, while a root on the host has all
bits. `matroot.Minimax` tells the polynomials q_k.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from matroot import Minimax
from matroot_optim.arrays import Array

#: Relative accuracy that the schedule must reach in each eigenvalue.
TARGET = 1e-6
#: What is known of such a root.
FACTS_IN_GRAPH = ("residual", "lambda_max", "ridge")


def minimax_root(A: Array, exponent: Fraction, ridge: float, level: Array, xp: Any) -> tuple[Array, dict[str, Array]]:
    """Compute A^exponent of a positive semidefinite stack with a relative ridge, by a fixed number of products.

    The ridge is relative to an upper bound of the largest eigenvalue, which is at most n^{1/16} times that eigenvalue,
    and is multiplied by 10^level, up to 1. The root of a zero matrix is not finite, or meaningless. The facts are
    "residual", ``||X..A..X - I||_F / sqrt(n)`` from full products in this precision, "lambda_max" and "ridge".
    """
    n = A.shape[-1]
    eps = float(np.finfo(np.dtype(str(A.dtype))).eps)
    a, b = -exponent.numerator, exponent.denominator
    eye = xp.eye(n, dtype=A.dtype)
    top = largest_bound(A, xp)
    more = xp.minimum(max(ridge, eps) * 10.0 ** xp.astype(level, A.dtype), xp.ones_like(top))
    relative = xp.where(level > 0, more, ridge * xp.ones_like(top))  # `rules.stronger`, traced
    scale = (1 + relative) * top
    A = (A + (relative * top)[:, None, None] * eye) / scale[:, None, None]
    lower = max(ridge / (1 + ridge), eps * n**0.5 / 4)
    plan = Minimax().schedule(b, lower, target=TARGET, a=a)
    X, M = xp.broadcast_to(eye, A.shape), A
    for step, coefficients in enumerate(plan.steps):
        B = polynomial(M, coefficients, eye)
        X = power(B, a) if step == 0 else X @ power(B, a)
        if step + 1 < len(plan.steps):
            M = power(B, b) @ M
            M = (M + xp.matrix_transpose(M)) / 2
    X = (X + xp.matrix_transpose(X)) / 2
    R = interleaved(X, A, a, b) - eye
    residual = xp.sqrt(xp.sum(R * R, axis=(-2, -1)) / n)
    return X * (scale ** (-a / b))[:, None, None], {"residual": residual, "lambda_max": top, "ridge": relative * top}


def largest_bound(A: Array, xp: Any) -> Array:
    """Compute ||A^8||_F^{1/8}, an upper bound of the largest eigenvalue and at most n^{1/16} times as large."""
    log2_scale = xp.zeros(A.shape[0], dtype=A.dtype)
    for k in range(4):  # A is scaled to norm 1 before every squaring: neither overflow nor underflow
        peak = xp.max(xp.abs(A), axis=(-2, -1))
        A = A / xp.where(peak > 0, peak, xp.ones_like(peak))[:, None, None]
        norm = xp.sqrt(xp.sum(A * A, axis=(-2, -1)))
        log2_scale += (xp.log2(peak) + xp.log2(norm)) / 2**k
        A = A / xp.where(norm > 0, norm, xp.ones_like(norm))[:, None, None]
        A = A @ A if k < 3 else A
    return xp.exp2(log2_scale)


def polynomial(M: Array, c: Any, eye: Array) -> Array:
    """Evaluate q(M) of degree 1, 2 or 4 with 0, 1 or 2 products."""
    if len(c) == 2:
        return c[1] * M + c[0] * eye
    M2 = M @ M
    if len(c) == 3:
        return c[2] * M2 + c[1] * M + c[0] * eye
    return (c[4] * M2 + c[3] * M + c[2] * eye) @ M2 + c[1] * M + c[0] * eye


def interleaved(X: Array, A: Array, a: int, b: int) -> Array:
    """Multiply b factors X and a factors A; the product is I if X = A^{-a/b}.

    The order keeps every partial product as near to I as possible: X^b A^a itself would lose the digits of kappa^a in
    float32.
    """
    R, exponent, left_x, left_a = None, Fraction(0), b, a
    while left_x or left_a:
        down, up = exponent - Fraction(a, b), exponent + 1
        if left_x and (not left_a or abs(down) <= abs(up)):
            factor, exponent, left_x = X, down, left_x - 1
        else:
            factor, exponent, left_a = A, up, left_a - 1
        R = factor if R is None else R @ factor
    return R


def power(B: Array, k: int) -> Array:
    """Compute B^k by squaring, k at least 1."""
    result = None
    while k:
        if k & 1:
            result = B if result is None else result @ B
        k >>= 1
        if k:
            B = B @ B
    return result
