"""Averages of the weights, after stage 4: schedule-free, and an exponential moving average.

Schedule-free, with u the optimizer's update, w the square of the largest rate so far, and c = w / (sum of all w):

    z <- z + u          x <- (1 - c) x + c z          y = (1 - b) z + b x

The parameters are y, where gradients are taken; x is for evaluation. The state holds z, because
x = (y - (1 - b) z) / b, and y moves by (1 - b (1 - c)) u + c (z - y), with z before the step.

EMA, with W the new weights: x <- W at the first step, then x <- b x + (1 - b) W.

Defazio et al., The Road Less Scheduled, arXiv 2405.15682; facebookresearch/schedule_free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, cast, dtype_name, lerp
from matroot_optim.layout.parts import Leaf
from matroot_optim.step.inputs import Step

Arrays = dict[str, Array]


def average_weights(step: Step, live: Sequence[int], moves: dict[int, Array]) -> Arrays:
    """Return the new averages; under schedule-free, replace the updates of `moves` by those of y."""
    new: Arrays = {}
    for i in live:
        leaf, W = step.layout.leaves[i], step.weights[i]
        if not leaf.has_average:
            continue
        name, b = leaf.name("average"), leaf.options.beta_of_average
        old = step.arrays[name]
        if leaf.options.averaging == "ema":
            new[name] = lerp(old, W + moves[i], b if step.counts[i] > 1 else 0.0, step.donate)
            continue
        c, new[leaf.name("weights")] = _share(step.arrays[leaf.name("weights")], step.rates[i].learning_rate)
        gap = c * (old - W)
        new[name] = _plus(old, moves[i], step.donate)
        moves[i] *= 1.0 - b * (1.0 - c)
        moves[i] += gap
    return new


def _share(weights: Any, rate: Any) -> tuple[float, Any]:
    """Return the weight c of z in the new average, and the new sum of the weights and largest rate."""
    total, largest = weights
    largest = max(largest, float(rate))
    total += largest**2
    return (largest**2 / total if total else 0.0), np.array([total, largest])


def _plus(old: Array, u: Array, donate: bool) -> Array:
    if not donate:
        return old + u
    old += u
    return old


def average_of(leaf: Leaf, arrays: Mapping[str, Array], W: Array) -> Array:
    """Return the average of one parameter in a new array of its dtype; W itself without averaging."""
    if not leaf.has_average:
        return W
    own = dtype_name(W)
    average = arrays[leaf.name("average")]
    if leaf.options.averaging == "ema":
        return cast(average + 0, own)
    wide = cast(W, dtype_name(average))
    return cast(wide + (1.0 - 1.0 / leaf.options.beta_of_average) * (average - wide), own)
