"""One step of a run whose ranks own blocks: gradients to the owners, directions back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matroot_optim._torch.keeper import Params
from matroot_optim._torch.parameters import dense
from matroot_optim._torch.shards.keeper import ShardedKeeper
from matroot_optim._torch.storage import is_dtensor, local
from matroot_optim.arrays import cast
from matroot_optim.layout.layout import Layout
from matroot_optim.shampoo import Shampoo
from matroot_optim.step.finish import with_decay
from matroot_optim.step.momentum import Rates, with_l2


def check_options(layout: Layout) -> None:
    """Raise if an option is not served with owned blocks. Most of these need weights, which the owners do not have.

    Raises
    ------
    ValueError
    """
    for leaf in layout.leaves:
        o = leaf.options
        unserved = {
            "graft": o.graft == "trust_ratio",
            "averaging": leaf.has_average,
            "hyperball": leaf.pinned,
            "cautious_update": o.cautious_update,
            "clip_norm": o.decay == "l2" and o.clip_norm is not None,
        }
        for name in (name for name, wrong in unserved.items() if wrong):
            beside = " and decay='l2'" if name == "clip_norm" else ""
            raise ValueError(
                f"{name} must not be {getattr(o, name)!r} with owned blocks{beside}; see the guide on ranks"
            )


def moves_of_shards(core: Shampoo, keeper: ShardedKeeper, params: Params, rates: Sequence[Rates]) -> dict[str, Any]:
    """Make one step of the owned blocks; return what to add to the rows that this rank stores, by path.

    Parameters
    ----------
    rates : sequence of Rates
        Of every parameter.
    """
    assert keeper.layout is not None and keeper.state is not None
    leaves, transfer = keeper.layout.leaves, keeper.transfer
    weights = [cast(local(p), leaf.dtype) for p, leaf in zip(params.values(), leaves, strict=True)]
    stored = [
        None if p.grad is None else with_l2(leaf.options, cast(_gradient(path, p), leaf.dtype), W, mine)
        for (path, p), leaf, W, mine in zip(params.items(), leaves, weights, rates, strict=True)
    ]
    owned = transfer.to_owners(stored)
    there = [stored[i] is not None for i in transfer.part.leaf_of]
    state = keeper.state
    moves, keeper.state = core.advance(
        [x if here else None for x, here in zip(owned, there, strict=True)],
        state,
        [None if here else x for x, here in zip(owned, there, strict=True)],  # zeros, of the right kind
        donate=True,
        # The owners return the steps as they are; rate and decay follow where the weights are.
        rates=[Rates(None, 0.0, rates[i].beta) for i in transfer.part.leaf_of],
        totals=keeper.totals,
    )
    counted = keeper.state.arrays["count"] > state.arrays["count"]
    found: dict[str, Any] = {}
    for i, (path, x) in enumerate(zip(params, transfer.to_storage(moves), strict=True)):
        if counted[keeper.totals.firsts[i]]:
            x = x.reshape(weights[i].shape)
            (found[path],) = with_decay(leaves[i].options, [x], [weights[i]], [rates[i]])
    return found


def _gradient(path: str, p: Any) -> Any:
    grad = p.grad
    if is_dtensor(grad) != is_dtensor(p):
        raise TypeError(f"the gradient of parameter {path!r} must be a DTensor exactly if the parameter is one")
    if is_dtensor(grad) and grad.placements != p.placements:
        grad = grad.redistribute(p.device_mesh, p.placements)
    return dense(path, local(grad))
