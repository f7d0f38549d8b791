"""Stages 1, 3 and 4 of a step, as functions of arrays.

They accept concrete arrays and arrays that jax traces. Work of a single parameter is per leaf; work of cost n^3 is per
stack, without a loop over its blocks. `active` has, per leaf, True if the gradient counts, False if it is missing or
not finite, or a traced boolean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from matroot_optim.arrays import (
    Array,
    by_numpy,
    cast,
    dtype_name,
    is_traced,
    like,
    namespace,
    stack_scalars,
    to_host,
)
from matroot_optim.layout.blocking import assemble, stack, unstack
from matroot_optim.layout.parts import Stack
from matroot_optim.options import Options
from matroot_optim.step.averaging import average_weights
from matroot_optim.step.bases import as_merged
from matroot_optim.step.by_row import precondition_by_row
from matroot_optim.step.elementwise import scale_all, times_all
from matroot_optim.step.finish import limit, to_updates
from matroot_optim.step.first_order import Groups, averaged, first_order, in_units
from matroot_optim.step.grafting import ratio_of, rescale_blocks
from matroot_optim.step.inputs import Step, choose
from matroot_optim.step.mixing import mix_weights
from matroot_optim.step.momentum import momentum
from matroot_optim.step.precondition import precondition
from matroot_optim.step.scaling import unit_of_direction
from matroot_optim.step.spectral import spectral
from matroot_optim.step.statistics import accumulate, gram, grams
from matroot_optim.step.whitening import whitened_gram

Arrays = dict[str, Array]
#: The blocks of a stack: in one array, or, where the stack is `Stack.apart`, an array (1, *shape) for each.
Blocks = Any


def stacked_gradients(step: Step) -> list[Blocks]:
    """Return the gradient of every stack of blocks, (blocks, *shape), or a tuple of its blocks."""
    return [_stacked(step, s, step.g) for s in step.layout.stacks]


def _stacked(step: Step, s: Stack, leaves: Sequence[Array]) -> Blocks:
    """Return the blocks of a stack, of tensors as numpy where that computes their products: each call takes less."""
    parts, layout = [], step.layout
    on_host = not s.sharable and by_numpy(leaves[s.members[0].leaf])
    for member in s.members:
        leaf, x = layout.leaves[member.leaf], leaves[member.leaf]
        x = x if leaf.by_row else step.whole(x)
        x = to_host(x) if on_host else x
        parts.append(stack(as_merged(x, leaf), leaf.regions[member.region], namespace(x)))
    if s.apart and step.totals is None and not is_traced(parts[0]):
        return tuple(parts)
    G = parts[0] if len(parts) == 1 else namespace(parts[0]).concat(parts, axis=0)
    return np.ascontiguousarray(G) if on_host else G


def _as(x: Array, other: Array) -> Array:
    """Return x, which may be numpy where `other` is a tensor, as the array that `other` is."""
    return like(x, other) if isinstance(x, np.ndarray) else x


def _preconditioned(s: Stack, G: Blocks, roots: Sequence[Array]) -> Blocks:
    if isinstance(G, tuple):
        return tuple(precondition_by_row(x, [X[k : k + 1] for X in roots], s.axes) for k, x in enumerate(G))
    if isinstance(G, np.ndarray):
        return _as(precondition(G, [to_host(X) for X in roots], s.axes, np), roots[0])
    return precondition_by_row(G, roots, s.axes) if s.sharable else precondition(G, roots, s.axes, namespace(G))


def update_statistics(step: Step, stacks: Sequence[Blocks]) -> Arrays:
    """Update the statistics of every stack with these gradients (stage 1)."""
    new: Arrays = {}
    summed = {} if step.totals is None else step.totals.grams(step.layout.stacks, stacks)
    for s, G in zip(step.layout.stacks, stacks, strict=True):
        xp, beta = namespace(G[0] if isinstance(G, tuple) else G), s.options.betas[1]
        # A sum needs no mask: a gradient that does not count is zero here.
        keep_all = beta == 1.0 or all(step.active[m.leaf] is True for m in s.members)
        # Whitened ones depend on the other statistics, so all are computed before the first is overwritten.
        whitened = {axis: whitened_gram(s, step.arrays, G, axis, xp) for axis in s.axes} if s.whitened else {}
        for axis in s.axes:
            name = f"{s.axis_name(axis)}/statistic"
            old, product = step.arrays[name], summed.get(s.axis_name(axis))
            if product is None:
                product = (
                    whitened[axis] if s.whitened else grams(G, axis, xp) if isinstance(G, tuple) else gram(G, axis, xp)
                )
            A = accumulate(old, _as(product, old), beta, step.donate and keep_all)
            new[name] = A if keep_all else namespace(A).where(block_mask(s, step.active, A)[:, None], A, old)
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


def updates(step: Step, stacks: Sequence[Blocks]) -> tuple[list[Array], Arrays]:
    """Compute the update of every weight and the new arrays of the state (stages 3 and 4)."""
    layout = step.layout
    live = [i for i, leaf in enumerate(layout.leaves) if step.active[i] is not False and 0 not in leaf.shape]
    weight = mix_weights(step)
    groups = step.alike(live)
    averages, factors, moves, new = averaged(step, groups)
    directions: list[Any] = []
    for s, G in zip(layout.stacks, stacks, strict=True):
        if s.in_basis:
            directions.append(None)
            continue
        if any(averages[m.leaf] is not step.g[m.leaf] for m in s.members):
            G = _stacked(step, s, averages)
        idle = all(isinstance(weight[m.leaf], float) and weight[m.leaf] == 0.0 for m in s.members)
        if s.spectral:
            P = None if idle else spectral(G, s.options.spectral_exponent)
            directions.append(_as(P, averages[s.members[0].leaf]))
            continue
        roots = [step.arrays[f"{s.axis_name(axis)}/root"] for axis in s.axes]
        directions.append(None if idle else _preconditioned(s, G, roots))
    others, changed = first_order(
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
    for i in live:  # after the norms, whose squares might leave the range
        if layout.leaves[i].options.graft == "sgd":
            moves[i] = in_units(moves[i], step, i, unit_of_direction(layout.leaves[i], preconditioned=False))
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
        P = directions[s]
        P = P[member.start] if isinstance(P, tuple) else step.rows(P, member.start, member.stop)
        if o.graft_per_block or leaf.by_row:
            Fb = stack(as_merged(F, leaf), region, xp)
            Wb = stack(as_merged(W, leaf), region, xp) if W is not None else None
            P, factor_of_region = rescale_blocks(o, P, Fb, Wb, leaf.axes if leaf.by_row else None, xp)
            ratio = factor_of_region if ratio is None else ratio
        boxes.append(unstack(P, region, xp))
    D = assemble(boxes, leaf.regions, xp).reshape(leaf.shape)
    if o.graft == "none":
        D = in_units(D * factor, step, i, unit_of_direction(leaf, preconditioned=True))
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
    norms = step.norms_of("graft", [*leaves, *known], [*arrays, *(moves[i] for i in known)])
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
        scaled = times_all if graft[at[0]] in ("sqrt_n", "trust_ratio") else scale_all  # directions are new arrays
        for k, x, ratio in zip(at, scaled(P, ratios), ratios, strict=True):
            found[k] = x, ratio
    return found
