"""The roots of tables, of which every rank has some rows: one rank computes each root, and all ranks get it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from matroot_optim.layout.layout import Layout
from matroot_optim.ranks.base import Ranks
from matroot_optim.ranks.blocks import Shares
from matroot_optim.ranks.engine import RankEngine, Shared
from matroot_optim.refresh.engines import Engine
from matroot_optim.refresh.jobs import RootBatch, RootJob
from matroot_optim.refresh.shares import rows_of


class Tables:
    """The roots of tables among those of the part of a run that one rank has.

    Ranks stack their blocks in other ways, so such a root goes by its number among all roots of the run.

    Parameters
    ----------
    shares : Shares
    part : Layout
        Of one rank.

    Attributes
    ----------
    solver : dict
        The rank that computes a root, by the number of the root; empty where there is one rank.
    """

    def __init__(self, shares: Shares, part: Layout) -> None:
        solvers = zip(shares.solvers_of_roots, shares.roots_of_tables, strict=True)
        self.solver = {k: rank for k, (rank, of_table) in enumerate(solvers) if of_table and shares.ranks > 1}
        assert part.among is not None
        rows = np.asarray(part.among.rows, np.int64)
        self._numbers = {stack.axis_name(axis): mine for stack, axis, mine in part.split(rows)}

    def taken_from(self, jobs: Sequence[RootJob]) -> tuple[list[RootJob], list[RootJob]]:
        """Return the jobs without roots of tables, and a job for each of these, in the order of all ranks."""
        if not self.solver:
            return list(jobs), []
        others: list[RootJob] = []
        found: list[tuple[int, RootJob]] = []
        for job in jobs:
            numbers = self._numbers[job.key][job.index].tolist()
            shared = np.array([number in self.solver for number in numbers], bool)
            if not shared.all():
                others.append(_rows(job, np.flatnonzero(~shared)) if shared.any() else job)
            found += [(numbers[k], _rows(job, np.array([k]))) for k in np.flatnonzero(shared).tolist()]
        return others, [job for _, job in sorted(found, key=lambda pair: pair[0])]

    def numbers(self, batch: RootBatch) -> Iterator[int]:
        """Iterate over the numbers of the roots of a batch of such jobs."""
        for key, index in batch.members:
            yield from self._numbers[key][np.frombuffer(index, np.int64)].tolist()


def _rows(job: RootJob, at: Any) -> RootJob:
    """Return the job of some of its matrices."""
    return replace(job, index=job.index[at], matrix=rows_of(job.matrix, at))


class TableEngine(RankEngine):
    """Engine of roots of tables, whose solvers are given.

    Parameters
    ----------
    ranks : Ranks
    engine : engine
        Computes the roots of this rank, and gives the lag. It may be a `RankEngine` along another dimension of a mesh.
    tables : Tables
    """

    def __init__(self, ranks: Ranks, engine: Engine, tables: Tables) -> None:
        super().__init__(ranks)
        self.engine = engine
        self._tables = tables

    def submit_all(self, batches: Sequence[RootBatch], counts: bytes = b"", rates: str = "") -> list[Shared]:
        """Start this rank's part of the batches; what else the ranks could compare, they do in every step."""
        return super().submit_all([replace(x, members=tuple(self._tables.numbers(x))) for x in batches])

    def _owners(self, batches: Sequence[RootBatch]) -> Any:
        return np.array([self._tables.solver[number] for batch in batches for number in batch.members], np.int64)
