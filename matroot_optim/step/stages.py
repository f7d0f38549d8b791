"""Stages 1, 3 and 4 of a step, as functions of arrays.

They accept concrete arrays and arrays that jax traces. Work of a single parameter is per leaf; work of cost n^3 is per
stack, without a loop over its blocks. `active` has, per leaf, True if the gradient counts, False if it is missing or
not finite, or a traced boolean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, cast, dtype_name, is_traced, like, namespace, stack_scalars
from matroot_optim.layout.blocking import assemble, stack, unstack
from matroot_optim.layout.parts import Stack
from matroot_optim.options import Options
from matroot_optim.step.averaging import average_weights
from matroot_optim.step.bases import as_merged, turned
from matroot_optim.step.elementwise import adam_all, in_one_pass, over_roots_all, times_all
from matroot_optim.step.finish import limit, to_updates
from matroot_optim.step.grafting import divisors, positive_norm, ratio_of, rescale_blocks, second_moments
from matroot_optim.step.inputs import Step, choose
from matroot_optim.step.momentum import factors_of_means, momentum
from matroot_optim.step.precondition import precondition
from matroot_optim.step.scaling import scaled, scaled_traced, unit_of_direction
from matroot_optim.step.spectral import spectral
from matroot_optim.step.statistics import accumulate, gram
from matroot_optim.step.whitening import whitened_gram

Arrays = dict[str, Array]
#: Leaves that one call can process, in lists.
Groups = Sequence[Sequence[int]]


def stacked_gradients(step: Step) -> list[Array]:
    """Return the gradient of every stack of blocks, (blocks, *shape)."""
    return [_stacked(step, s, step.g) for s in step.layout.stacks]


def _stacked(step: Step, s: Stack, leaves: Sequence[Array]) -> Array:
    parts, layout = [], step.layout
    for member in s.members:
        leaf, x = layout.leaves[member.leaf], step.whole(leaves[member.leaf])
        parts.append(stack(as_merged(x, leaf), leaf.regions[member.region], namespace(x)))
    return parts[0] if len(parts) == 1 else namespace(parts[0]).concat(parts, axis=0)


def update_statistics(step: Step, stacks: Sequence[Array]) -> Arrays:
    """Update the statistics of every stack with these gradients (stage 1)."""
    new: Arrays = {}
    summed = {} if step.totals is None else step.totals.grams(step.layout.stacks, stacks)
    for s, G in zip(step.layout.stacks, stacks, strict=True):
        xp, beta = namespace(G), s.options.betas[1]
        # A sum needs no mask: a gradient that does not count is zero here.
        keep_all = beta == 1.0 or all(step.active[m.leaf] is True for m in s.members)
        # Whitened ones depend on the other statistics, so all are computed before the first is overwritten.
        whitened = {axis: whitened_gram(s, step.arrays, G, axis, xp) for axis in s.axes} if s.whitened else {}
        for axis in s.axes:
            name = f"{s.axis_name(axis)}/statistic"
            old, product = step.arrays[name], summed.get(s.axis_name(axis))
            if product is None:
                product = whitened[axis] if s.whitened else gram(G, axis, xp)
            A = accumulate(old, product, beta, step.donate and keep_all)
            new[name] = A if keep_all else xp.where(block_mask(s, step.active, G)[:, None], A, old)
    return new


def block_mask(s: Stack, active: Sequence[Any], x: Array) -> Array:
    """Return a boolean (blocks,), True if the gradient of the block's leaf counts."""
    xp = namespace(x)
    flags = [active[member.leaf] for member in s.members]
    sizes = [member.stop - member.start for member in s.members]
    if any(is_traced(flag) for flag in flags):
        return xp.stack([xp.asarray(flag) for flag in flags])[np.repeat(np.arange(len(flags)), sizes)]
    ones = xp.ones_like(x.reshape(len(x), -1)[:, 0])  # made where x is: a mask of the host would have to go there
    parts = [ones[member.start : member.stop] * flag > 0 for member, flag in zip(s.members, flags, strict=True)]
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)


def mix_weight(start: int, ramp: int, number: Any) -> Any:
    """Return the weight of Shampoo against the first-order step: 0 before Shampoo starts, then a ramp, then 1."""
    if is_traced(number):
        xp = namespace(number)
        return xp.clip((number - start) / ramp, 0.0, 1.0) if ramp else xp.where(number >= start, 1.0, 0.0)
    if number < start:
        return 0.0
    return min(1.0, (number - start) / ramp) if ramp else 1.0


def updates(step: Step, stacks: Sequence[Array]) -> tuple[list[Array], Arrays]:
    """Compute the update of every weight and the new arrays of the state (stages 3 and 4)."""
    layout = step.layout
    live = [i for i, leaf in enumerate(layout.leaves) if step.active[i] is not False and 0 not in leaf.shape]
    weights = {key: mix_weight(*key, step.number) for key in set(layout.starts)}
    weight = [weights[key] for key in layout.starts]
    groups = step.alike(live)
    averages, factors, moves, new = averaged(step, groups)
    directions: list[Any] = []
    for s, G in zip(layout.stacks, stacks, strict=True):
        if s.in_basis:
            directions.append(None)
            continue
        if any(layout.leaves[m.leaf].averages_gradients for m in s.members):
            G = _stacked(step, s, averages)
        idle = all(isinstance(weight[m.leaf], float) and weight[m.leaf] == 0.0 for m in s.members)
        if s.spectral:
            directions.append(None if idle else spectral(G, s.options.spectral_exponent))
            continue
        roots = [step.arrays[f"{s.axis_name(axis)}/root"] for axis in s.axes]
        directions.append(None if idle else precondition(G, roots, s.axes, namespace(G)))
    others, changed = _first_order(
        step, live, [group for group in groups if group[0] not in moves], averages, factors, stacks
    )
    moves.update(others)
    new.update(changed)
    found = {
        i: _direction(step, i, moves[i], directions, factors[i], weight[i])
        for i in live
        if (layout.leaves[i].directed and not layout.leaves[i].in_basis) or _scales_itself(layout.leaves[i].options)
    }
    ratios = _grafted(step, found, moves, weight)
    new.update(_momentum_of_directions(step, groups, moves))
    limit(step, live, moves)
    to_updates(step, groups, moves)
    new.update(average_weights(step, live, moves))
    result = []
    for i, g in enumerate(step.g):
        if i not in moves:
            result.append(namespace(g).zeros_like(g))
        elif step.active[i] is True:
            result.append(moves[i])
        else:
            result.append(choose(step.active[i], moves[i], namespace(g).zeros_like(moves[i])))
    new["graft_ratio"] = ratios
    return result, new


def averaged(step: Step, groups: Groups) -> tuple[list[Array], list[Any], dict[int, Array], Arrays]:
    """Return the arrays to precondition, their factors, first-order steps that are known then, and the new arrays.

    For every leaf the array is the gradient, or the mean of the gradients up to the factor.
    """
    averages, factors = list(step.g), [1.0] * len(step.g)
    leaves, new = step.layout.leaves, Arrays()
    moves: dict[int, Array] = {}
    for group in groups:
        leaf, beta = leaves[group[0]], step.rates[group[0]].beta
        if not leaf.averages_gradients:
            continue
        o, g, corrections = leaf.options, [step.g[i] for i in group], step.corrections(beta, group)
        names = [leaves[i].name("momentum") for i in group]
        old = [step.arrays[name] for name in names]
        if leaf.is_adam and in_one_pass(g, old):
            of_moments, scales = [leaves[i].name("moment") for i in group], factors_of_means(o, corrections)
            means, moments = (step.owned(x) for x in (old, [step.arrays[name] for name in of_moments]))
            beside = divisors(o, [step.floors[i] for i in group], scales, step.corrections(o.beta2_of_graft, group))
            found = adam_all(g, means, moments, (beta, o.beta2_of_graft), *beside)
            moves.update(zip(group, found, strict=True))
            new.update(zip(of_moments, moments, strict=True))
            buffers = means
        else:
            means, buffers, scales = momentum(o, old, g, beta, corrections, step.donate)
        for k, i in enumerate(group):
            averages[i], factors[i] = means[k], scales[k]
        new.update(zip(names, step.chosen(group, buffers, old), strict=True))
    return averages, factors, moves, new


def _first_order(
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
        return first_order_steps(step, groups, step.g, averages, factors)
    lists = [step.g, averages] if any(averages[i] is not step.g[i] for i in live) else [step.g]
    whole = [[step.whole(x) for x in arrays] for arrays in lists]
    g, *means = turned(layout, step.arrays, whole, live, stacks, back=False)
    moves, changed = first_order_steps(step, groups, g, *(means or [g]), factors)
    (back,) = turned(layout, step.arrays, [[moves.get(i, x) for i, x in enumerate(g)]], live, back=True)
    return {i: back[i] for i in moves}, changed


def first_order_steps(
    step: Step, groups: Groups, gradients: Sequence[Array], averages: Sequence[Array], factors: Sequence[Any]
) -> tuple[dict[int, Array], Arrays]:
    """Compute the first-order steps of the leaves that count, in new arrays, and the moments."""
    leaves, new = step.layout.leaves, Arrays()
    moves: dict[int, Array] = {}
    normal = [i for group in groups for i in group if leaves[i].options.graft_normalize]
    norm2 = dict(zip(normal, step.squares("normalize", normal, [gradients[i] for i in normal]), strict=True))
    for group in groups:
        o = leaves[group[0]].options
        scales = [factors[i] for i in group]
        g, mean = [gradients[i] for i in group], [averages[i] for i in group]
        if o.graft_normalize:
            norms = [positive_norm(norm2[i]) for i in group]
            g, mean = [x / n for x, n in zip(g, norms, strict=True)], [x / n for x, n in zip(mean, norms, strict=True)]
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
        if o.graft == "sgd":
            found = [
                _in_units(x, step, i, unit_of_direction(leaves[i], preconditioned=False))
                for x, i in zip(found, group, strict=True)
            ]
        moves.update(zip(group, found, strict=True))
    return moves, new


def _momentum_of_directions(step: Step, groups: Groups, moves: dict[int, Array]) -> Arrays:
    """Average the directions of leaves whose momentum is not of the gradients (stage 4); update `moves`."""
    leaves, new = step.layout.leaves, Arrays()
    for group in groups:
        if not leaves[group[0]].has_momentum or leaves[group[0]].averages_gradients:
            continue
        names = [leaves[i].name("momentum") for i in group]
        old = [step.arrays[name] for name in names]
        directions = [moves[i] for i in group]
        o, beta = leaves[group[0]].options, step.rates[group[0]].beta
        means, buffers, scales = momentum(o, old, directions, beta, step.corrections(beta, group), step.donate)
        moves.update(zip(group, times_all(means, scales), strict=True))
        new.update(zip(names, step.chosen(group, buffers, old), strict=True))
    return new


def _in_units(x: Array, step: Step, i: int, k: float) -> Array:
    """Multiply x by 2^(k e), e the exponent of the units of leaf i."""
    e = step.exponents[i]
    if is_traced(e):
        whole = namespace(x).floor(k * e)
        return scaled_traced(x, whole.astype(e.dtype)) * 2.0 ** (k * e - whole)
    return scaled(x, int(k * e // 1)) * 2.0 ** (k * e % 1) if k * e else x


def _direction(
    step: Step, i: int, F: Array, directions: Sequence[Any], factor: Any, weight: Any
) -> tuple[Array | None, Any]:
    """Return Shampoo's direction of one leaf, None before its start, and the factor; None: to be scaled (stage 3)."""
    leaf, W = step.layout.leaves[i], step.weights[i]
    o, xp = leaf.options, namespace(F)
    where = step.layout.stacks_of_leaf[i]
    if not where or (isinstance(weight, float) and weight == 0.0):
        return None, 1.0
    boxes, ratio = [], None
    for s, member in where:
        region = leaf.regions[member.region]
        P = step.rows(directions[s], member.start, member.stop)
        if o.graft_per_block:
            Fb = stack(as_merged(F, leaf), region, xp)
            Wb = stack(as_merged(W, leaf), region, xp) if W is not None else None
            P, ratios = rescale_blocks(o, P, Fb, Wb, xp)
            ratio = xp.mean(ratios) if ratio is None else ratio
        boxes.append(unstack(P, region, xp))
    D = assemble(boxes, leaf.regions, xp).reshape(leaf.shape)
    if o.graft == "none":
        D = _in_units(D * factor, step, i, unit_of_direction(leaf, preconditioned=True))
        ratio = 1.0 if ratio is None else ratio
    return D, ratio


def _scales_itself(options: Options) -> bool:
    """Return True if the graft scales the first-order step too."""
    return options.graft in ("sqrt_n", "trust_ratio")


def _grafted(
    step: Step, found: dict[int, tuple[Array | None, Any]], moves: dict[int, Array], weight: Sequence[Any]
) -> list[Any]:
    """Scale the directions to the norms of their grafts and mix them with the first-order steps, into `moves`.

    Returns the factors, one for every leaf.
    """
    ratios: list[Any] = [1.0] * len(step.layout.leaves)
    late = [i for i, (D, ratio) in found.items() if D is not None and ratio is None]
    early = [i for i in found if _scales_itself(step.layout.leaves[i].options)]
    results = _rescaled(step, [*late, *early], [*(found[i][0] for i in late), *(moves[i] for i in early)], moves)
    whole, first = dict(zip(late, results, strict=False)), dict(zip(early, results[len(late) :], strict=True))
    for i, unscaled in found.items():
        F = first[i][0] if i in first else moves[i]
        D, ratios[i] = whole.get(i, unscaled)
        if D is None:
            moves[i] = F
        elif isinstance(weight[i], float) and weight[i] == 1.0:
            moves[i] = D
        else:
            moves[i] = weight[i] * D + (1.0 - weight[i]) * F
    return ratios


def _rescaled(
    step: Step, leaves: Sequence[int], arrays: Sequence[Any], moves: dict[int, Array]
) -> list[tuple[Array, Any]]:
    """Scale arrays of these leaves to the norms of their grafts; return each with its factor."""
    of = step.layout.leaves
    graft = [of[i].options.graft for i in leaves]
    known = [i for i, name in zip(leaves, graft, strict=True) if name not in ("sqrt_n", "trust_ratio")]
    norms = step.norms("graft", [*leaves, *known], [*arrays, *(moves[i] for i in known)])
    targets: dict[int, Any] = dict(zip(known, norms[len(leaves) :], strict=True))
    trusting = [i for i, name in zip(leaves, graft, strict=True) if name == "trust_ratio"]
    targets.update(zip(trusting, step.norms_of_weights(trusting), strict=True))
    targets.update({i: of[i].size ** 0.5 for i, name in zip(leaves, graft, strict=True) if name == "sqrt_n"})
    alike: dict[Any, list[int]] = {}
    for k, i in enumerate(leaves):
        alike.setdefault(step.layout.kinds[i], []).append(k)
    found: list[Any] = [None] * len(leaves)
    for at in alike.values():
        P, goals = [arrays[k] for k in at], [targets[leaves[k]] for k in at]
        own = stack_scalars([norms[k] for k in at], P[0])
        if graft[at[0]] == "sqrt_n":
            target = cast(like(np.asarray(goals), own), dtype_name(own))
        else:
            target = stack_scalars(goals, own)
        ratios = step.scalars(ratio_of(of[leaves[at[0]]].options, own, target, namespace(own)))
        for k, x, ratio in zip(at, times_all(P, ratios), ratios, strict=True):
            found[k] = x, ratio
    return found
