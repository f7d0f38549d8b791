"""Owned blocks under fully_shard and data parallelism, with processes of their own over gloo."""

from __future__ import annotations

import sys

import pytest

from optim.processes import run_together

pytest.importorskip("torch")


@pytest.mark.slow
def test_owned_blocks_on_two_ranks(tmp_path):
    scenario, store = "numbers,changed,traffic,tall,trained,thawed,refusals,reshard", str(tmp_path / "store")
    commands = [[sys.executable, "-m", "optim.shard_process", scenario, str(rank), "2", store] for rank in range(2)]
    for code, output in run_together(commands, 400):
        assert code == 0, output[-4000:]
        assert "done" in output
