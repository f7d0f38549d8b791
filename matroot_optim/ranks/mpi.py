"""The ranks of a communicator of mpi4py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from matroot_optim.ranks.base import RankError

#: Longest sleep between two looks at a request, in seconds.
POLL = 2e-3


class MPIRanks:
    """The ranks of a communicator, connected by a duplicate of it, which is made at the first exchange.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    timeout : float
        Seconds.
    """

    def __init__(self, comm: Any, timeout: float) -> None:
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.timeout = timeout
        self._of = comm
        self._own: Any = None
        self._count = 0

    def gather(self, mine: Any, sizes: Sequence[int]) -> list[Any]:
        self._count += 1
        end = time.monotonic() + self.timeout
        if self._own is None:
            self._own, request = self._of.Idup()
            self._wait(request, end)
        found = np.empty(sum(sizes), np.uint8)
        starts = np.cumsum([0, *sizes])
        request = self._own.Iallgatherv(np.ascontiguousarray(mine), [found, list(sizes), starts[:-1].tolist(), None])
        self._wait(request, end)
        return [found[a:b] for a, b in pairwise(starts)]

    def _wait(self, request: Any, end: float) -> None:
        pause = 1e-5
        while not request.Test():
            if time.monotonic() > end:
                raise RankError(
                    f"a rank of {self.size} did not come to exchange {self._count} within {self.timeout:g} s, or has "
                    f"ended; rank {self.rank} waited"
                )
            time.sleep(pause)
            pause = min(2 * pause, POLL)
