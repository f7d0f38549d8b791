"""The unit of every parameter's gradients: a power of two, so that no square of a finite gradient leaves the range.

A float32 number has 8 bits of exponent and its square needs 9: of gradients of 1e-21 the second moment is rounded to
nothing and a step becomes huge, of 1e21 it is infinite. So each parameter's gradients are divided by 2^e before
anything else, and momentum, second moment and statistics are kept in these units. e is 0 as long as the largest norm
of late, which decays as the second moment does, is between `LOW` and `HIGH`. Powers of two round nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, copy, is_jax, namespace
from matroot_optim.layout.layout import Layout, Leaf

#: Norms in units of 2^e beyond which a new e is chosen. Below `LOW`, the square of an entry that the epsilon of the
#: denominator does not hide yet would be subnormal; squares of `HIGH` can be summed for 2^47 steps.
LOW, HIGH = 2.0**-20, 2.0**40

#: Above the exponent of every unit: no float64 is larger than 2^1024, or smaller than 2^-1074.
LARGEST = 1100

#: Largest power of two that a float32 is multiplied by at once.
CHUNK = 100


def decay(leaf: Leaf) -> float:
    """Factor by which the largest norm is forgotten in a step: that of the root of the second moment."""
    return math.sqrt(leaf.options.beta2_of_graft)


def exponents(peak: Any, exponent: Any, xp: Any = np) -> Any:
    """e of every parameter: what it was if that is good enough, else such that the peak is 1 to 2 in units of 2^e.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot_optim.step.scaling import exponents
    >>> exponents(np.array([0.0, 1.0, 1e-21, 1e30]), np.array([0, 0, 0, 100])).tolist()
    [0, 0, -70, 100]
    """
    size = xp.ldexp(peak, -exponent)
    bad = (peak > 0) & xp.isfinite(peak) & ((size < LOW) | (size >= HIGH))
    return xp.where(bad, xp.frexp(peak)[1] - 1, exponent)


def scaled(x: Array, power: int) -> Array:
    """``x * 2**power``, also where the factor itself is no float32."""
    while power:
        part = max(-CHUNK, min(power, CHUNK))
        x = x * 2.0**part
        power -= part
    return x


def scaled_traced(x: Array, power: Any, chunks: int = 2) -> Array:
    """`scaled` by a traced power of at most ``CHUNK * chunks``, for every row of x or for all of it."""
    xp = namespace(x)
    for _ in range(chunks):
        part = xp.clip(power, -CHUNK, CHUNK)
        factor = xp.ldexp(xp.ones_like(part, dtype=x.dtype), part)
        x = x * factor.reshape(factor.shape + (1,) * (x.ndim - factor.ndim))
        power = power - part
    return x


def unit_of_direction(leaf: Leaf, axes: int) -> float:
    """k, where the direction of gradients in units of 2^e has to be multiplied by 2^(k e)."""
    o = leaf.options
    if o.graft == "sgd":
        return 1.0
    return 1.0 + 2.0 * axes * float(leaf.exponent) if o.graft == "none" and axes else 0.0


def in_new_units(layout: Layout, arrays: dict[str, Array], shift: Sequence[int]) -> dict[str, Array]:
    """The arrays of parameters whose e grows by `shift`, where that is not 0; their roots are asked for at once.

    The old roots are of other units. Under a graft that is no matter; without one they are not used again.
    """
    new: dict[str, Array] = {}
    for i, leaf in enumerate(layout.leaves):
        if not shift[i]:
            continue
        if leaf.averages_gradients:
            new[leaf.name("momentum")] = scaled(arrays[leaf.name("momentum")], -shift[i])
        if leaf.has_moment and not leaf.options.graft_normalize:
            new[leaf.name("moment")] = scaled(arrays[leaf.name("moment")], -2 * shift[i])
        for s, member in layout.stacks_of_leaf[i]:
            stack, rows = layout.stacks[s], slice(member.start, member.stop)
            for axis in stack.axes:
                key = stack.axis_name(axis)
                now = {part: arrays[f"{key}/{part}"][rows] for part in ("statistic", "taken", "root")}
                changed = {"statistic": scaled(now["statistic"], -2 * shift[i]), "taken": wanted_again(now["taken"])}
                if leaf.options.graft == "none":
                    changed["root"] = now["root"] * 0
                for part, values in changed.items():
                    name = f"{key}/{part}"
                    new[name] = _put(new[name] if name in new else copy(arrays[name]), rows, values)
    return new


def _put(x: Array, rows: slice, values: Array) -> Array:
    if is_jax(x):
        return x.at[rows].set(values)
    x[rows] = values
    return x


def wanted_again(taken: Any, xp: Any = np) -> Any:
    """The step of roots' statistics, -1 where there is a root: it is asked for anew."""
    return xp.where(taken > 0, -1, taken)
