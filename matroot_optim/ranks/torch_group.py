"""The ranks of a process group of torch, connected by a gloo group of their own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from matroot_optim.ranks.base import RankError

#: After a failure, the seconds in which the others may report themselves.
PATIENCE = 3.0


def gathered(mine: Any, sizes: Sequence[int], group: Any, device: Any) -> list[Any]:
    """Send bytes to all ranks of a group and return those of every rank; on the way they are on a device."""
    found = [torch.empty(size, dtype=torch.uint8, device=device) for size in sizes]
    found[group.rank()] = torch.from_numpy(np.array(mine)).to(device)  # a copy that torch may write to
    # One broadcast for each rank that has something: gloo gathers only equal sizes, and padding costs more.
    members = dist.get_process_group_ranks(group)
    works = [
        dist.broadcast(x, members[rank], group=group, async_op=True) for rank, x in enumerate(found) if sizes[rank]
    ]
    for work in works:
        work.wait()
    return [x.cpu().numpy() for x in found]


class GroupRanks:
    """The ranks of a process group, which send bytes as tensors on a device, over the group itself.

    Its errors and its time limit are those of the group.

    Parameters
    ----------
    group : ProcessGroup
    device : device
    """

    def __init__(self, group: Any, device: Any) -> None:
        self.rank, self.size = group.rank(), group.size()
        self._group, self._device = group, device

    def gather(self, mine: Any, sizes: Sequence[int]) -> list[Any]:
        return gathered(mine, sizes, self._group, self._device)


class TorchRanks:
    """The ranks of a process group.

    The bytes are in host memory, so they go over gloo, whatever backend the group has. The gloo group is made at the
    first exchange; it has its own time limit, and the users' collectives cannot mix with its own.

    Parameters
    ----------
    group : ProcessGroup
    timeout : float
        Seconds.
    """

    def __init__(self, group: Any, timeout: float) -> None:
        self.rank, self.size = group.rank(), group.size()
        self.timeout = timeout
        self._of = group
        self._own: Any = None
        self._count = 0

    def gather(self, mine: Any, sizes: Sequence[int]) -> list[Any]:
        self._count += 1
        begin = time.monotonic()
        try:
            return self._gather(mine, sizes)
        except (RuntimeError, ValueError) as error:  # torch's DistBackendError and DistStoreError are RuntimeErrors
            raise RankError(self._told(error, time.monotonic() - begin)) from error

    def _gather(self, mine: Any, sizes: Sequence[int]) -> list[Any]:
        if self._own is None:
            members = dist.get_process_group_ranks(self._of)
            limit = timedelta(seconds=self.timeout)
            self._own = dist.new_group(members, limit, backend="gloo", use_local_synchronization=True)
        return gathered(mine, sizes, self._own, "cpu")

    def _told(self, error: Exception, seconds: float) -> str:
        absent = self._absent()
        if absent:
            who = f"rank {absent[0]}" if len(absent) == 1 else f"ranks {', '.join(map(str, absent))}"
        else:
            who = "a rank"
        return (
            f"{who} of {self.size} did not come to exchange {self._count} or has ended; rank {self.rank} waited "
            f"{seconds:.1f} s of at most {self.timeout:g} s. torch says: {str(error)[:300]}"
        )

    def _absent(self) -> list[int]:
        """Return the ranks that do not report this failure in the store of the run; none if it cannot be reached."""
        try:
            store = self._of.get_group_store()
            store.set_timeout(timedelta(seconds=PATIENCE))
            store.set(f"matroot/{self._count}/{self.rank}", "here")
            end, absent = time.monotonic() + PATIENCE, list(range(self.size))
            while absent and time.monotonic() < end:
                absent = [rank for rank in absent if not store.check([f"matroot/{self._count}/{rank}"])]
                time.sleep(0.05)
            return absent
        except (RuntimeError, ValueError):
            return []
