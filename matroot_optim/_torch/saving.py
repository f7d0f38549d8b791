"""Writing of state dicts."""

from __future__ import annotations

from typing import Any

from matroot_optim._torch.groups import META, saved_options
from matroot_optim._torch.records import cuts_to_text


def hide(optimizer: Any) -> None:
    """Let torch see no state: it would ask for the entries of every parameter, and `fill` replaces them all."""
    optimizer._hidden = True


def fill(optimizer: Any, found: dict[str, Any]) -> None:
    """Put the state and the cuts of the parameters into the dict that torch has made."""
    optimizer._hidden = False
    optimizer._current()
    keeper, groups = optimizer._keeper, found["param_groups"]
    numbers = [n for group in groups for n in group["params"]]
    found["state"] = dict(zip(numbers, keeper.take_apart(optimizer._core), strict=True))
    for n, p in zip(numbers, keeper.tensors, strict=True) if len(keeper.others) else ():
        found["state"][n].update(keeper.others.get(p, {}))
    leaves = iter(keeper.layout.leaves if keeper.layout is not None else ())
    pending = keeper.has_pending(optimizer._core, found["state"].values())
    for group in groups:
        group.update(saved_options(group))
        group[META] = cuts_to_text([next(leaves) for _ in group["params"]], pending)
