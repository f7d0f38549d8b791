"""Owned blocks under fully_shard and data parallelism, with processes of their own over gloo."""

from __future__ import annotations

import sys

import pytest

from optim.processes import run_together

pytest.importorskip("torch")

pytestmark = pytest.mark.slow


def run(scenario, size, folder, limit=120):
    store = folder / f"store-{scenario}-{size}"
    commands = [
        [sys.executable, "-m", "optim.shard_process", scenario, str(rank), str(size), str(store)]
        for rank in range(size)
    ]
    found = run_together(commands, limit)
    for code, output in found:
        assert code == 0, output[-4000:]
        assert "done" in output
    return found[0][1]


def test_the_numbers_of_one_process_the_traffic_and_the_refusals(tmp_path):
    run("numbers,traffic,trained,refusals", 2, tmp_path)


def test_a_checkpoint_of_two_ranks_goes_on_with_four_and_with_one(tmp_path):
    run("save", 2, tmp_path)
    for size in (4, 1):
        run("load", size, tmp_path)
