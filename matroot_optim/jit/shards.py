"""The mesh of the parameters: where the arrays of a state are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from matroot_optim.arrays import Array, is_traced

#: `jax.shard_map` with callbacks inside is right from this version on.
OLDEST = (0, 8)


@dataclass(frozen=True)
class Shards:
    """The mesh of the parameters, and the sharding of each."""

    mesh: Mesh
    leaves: tuple[NamedSharding, ...]

    def __reduce__(self) -> Any:
        """Copy and pickle the numbers of the devices, since devices are not to be copied."""
        return _shards_on, (_numbers(self.mesh), tuple((_numbers(s.mesh), s.spec) for s in self.leaves))

    def sharding(self, rank: int, leaf: int | None = None) -> NamedSharding:
        """Return the sharding of an array that every device has whole, or of a leaf, spelled as jit spells it."""
        spec = PartitionSpec() if leaf is None else self.leaves[leaf].spec
        if self.mesh.explicit_axes:
            spec = PartitionSpec(*spec, *(None,) * (rank - len(spec)))
        return NamedSharding(self.mesh if leaf is None else self.leaves[leaf].mesh, spec)

    @cached_property
    def hosts(self) -> tuple[int, ...]:
        """For every device of the mesh, the number of its process if it is the first one there, else -1."""
        processes = [device.process_index for device in self.mesh.devices.flat]
        known = sorted(set(processes))
        return tuple(known.index(p) if p not in processes[:k] else -1 for k, p in enumerate(processes))

    @property
    def on_cpu(self) -> bool:
        """True if the devices are processors."""
        return bool(self.mesh.devices.flat[0].platform == "cpu")

    def fixed(self, x: Array, leaf: int | None = None) -> Array:
        """Constrain x to be whole on every device, or to the sharding of a leaf."""
        sharding = self.sharding(x.ndim, leaf)
        inside = not jax.sharding.get_abstract_mesh().empty
        return jax.lax.with_sharding_constraint(x, sharding.spec if inside else sharding)

    def manual(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return `work` as a program of one device on whole arrays; its results must be equal on all devices."""
        inside = not jax.sharding.get_abstract_mesh().empty
        mesh = None if inside else self.mesh
        spec = PartitionSpec()
        return jax.shard_map(work, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


def _numbers(mesh: Any) -> Any:
    return np.vectorize(lambda device: device.id, otypes=[int])(mesh.devices), mesh.axis_names, mesh.axis_types


def _shards_on(mesh: Any, leaves: Any) -> Shards | None:
    """Return shards on the devices with these numbers; None, as for parameters on one device, if they are not here."""
    here = {device.id: device for device in jax.devices()}

    def mesh_of(numbers: Any, names: Any, kinds: Any) -> Mesh:
        return Mesh(np.vectorize(here.__getitem__, otypes=[object])(numbers), names, axis_types=kinds)

    if not here.keys() >= set(mesh[0].ravel().tolist()):
        return None
    return Shards(mesh_of(*mesh), tuple(NamedSharding(mesh_of(*of), spec) for of, spec in leaves))


def shards_of(params: Sequence[Array]) -> Shards | None:
    """Return the mesh of the parameters and their shardings; None if they are on one device.

    The parameters are arrays or ShapeDtypeStructs; the sharding of a traced array is not known.
    """
    if jax.__version_info__ < OLDEST:
        return None
    given = [None if is_traced(x) else getattr(x, "sharding", None) for x in params]
    there = [s for s in given if isinstance(s, NamedSharding) and isinstance(s.mesh, Mesh) and s.mesh.size > 1]
    if not there:
        return None
    mesh = there[0].mesh
    whole = NamedSharding(mesh, PartitionSpec())
    return Shards(mesh, tuple(s if any(s is t for t in there) else whole for s in given))


def put(x: Any, sharding: Any) -> Array:
    """Return values of the host, the same on every process, as an array with this sharding."""
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    return jax.make_array_from_callback(np.shape(x), sharding, lambda index: np.asarray(x)[index])


def placed(x: Any, like: Array) -> Array:
    """Return x, of the host or not, with the dtype and the sharding of another array."""
    if isinstance(x, jax.Array):
        return jax.device_put(x.astype(like.dtype), like.sharding) if like.committed else x.astype(like.dtype)
    x = np.asarray(x).astype(like.dtype)
    return put(x, like.sharding) if like.committed else jax.numpy.asarray(x)


def in_use(shards: Shards | None) -> Shards | None:
    """Return the shards, but None inside a `shard_map` of the user, where arrays are those of one device."""
    return None if shards is None or jax.sharding.get_abstract_mesh().manual_axes else shards


def explicit(work: Callable[..., Any], *args: Any) -> Any:
    """Call ``work(arrays, g, ...)``, with automatic axes if an argument is on a mesh with explicit ones.

    The result must be a pair: arrays like those of the sequence `g`, and those like the dict `arrays`.
    """
    if jax.__version_info__ < OLDEST:
        return work(*args)
    kinds = [jax.typeof(x).sharding for x in jax.tree.leaves(args)]
    mesh = next((s.mesh for s in kinds if s.mesh.explicit_axes), None)
    if mesh is None:
        return work(*args)
    whole = NamedSharding(mesh, PartitionSpec())

    def sharding(x: Array | None) -> NamedSharding:
        own = whole if x is None else jax.typeof(x).sharding
        return whole if own.mesh.empty else own

    arrays, g = args[:2]
    out = [sharding(x) for x in g], {name: sharding(x) for name, x in arrays.items()}
    compiled = jax.jit(work)  # outside jit, what is new here would be on no mesh
    return jax.sharding.auto_axes(compiled, axes=mesh.explicit_axes, out_sharding=out)(*args)
