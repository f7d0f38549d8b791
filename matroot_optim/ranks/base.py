"""The processes of one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np


class RankError(RuntimeError):
    """A rank is late, has ended, or differs from the others. The run cannot go on; start it again from a checkpoint."""


@runtime_checkable
class Ranks(Protocol):
    """Protocol of the processes of one run.

    Attributes
    ----------
    rank, size : int
        The number of this process, and the number of processes.
    """

    rank: int
    size: int

    def gather(self, mine: Any, sizes: Sequence[int]) -> list[Any]:
        """Send bytes to all ranks and return those of every rank, in their order; all ranks call this together.

        Parameters
        ----------
        mine : uint8 array
        sizes : sequence of int
            Number of bytes of every rank, known to all of them.

        Raises
        ------
        RankError
            A rank does not come within the time limit, or has ended.
        """


class Alone:
    """The only process of a run."""

    rank, size = 0, 1

    def gather(self, mine: Any, sizes: Sequence[int]) -> list[Any]:
        return [np.asarray(mine)]
