"""The processes of a JAX run as ranks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from matroot_optim.ranks.base import RankError


class JaxRanks:
    """The processes that `jax.distributed.initialize` has connected; they exchange over their devices.

    Parameters
    ----------
    timeout : float
        Seconds. An exchange that takes longer leaves its thread behind, because JAX cannot end it.
    """

    def __init__(self, timeout: float) -> None:
        self.rank, self.size = jax.process_index(), jax.process_count()
        self.timeout = timeout
        self._count = 0

    def gather(self, mine: Any, sizes: Sequence[int]) -> list[Any]:
        self._count += 1
        padded = np.zeros(max(sizes), np.uint8)
        padded[: len(mine)] = mine
        found: list[Any] = []

        def work() -> None:
            try:
                found.append(np.asarray(multihost_utils.process_allgather(padded)).reshape(self.size, -1))
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(self.timeout)
        if not found:
            raise RankError(
                f"a process of {self.size} did not come to exchange {self._count} within {self.timeout:g} s; "
                f"process {self.rank} waited"
            )
        if isinstance(found[0], Exception):
            raise RankError(f"exchange {self._count} of {self.size} processes failed on {self.rank}") from found[0]
        return [row[:size] for row, size in zip(found[0], sizes, strict=True)]
