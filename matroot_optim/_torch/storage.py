"""The rows of a parameter that this rank stores: those of a DTensor of `fully_shard`, or all of a plain tensor."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch

from matroot_optim.ranks.blocks import Rows, even_rows


def is_dtensor(x: Any) -> bool:
    """Return True for a DTensor; its module is imported only by those who have one."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(x, kind)


def sharding(x: Any) -> int | None:
    """Return the mesh dimension along which dimension 0 of a DTensor is sharded; None if it is whole everywhere.

    Raises
    ------
    TypeError
        The placements are others.
    """
    from torch.distributed.tensor import Replicate, Shard

    found = [k for k, placement in enumerate(x.placements) if not isinstance(placement, Replicate)]
    if not found:
        return None
    if len(found) > 1 or type(x.placements[found[0]]) is not Shard or x.placements[found[0]].dim != 0:
        raise TypeError(f"{tuple(x.placements)}")
    return found[0]


def is_served(x: Any) -> bool:
    """Return True for a DTensor whose rows are sharded along one dimension of its mesh, or not at all."""
    try:
        sharding(x)
    except TypeError:
        return False
    return True


def group_of(shard: Any, params: Iterable[Any]) -> Any:
    """Return the process group among which blocks are dealt.

    Parameters
    ----------
    shard : True, process group, or 1-D device mesh
        True: the mesh dimension along which parameters are sharded, or the world.
    params : iterable of tensors

    Raises
    ------
    TypeError, ValueError
        Parameters are sharded along several mesh dimensions, or `shard` is none of these.
    RuntimeError
        The processes are not connected.
    """
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError("shard needs connected processes: call torch.distributed.init_process_group first")
    along = {(x.device_mesh, k) for x in params if is_dtensor(x) for k in [sharding(x)] if k is not None}
    if len(along) > 1:
        raise ValueError(f"all parameters must be sharded along one mesh dimension, got {len(along)} of them")
    if shard is not True and hasattr(shard, "get_group") and hasattr(shard, "mesh_dim_names"):
        if shard.ndim != 1:
            raise ValueError(f"a device mesh must have one dimension, got {shard!r}; give one, as in mesh['data']")
        shard = shard.get_group()
    if shard is not True and not isinstance(shard, dist.ProcessGroup):
        raise TypeError(f"shard must be a bool, a process group or a device mesh of one dimension, got {shard!r}")
    own = next((mesh.get_group(k) for mesh, k in along), None)
    if (
        own is not None
        and shard is not True
        and dist.get_process_group_ranks(own) != dist.get_process_group_ranks(shard)
    ):
        raise ValueError("shard must be the group along which the parameters are sharded, got another one")
    if own is not None:
        return own
    return dist.group.WORLD if shard is True else shard


def check_devices(group: Any, params: Iterable[Any]) -> None:
    """Raise if the local parts of parameters are not all on one device, or the group has no backend for it.

    Raises
    ------
    ValueError
    """
    import torch.distributed as dist

    devices = sorted({str(local(x).device) for x in params})
    if len(devices) > 1:
        raise ValueError(f"with owned blocks, all parameters of a rank must be on one device, got {', '.join(devices)}")
    known = str(dist.get_backend_config(group))  # "cpu:gloo,cuda:nccl"
    served = [pair.partition(":")[0] for pair in known.split(",")]
    for device in devices:
        if torch.device(device).type not in served:
            raise ValueError(
                f"the process group must have a backend for parameters on {device}, it has {known}; for parameters "
                'that are kept on the CPU beside a GPU, call init_process_group("cpu:gloo,cuda:nccl")'
            )


def rows_of(x: Any, ranks: int) -> Rows:
    """Return the rows of every rank; None if each has all of them."""
    if not is_dtensor(x) or sharding(x) is None:
        return None
    return even_rows(x.shape[0], ranks)


def local(x: Any) -> Any:
    """Return the rows that this rank stores, as a tensor that shares memory with them."""
    return x.detach().to_local() if is_dtensor(x) else x.detach()


def placed_like(p: Any, stored: Any) -> Any:
    """Return a tensor of the shape of the parameter from the rows that this rank stores."""
    if not is_dtensor(p):
        return stored.reshape(p.shape)
    from torch.distributed.tensor import DTensor

    rows = stored.reshape(local(p).shape)
    return DTensor.from_local(
        rows, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=_strides(p.shape)
    )


def stored_like(p: Any, value: Any, rows: Rows, rank: int) -> Any:
    """Return the rows that this rank stores, of a tensor of the shape of the parameter."""
    if is_dtensor(value):
        return local(value)
    value = torch.as_tensor(value, device=local(p).device)
    return value if rows is None else value[slice(*rows[rank])]


def _strides(shape: Any) -> tuple[int, ...]:
    found, stride = [], 1
    for n in reversed(shape):
        found.append(stride)
        stride *= n
    return tuple(reversed(found))
