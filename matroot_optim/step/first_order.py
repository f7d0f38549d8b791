"""The first-order step of every leaf (a part of stage 4): of Adam and its like, under SOAP in the eigenbases.

It is the norm of a grafted direction, and the whole step of a leaf without a root.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matroot_optim.arrays import Array, is_traced, namespace
from matroot_optim.step.bases import turned
from matroot_optim.step.elementwise import adam_all, in_one_pass, in_order, over_roots_all, times_all
from matroot_optim.step.grafting import divisors, second_moments
from matroot_optim.step.inputs import Step, same
from matroot_optim.step.momentum import factors_of_means, momentum
from matroot_optim.step.scaling import scaled, scaled_traced

Arrays = dict[str, Array]
#: Leaves that one call can process, in lists.
Groups = Sequence[Sequence[int]]


def averaged(step: Step, groups: Groups) -> tuple[list[Array], list[Any], dict[int, Array], Arrays]:
    """Return the arrays to precondition, their factors, first-order steps that are known then, and the new arrays.

    For every leaf the array is the gradient, or the mean of the gradients up to the factor; of `inputs`.
    """
    averages, factors = list(step.inputs), [1.0] * len(step.g)
    leaves, new = step.layout.leaves, Arrays()
    moves: dict[int, Array] = {}
    for group in groups:
        leaf, beta = leaves[group[0]], step.rates[group[0]].beta
        if not leaf.averages_gradients:
            continue
        o, g, corrections = leaf.options, [step.inputs[i] for i in group], step.corrections(beta, group)
        names, of_moments = ([leaves[i].name(part) for i in group] for part in ("momentum", "moment"))
        old = [step.arrays[name] for name in names]
        squares = [step.arrays[name] for name in of_moments] if leaf.is_adam else []
        if squares and in_one_pass(old[0]):
            means, squares = in_order(old, step.donate), in_order(squares, step.donate)
            buffers, scales = means, factors_of_means(o, corrections)
            beside = divisors(o, [step.floors[i] for i in group], scales, step.corrections(o.beta2_of_graft, group))
            found = adam_all(g, means, squares, (beta, o.beta2_of_graft), *beside)
            moves.update(zip(group, found, strict=True))
            new.update(zip(of_moments, squares, strict=True))
        else:
            means, buffers, scales = momentum(o, old, g, beta, corrections, step.donate)
        for k, i in enumerate(group):
            averages[i], factors[i] = means[k], scales[k]
        new.update(zip(names, step.chosen(group, buffers, old), strict=True))
    return averages, factors, moves, new


def first_order(
    step: Step,
    live: Sequence[int],
    groups: Groups,
    averages: Sequence[Array],
    factors: Sequence[Any],
    stacks: Sequence[Array],
) -> tuple[dict[int, Array], Arrays]:
    """Compute the first-order steps and the moments, those of SOAP's leaves in their bases."""
    layout = step.layout
    if not any(layout.leaves[i].in_basis for i in live):
        return _steps(step, groups, step.inputs, averages, factors)
    g = step.inputs
    lists = [g, averages] if any(averages[i] is not g[i] for i in live) else [g]
    if step.whole is not same:
        lists = [[step.whole(x) for x in arrays] for arrays in lists]
    found = turned(layout, step.arrays, lists, live, stacks if g is step.g else None, back=False)
    moves, changed = _steps(step, groups, found[0], found[-1], factors)
    (back,) = turned(layout, step.arrays, [[moves.get(i, x) for i, x in enumerate(found[0])]], live, back=True)
    return {i: back[i] for i in moves}, changed


def _steps(
    step: Step, groups: Groups, gradients: Sequence[Array], averages: Sequence[Array], factors: Sequence[Any]
) -> tuple[dict[int, Array], Arrays]:
    """Compute the first-order steps of the leaves that count, in new arrays, and the moments."""
    leaves, new = step.layout.leaves, Arrays()
    moves: dict[int, Array] = {}
    for group in groups:
        o = leaves[group[0]].options
        scales = [factors[i] for i in group]
        g, mean = [gradients[i] for i in group], [averages[i] for i in group]
        if not leaves[group[0]].has_moment:
            found = times_all(mean, scales)
        else:
            names = [leaves[i].name("moment") for i in group]
            old = [step.arrays[name] for name in names]
            moments = second_moments(old, g, o.beta2_of_graft, step.donate)
            floors = [step.floors[i] for i in group]
            beside, scales = divisors(o, floors, scales, step.corrections(o.beta2_of_graft, group))
            found = over_roots_all(mean, moments, beside, scales)
            new.update(zip(names, step.chosen(group, moments, old), strict=True))
        moves.update(zip(group, found, strict=True))
    return moves, new


def in_units(x: Array, step: Step, i: int, k: float) -> Array:
    """Multiply x by 2^(k e), e the exponent of the units of leaf i."""
    e = step.exponents[i]
    if is_traced(e):
        whole = namespace(x).floor(k * e)
        return scaled_traced(x, whole.astype(e.dtype)) * 2.0 ** (k * e - whole)
    return scaled(x, int(k * e // 1)) * 2.0 ** (k * e % 1) if k * e else x
