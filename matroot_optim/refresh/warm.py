"""Roots updated from the previous roots: an engine on `matroot.RootTracker`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matroot import RootTracker
from matroot_optim.arrays import cast
from matroot_optim.refresh.engines import InlineEngine
from matroot_optim.refresh.jobs import RootAnswer, RootBatch, answered, compute
from matroot_optim.step.statistics import unpack


class WarmEngine(InlineEngine):
    """Engine that updates roots to first order from the eigenvectors of the last full solve, in the training thread.

    For large blocks and statistics that change little between two roots (n >= 128, beta2 = 0.999), an update costs a
    few products. If a bound on the relative error of an update exceeds `rtol`, the root is solved in full.

    The trackers belong to the engine and not to the state: a resumed run starts with full solves and agrees with the
    uninterrupted run to `rtol`, not bitwise. The trackers hold 3 n^2 float64 numbers for every matrix.

    Parameters
    ----------
    lag : int
        Steps between submission and use.
    rtol : float
        Allowed relative error of a root.

    Examples
    --------
    >>> from matroot_optim import Shampoo, WarmEngine
    >>> Shampoo(1e-3, engine=WarmEngine(rtol=1e-3)).engine
    WarmEngine(lag=0, rtol=0.001)
    """

    def __init__(self, lag: int = 0, *, rtol: float = 1e-3) -> None:
        super().__init__(lag)
        RootTracker(2, rtol=rtol)  # checks rtol
        self.rtol = rtol
        self._trackers: dict[Any, tuple[Any, RootTracker]] = {}

    def begin(self, batch: RootBatch) -> Callable[[], RootAnswer]:
        answer = self._answer(batch)
        return lambda: answer

    def _answer(self, batch: RootBatch) -> RootAnswer:
        if batch.task != "root":
            return compute(batch)
        key = (batch.members, batch.matrix.shape, batch.exponent, batch.dtype)
        rule, tracker = self._trackers.get(key, (None, None))
        if tracker is None or rule != batch.regularization:  # another ridge gives another matrix
            # A^{-a/p} is the a-th power of the root A^{-1/p}, with a times its relative error.
            rtol = (1 + self.rtol) ** (-1 / batch.exponent.numerator) - 1
            tracker = RootTracker(batch.exponent.denominator, rtol=rtol, regularization=batch.regularization)
            self._trackers[key] = batch.regularization, tracker
        update = tracker.update
        return answered(batch, lambda: update(cast(unpack(batch.matrix), batch.dtype)))

    @property
    def counts(self) -> dict[str, int]:
        """Number of roots by origin: "first order", "refined", "full", "failed"."""
        total: dict[str, int] = {}
        for _, tracker in self._trackers.values():
            for way, count in tracker.counts.items():
                total[way] = total.get(way, 0) + count
        return total

    def __repr__(self) -> str:
        return f"WarmEngine(lag={self.lag}, rtol={self.rtol})"
