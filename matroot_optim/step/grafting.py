"""Grafting: Shampoo's direction, scaled to the norm of a first-order method's step.

D = (||F|| / ||P||) P, with F the first-order step and P the preconditioned gradient, per tensor or per block.
A zero P gives zero.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from matroot_optim.arrays import Array, is_torch, namespace, squared_norm
from matroot_optim.options import Options
from matroot_optim.step.elementwise import add_squares_all


def second_moments(old: Sequence[Array], g: Sequence[Array], beta: float, donate: bool) -> list[Array]:
    """Update the decayed means (for beta = 1, the sums) of squared gradients."""
    return add_squares_all(old, g, beta, donate)


def bias_correction(beta: float, count: Any) -> Any:
    """Return 1 - beta^count, the divisor that corrects a decayed mean started at zero; 1 for a sum."""
    return 1.0 - beta**count if beta < 1.0 else 1.0


def corrects_moments(options: Options) -> bool:
    """Return True if the second moment is divided by its bias correction."""
    return options.graft == "adam" or (options.graft in ("none", "sqrt_n", "trust_ratio") and options.bias_correction)


def divisors(
    options: Options, floors: Sequence[Any], factors: Sequence[Any], corrections: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """Return what is added to the roots of the second moments, and what their quotients are multiplied by.

    `corrections` are those of the moments. `floors` are the epsilons added to the roots of the bias-corrected moments.
    They are relative to the gradients, so gradients scaled by any number give the same steps.
    """
    corrected = corrects_moments(options)
    scales = [c**0.5 if corrected else 1.0 for c in corrections]
    beside, above = ([x * scale for x, scale in zip(y, scales, strict=True)] for y in (floors, factors))
    return beside, above


def positive_norm(norm2: Array) -> Any:
    """Compute the root of a squared norm; 1 for 0."""
    xp = namespace(norm2)
    return xp.sqrt(xp.where(norm2 > 0, norm2, xp.ones_like(norm2)))


def model_of(options: Options, F: Array, W: Array | None) -> Array | None:
    """Return the array whose norm the step gets, of the first-order step F and the weights W; None: of neither."""
    return {"sqrt_n": None, "trust_ratio": W}.get(options.graft, F)


def rescale_blocks(
    options: Options, P: Array, F: Array, W: Array | None, axes: Sequence[int] | None, xp: Any
) -> tuple[Array, Any]:
    """Scale every block of a stack, or every slice along these dimensions, to its graft's norm, in place if possible.

    Returns the stack, and the factor of its norm.
    """
    if options.graft == "none":
        return P, 1.0
    dims = tuple(range(1, P.ndim)) if axes is None else tuple(axis + 1 for axis in axes)
    norms = _norms(P, dims, xp)
    model = model_of(options, F, W)
    count = math.prod(P.shape[k] for k in dims)
    target = _norms(model, dims, xp) if model is not None else xp.ones_like(norms) * count**0.5
    whole = ratio_of(options, squared_norm(norms) ** 0.5, squared_norm(target) ** 0.5, xp)
    P *= ratio_of(options, norms, target, xp)
    return P, whole


def _norms(x: Array, dims: tuple[int, ...], xp: Any) -> Array:
    if is_torch(x):
        return sys.modules["torch"].linalg.vector_norm(x, dim=dims, keepdim=True)
    return xp.sqrt(xp.sum(x * x, axis=dims, keepdims=True))


def ratio_of(options: Options, norms: Array, target: Array, xp: Any) -> Any:
    """Return the factors that give directions of these norms the norms of their grafts, `target`."""
    if options.graft == "trust_ratio":
        target = xp.where(target > 0, target, norms)  # weights that are all zero have no scale yet
    return target / (norms + (norms == 0))
