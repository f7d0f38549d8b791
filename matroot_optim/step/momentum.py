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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matroot_optim.arrays import Array, squared_norm
from matroot_optim.options import Options
from matroot_optim.step.elementwise import add_all, lerp_all, scale_all
from matroot_optim.step.grafting import bias_correction


@dataclass(frozen=True)
class Rates:
    """The numbers that may change at every step, for one parameter."""

    learning_rate: Any
    weight_decay: Any
    beta: Any


def momentum(
    options: Options, old: Sequence[Array], D: Sequence[Array], beta: Any, counts: Sequence[Any], donate: bool
) -> tuple[list[Array], list[Array], list[Any]]:
    """Return the averages up to a factor, the new buffers, and the factors; never overwrite the arrays of D.

    An average may be the buffer itself and must not be modified. `old` is overwritten if `donate`.
    """
    ones: list[Any] = [1.0] * len(old)
    if options.momentum == "ema":
        m = lerp_all(old, D, beta, donate)
        return m, m, [1.0 / bias_correction(beta, count) for count in counts] if options.bias_correction else ones
    m = add_all(old, D, beta, donate)
    return (m if options.momentum == "heavy_ball" else add_all(m, D, beta, donate=False)), m, ones


def clip_rms(step: Array, limit: float | None, xp: Any) -> Array:
    """Scale `step` down until its root mean square is at most `limit`."""
    if limit is None:
        return step
    rms = xp.sqrt(xp.asarray(squared_norm(step)) / math.prod(step.shape))
    excess = rms / limit
    step /= xp.where(excess > 1, excess, xp.ones_like(excess))
    return step


def with_decay(
    options: Options, steps: Sequence[Array], weights: Sequence[Array | None], rates: Sequence[Rates]
) -> list[Array]:
    """Compute the updates of the weights; overwrite the arrays of `steps` if the library allows."""
    if options.decay == "decoupled":
        steps = [_with(x, W, r.weight_decay) for x, W, r in zip(steps, weights, rates, strict=True)]
    moves = scale_all(steps, [-r.learning_rate for r in rates])
    if options.decay == "independent":
        moves = [_with(x, W, -r.weight_decay) for x, W, r in zip(moves, weights, rates, strict=True)]
    return moves


def _with(x: Array, W: Array | None, factor: Any) -> Array:
    if W is not None and _nonzero(factor):
        x += factor * W
    return x


def with_l2(options: Options, g: Array, W: Array | None, rates: Rates) -> Array:
    """Add the gradient of wd/2 ||W||^2 to the gradient, if the decay is L2."""
    if options.decay == "l2" and W is not None and _nonzero(rates.weight_decay):
        return g + rates.weight_decay * W
    return g


def _nonzero(x: Any) -> bool:
    return not isinstance(x, float | int) or x != 0
