"""Processes of a run, started together; none outlives its test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

TESTS = Path(__file__).parents[1]


def environment():
    """The environment of a process that finds the packages and the tests."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


#: Seconds in which a launcher may end its own processes.
PATIENCE = 10
#: The last words of a process that gloo aborts at its end.
ABORTED = "terminate called without an active exception"


def run_together(commands, limit):
    """Run the commands at once; (code, output) of each. What still runs after the limit is ended, with its children."""
    with ExitStack() as stack:
        # Files, because a process would wait for the reader of a full pipe, and the others for this process.
        outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        started = [
            subprocess.Popen(c, env=environment(), stdout=f, stderr=subprocess.STDOUT, start_new_session=True)
            for c, f in zip(commands, outputs, strict=True)
        ]
        end, found = time.monotonic() + limit, []
        try:
            for process in started:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, end - time.monotonic()))
            late = [process.poll() is None for process in started]
        finally:
            _end(started)
        for process, f, ended in zip(started, outputs, late, strict=True):
            f.seek(0)
            output = f.read()
            # Once in some hundred runs gloo aborts a process that has destroyed its groups (pytorch/pytorch#190489).
            code = 0 if output.rstrip().endswith(f"done\n{ABORTED}") else process.returncode
            found.append((code, output + ended * f"\nkilled after {limit} s"))
    return found


def _end(started):
    """End what still runs: launchers get a chance to end their processes, whose sessions may be others."""
    running = [process for process in started if process.poll() is None]
    for process in running:
        process.terminate()
    end = time.monotonic() + PATIENCE
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, end - time.monotonic()))
    for process in started:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_python(limit, *arguments):
    """Output of one Python process."""
    ((code, output),) = run_together([[sys.executable, *arguments]], limit)
    assert code == 0, output[-4000:]
    return output
