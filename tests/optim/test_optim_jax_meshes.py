"""JAX on a mesh: eight devices of one process, and two processes."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

import pytest

from optim.processes import run_python, run_together

pytest.importorskip("jax")
pytest.importorskip("optax")

SCRIPT = Path(__file__).parents[2] / "docs" / "guide" / "scripts" / "jax_mesh.py"


def host_devices(monkeypatch, count, *more):
    flags = f"--xla_force_host_platform_device_count={count} --xla_cpu_collective_call_terminate_timeout_seconds=100"
    monkeypatch.setenv("XLA_FLAGS", " ".join([flags, *more]))


def processes(limit, *command):
    """Code and output of two connected processes, at a port that is free."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    return run_together([[sys.executable, *(part.format(address, k) for part in command)] for k in (0, 1)], limit)


@pytest.mark.slow
def test_replicated_and_sharded_parameters_on_eight_devices(monkeypatch):
    host_devices(monkeypatch, 8)
    assert "done" in run_python(400, "-m", "optim.jax_process", "devices")


@pytest.mark.slow
def test_callbacks_with_large_arrays_on_eight_devices(monkeypatch):
    host_devices(monkeypatch, 8)
    assert "done" in run_python(400, "-m", "optim.jax_large_process")


@pytest.mark.slow
def test_each_root_in_one_of_two_processes(monkeypatch):
    host_devices(monkeypatch, 2)
    for code, output in processes(400, "-m", "optim.jax_process", "two", "{0}", "{1}"):
        assert code == 0, output[-4000:]
        assert "done" in output


@pytest.mark.slow
@pytest.mark.parametrize("what", ["dead", "late"])
def test_a_process_that_dies_or_does_not_come_ends_the_other(monkeypatch, what):
    """In the time of JAX's heartbeat, or of a flag of XLA; the limit is that of the test."""
    host_devices(monkeypatch, 2, *["--xla_cpu_collective_timeout_seconds=30"] * (what == "late"))
    (code, output), (other, rest) = processes(200, "-m", "optim.jax_process", "lost", "{0}", "{1}", what)
    assert "both skipped it" in output, output[-4000:]
    assert "killed after" not in output + rest, output[-4000:]
    assert code != 0
    assert other in (-signal.SIGKILL, -signal.SIGABRT)
    assert "done" not in output
    assert what == "dead" or "Gloo all-reduce failed" in output, output[-4000:]


@pytest.mark.slow
def test_the_script_of_the_guide(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert len(SCRIPT.read_text().splitlines()) < 50
    for k, (code, output) in enumerate(processes(400, str(SCRIPT), "{0}", "2", "{1}")):
        assert code == 0, output[-4000:]
        assert f"process {k} of 2: step 20: 8 roots" in output
    assert (tmp_path / "jax_mesh.npz").exists()
