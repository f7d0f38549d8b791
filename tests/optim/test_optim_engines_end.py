"""Workers that die or hang, and the end of an engine."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from matroot_optim import ExecutorEngine, InlineEngine, Shampoo
from optim.problems import assert_same, run
from optim.test_optim_engines import OPTIONS, spawned


def die():
    os._exit(1)


@pytest.mark.slow
def test_a_killed_worker_is_replaced():
    pools = []

    def make():
        pools.append(spawned())
        return pools[-1]

    with ExecutorEngine(make, lag=2, timeout=120) as engine:
        opt = Shampoo(**OPTIONS, engine=engine)
        params, state = run(opt, steps=10)
        for process in list(pools[0]._processes.values()):
            process.kill()
        params, state = run(opt, steps=30, params=params, state=state, skip=10)
    assert len(pools) == 2
    assert engine.clock.failures >= 1
    assert all(np.isfinite(x).all() for x in params.values())
    # New roots came after the kill.
    assert max(int(state[name]) for name in state if name.endswith("/taken")) > 15
    assert not multiprocessing.active_children()


def test_a_broken_executor_of_the_caller_never_ends_the_run():
    executor = spawned()
    try:
        executor.submit(die)
        time.sleep(1.0)
        engine = ExecutorEngine(executor, lag=1, timeout=30)
        params, _ = run(Shampoo(**OPTIONS, engine=engine))
    finally:
        executor.shutdown()
    assert engine.clock.answers == 0
    assert all(np.isfinite(x).all() for x in params.values())


def test_close_leaves_no_thread():
    before = set(threading.enumerate())
    with ExecutorEngine(lambda: ThreadPoolExecutor(4), lag=3) as engine:
        run(Shampoo(**OPTIONS, engine=engine))
    engine.close()
    # Python keeps an entry "Dummy" of a thread that `_thread` started, after its end too.
    new = [t.name for t in set(threading.enumerate()) - before if not t.name.startswith("Dummy")]
    assert not new


def test_a_hanging_process_does_not_hold_the_close():
    with ExecutorEngine(lambda: HangingPool(), lag=1, timeout=0.2) as engine:
        begin = time.perf_counter()
        run(Shampoo(**OPTIONS, engine=engine), steps=8)
    assert time.perf_counter() - begin < 60
    assert engine.clock.failures > 0
    assert not multiprocessing.active_children()


class HangingPool(ProcessPoolExecutor):
    def __init__(self):
        super().__init__(1, mp_context=multiprocessing.get_context("spawn"))

    def submit(self, fn, /, *args, **kwargs):
        return super().submit(time.sleep, 10_000)


class Sleepy(ThreadPoolExecutor):
    """Its jobs hang."""

    def submit(self, fn, /, *args, **kwargs):
        return super().submit(wake.wait)


wake = threading.Event()


def test_a_hanging_thread_holds_neither_the_run_nor_the_close():
    begin = time.perf_counter()
    with ExecutorEngine(lambda: Sleepy(1), lag=2, timeout=0.1) as engine:
        params, state = run(Shampoo(**OPTIONS, engine=engine), steps=7)
        assert state.pending
    assert time.perf_counter() - begin < 20
    wake.set()
    assert engine.clock.answers == 0
    assert all(np.isfinite(x).all() for x in params.values())


@pytest.mark.slow
def test_loky_of_our_own_is_shut_down():
    loky = pytest.importorskip("loky")
    want, _ = run(Shampoo(**OPTIONS, engine=InlineEngine(3)), steps=12)
    with ExecutorEngine(lambda: loky.ProcessPoolExecutor(1), lag=3, timeout=120) as engine:
        got, _ = run(Shampoo(**OPTIONS, engine=engine), steps=12)
        workers = list(engine._executor._processes.values())
    assert_same(got, want)
    assert workers
    assert not any(worker.is_alive() for worker in workers)


UNCLOSED = """
from matroot_optim import ExecutorEngine, Shampoo
from optim.problems import run
from optim.test_optim_engines import OPTIONS, spawned

if __name__ == "__main__":
    engine = ExecutorEngine(spawned, lag=3, timeout=120)
    params, state = run(Shampoo(**OPTIONS, engine=engine), steps=8)
    assert state.pending
"""


@pytest.mark.slow
def test_an_engine_that_nobody_closes_leaves_no_shared_memory(tmp_path):
    script = tmp_path / "unclosed.py"
    script.write_text(UNCLOSED)
    paths = [os.path.dirname(os.path.dirname(__file__)), os.path.dirname(os.path.dirname(os.path.dirname(__file__)))]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=180, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")  # multiprocessing would say here what was leaked
