"""RankEngine under torch.distributed: gloo, with processes of their own."""

from __future__ import annotations

import signal
import sys

import pytest

from optim.processes import run_together

pytest.importorskip("torch")


def ranks(scenario, size, limit, tmp_path):
    store = str(tmp_path / "store")
    commands = [
        [sys.executable, "-m", "optim.rank_process", scenario, str(rank), str(size), store] for rank in range(size)
    ]
    return run_together(commands, limit)


@pytest.mark.slow
def test_ddp_has_the_bits_of_every_root_on_every_rank_and_names_a_late_or_dead_rank(tmp_path):
    for rank, (code, output) in enumerate(ranks("same,groups,lost", 3, 400, tmp_path)):
        assert code == (-signal.SIGKILL if rank == 1 else 0), output[-4000:]
        assert rank == 1 or "done" in output
