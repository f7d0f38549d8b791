"""The ranks that a group of the user stands for."""

from __future__ import annotations

import os
import sys
from typing import Any

from matroot_optim.ranks.base import Alone, Ranks

#: Variables in which launchers give the number of processes.
LAUNCHERS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def ranks_of(group: Any, timeout: float) -> Ranks:
    """Return the ranks that `group` stands for.

    Parameters
    ----------
    group : None, "jax", process group, device mesh, communicator or Ranks
        None: the world of torch.distributed, the processes of JAX, or this process if it was started alone.
    timeout : float
        Seconds.

    Raises
    ------
    TypeError, ValueError
        `group` is nothing of these, or a mesh of several dimensions.
    RuntimeError
        A launcher started several processes, and they are not connected yet.
    """
    distributed: Any = sys.modules.get("torch.distributed")
    there = distributed is not None and distributed.is_available()
    if group is None:
        if there and distributed.is_initialized():
            return ranks_of(distributed.group.WORLD, timeout)
        if _jax_is_connected():
            return ranks_of("jax", timeout)
        several = next((name for name in LAUNCHERS if os.environ.get(name, "1") not in ("", "1")), None)
        if several is not None:
            raise RuntimeError(
                f"{several} says that there are {os.environ[several]} processes, and they are not connected: call "
                "torch.distributed.init_process_group or jax.distributed.initialize first, or give the communicator, "
                "as in RankEngine(MPI.COMM_WORLD)"
            )
        return Alone()
    if isinstance(group, str) and group == "jax":
        from matroot_optim.ranks.jax_processes import JaxRanks

        return JaxRanks(timeout)
    if there and isinstance(group, distributed.ProcessGroup):
        from matroot_optim.ranks.torch_group import TorchRanks

        return TorchRanks(group, timeout)
    if hasattr(group, "get_group") and hasattr(group, "mesh_dim_names"):
        if group.ndim != 1:
            raise ValueError(f"a device mesh must have one dimension, got {group!r}; give one, as in mesh['data']")
        return ranks_of(group.get_group(), timeout)
    if hasattr(group, "Get_rank") and hasattr(group, "Iallgatherv"):
        from matroot_optim.ranks.mpi import MPIRanks

        return MPIRanks(group, timeout)
    if isinstance(group, Ranks) and callable(group.gather):
        return group
    raise TypeError(
        "group must be None, 'jax', a process group or a 1-D device mesh of torch, a communicator of mpi4py, or an "
        f"object with rank, size and gather, got {group!r}"
    )


def _jax_is_connected() -> bool:
    jax: Any = sys.modules.get("jax")
    connected = getattr(jax.distributed, "is_initialized", None) if jax is not None else None
    return connected is not None and bool(connected())
