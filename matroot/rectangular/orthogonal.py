"""Canonical orthogonalizers of overlap matrices, in float64, and their certificate."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from matroot._bars import ILL_INPUT_ERROR
from matroot._status import Status
from matroot.backends.linalg import adjoint, hermitian_part
from matroot.pipeline.scaling import asymmetry, asymmetry_bar, refuse_asymmetric
from matroot.rectangular.certificate import FULL, MARGIN, times, vectors
from matroot.rectangular.powers import ROUNDING, stack_norm
from matroot.rectangular.stack import Stack

Array = Any


@dataclass
class Kept:
    """X (B, n, n) in the caller's units, with columns of zeros at the end, and numbers of every matrix."""

    x: Array
    rank: Array
    cond: Array
    kept_least: Array
    dropped_most: Array
    smallest: Array
    residual: Array
    status: Array


def orthogonalizers(stack: Stack, rtol: float | None, absolute: float) -> Kept:
    """Compute X = Q_k L_k^(-1/2) for the eigenvalues above both cuts, and certify it."""
    xp, unit = stack.backend.xp, stack.unit
    B, n, _ = stack.A.shape
    x, rank, status = xp.zeros((B, n, n), stack.out_dtype), xp.zeros(B, np.int64), xp.zeros(B, xp.int8)
    cond, kept_least, dropped_most, smallest, residual = xp.zeros((5, B))
    kept = Kept(x, rank, cond, kept_least, dropped_most, smallest, residual, status)
    noise, gap = 2 * n * unit, xp.zeros(B)

    def work(rows: slice) -> None:
        part = stack.part(rows)
        gap[rows] = asymmetry(part.A, stack.backend)
        A = hermitian_part(part.A)
        w, Q = stack.backend.eigh(A.copy())
        w, Q = w[:, ::-1], Q[:, :, ::-1]
        top = w[:, :1]
        least = xp.ldexp(xp.full(len(A), absolute), -part.exponent.astype(np.int32))[:, None]
        cut = xp.maximum((noise if rtol is None else rtol) * top, least)
        keep = (w > cut) & (w > 0)
        scale = xp.where(keep, w, 1) ** -0.5 * keep
        kept.x[rows] = part.rounded(Q * scale[:, None, :], Fraction(-1, 2))
        kept.rank[rows] = keep.sum(-1)
        smallest_kept = xp.where(keep, w, xp.inf).min(-1)
        kept.cond[rows] = xp.where(keep.any(-1), w[:, 0] / smallest_kept, 1)
        unscaled = xp.ldexp(xp.ones(len(A)), part.exponent.astype(np.int32))
        kept.kept_least[rows] = xp.where(keep.any(-1), smallest_kept, xp.nan) * unscaled
        kept.dropped_most[rows] = xp.where(keep.all(-1), xp.nan, xp.where(keep, -xp.inf, w).max(-1)) * unscaled
        kept.smallest[rows] = w[:, -1] * unscaled
        X = part.scaled(kept.x[rows], Fraction(-1, 2))
        kept.residual[rows] = defect(part, A, X, keep)
        negative = w[:, -1] < -xp.maximum(noise * top[:, 0], cut[:, 0])
        uneven = gap[rows] > asymmetry_bar(stack.origin)
        kept.status[rows] = statuses(part, kept.cond[rows], kept.residual[rows], negative, uneven, kept.x[rows])

    if stack.A.size:
        with np.errstate(all="ignore"):
            stack.backend.run_chunks(work, B, n, stack.A.dtype.itemsize)
    if stack.batch == () and stack.A.size and bool(stack.finite[0]):
        refuse_asymmetric(float(gap[0]), stack.A.dtype.kind == "c", stack.origin)
    return kept


def defect(stack: Stack, A: Array, X: Array, keep: Array) -> Array:
    """Compute ||X^H A X - I||_F / sqrt(rank), with I on the columns kept."""
    xp, n = stack.backend.xp, A.shape[-1]
    V = vectors(stack)
    goal = (xp.eye(n) if V is None else V) * keep[:, :, None]
    R = adjoint(X) @ (A @ times(X, V)) - goal
    columns = 1 if n <= FULL else goal.shape[-1]
    return stack_norm(R) / (columns * xp.maximum(keep.sum(-1), 1)) ** 0.5


def statuses(stack: Stack, cond: Array, residual: Array, negative: Array, uneven: Array, x: Array) -> Array:
    """Return the status of every matrix."""
    xp, n = stack.backend.xp, x.shape[-1]
    explained = xp.minimum(MARGIN * (stack.unit + n**0.5 * ROUNDING) * cond, 1.0)
    status = xp.where(residual <= explained, int(Status.CONVERGED), int(Status.STAGNATED))
    ill = (status == int(Status.CONVERGED)) & ~(stack.unit * cond <= ILL_INPUT_ERROR)
    status = xp.where(ill, int(Status.ILL_CONDITIONED), status)
    status = xp.where(xp.isfinite(x).all((-1, -2)), status, int(Status.DIVERGED))
    status = xp.where(negative, int(Status.NOT_POSITIVE), status)
    status = xp.where(uneven, int(Status.NOT_SYMMETRIC), status)
    return xp.where(stack.finite, status, int(Status.NONFINITE_INPUT)).astype(xp.int8)
