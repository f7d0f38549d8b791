"""Momentum, and the weight decay that is a part of the gradient.

With D a gradient or a direction, m the one buffer, W the weights and t counted from 1:

    heavy ball   m <- b m + D              mean = m
    Nesterov     m <- b m + D              mean = b m + D
    EMA          m <- b m + (1 - b) D      mean = m / (1 - b^t)

    L2           G <- G + wd W, before everything
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matroot_optim.arrays import Array
from matroot_optim.options import Options
from matroot_optim.step.elementwise import add_all, lerp_all


class Rates(NamedTuple):
    """The numbers that may change at every step, for one parameter."""

    learning_rate: Any  # None: the caller applies the rate
    weight_decay: Any
    beta: Any


def numbers_of(rates: Sequence[Rates]) -> str:
    """Return the numbers as text, in which ranks compare them."""
    return repr([[x if x is None else float(x) for x in of_one] for of_one in rates])


def momentum(
    options: Options, old: Sequence[Array], D: Sequence[Array], beta: Any, corrections: Sequence[Any], donate: bool
) -> tuple[list[Array], list[Array], list[Any]]:
    """Return the averages up to a factor, the new buffers, and the factors; never overwrite the arrays of D.

    `corrections` are 1 - beta^count of every array.
    An average may be the buffer itself and must not be modified. `old` is overwritten if `donate`.
    """
    if options.momentum == "ema":
        m = lerp_all(old, D, beta, donate)
        return m, m, factors_of_means(options, corrections)
    m = add_all(old, D, beta, donate)
    return (m if options.momentum == "heavy_ball" else add_all(m, D, beta, donate=False)), m, [1.0] * len(old)


def factors_of_means(options: Options, corrections: Sequence[Any]) -> list[Any]:
    """Return the factors that turn decayed means into averages."""
    return [1.0 / c if options.bias_correction else 1.0 for c in corrections]


def with_l2(options: Options, g: Array, W: Array | None, rates: Rates) -> Array:
    """Add the gradient of wd/2 ||W||^2 to the gradient, if the decay is L2."""
    if options.decay == "l2" and W is not None and nonzero(rates.weight_decay):
        return g + rates.weight_decay * W
    return g


def nonzero(x: Any) -> bool:
    """Return False for the number 0; an array may be nonzero."""
    return not isinstance(x, float | int) or x != 0
