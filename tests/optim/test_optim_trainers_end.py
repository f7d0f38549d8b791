"""The end of a training process, in peace or by a kill, leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # processes started, stopped and killed


ROOT = Path(__file__).parents[2]


NORMAL = """
import sys
from matroot_optim import ExecutorEngine, InlineEngine, Shampoo
from optim.problems import assert_same, run
from optim.test_optim_engines import OPTIONS
from tests.attack_engines import pool

if __name__ == "__main__":
    kind, owned, close = sys.argv[1], sys.argv[2] == "True", sys.argv[3] == "True"
    given = (lambda: pool(kind)) if owned else pool(kind)
    engine = ExecutorEngine(given, lag=3, timeout=120, shared_memory=True)
    got, state = run(Shampoo(**OPTIONS, engine=engine), steps=12)
    assert state.pending and not engine.clock.failures, engine.clock
    want, _ = run(Shampoo(**OPTIONS, engine=InlineEngine(3)), steps=12)
    assert_same(got, want)
    if close:
        engine.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
@pytest.mark.parametrize(
    ("kind", "owned", "close"),
    [("spawn", True, False), ("fork", False, False), ("forkserver", True, True), ("loky", False, False)],
)
def test_a_normal_end_says_nothing_and_leaves_nothing(kind, owned, close, tmp_path):
    if kind == "loky":
        pytest.importorskip("loky")
    script = tmp_path / "normal.py"
    script.write_text(NORMAL)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script), kind, str(owned), str(close)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are counted in /proc")
def test_killed_trainers_leave_no_process_and_no_segment():
    pytest.importorskip("loky")
    command = [sys.executable, "-m", "tests.attack_engines", "--trainers", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 trainers killed, 0 processes and segments left" in done.stdout
