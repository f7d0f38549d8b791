"""Averages of the weights, which lie where the weights are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from matroot_optim._torch.storage import local, placed_like, stored_like
from matroot_optim.arrays import cast, to_host
from matroot_optim.entries import fresh_part
from matroot_optim.layout.parts import Leaf
from matroot_optim.ranks.blocks import Rows


def fresh_or_saved(
    leaf: Leaf, p: Any, entries: Mapping[str, Any], rows: Rows, rank: int, on_nonfinite: str
) -> dict[str, Any]:
    """Return the arrays of the average of a parameter, by name: those of its record, or those before the first step.

    Raises
    ------
    ValueError
        An entry has another shape, or numbers that are not finite.
    """
    found: dict[str, Any] = {}
    for part in leaf.parts:
        if part not in ("average", "weights"):
            continue
        x, start = entries.get(part), fresh_part(leaf, part, local(p))
        if x is None:
            found[leaf.name(part)] = start
            continue
        if part == "weights":
            x = np.array(to_host(x), np.float64)
        else:
            x = cast(stored_like(p, x, rows, rank), leaf.dtype).detach().to(start.device, copy=True)
        if tuple(x.shape) != tuple(start.shape):
            raise ValueError(f"the state must have shape {tuple(p.shape)} as {leaf.name(part)!r}, got another")
        if on_nonfinite != "propagate" and not bool((abs(x) < float("inf")).all()):
            raise ValueError(f"the state must have numbers that are finite in {leaf.name(part)!r}")
        found[leaf.name(part)] = x
    return found


def saved(leaf: Leaf, p: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of the average of a parameter as entries of its record, which share memory with them."""
    found: dict[str, Any] = {}
    if leaf.name("average") in arrays:
        found["average"] = placed_like(p, arrays[leaf.name("average")])
    if leaf.name("weights") in arrays:
        found["weights"] = torch.from_numpy(arrays[leaf.name("weights")])
    return found
