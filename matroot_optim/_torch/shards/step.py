"""One step of a run whose ranks own blocks: gradients to the owners, directions back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from matroot_optim._torch.keeper import Params
from matroot_optim._torch.parameters import dense
from matroot_optim._torch.shards.keeper import ShardedKeeper
from matroot_optim._torch.shards.totals import MISSING
from matroot_optim._torch.storage import is_dtensor, local
from matroot_optim.arrays import cast, norms_of, squared_norm
from matroot_optim.shampoo import Shampoo
from matroot_optim.step.averaging import average_weights
from matroot_optim.step.finish import to_updates
from matroot_optim.step.inputs import Step
from matroot_optim.step.momentum import Rates, with_l2


def moves_of_shards(core: Shampoo, keeper: ShardedKeeper, params: Params, rates: Sequence[Rates]) -> dict[str, Any]:
    """Make one step of the owned blocks; return what to add to the rows that this rank stores, by path.

    Parameters
    ----------
    rates : sequence of Rates
        Of every parameter.
    """
    assert keeper.layout is not None and keeper.state is not None
    leaves, transfer, totals = keeper.layout.leaves, keeper.transfer, keeper.totals
    totals.rates = rates
    weights = [cast(local(p), leaf.dtype) for p, leaf in zip(params.values(), leaves, strict=True)]
    stored = [
        None if p.grad is None else cast(_gradient(path, p), leaf.dtype)
        for (path, p), leaf in zip(params.items(), leaves, strict=True)
    ]
    if core.clip_norm is not None and any(leaf.options.decay == "l2" for leaf in leaves):  # the decay comes after it
        stored, core = _clipped(core, keeper, stored), replace(core, clip_norm=None)
    stored = [
        None if x is None else with_l2(leaf.options, x, W, mine)
        for x, leaf, W, mine in zip(stored, leaves, weights, rates, strict=True)
    ]
    totals.weights = _squares_of_weights(keeper, weights)
    owned = transfer.to_owners(stored)
    there = [stored[i] is not None for i in transfer.part.leaf_of]
    state = keeper.state
    moves, keeper.state = core.advance(
        [x if here else None for x, here in zip(owned, there, strict=True)],
        state,
        _weights_of_blocks(keeper, weights) or [None if here else x for x, here in zip(owned, there, strict=True)],
        donate=True,
        # The owners return the steps as they are; rate and decay follow where the weights are.
        rates=[Rates(None, 0.0, rates[i].beta) for i in transfer.part.leaf_of],
        totals=totals,
    )
    count = keeper.state.arrays["count"][totals.firsts]
    live = np.flatnonzero(count > state.arrays["count"][totals.firsts]).tolist()
    steps = [x.reshape(W.shape) for x, W in zip(transfer.to_storage(moves), weights, strict=True)]
    return _finished(keeper, rates, weights, {i: steps[i] for i in live}, count)


def _finished(
    keeper: ShardedKeeper, rates: Sequence[Rates], weights: Sequence[Any], moves: dict[int, Any], count: Any
) -> dict[str, Any]:
    """Return the updates by path, from the steps; what needs weights is done here, where they are."""
    assert keeper.layout is not None and keeper.state is not None
    live, leaves = list(moves), keeper.layout.leaves
    arrays = {**keeper.averages, "count": count}
    active = [i in moves for i in range(len(leaves))]
    step = Step(
        keeper.layout, arrays, [], list(weights), active, rates, keeper.state.step, donate=True, totals=keeper.stored
    )
    to_updates(step, step.alike(live), moves)
    keeper.averages.update(average_weights(step, live, moves))
    return {leaves[i].path: moves[i] for i in live}


def _clipped(core: Shampoo, keeper: ShardedKeeper, stored: Sequence[Any]) -> list[Any]:
    """Scale gradients where they are stored to the largest norm of all together."""
    assert core.clip_norm is not None
    there = [i for i, x in enumerate(stored) if x is not None]
    norms = np.full(len(stored), MISSING)
    norms[there] = np.nan_to_num(norms_of([stored[i] for i in there]), nan=math.inf, posinf=math.inf)
    norms = keeper.stored.of_all(keeper.totals.gathered(norms))
    counted = norms if core.on_nonfinite == "propagate" else norms[np.isfinite(norms)]
    total = math.hypot(*counted)
    scale = core.clip_norm / total if total > core.clip_norm else 1.0
    return [x if x is None or scale == 1.0 else x * scale for x in stored]


def _squares_of_weights(keeper: ShardedKeeper, weights: Sequence[Any]) -> list[Any]:
    """Return the squared norm of the weights of every part that this rank owns; None where no rule needs it."""
    assert keeper.layout is not None
    at = [i for i, leaf in enumerate(keeper.layout.leaves) if leaf.options.graft == "trust_ratio"]
    norm2 = dict(zip(at, keeper.stored.squares("graft", at, [squared_norm(weights[i]) for i in at]), strict=True))
    return [norm2.get(i) for i in keeper.transfer.part.leaf_of]


def _weights_of_blocks(keeper: ShardedKeeper, weights: Sequence[Any]) -> list[Any]:
    """Return the weights of every part that this rank owns, if a rule needs the norm of each block of them."""
    assert keeper.layout is not None
    wanted = [o.graft == "trust_ratio" and o.graft_per_block for o in (leaf.options for leaf in keeper.layout.leaves)]
    if not any(wanted):
        return []
    return keeper.transfer.to_owners([W if mine else None for W, mine in zip(weights, wanted, strict=True)])


def _gradient(path: str, p: Any) -> Any:
    grad = p.grad
    if is_dtensor(grad) != is_dtensor(p):
        raise TypeError(f"the gradient of parameter {path!r} must be a DTensor exactly if the parameter is one")
    if is_dtensor(grad) and grad.placements != p.placements:
        grad = grad.redistribute(p.device_mesh, p.placements)
    return dense(path, local(grad))
