"""The method of a root follows from the whole run, so that no rank, and no other root of a call, changes its bits."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from matroot import Tridiagonal
from matroot_optim import Shampoo
from matroot_optim.layout.layout import make_layout
from matroot_optim.ranks.blocks import Shares, even_rows
from matroot_optim.ranks.part import Part
from matroot_optim.refresh.due import due_jobs
from matroot_optim.refresh.methods import FEW, crowds
from matroot_optim.state import fresh
from optim.processes import run_together

#: Orders from 8 to 320, of which auto takes another method for a lone matrix, for a few and for many; and a table.
SHAPES = {
    **{f"a{k}": (256, 192) for k in range(6)},
    **{f"b{k}": (64, 48) for k in range(5)},
    **{f"c{k}": (130, 128) for k in range(4)},
    "d": (320, 8),
    "e": (512, 512),
    "f": (2000, 192),
}


def shares_of(opt, ranks):
    layout = make_layout(opt, {name: np.zeros(shape) for name, shape in SHAPES.items()})
    return Shares(layout, tuple(even_rows(shape[0], ranks) for shape in SHAPES.values()), ranks, 4)


@pytest.mark.parametrize("options", [{}, {"schedule": "interval"}, {"block_size": 64}, {"refresh_growth": 0.0}])
@pytest.mark.parametrize("ranks", [1, 2, 3, 40])
def test_every_rank_knows_the_method_that_one_process_takes(ranks, options):
    opt = Shampoo(1e-3, **{"refresh_every": 4, "block_size": 512, "start_step": 1, **options})
    shares = shares_of(opt, ranks)
    for step in (1, 2, 30):
        expected, found = methods_by_number(opt, shares.layout, step), {}
        for rank in range(ranks):
            found |= methods_by_number(opt, Part(shares, rank).layout, step)
        assert found == expected
        assert len(set(expected.values())) > 1 or step == 2 or "block_size" in options


def methods_by_number(opt, layout, step):
    """The method of every root that is due, by its number among all of the run."""
    numbers = np.arange(len(layout.orders)) if layout.among is None else np.array(layout.among.rows, int)
    of_stack = {stack.axis_name(axis): mine for stack, axis, mine in layout.split(numbers)}
    return {int(number): job.method for job in jobs_of(opt, layout, step) for number in of_stack[job.key][job.index]}


def jobs_of(opt, layout, step, failed=()):
    """The jobs of a step on which every parameter has had gradients."""
    state = fresh(opt, layout, [np.zeros(leaf.shape) for leaf in layout.leaves])
    arrays = {name: np.ones_like(x) if name.endswith("statistic") else x for name, x in state.arrays.items()}
    arrays["accumulated"] = np.full(len(layout.leaves), 100 * step)
    for name in failed:
        arrays[name] = np.arange(len(arrays[name]), dtype=np.int32)
    return due_jobs(opt, layout, arrays, step)[0]


def test_a_root_that_has_failed_keeps_the_method_of_the_others():
    opt = Shampoo(1e-3, block_size=512, start_step=1, schedule="interval", ridge=1e-6)
    layout = make_layout(opt, {name: np.zeros((128, 100)) for name in "abcdef"})
    together = jobs_of(opt, layout, 1)
    apart = jobs_of(opt, layout, 1, [":stack0/axis0/failures"])
    assert len(together) == 2
    assert len({job.regularization for job in apart}) == 6
    assert together[0].method == Tridiagonal(lanes=True)
    assert {job.method for job in apart if job.key == together[0].key} == {together[0].method}


def test_the_method_leaves_nothing_open_and_says_no_number():
    opt = Shampoo(1e-3, block_size=512, start_step=1)
    for job in jobs_of(opt, shares_of(opt, 1).layout, 1):
        assert not isinstance(job.method, Tridiagonal) or job.method.lanes is not None
        assert job.method.reason == ""
    named = replace(opt, root_method="eigen")
    assert {job.method.name for job in jobs_of(named, shares_of(named, 1).layout, 1)} == {"eigen"}


def test_other_options_and_orders_are_no_company():
    """The numbers are those of roots that one call can compute."""
    opt = Shampoo(1e-3, groups={"x*": {"ridge": 1e-2}}, block_size=512)
    layout = make_layout(opt, {name: np.zeros((64, 48), kind) for name, kind in TYPES.items()})
    assert {name: set(x.tolist()) for name, x in crowds(layout, 1, "interval").items()} == {
        f":stack{k}/axis{axis}": {count} for k, count in enumerate((3, 2, 1)) for axis in (0, 1)
    }


TYPES = {"a": "f4", "b": "f4", "c": "f4", "d": "f8", "e": "f8", "x": "f8"}


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (5, 5), (8, 5), (10, 5), (11, 6), (40, 20)])
def test_above_a_few_half_of_them_count(count, expected):
    layout = make_layout(Shampoo(1e-3), {str(k): np.zeros((16, 12)) for k in range(count)})
    assert set(crowds(layout, 10, "interval")[":stack0/axis0"].tolist()) == {expected}
    assert FEW == 5


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "scenario"), [(2, "owned,dealt,tables"), (4, "owned,tables")])
def test_the_bits_of_one_process_at_all_orders(ranks, scenario, tmp_path):
    pytest.importorskip("torch")
    store = str(tmp_path / "store")
    commands = [
        [sys.executable, "-m", "optim.order_process", scenario, str(rank), str(ranks), store] for rank in range(ranks)
    ]
    for code, output in run_together(commands, 200):
        assert code == 0, output[-4000:]
        assert "tables is done" in output
