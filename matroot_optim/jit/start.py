"""The static part of a compiled step, and the state before the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from matroot_optim.arrays import Array
from matroot_optim.checkpoint.columns import Names
from matroot_optim.checkpoint.exchange import restore
from matroot_optim.entries import BOOKS, OF_LEAF
from matroot_optim.jit.shards import Shards, put
from matroot_optim.layout.layout import Layout, make_layout
from matroot_optim.layout.trees import Leaves
from matroot_optim.options import Options
from matroot_optim.refresh.jobs import FACTS
from matroot_optim.state import fresh
from matroot_optim.step.betas import betas_of, in_new_betas
from matroot_optim.step.narrow import closed, opened

Arrays = dict[str, Array]
#: Counters and facts have 32 bits here.
NARROW = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}


@dataclass(frozen=True)
class Plan:
    """The static part of the state."""

    options: Options
    layout: Layout
    roots: str
    shards: Shards | None = None


def check_state(plan: Plan, options: Options, roots: str) -> None:
    """Raise if a state with this plan comes from a transformation with other options; functions and engines may differ.

    Raises
    ------
    ValueError
    """
    pairs = {field.name: [getattr(of, field.name) for of in (plan.options, options)] for field in fields(options)}
    pairs["roots"] = [plan.roots, roots]
    found = [
        f"{name}={a!r:.200}, not {b!r:.200}"
        for name, (a, b) in pairs.items()
        if a != b and name != "engine" and not (callable(a) and callable(b))
    ]
    if found:
        raise ValueError(
            f"the state must come from a transformation with the same options, this one has {'; '.join(found)}; save "
            "it by state.core.save, and load it by matroot_optim.optax.load"
        )


def layout_of(options: Options, leaves: Leaves) -> Layout:
    """Return the layout of arrays by path, whatever kind of arrays they are, traced or only shapes."""
    found: list[Layout] = []
    jax.eval_shape(lambda x: found.append(make_layout(options, dict(zip(leaves, x, strict=True)))), [*leaves.values()])
    return found[0]


def initial(plan: Plan, params: Sequence[Array]) -> Arrays:
    """Return the core's fresh state as jax arrays, counters included; on a mesh, momentum and moment as the parameters.

    On a mesh `params` may be anything that has a shape.
    """
    shards = plan.shards
    if shards is None:
        here = [x if isinstance(x, jax.Array) else jnp.zeros(()) for x in params]
        arrays = to_jax(fresh(plan.options, plan.layout, here).arrays)
        return {**arrays, "graft_ratio": jnp.ones(len(plan.layout.leaves), jnp.float32)}
    start = fresh(plan.options, plan.layout, [np.zeros(())] * len(params)).arrays
    start["graft_ratio"] = np.ones(len(plan.layout.leaves), np.float32)
    found, of_leaf = {}, parts_of_leaves(plan.layout)
    for name, x in start.items():
        sharding = shards.sharding(x.ndim, of_leaf.get(name))
        if name in of_leaf or name.endswith("/statistic"):  # not by way of the host
            found[name] = jnp.zeros(x.shape, x.dtype, device=sharding)
        else:
            found[name] = put(x.astype(NARROW.get(x.dtype, x.dtype)) if kind_on_host(name) else x, sharding)
    return found


def restored(plan: Plan, names: Names, meta: Mapping[str, Any]) -> Arrays:
    """Return the arrays of a file as numpy: each goes straight to its place. Compiled steps never change the decays."""
    layout = plan.layout
    stored, _ = restore(plan.options, layout, [np.zeros(())] * len(layout.leaves), names, meta)
    arrays = opened(layout, stored, stored["step"])
    arrays.update(in_new_betas(layout, arrays, {"beta1": betas_of(layout)["beta1"]}))
    return closed(arrays)


def parts_of_leaves(layout: Layout) -> dict[str, int]:
    """Return the names of the arrays that have a parameter's shape, with the number of the parameter."""
    return {leaf.name(part): i for i, leaf in enumerate(layout.leaves) for part in leaf.parts}


def kind_on_host(name: str) -> Any:
    """Return the core's dtype of a counter or a fact; None for the name of another array."""
    kinds = {**FACTS, **BOOKS, **OF_LEAF, "step": np.int64}
    return kinds.get(name.rsplit("/", 1)[-1]) if name in kinds or name.startswith(":stack") else None


def to_jax(arrays: Arrays) -> Arrays:
    """Convert the core's arrays to jax arrays, counters to 32 bits."""
    return {
        name: jnp.asarray(x.astype(NARROW.get(x.dtype, x.dtype))) if isinstance(x, np.ndarray) else x
        for name, x in arrays.items()
    }
