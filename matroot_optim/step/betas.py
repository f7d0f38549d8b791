"""The decays that the means of a state were made with, and what a change of one does.

The divisor 1 - b^t corrects a mean of t gradients whose decay has always been b. With another b' from then on, it would
be wrong by any factor: after 12 gradients 0.9 instead of 0.999 makes steps four times as long, the momentum's 0.999
instead of 0.9 fifty times. So a change multiplies the mean by (1 - b'^t) / (1 - b^t): the corrected mean stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, like
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Leaf
from matroot_optim.step.elementwise import times_all
from matroot_optim.step.grafting import corrects_moments

#: Per leaf, on the host: the decays of the momentum, of the statistics (1 is the sum) and of the second moment.
BETAS = {"beta1": np.float64, "beta2": np.float64, "graft_beta": np.float64}
#: Of these, those that change with the layout alone; every step reads the first anew.
OF_LAYOUT = ("beta2", "graft_beta")


def betas_of(layout: Layout) -> dict[str, Any]:
    """Return the decays of a layout's options."""
    options = [leaf.options for leaf in layout.leaves]
    rows = zip(*((*o.betas, o.beta2_of_graft) for o in options), strict=True) if options else ((), (), ())
    return {name: np.array(row, kind) for (name, kind), row in zip(BETAS.items(), rows, strict=True)}


def in_new_betas(layout: Layout, arrays: Mapping[str, Array], betas: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays that change where decays become these; a decay that is not known, NaN, was the same."""
    new: dict[str, Array] = {}
    for name, values in betas.items():
        if (arrays[name] == values).all():
            continue
        factors = _factors(arrays[name], values, arrays["accumulated" if name == "beta2" else "count"])
        new[name] = values
        if (factors == 1.0).all():
            continue
        if name == "beta2":
            new.update(_statistics(layout, arrays, factors))
        else:
            new.update(_means(layout, arrays, "momentum" if name == "beta1" else "moment", factors))
    return new


def _factors(old: Any, new: Any, counts: Any) -> Any:
    """Return the factor of every leaf; decays that are equal in float32, which jax keeps, are equal."""
    with np.errstate(invalid="ignore", divide="ignore"):
        factors = _weights(new, counts) / _weights(old, counts)
    same = (old.astype(np.float32) == new.astype(np.float32)) | np.isnan(old) | (counts < 1)
    return np.where(same, 1.0, factors)


def _weights(betas: Any, counts: Any) -> Any:
    """Return the sums of the weights of all gradients."""
    return np.where(betas < 1.0, 1.0 - betas**counts, counts)


def _means(layout: Layout, arrays: Mapping[str, Array], part: str, factors: Any) -> dict[str, Array]:
    alike: dict[Any, list[int]] = {}
    for i in np.flatnonzero(factors != 1.0).tolist():
        if _is_corrected(layout.leaves[i], part):
            alike.setdefault(layout.kinds[i], []).append(i)
    new: dict[str, Array] = {}
    for group in alike.values():
        names = [layout.leaves[i].name(part) for i in group]
        means = times_all([arrays[name] for name in names], factors[group].tolist())
        new.update(zip(names, means, strict=True))
    return new


def _is_corrected(leaf: Leaf, part: str) -> bool:
    if part == "moment":
        return leaf.has_moment and corrects_moments(leaf.options)
    return leaf.has_momentum and leaf.options.momentum == "ema" and leaf.options.bias_correction


def _statistics(layout: Layout, arrays: Mapping[str, Array], factors: Any) -> dict[str, Array]:
    new: dict[str, Array] = {}
    for stack, axis in layout.factors:
        mine = factors[stack.leaf_of_block].astype(stack.dtype)
        if stack.options.bias_correction and (mine != 1.0).any():
            name = f"{stack.axis_name(axis)}/statistic"
            new[name] = arrays[name] * like(mine[:, None], arrays[name])
    return new
