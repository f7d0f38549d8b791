"""The recipes for other launchers, trainers and schedulers run, as far as their packages are installed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from optim.processes import run_python

SCRIPTS = Path(__file__).parents[2] / "docs" / "guide" / "scripts"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

pytestmark = pytest.mark.slow


def run(package, script, *arguments, ranks=1):
    pytest.importorskip(package)
    pytest.importorskip("torch")
    return run_python(180, *(TORCHRUN if ranks > 1 else []), str(SCRIPTS / script), *arguments)


@pytest.mark.parametrize("ranks", [1, 2])
def test_lightning(ranks):
    output = run("lightning", "with_lightning.py", ranks=ranks)
    found = re.findall(rf"rank \d of {ranks}: (\d+) steps, loss (\S+)", output)
    assert len(found) == ranks, output
    assert len(set(found)) == 1
    assert float(found[0][1]) < 0.1


@pytest.mark.parametrize("ranks", [1, 2])
def test_accelerate(ranks):
    output = run("accelerate", "with_accelerate.py", ranks=ranks)
    found = re.findall(rf"rank \d of {ranks}: (\d+) roots, loss (\S+)", output)
    assert len(found) == ranks, output
    assert all(int(roots) > 0 and float(loss) < 0.1 for roots, loss in found)


def test_transformers_goes_on_from_a_checkpoint(tmp_path, monkeypatch):
    losses = []
    for folder, steps in (("whole", "40"), ("halves", "20"), ("halves", "40")):
        monkeypatch.setenv("STEPS", steps)
        output = run("transformers", "with_transformers.py", str(tmp_path / folder))
        ((step, last),) = re.findall(r"step (\d+), last loss (\S+)", output)
        assert step == steps
        losses.append(last)
    assert losses[0] == losses[2]  # to all digits: the optimizer and its schedule were in the checkpoint
    assert losses[0] != losses[1]


def test_ray(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # otherwise Ray writes a token to the home directory
    output = run("ray", "with_ray.py")
    assert re.search(r"\d\d answers, 0 failures, error 0\.\d+", output), output


def test_dask():
    output = run("distributed", "with_dask.py")
    assert re.search(r"\d\d answers, 0 failures, error 0\.\d+", output), output


def test_the_script_for_slurm_gives_torchrun_what_it_takes(tmp_path):
    """With an srun that runs its command, on one machine of one process; only the meeting point needs Slurm."""
    pytest.importorskip("torch")
    for name, text in {
        "srun": 'exec "$@"',
        "scontrol": "echo localhost",
        "torchrun": 'for a; do printf "%s\\n" "$a"; done',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_NNODES": "1", "SLURM_JOB_ID": "7"}
    env |= {"SLURM_JOB_NODELIST": "a[1-2]", "SLURM_SUBMIT_DIR": str(tmp_path)}
    command = ["bash", str(SCRIPTS / "slurm.sh")]
    given = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    from torch.distributed.run import parse_args

    options = parse_args(given.stdout.split())
    assert (options.nnodes, options.rdzv_endpoint, options.max_restarts) == ("1", "localhost:29500", 3)
    assert options.training_script == "ddp.py"
    assert (SCRIPTS / options.training_script).exists()
