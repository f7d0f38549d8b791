"""Work on stacks of matrices that the devices, or the hosts, of a mesh share."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from matroot_optim.arrays import Array
from matroot_optim.callbacks import call
from matroot_optim.jit.shards import Shards
from matroot_optim.jit.turns import Due
from matroot_optim.refresh.jobs import RootAnswer, RootBatch, RootJob, compute
from matroot_optim.refresh.methods import with_method
from matroot_optim.refresh.shares import Deal, part_of

#: For each dimension of a stack, the hosts of its matrices; empty: there is one host.
Owners = Sequence[Any]

_log = logging.getLogger(__name__)


def owners_of(shards: Shards | None, sets: Sequence[Due]) -> list[Owners]:
    """Deal the matrices of each set to the hosts of the mesh; over all sets, every host gets about the same."""
    if shards is None:
        return [()] * len(sets)
    deal = Deal(max(shards.hosts) + 1)
    found: list[Owners] = []
    for items in sets:
        counts = [len(index) for _, _, index in items]
        orders = [stack.shape[axis] for stack, axis, index in items for _ in index]
        found.append(tuple(np.split(deal(orders), np.cumsum(counts)[:-1])) if items else ())
    return found


@dataclass(frozen=True)
class Share:
    """The matrices that one host computes."""

    owners: Owners
    number: int

    def rows(self, group: Sequence[RootJob]) -> Any:
        """Return this host's rows of the batch of these jobs; None for all, without a mesh."""
        if not self.owners:
            return None
        owner = np.concatenate([self.owners[int(job.key)][job.index] for job in group])
        return np.flatnonzero(owner == self.number)

    def compute(self, batch: RootBatch, rows: Any) -> RootAnswer | None:
        """Compute these rows with the bits of the whole batch; None if there are none, or the computation failed.

        On a mesh an exception must not end the callback: the other devices wait for its answer.
        """
        if rows is None:
            return compute(batch)
        if not len(rows):
            return None
        try:
            return compute(part_of(with_method(batch), rows))
        except Exception:
            _log.exception("%d roots of order %d failed on host %d; the old ones stay", len(rows), batch.n, self.number)
            return None

    def of(self, out: list[Any]) -> list[Any]:
        """Return the arrays of all items, roots and facts, with zeros for the matrices of other hosts."""
        for k, owner in enumerate(self.owners):
            out[2 * k][owner != self.number] = 0
            out[2 * k + 1][owner != self.number] = 0
        return out


def dealt(shards: Shards, works: Sequence[Callable[..., Any]], stacks: Sequence[tuple[Array, ...]]) -> list[Any]:
    """Compute ``work(*stack)`` for each, a share of the rows on every device, with one gather of all results.

    `works` are functions of stacked arrays that return trees of stacked arrays, row by row. Rows are repeated where the
    devices do not divide them.
    """
    axes, size = shards.mesh.axis_names, shards.mesh.size
    rows = [len(stack[0]) for stack in stacks]
    given = [tuple(_padded(x, -len(x) % size) for x in stack) for stack in stacks]
    shapes = [jax.eval_shape(work, *stack) for work, stack in zip(works, given, strict=True)]
    kinds, structure = jax.tree.flatten(shapes)
    wide = jnp.result_type(*(kind.dtype for kind in kinds))

    def local(given: Any) -> Array:  # whole arrays come in, or their parts would spread to the rest of the program
        place = jax.lax.axis_index(axes)
        mine = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, place * (len(x) // size), len(x) // size), given)
        found = [work(*stack) for work, stack in zip(works, mine, strict=True)]
        flat = jnp.concatenate([x.astype(wide).reshape(-1) for x in jax.tree.leaves(found)])
        return jax.lax.all_gather(flat, axes)

    all_of = shards.manual(local)(given)
    parts, start = [], 0
    for kind in kinds:
        count = math.prod(kind.shape) // size
        parts.append(all_of[:, start : start + count].reshape(kind.shape).astype(kind.dtype))
        start += count
    found = jax.tree.unflatten(structure, parts)
    return [jax.tree.map(lambda x, k=k: x[:k], answer) for k, answer in zip(rows, found, strict=True)]


def _padded(x: Array, rows: int) -> Array:
    return jnp.concatenate([x, jnp.broadcast_to(x[:1], (rows, *x.shape[1:]))]) if rows else x


def on_hosts(shards: Shards, host: Callable[..., list[Any]], shapes: Sequence[Any], *args: Any) -> list[Array]:
    """Call ``host(k, *args)`` in numpy, once in process k, and return the sum of the answers of all processes.

    Every entry but one of a sum must be zero: the bits are added.
    """
    axes, numbers = shards.mesh.axis_names, np.asarray(shards.hosts)

    def local(*args: Any) -> list[Array]:
        k = jnp.asarray(numbers)[jax.lax.axis_index(axes)]

        def nothing() -> list[Array]:
            return [jnp.zeros(s.shape, s.dtype) for s in shapes]

        found = jax.lax.cond(k >= 0, lambda: call(host, shapes, k, *args, many_cpus=shards.on_cpu), nothing)
        return [_sum_of_bits(x, axes) for x in found]

    return list(shards.manual(local)(*args))


def _sum_of_bits(x: Array, axes: Any) -> Array:
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    return jax.lax.bitcast_convert_type(jax.lax.psum(bits, axes), x.dtype)
