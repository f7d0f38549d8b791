"""Magnitude: the direction is Shampoo's, the norm that of a first-order method.

D = (||F|| / ||P||) P, with F the first-order step and P the preconditioned gradient, per tensor or per block.
A zero P gives zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from matroot_optim.arrays import Array, squared_norm
from matroot_optim.config import Options
from matroot_optim.statistics import accumulate


def second_moment(old: Array, g: Array, beta: float, donate: bool) -> Array:
    """The decayed mean (or, beta = 1, the sum) of squared gradients."""
    return accumulate(old, g * g, beta, donate)


def bias_correction(beta: float, count: Any) -> Any:
    """1 - beta^count, what a decayed mean that started at zero has to be divided by; 1 for a sum."""
    return 1.0 - beta**count if beta < 1.0 else 1.0


def first_order_step(options: Options, g: Array, moment: Array | None, count: Any, xp: Any) -> Array:
    """The step F of the first-order method: g itself for "sgd", else g over the root of the second moment.

    The epsilon of the denominator is relative to the root mean square of the whole tensor: a gradient scaled by
    any number gives the same step.
    """
    if moment is None:
        return g
    beta = options.beta2_of_graft
    corrected = options.graft == "adam" or (
        options.graft in ("none", "sqrt_n", "trust_ratio") and options.bias_correction
    )
    scale = bias_correction(beta, count) if corrected else 1.0
    denominator = xp.sqrt(moment)
    if options.graft_epsilon:
        floor = options.graft_epsilon * xp.mean(moment) ** 0.5
        denominator += floor + (floor == 0)
    else:
        denominator += denominator == 0
    if not (isinstance(scale, float) and scale == 1.0):
        denominator *= scale**-0.5
    return g / denominator


def normalized(g: Array, norm2: Any, xp: Any) -> Array:
    """g over its norm, zero for a zero g."""
    norm2 = xp.asarray(norm2)
    return g / xp.sqrt(xp.where(norm2 > 0, norm2, xp.ones_like(norm2)))


def rescale(options: Options, P: Array, F: Array, W: Array | None, xp: Any) -> tuple[Array, Any]:
    """P brought to the norm of the graft, and the factor that did it."""
    if options.graft == "none":
        return P, 1.0
    norm2 = xp.asarray(squared_norm(P))
    ratio = _ratio(options, norm2, lambda x: xp.asarray(squared_norm(x)), F, W, xp)
    return P * ratio, ratio


def rescale_blocks(options: Options, P: Array, F: Array, W: Array | None, xp: Any) -> tuple[Array, Any]:
    """`rescale` for every block of a stack by itself; the factors come as (blocks,)."""
    if options.graft == "none":
        return P, xp.ones_like(P.reshape(P.shape[0], -1)[:, 0])
    ratio = _ratio(options, _norm2_of_blocks(P, xp), lambda x: _norm2_of_blocks(x, xp), F, W, xp)
    return P * ratio.reshape((-1,) + (1,) * (P.ndim - 1)), ratio


def _norm2_of_blocks(x: Array, xp: Any) -> Array:
    return xp.sum(xp.reshape(x * x, (x.shape[0], -1)), axis=1)


def _ratio(
    options: Options, norm2: Array, norm2_of: Callable[[Array], Array], F: Array, W: Array | None, xp: Any
) -> Any:
    one = xp.ones_like(norm2)
    if options.graft == "sqrt_n":
        target = one * (math.prod(F.shape) / math.prod(norm2.shape))
    elif options.graft == "trust_ratio":
        target = norm2_of(W)
        target = xp.where(target > 0, target, norm2)  # weights that are all zero have no scale yet
    else:
        target = norm2_of(F)
    return xp.sqrt(target / xp.where(norm2 > 0, norm2, one))
