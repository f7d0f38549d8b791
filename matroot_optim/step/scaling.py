"""The unit of every parameter's gradients: a power of two, so that no square of a finite gradient leaves the range.

A float32 number has 8 bits of exponent and its square needs 9. For gradients of 1e-21 the second moment underflows to
zero and a step becomes huge; for 1e21 it is infinite. Therefore each parameter's gradients are first divided by 2^e,
and momentum, second moment and statistics are kept in these units. e is 0 while the largest recent norm is between
`LOW` and `HIGH`; this norm decays like the root of the second moment, or like the momentum. A division by a power of
two has no rounding error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, copy, dtype_name, is_jax, like, namespace, to_host
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Leaf, Stack
from matroot_optim.step.momentum import Rates
from matroot_optim.step.whitening import share_of_units

#: Range of norms, in units of 2^e; outside it a new e is chosen. Below `LOW`, an entry that is still larger than the
#: epsilon of the denominator would have a subnormal square; squares of `HIGH` can be summed for 2^47 steps.
LOW, HIGH = 2.0**-20, 2.0**40

#: Bound of every e: no float64 is larger than 2^1024 or smaller than 2^-1074.
LARGEST = 1100

#: Largest power of two that a float32 is multiplied by at once.
CHUNK = 100


def exponents(peak: Any, exponent: Any, xp: Any = np) -> Any:
    """Return e of every parameter: the old e if the peak is in range, else that which brings the peak to 1 to 2.

    >>> exponents(np.array([0.0, 1.0, 1e-21, 1e30]), np.array([0, 0, 0, 100])).tolist()
    [0, 0, -70, 100]
    """
    size = xp.ldexp(peak, -exponent)
    bad = (peak > 0) & xp.isfinite(peak) & ((size < LOW) | (size >= HIGH))
    return xp.where(bad, xp.frexp(peak)[1] - 1, exponent)


def forgetting(layout: Layout, rates: Sequence[Rates]) -> Any:
    """Return the decay of the largest norm of every leaf in this step: of its second moment, or of its momentum.

    The slower one: a norm that is forgotten before the momentum no longer bounds it.
    """
    decays = layout.decays
    if not rates or max(rate.beta for rate in rates) <= decays.min():
        return decays
    pairs = zip(layout.leaves, rates, strict=True)
    return np.maximum(decays, [rate.beta if leaf.averages_gradients else 0.0 for leaf, rate in pairs])


def scaled(x: Array, power: int) -> Array:
    """Compute ``x * 2**power``, even if the factor itself is not a float32."""
    while power:
        part = max(-CHUNK, min(power, CHUNK))
        x = x * 2.0**part
        power -= part
    return x


def scaled_traced(x: Array, power: Any, chunks: int = 2) -> Array:
    """Compute `scaled` for a traced power of at most ``CHUNK * chunks``, one for all of x or one per row."""
    xp = namespace(x)
    for _ in range(chunks):
        part = xp.clip(power, -CHUNK, CHUNK)
        factor = xp.ldexp(xp.ones_like(part, dtype=x.dtype), part)
        x = x * factor.reshape(factor.shape + (1,) * (x.ndim - factor.ndim))
        power = power - part
    return x


def unit_of_direction(leaf: Leaf, *, preconditioned: bool) -> float:
    """Return k such that 2^(k e) converts the direction of gradients in units of 2^e back."""
    o = leaf.options
    if o.graft == "sgd":
        return 0.0 if leaf.normalizes else 1.0
    if o.graft != "none" or not preconditioned or o.statistics_of == "whitened":
        return 0.0
    if leaf.spectral:
        return o.spectral_exponent
    return 1.0 + 2.0 * float(sum(leaf.exponents))


def in_new_units(layout: Layout, arrays: dict[str, Array], shift: Sequence[int]) -> dict[str, Array]:
    """Convert the arrays of parameters whose e grows by `shift` (not 0), and request their roots.

    The old roots have other units. With a graft, a factor of the root has no effect; without a graft, they are zeroed.
    """
    new: dict[str, Array] = {}
    for i, leaf in enumerate(layout.leaves):
        if not shift[i]:
            continue
        if leaf.averages_gradients and not leaf.normalizes:
            new[leaf.name("momentum")] = scaled(arrays[leaf.name("momentum")], -shift[i])
        if leaf.has_moment and not leaf.normalizes:
            new[leaf.name("moment")] = scaled(arrays[leaf.name("moment")], -2 * shift[i])
        for s, member in layout.stacks_of_leaf[i]:
            stack, rows = layout.stacks[s], slice(member.start, member.stop)
            for axis in stack.axes:
                key = stack.axis_name(axis)
                now = {part: arrays[f"{key}/{part}"][rows] for part in ("statistic", "taken", "root")}
                power: Any = np.full(member.stop - member.start, -2 * shift[i])
                if stack.whitened:
                    power = whitened_powers(stack, axis, shift[i], to_host(now["statistic"]))
                changed = {"statistic": _by_rows(now["statistic"], power)}
                if not stack.in_basis:  # a basis has no unit
                    changed["taken"] = wanted_again(now["taken"])
                if stack.whitened and not stack.in_basis:
                    half = like((2.0 ** (-power % 2 / 2)).astype(stack.dtype)[:, None, None], now["root"])
                    turned = _by_rows(now["root"] * half, -power // 2)
                    there = like(now["taken"] != 0, turned)[:, None, None]  # before that it is I
                    changed["root"] = namespace(turned).where(there, turned, now["root"])
                elif leaf.options.graft == "none":
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


def whitened_powers(stack: Stack, axis: int, shift: Any, statistic: Any, xp: Any = np) -> Any:
    """Return the power of two of every block by which whitened statistics change in new units.

    Those of gradients that were much smaller stay larger than they should: their roots are factors of a gradient of
    norm 1, and of its products with itself, and neither may leave the range of float32.
    """
    most = min(40, 60 // max(1, len(stack.axes) - 1))
    top = xp.frexp(abs(statistic).max(-1))[1]
    return xp.maximum(share_of_units(stack, axis, shift), xp.minimum(-2 * most - top, 0))


def _by_rows(x: Array, powers: Any) -> Array:
    """Multiply every matrix or row of x by its power of two, even if the factor itself is not a float32."""
    while powers.any():
        part = np.clip(powers, -CHUNK, CHUNK)
        factors = np.ldexp(np.ones(len(part)), part).astype(dtype_name(x))
        x = x * like(factors.reshape(-1, *(1,) * (x.ndim - 1)), x)
        powers = powers - part
    return x


def wanted_again(taken: Any, xp: Any = np) -> Any:
    """Set the step of the statistics to -1 for existing roots, which requests new roots."""
    return xp.where(taken > 0, -1, taken)
