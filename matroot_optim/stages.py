"""Stages 1, 3 and 4 of a step, as functions of arrays.

They run on values, and on arrays that jax traces. Everything that a parameter needs is per leaf; everything of cost
n^3 is per stack, without a loop over its blocks. `active` says per leaf whether the gradient counts: True, False
(missing, or not finite), or a traced boolean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matroot_optim.arrays import Array, copy, is_traced, namespace, squared_norm
from matroot_optim.blocking import assemble, stack, unstack
from matroot_optim.config import Options
from matroot_optim.grafting import first_order_step, normalized, rescale, rescale_blocks, second_moment
from matroot_optim.layout import Layout, Leaf, Stack
from matroot_optim.momentum import Rates, clip_rms, momentum, to_update
from matroot_optim.precondition import precondition
from matroot_optim.scaling import scaled, scaled_traced, unit_of_direction
from matroot_optim.statistics import accumulate, gram

Arrays = dict[str, Array]


@dataclass
class Step:
    """What one step works on: a gradient, a weight and rates for every leaf, and the arrays of the state."""

    layout: Layout
    arrays: Arrays
    g: list[Array]  # zeros where not active
    weights: list[Array | None]
    active: Sequence[Any]
    rates: Sequence[Rates]
    number: Any  # of the step, from 1
    donate: bool  # whether arrays of the state may be overwritten

    @property
    def all_active(self) -> bool:
        """Whether it is known that every gradient counts."""
        return all(a is True for a in self.active)


def choose(active: Any, new: Array, old: Array) -> Array:
    """`new` where active, else `old`."""
    if active is True:
        return new
    return old if active is False else namespace(new).where(active, new, old)


def stacked_gradients(step: Step) -> list[Array]:
    """The gradient of every stack of blocks, (blocks, *shape)."""
    return [_stacked(step.layout, s, step.g) for s in step.layout.stacks]


def _stacked(layout: Layout, s: Stack, leaves: Sequence[Array]) -> Array:
    parts = []
    for member in s.members:
        leaf, x = layout.leaves[member.leaf], leaves[member.leaf]
        parts.append(stack(x.reshape(leaf.merged), leaf.regions[member.region], namespace(x)))
    return parts[0] if len(parts) == 1 else namespace(parts[0]).concat(parts, axis=0)


def update_statistics(step: Step, stacks: Sequence[Array]) -> Arrays:
    """Stage 1: the statistics of every stack with these gradients added."""
    new: Arrays = {}
    for s, G in zip(step.layout.stacks, stacks, strict=True):
        xp, beta = namespace(G), s.options.betas[1]
        # A sum needs no mask: a gradient that does not count is zero here.
        keep_all = beta == 1.0 or all(step.active[m.leaf] is True for m in s.members)
        for axis in s.axes:
            name = f"{s.axis_name(axis)}/statistic"
            old = step.arrays[name]
            A = accumulate(old, gram(G, axis, xp), beta, step.donate and keep_all)
            new[name] = A if keep_all else xp.where(block_mask(s, step.active, G)[:, None], A, old)
    return new


def block_mask(s: Stack, active: Sequence[Any], x: Array) -> Array:
    """Boolean (blocks,): whether the gradient of the block's leaf counts."""
    xp = namespace(x)
    parts = []
    for member in s.members:
        ones = xp.ones_like(x[member.start : member.stop].reshape(member.stop - member.start, -1)[:, 0])
        parts.append(ones * active[member.leaf] > 0)
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)


def mix_weight(options: Options, number: Any) -> Any:
    """Weight of Shampoo against the first-order step at a step: 0 before its start, then a ramp, then 1."""
    start, ramp = options.first_shampoo_step, options.mix_steps
    if is_traced(number):
        xp = namespace(number)
        return xp.clip((number - start) / ramp, 0.0, 1.0) if ramp else xp.where(number >= start, 1.0, 0.0)
    if number < start:
        return 0.0
    return min(1.0, (number - start) / ramp) if ramp else 1.0


def updates(step: Step, stacks: Sequence[Array]) -> tuple[list[Array], Arrays]:
    """Stages 3 and 4: what is added to every weight, and the new arrays of the state."""
    layout = step.layout
    weight = [mix_weight(leaf.options, step.number) for leaf in layout.leaves]
    averages, new = averaged(step)
    directions = []
    for s, G in zip(layout.stacks, stacks, strict=True):
        if any(layout.leaves[m.leaf].averages_gradients for m in s.members):
            G = _stacked(layout, s, averages)
        idle = all(isinstance(weight[m.leaf], float) and weight[m.leaf] == 0.0 for m in s.members)
        roots = [step.arrays[f"{s.axis_name(axis)}/root"] for axis in s.axes]
        directions.append(None if idle else precondition(G, roots, s.axes, namespace(G)))
    result, ratios = [], []
    for i, leaf in enumerate(layout.leaves):
        move, changed, ratio = _move(step, i, leaf, averages[i], directions, weight[i])
        result.append(move)
        ratios.append(ratio)
        new.update(changed)
    new["graft_ratio"] = ratios
    return result, new


def averaged(step: Step) -> tuple[list[Array], Arrays]:
    """What is preconditioned, for every leaf: its gradient, or the momentum's average of its gradients."""
    result, new = list(step.g), {}
    for i, leaf in enumerate(step.layout.leaves):
        if not leaf.averages_gradients or step.active[i] is False or 0 in leaf.shape:
            continue
        name = leaf.name("momentum")
        m, active = step.arrays[name], step.active[i]
        donate = step.donate and active is True
        result[i], m_new = momentum(leaf.options, m, step.g[i], step.rates[i].beta, _count(step, i), donate)
        new[name] = choose(active, m_new, m)
    return result, new


def _in_units(x: Array, step: Step, i: int, k: float) -> Array:
    """x times 2^(k e), e the exponent of the units of leaf i."""
    e = step.arrays["exponent"][i]
    if is_traced(e):
        whole = namespace(x).floor(k * e)
        return scaled_traced(x, whole.astype(e.dtype)) * 2.0 ** (k * e - whole)
    return scaled(x, int(k * e // 1)) * 2.0 ** (k * e % 1) if k * e else x


def _count(step: Step, i: int) -> Any:
    count = step.arrays["count"][i]
    return count if is_traced(count) else int(count)


def _move(
    step: Step, i: int, leaf: Leaf, average: Array, directions: Sequence[Any], weight: Any
) -> tuple[Array, Arrays, Any]:
    """The update of one leaf."""
    o, g, active = leaf.options, step.g[i], step.active[i]
    xp = namespace(g)
    if active is False or 0 in leaf.shape:
        return xp.zeros_like(g), {}, 1.0
    count, donate, new = _count(step, i), step.donate and active is True, {}
    W = step.weights[i]
    if o.graft_normalize:
        norm2 = squared_norm(g)
        g, average = normalized(g, norm2, xp), normalized(average, norm2, xp)
    moment = None
    if leaf.has_moment:
        name = leaf.name("moment")
        moment = second_moment(step.arrays[name], g, o.beta2_of_graft, donate)
        new[name] = choose(active, moment, step.arrays[name])
    F = first_order_step(o, average, moment, count, xp)
    if o.graft == "sgd":
        F = _in_units(F, step, i, unit_of_direction(leaf, 0))
    move, ratio = _direction(step, i, leaf, F, W, directions, weight)
    if leaf.has_momentum and not leaf.averages_gradients:
        name = leaf.name("momentum")
        move, m = momentum(o, step.arrays[name], move, step.rates[i].beta, count, donate)
        new[name] = choose(active, m, step.arrays[name])
    elif move is average:
        move = copy(move)
    move = to_update(o, clip_rms(move, o.clip_rms, xp), W, step.rates[i])
    return move if active is True else choose(active, move, xp.zeros_like(move)), new, ratio


def _direction(
    step: Step, i: int, leaf: Leaf, F: Array, W: Array | None, directions: Sequence[Any], weight: Any
) -> tuple[Array, Any]:
    """Stage 3 of one leaf: Shampoo's direction with the graft's norm, mixed with the first-order step."""
    o, xp = leaf.options, namespace(F)
    first = rescale(o, F, F, W, xp)[0] if o.graft in ("sqrt_n", "trust_ratio") else F
    where = step.layout.stacks_of_leaf[i]
    if not where or (isinstance(weight, float) and weight == 0.0):
        return first, 1.0
    boxes, ratio = [], None
    for s, member in where:
        region = leaf.regions[member.region]
        P = directions[s][member.start : member.stop]
        if o.graft_per_block:
            Fb = stack(F.reshape(leaf.merged), region, xp)
            Wb = stack(W.reshape(leaf.merged), region, xp) if W is not None else None
            P, ratios = rescale_blocks(o, P, Fb, Wb, xp)
            ratio = xp.mean(ratios) if ratio is None else ratio
        boxes.append(unstack(P, region, xp))
    D = assemble(boxes, leaf.regions, leaf.merged, xp).reshape(leaf.shape)
    if o.graft == "none":
        D = _in_units(D, step, i, unit_of_direction(leaf, len(leaf.axes)))
    if not o.graft_per_block:
        D, ratio = rescale(o, D, F, W, xp)
    if isinstance(weight, float) and weight == 1.0:
        return D, ratio
    return weight * D + (1.0 - weight) * first, ratio
