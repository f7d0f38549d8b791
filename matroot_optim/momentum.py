"""Stage 4: momentum, weight decay, the learning rate, and clipping.

With D the grafted direction, m the one buffer, W the weights and t counted from 1:

    heavy ball   m <- b m + D              step = m
    Nesterov     m <- b m + D              step = b m + D
    EMA          m <- b m + (1 - b) D      step = m / (1 - b^t)

    L2           G <- G + wd W, before everything
    decoupled    update = -rate (step + wd W)
    independent  update = -rate step - wd W
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from matroot_optim.arrays import Array, copy, lerp, squared_norm
from matroot_optim.config import Options
from matroot_optim.grafting import bias_correction


@dataclass(frozen=True)
class Rates:
    """The numbers that may change at every step, for one parameter."""

    learning_rate: Any
    weight_decay: Any
    beta: Any


def momentum(options: Options, m: Array | None, D: Array, beta: Any, count: Any, donate: bool) -> tuple[Array, Any]:
    """The step and the new buffer; D is never overwritten, and the step never shares memory with the buffer.

    `m` is overwritten when `donate`.
    """
    if options.momentum == "none" or m is None:
        return copy(D), m
    if options.momentum == "ema":
        m = lerp(m, D, beta, donate)
        return m / (bias_correction(beta, count) if options.bias_correction else 1.0), m
    if donate:
        m *= beta
    else:
        m = m * beta
    m += D
    if options.momentum == "heavy_ball":
        return copy(m), m
    return m * beta + D, m


def clip_rms(step: Array, limit: float | None, xp: Any) -> Array:
    """`step` scaled so that its root mean square is at most `limit`."""
    if limit is None:
        return step
    rms = xp.sqrt(xp.asarray(squared_norm(step)) / math.prod(step.shape))
    excess = rms / limit
    step /= xp.where(excess > 1, excess, xp.ones_like(excess))
    return step


def to_update(options: Options, step: Array, W: Array | None, rates: Rates) -> Array:
    """What is added to the weights; `step` is overwritten."""
    if options.decay == "independent":
        step *= -rates.learning_rate
        if W is not None and _nonzero(rates.weight_decay):
            step -= rates.weight_decay * W
        return step
    if options.decay == "decoupled" and W is not None and _nonzero(rates.weight_decay):
        step += rates.weight_decay * W
    step *= -rates.learning_rate
    return step


def with_l2(options: Options, g: Array, W: Array | None, rates: Rates) -> Array:
    """The gradient with the gradient of wd/2 ||W||^2."""
    if options.decay == "l2" and W is not None and _nonzero(rates.weight_decay):
        return g + rates.weight_decay * W
    return g


def _nonzero(x: Any) -> bool:
    return not isinstance(x, float | int) or x != 0
