"""The engine whose ranks share the roots: each root is computed by one rank and sent to all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from matroot_optim.ranks.base import RankError, Ranks
from matroot_optim.ranks.compare import check
from matroot_optim.ranks.find import ranks_of
from matroot_optim.ranks.wire import HEAD_BYTES, Head, answer_bytes, from_bytes, head_of, to_bytes
from matroot_optim.refresh.engines import Clock, Engine, InlineEngine
from matroot_optim.refresh.jobs import FACTS, Failure, RootAnswer, RootBatch, compute
from matroot_optim.refresh.methods import with_method
from matroot_optim.refresh.sent import told
from matroot_optim.refresh.shares import Deal, part_of
from matroot_optim.refresh.warm import WarmEngine


class RankClock(Clock):
    """A clock that counts too: own roots, exchanges, and bytes that each other rank got from this one."""

    def __init__(self) -> None:
        super().__init__()
        self.roots = 0
        self.exchanges = 0
        self.bytes_sent = 0

    def __repr__(self) -> str:
        return f"{super().__repr__()}; {self.roots} roots, {self.exchanges} exchanges, {self.bytes_sent} bytes sent"


class Round:
    """The batches of one step, which are dealt and exchanged together."""

    def __init__(self, batches: Sequence[RootBatch], owners: Sequence[Any], counts: bytes, rates: str) -> None:
        self.batches = batches
        self.owners = owners
        self.counts = counts
        self.rates = rates
        self.handles: list[Any] = []
        self.answers: list[RootAnswer | Failure] | None = None

    def rows(self, k: int, rank: int) -> Any:
        """Return the rows of batch k that a rank owns."""
        return np.flatnonzero(self.owners[k] == rank)


@dataclass(eq=False)
class Shared:
    """The handle of one batch of a round."""

    round: Round
    number: int
    alone: RootAnswer | Failure | None = None


class RankEngine:
    """Engine that deals the roots to the ranks of a run: each is computed once, by its owner, and sent to all.

    For runs whose ranks hold the same parameters and get the same gradients, like DistributedDataParallel. Every rank
    keeps all statistics and roots; only the work on roots is divided. The numbers are those of the inner engine on
    one rank, bit by bit, for any number of ranks with the same processor and libraries.

    Make it on every rank. A step with due roots has one exchange, which starts with a comparison: a rank that has
    other parameters, options or statistics, or is at another step, is an error that names it, on all ranks. A failure
    of an owner is a failure on all ranks: the batch's old roots stay, and are counted as skipped.

    Parameters
    ----------
    group : None, "jax", process group, 1-D device mesh, mpi4py communicator, or Ranks
        None is the world of torch.distributed, the processes of JAX, or this process if it was started alone. Any
        object with ``rank``, ``size`` and ``gather(mine, sizes)`` will do.
    engine : engine, optional
        Computes this rank's roots, and gives the lag; None means ``InlineEngine()``.
    timeout : float
        Seconds that an exchange waits for a rank; it should be longer than the longest pause of one rank, for example
        for a checkpoint.

    Raises
    ------
    RankError
        In a step: a rank differs, is late, or has ended. The optimizer cannot go on.
    TypeError
        `group` or `engine` is none of these. `WarmEngine` is not: the owner of a root changes from step to step.

    Notes
    -----
    A save on one rank alone returns: roots under way are computed by that rank for the file.

    Examples
    --------
    >>> from matroot_optim import RankEngine, Shampoo
    >>> Shampoo(1e-3, engine=RankEngine()).engine
    RankEngine(lag=0, timeout=600.0)
    """

    def __init__(self, group: Any = None, engine: Engine | None = None, *, timeout: float = 600.0) -> None:
        self.engine: Engine = InlineEngine() if engine is None else engine
        if isinstance(engine, WarmEngine | RankEngine) or not hasattr(self.engine, "collect"):
            raise TypeError(f"engine must be an InlineEngine or an ExecutorEngine, got {engine!r}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
            raise ValueError(f"timeout must be a number of seconds > 0, got {timeout!r}")
        self.timeout = float(timeout)
        self.clock = RankClock()
        self._group = group
        self._ranks = None if group is None else ranks_of(group, self.timeout)
        self._deal: Deal | None = None
        self._broken: RankError | None = None

    @property
    def lag(self) -> int:
        """Steps between submission and use, the inner engine's."""
        return self.engine.lag

    @property
    def host_only(self) -> bool:
        """True if the inner engine takes numpy arrays only."""
        return bool(getattr(self.engine, "host_only", False))

    @property
    def ranks(self) -> Ranks:
        """The processes of the run."""
        if self._ranks is None:
            self._ranks = ranks_of(self._group, self.timeout)
        return self._ranks

    def submit(self, batch: RootBatch) -> Shared:
        """Start this rank's part of a batch that is a step's only one."""
        return self.submit_all([batch])[0]

    def submit_all(self, batches: Sequence[RootBatch], counts: bytes = b"", rates: str = "") -> list[Shared]:
        """Start this rank's part of all batches of a step; nothing is sent. The ranks compare `counts` and `rates`."""
        if not batches:
            return []
        whole = [with_method(batch) for batch in batches]
        owners = self._owners(whole)
        new = Round(whole, np.split(owners, np.cumsum([len(batch.matrix) for batch in whole])[:-1]), counts, rates)
        for k, batch in enumerate(whole):
            rows = new.rows(k, self.ranks.rank)
            self.clock.roots += len(rows)
            new.handles.append(self._started(part_of(batch, rows)) if len(rows) else None)
        return [Shared(new, k) for k in range(len(whole))]

    def _owners(self, batches: Sequence[RootBatch]) -> Any:
        """Return the rank that computes each root of the batches."""
        if self._deal is None:
            self._deal = Deal(self.ranks.size, self.lag)
        return self._deal([batch.n for batch in batches for _ in range(len(batch.matrix))])

    def _started(self, part: RootBatch) -> Any:
        try:
            return self.engine.submit(part)
        except Exception as error:  # the other ranks learn of it in the exchange
            return Failure(told(error))

    def collect(self, handle: Shared) -> RootAnswer | Failure:
        """Return the answer of a batch; the first batch of a round exchanges all of them, on all ranks together."""
        current = handle.round
        if current.answers is None:
            if self._broken is not None:
                raise self._broken
            begin = time.perf_counter()
            parts = self._parts(current)
            try:
                current.answers = self._exchange(current, parts)
            except RankError as error:
                self._broken = error
                raise
            self.clock.waited_seconds += time.perf_counter() - begin
            count = Counter(isinstance(answer, Failure) for answer in current.answers)
            self.clock.answers += count[False]
            self.clock.failures += count[True]
            current.handles, current.batches = [], []
        return current.answers[handle.number]

    def collect_alone(self, handle: Shared) -> RootAnswer | Failure:
        """Return the answer of a batch without the other ranks; this rank computes all of its roots."""
        if handle.round.answers is not None:
            return handle.round.answers[handle.number]
        if handle.alone is None:
            try:
                handle.alone = compute(handle.round.batches[handle.number])
            except Exception as error:
                handle.alone = Failure(told(error))
        return handle.alone

    def _parts(self, current: Round) -> list[RootAnswer | Failure | None]:
        """Wait for this rank's answers, one for each batch; None where it owns no root."""
        parts: list[RootAnswer | Failure | None] = []
        for k, handle in enumerate(current.handles):
            part = handle if handle is None or isinstance(handle, Failure) else self._collected(handle)
            if isinstance(part, RootAnswer):
                self.clock.root_seconds += part.seconds
                rows, width = len(current.rows(k, self.ranks.rank)), current.batches[k].answer_shape[1]
                if tuple(part.root.shape) != (rows, width):
                    part = Failure(f"the roots have shape {tuple(part.root.shape)} and not {(rows, width)}")
            parts.append(part)
        return parts

    def _collected(self, handle: Any) -> RootAnswer | Failure:
        try:
            return self.engine.collect(handle)
        except RankError:  # of an inner engine that shares roots along another dimension of a mesh
            raise
        except Exception as error:  # as in `_started`
            return Failure(told(error))

    def _exchange(self, current: Round, parts: Sequence[RootAnswer | Failure | None]) -> list[RootAnswer | Failure]:
        """Send this rank's roots, and return the answers put together from those of all ranks."""
        ranks, batches = self.ranks, current.batches
        failures = [(k, part.reason) for k, part in enumerate(parts) if isinstance(part, Failure)]
        head = head_of(batches, current.owners, current.counts, current.rates)._replace(
            seconds=sum(part.seconds for part in parts if isinstance(part, RootAnswer)),
            failed=sum(1 << k for k in {min(k, 63) for k, _ in failures}),
            reason=failures[0][1] if failures else "",
        )
        heads = [Head.from_bytes(given) for given in ranks.gather(head.to_bytes(), [HEAD_BYTES] * ranks.size)]
        check(heads)
        good = [k for k in range(len(batches)) if not any(other.has_failed(k) for other in heads)]
        sizes = [sum(answer_bytes(batches[k], len(current.rows(k, rank))) for k in good) for rank in range(ranks.size)]
        own = [piece for k in good if isinstance(part := parts[k], RootAnswer) for piece in to_bytes(part)]
        mine = np.concatenate([np.empty(0, np.uint8), *own])
        given = ranks.gather(mine, sizes) if any(sizes) else []
        self.clock.exchanges += 1
        self.clock.bytes_sent += (HEAD_BYTES + len(mine)) * (ranks.size > 1)
        seconds = max(other.seconds for other in heads) / len(batches)
        answers: list[RootAnswer | Failure] = [_failure(heads, k) for k in range(len(batches))]
        starts = [0] * ranks.size
        for k in good:
            answers[k] = _put_together(current, k, given, starts, seconds)
        return answers

    def close(self) -> None:
        """Close the inner engine."""
        if hasattr(self.engine, "close"):
            self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        if self._group is not None:
            raise TypeError(f"{self!r} must have the group None to be pickled, got {self._group!r}")
        return {"engine": self.engine, "timeout": self.timeout}

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.__init__(None, values["engine"], timeout=values["timeout"])  # type: ignore[misc]

    def __copy__(self) -> Self:
        return type(self)(self._group, self.engine, timeout=self.timeout)

    def __deepcopy__(self, memo: Any) -> Self:
        """Copy the engine; the group stays the same, and the copy exchanges on a connection of its own."""
        from copy import deepcopy

        return type(self)(self._group, deepcopy(self.engine, memo), timeout=self.timeout)

    def __repr__(self) -> str:
        return f"RankEngine(lag={self.lag}, timeout={self.timeout})"


def _failure(heads: Sequence[Head], k: int) -> Failure:
    return Failure(
        "; ".join(f"rank {rank}: {head.reason}" for rank, head in enumerate(heads) if head.has_failed(k)) or "not sent"
    )


def _put_together(current: Round, k: int, given: Sequence[Any], starts: list[int], seconds: float) -> RootAnswer:
    """Return the answer to batch k from the bytes of all ranks; move each rank's start to its next batch."""
    batch, found = current.batches[k], {}
    for rank, start in enumerate(starts):
        rows = current.rows(k, rank)
        if not len(rows):
            continue
        starts[rank] = start + answer_bytes(batch, len(rows))
        for name, values in from_bytes(given[rank][start : starts[rank]], batch, len(rows)).items():
            if name not in found:
                found[name] = np.empty((len(batch.matrix), *values.shape[1:]), values.dtype)
            found[name][rows] = values
    return RootAnswer(found["root"], {name: found[name] for name in FACTS}, seconds)
