"""Processes of a run, started together; none outlives its test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]


def environment():
    """The environment of a process that finds the packages and the tests."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def run_together(commands, limit):
    """Run the commands at once; (code, output) of each. What still runs after the limit is killed."""
    started = [
        subprocess.Popen(c, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for c in commands
    ]
    end, found = time.monotonic() + limit, []
    try:
        for process in started:
            try:
                output, _ = process.communicate(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                output = process.communicate()[0] + f"\nkilled after {limit} s"
            found.append((process.returncode, output))
    finally:
        for process in started:
            process.kill()
            process.wait()
    return found


def run_python(limit, *arguments):
    """Output of one Python process."""
    ((code, output),) = run_together([[sys.executable, *arguments]], limit)
    assert code == 0, output[-4000:]
    return output
