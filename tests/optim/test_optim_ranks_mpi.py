"""RankEngine on a communicator of mpi4py."""

from __future__ import annotations

import os
import sys

import pytest

from optim.processes import run_together


@pytest.mark.slow
def test_the_same_bits_under_mpiexec_and_a_rank_that_does_not_come():
    pytest.importorskip("mpi4py")
    mpiexec = os.path.join(os.path.dirname(sys.executable), "mpiexec")
    if not os.path.exists(mpiexec):
        pytest.skip("mpiexec is not installed beside Python")
    command = [mpiexec, "-n", "2", sys.executable, "-m", "optim.mpi_process"]
    ((code, output),) = run_together([command], 400)
    assert "same on 2 ranks" in output, output[-4000:]
    assert code == 0, output[-4000:]
