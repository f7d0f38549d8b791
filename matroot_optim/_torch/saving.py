"""Writing of state dicts."""

from __future__ import annotations

from typing import Any

from matroot_optim._torch.groups import META, saved_options
from matroot_optim._torch.keeper import parameters
from matroot_optim._torch.records import cuts_to_text


def hide(optimizer: Any) -> None:
    """Let torch see no state: it would ask for the entries of every parameter, and `fill` replaces them all."""
    optimizer._hidden = True


def fill(optimizer: Any, found: dict[str, Any]) -> None:
    """Put the state and the cuts of the parameters into the dict that torch has made."""
    optimizer._hidden = False
    optimizer._current()
    keeper, groups = optimizer._keeper, found["param_groups"]
    numbers = parameters(groups)
    entries = dict(zip(keeper.params, keeper.take_apart(optimizer._core), strict=True))
    pending = keeper.has_pending(optimizer._core, entries.values())
    found["state"] = {numbers[path]: mine for path, mine in entries.items()}
    for path, p in parameters(optimizer.param_groups).items() if len(keeper.others) else ():
        if others := keeper.others.get(p):
            found["state"].setdefault(numbers[path], {}).update(others)
    leaves = {leaf.path: leaf for leaf in keeper.layout.leaves} if keeper.layout is not None else {}
    for g, group in enumerate(groups):
        group.update(saved_options(group))
        mine = [leaves.get(f"{g}/{i}") for i in range(len(group["params"]))]
        group[META] = cuts_to_text(mine, pending)
