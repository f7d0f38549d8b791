"""Tables in place under owned blocks: each root is computed by one rank, which sends it to all."""

from __future__ import annotations

import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from matroot_optim import InlineEngine, RankError, Shampoo
from matroot_optim.layout.layout import make_layout
from matroot_optim.ranks.base import Alone
from matroot_optim.ranks.blocks import Shares, even_rows
from matroot_optim.ranks.part import Part
from matroot_optim.ranks.tables import TableEngine, Tables
from matroot_optim.refresh.jobs import RootBatch, RootJob
from matroot_optim.state import fresh
from optim.processes import run_together

SHAPES = {"a": (400, 32), "b": (24, 16), "c": (801, 34), "d": (401, 32)}


def shares_of(ranks, lag=0):
    layout = make_layout(Shampoo(1e-3, block_size=16), {name: np.zeros(shape) for name, shape in SHAPES.items()})
    return Shares(layout, tuple(even_rows(shape[0], ranks) for shape in SHAPES.values()), ranks, 4, lag=lag)


@pytest.mark.parametrize("ranks", [2, 3, 64, 300])
def test_all_ranks_have_the_roots_of_tables_in_one_order(ranks):
    """Though they stack their blocks in other ways, and of 300 some have no rows of a table."""
    shares, orders = shares_of(ranks), set()
    for rank in range(ranks):
        part = Part(shares, rank).layout
        tables, numbers = Tables(shares, part), iter(part.among.rows)
        jobs = [
            RootJob(stack.axis_name(axis), np.arange(stack.blocks), rows_of(stack, numbers), -1, 0.0, 1)
            for stack, axis in part.factors
        ]
        others, shared = tables.taken_from(jobs)
        told = [int(job.matrix[0, 0]) for job in shared]
        orders.add(tuple(told))
        assert told == sorted(tables.solver)
        own = [int(number) for job in others for number in job.matrix[:, 0]]
        assert all(shares.solvers_of_roots[number] == rank for number in own)
        assert sorted(own + told) == sorted(part.among.rows)
        assert [len(job.index) for job in shared] == [1] * 7
    assert len(orders) == 1


def rows_of(stack, numbers):
    """Matrices that are the numbers of their roots."""
    return np.array([[next(numbers)] for _ in range(stack.blocks)], float)


def test_a_rank_without_rows_of_a_table_steps_along():
    part = Part(shares_of(300), 299).layout
    assert [leaf.shape for leaf in part.leaves] == [(0, 16), (0, 0), (0, 12), (0, 10), (0, 16)]
    core, params = Shampoo(1e-3, block_size=16, refresh_every=2), [np.zeros(leaf.shape) for leaf in part.leaves]
    state = fresh(core, part, params)
    for grads in (params, [None] * 5, params):
        moves, state = core.advance(grads, state, params, donate=True)
    assert [x.shape for x in moves] == [x.shape for x in params]
    assert {name: x.shape for name, x in state.arrays.items() if name.endswith("statistic")} == {
        ":stack0/axis1/statistic": (4, 136),
        ":stack1/axis1/statistic": (2, 78),
        ":stack2/axis1/statistic": (1, 55),
    }


@pytest.mark.parametrize("lag", [0, 3])
def test_roots_of_tables_are_dealt_with_the_others(lag):
    shares = shares_of(4, lag)
    assert sum(shares.roots_of_tables) == 7
    assert sorted(np.bincount(shares.solvers_of_roots)) == [2, 3, 3, 3]
    assert shares_of(1).solvers_of_roots == [0] * len(shares.solvers_of_roots)


def test_copies_that_do_not_come_are_no_failure_of_a_root():
    """Under an engine that shares roots along another dimension of a mesh; the other copies go on to wait."""

    class Copies(InlineEngine):
        def collect(self, handle):
            raise RankError("rank 1 did not come")

    tables = SimpleNamespace(numbers=lambda batch: [0], solver={0: 0})
    engine = TableEngine(Alone(), Copies(), tables)
    matrix = np.ones((1, 1))
    (handle,) = engine.submit_all([RootBatch(matrix, Fraction(-1, 3), 0.0, "auto", "float64")])
    with pytest.raises(RankError, match="did not come"):
        engine.collect(handle)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "scenario"), [(2, "dealt,alike,failed"), (3, "dealt,alike,different,lost"), (4, "alike,resharded,copies")]
)
def test_tables_on_ranks(ranks, scenario, tmp_path):
    store = str(tmp_path / "store")
    commands = [
        [sys.executable, "-m", "optim.table_process", scenario, str(rank), str(ranks), store] for rank in range(ranks)
    ]
    for rank, (code, output) in enumerate(run_together(commands, 200)):
        if rank == 1 and "lost" in scenario:
            assert code == -9, output[-4000:]
            continue
        assert code == 0, output[-4000:]
        assert f"{scenario.split(',')[-1]} is done" in output
