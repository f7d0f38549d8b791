"""The scripts of the page on many ranks run, are short, and give the same numbers for any number of ranks."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from optim.processes import ABORTED, run_together

SCRIPTS = Path(__file__).parents[2] / "docs" / "guide" / "scripts"


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_is_short(path):
    assert len(path.read_text().splitlines()) < 50


def test_no_process_outlives_its_test():
    """Neither a child of a process that ended, nor one of a process that was late, nor one with much to say."""
    child = "sleep 600 & echo $!; "
    found = run_together([["sh", "-c", child + rest] for rest in ("exit 3", "wait", "yes | head -c 200000")], 2)
    assert [code for code, _ in found] == [3, -signal.SIGTERM, 0]
    assert [output.endswith("killed after 2 s") for _, output in found] == [False, True, False]
    children = [int(output.split()[0]) for _, output in found]
    end = time.monotonic() + 10  # orphans that were killed wait for their new parent
    while any(map(is_running, children)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(is_running, children))


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def under_torchrun(script, folder):
    """Output of a script on two ranks, and where it saved.

    Once in some fifty runs a process was aborted at its end, after the groups were destroyed, with a message that is
    known of gloo (pytorch/pytorch#190489): then it runs again.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPTS / script)]
    for attempt in range(2):
        saved = folder / f"saved{attempt}"
        ((code, output),) = run_together([[sys.executable, *launch, str(saved)]], 400)
        if ABORTED not in output:
            break
    assert code == 0, output[-4000:]
    return output, saved


@pytest.mark.slow
def test_ddp_under_torchrun(tmp_path):
    pytest.importorskip("torch")
    output, saved = under_torchrun("ddp.py", tmp_path)
    found = dict(re.findall(r"rank (\d) of 2: (\d+) roots", output))
    assert found.keys() == {"0", "1"}
    assert all(int(roots) > 0 for roots in found.values()), output
    assert len(set(re.findall(r"loss (\S+)", output))) == 2, output  # each of its own part of the batch
    assert saved.exists()


@pytest.mark.slow
def test_fsdp_under_torchrun(tmp_path):
    pytest.importorskip("torch")
    output, saved = under_torchrun("fsdp.py", tmp_path)
    assert len(re.findall(r"rank \d of 2: owns [1-9]\d* roots, step 20, loss 0\.", output)) == 2, output
    assert (saved / ".metadata").exists()


@pytest.mark.slow
def test_numpy_under_mpiexec():
    pytest.importorskip("mpi4py")
    mpiexec = os.path.join(os.path.dirname(sys.executable), "mpiexec")
    if not os.path.exists(mpiexec):
        pytest.skip("mpiexec is not installed beside Python")
    ((code, output),) = run_together(
        [[mpiexec, "-n", "2", sys.executable, "-m", "mpi4py", str(SCRIPTS / "mpi.py")]], 400
    )
    assert code == 0, output[-3000:]
    assert len(re.findall(r"rank \d of 2: [1-9]\d* roots, loss 0\.0", output)) == 2, output
