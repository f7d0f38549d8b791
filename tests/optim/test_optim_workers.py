"""Whatever a worker, an executor or a client does, a step ends in time, with a kept root and a count."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from matroot_optim import ExecutorEngine, Shampoo
from matroot_optim.refresh.jobs import Failure, RootAnswer, RootBatch, compute
from matroot_optim.refresh.shared import AVAILABLE, SharedArray, UnreachableError
from matroot_optim.step.statistics import pack

pytestmark = pytest.mark.slow  # processes started, stopped and killed

MARGIN = 8.0  # seconds: killed processes get 2, and the machine may be busy; the faults took 20, or for ever

linux = pytest.mark.skipif(not AVAILABLE, reason="anonymous memory and /proc are Linux's")


def batch(n=3, k=2, due=0):
    A = np.stack([np.eye(n) * (i + 1) for i in range(k)])
    return RootBatch(pack(A), Fraction(-1, 4), 1e-6, "auto", "float64", due=due)


def one_root(engine):
    return engine.collect(engine.submit(batch()))


def loky_pool():
    return pytest.importorskip("loky").ProcessPoolExecutor(1)


def spawn_pool():
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


POOLS = pytest.mark.parametrize(("make", "shared"), [(spawn_pool, False), (loky_pool, True)])


def workers(engine):
    return list(engine._executor._processes.values())


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="Windows stops no process")
@POOLS
def test_a_stopped_worker_costs_its_timeout_and_is_replaced(make, shared):
    with ExecutorEngine(make, timeout=60.0, shared_memory=shared) as engine:
        assert isinstance(one_root(engine), RootAnswer)
        stopped = workers(engine)
        for worker in stopped:
            os.kill(worker.pid, signal.SIGSTOP)
        engine.timeout = 1.0
        begin = time.perf_counter()
        answer = engine.collect(engine.submit(batch(300, 8)))  # more than a pipe holds
        assert time.perf_counter() - begin < 1.0 + MARGIN
        assert isinstance(answer, Failure)
        assert "not there after 1.0 s" in answer.reason
        assert not any(worker.is_alive() for worker in stopped)
        engine.timeout = 60.0
        assert isinstance(one_root(engine), RootAnswer)
    assert engine.clock.failures == 1
    assert not multiprocessing.active_children()


@POOLS
def test_a_dead_worker_is_noticed_without_a_timeout(make, shared):
    with ExecutorEngine(make, shared_memory=shared) as engine:
        one_root(engine)
        sent = engine.submit(batch(700, 8))
        for worker in workers(engine):
            os.kill(worker.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        assert isinstance(engine.collect(sent), Failure)
        assert isinstance(one_root(engine), RootAnswer)


class Hanging(Executor):
    """Its jobs never end."""

    def submit(self, fn, /, *args, **kwargs):
        return Future()


@pytest.mark.parametrize("lag", [0, 3])
def test_all_that_hangs_in_one_step_costs_one_timeout(lag):
    engine = ExecutorEngine(Hanging(), lag=lag, timeout=2.0)
    opt = Shampoo(0.1, refresh_every=100, refresh_growth=0.0, schedule="interval", engine=engine)
    params = {f"w{n}": np.ones((n, n + 1)) for n in range(2, 12)}
    state, longest = opt.init(params), 0.0
    for _ in range(lag + 2):
        begin = time.perf_counter()
        _, state = opt.update(params, state, params)
        longest = max(longest, time.perf_counter() - begin)
    assert engine.clock.failures >= 10  # batches
    assert longest < 2.0 + MARGIN


def test_steps_do_not_share_a_timeout():
    """Jobs of two steps, sent before the first was waited for."""
    engine = ExecutorEngine(Hanging(), lag=2, timeout=0.05)
    first, other = engine.submit(batch(due=3)), engine.submit(batch(due=4))
    assert isinstance(engine.collect(first), Failure)
    engine.timeout = 60.0
    timer = threading.Timer(0.2, lambda: other.future.set_result(compute(batch())))
    timer.start()
    assert isinstance(engine.collect(other), RootAnswer)
    timer.join()


class Inline(Executor):
    """Runs jobs at once, and changes what they return."""

    future = Future

    def __init__(self, change):
        self.change = change

    def submit(self, fn, /, *args, **kwargs):
        future = self.future()
        try:
            future.set_result(self.change(fn(*args, **kwargs)))
        except BaseException as error:
            future.set_exception(error)
        return future


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="a timer of POSIX")
@pytest.mark.parametrize("kind", [KeyboardInterrupt, TimeoutError])
def test_what_a_signal_handler_raises_is_no_failure(kind):
    """It ends the wait, whatever its kind is, and the answer is there for the next one."""
    gate = threading.Event()

    class Waits(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            return super().submit(lambda: (gate.wait(), fn(*args, **kwargs))[1])

    def strike(number, frame):
        raise kind("struck")

    before = signal.signal(signal.SIGALRM, strike)
    try:
        with ExecutorEngine(lambda: Waits(1)) as engine:
            handle = engine.submit(batch())
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(kind, match="struck"):
                engine.collect(handle)
            gate.set()
            assert isinstance(engine.collect(handle), RootAnswer)
            assert engine.clock.failures == 0
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("owned", [True, False])
def test_executors_are_called_where_no_signal_handler_runs(owned):
    """One that raises inside of `concurrent.futures` may leave a lock taken, and the next step would hang."""
    called = []

    class Watched(Future):
        def result(self, timeout=None):
            called.append(threading.current_thread() is threading.main_thread())
            return super().result(timeout)

    class Watching(Inline):
        future = Watched

        def submit(self, fn, /, *args, **kwargs):
            called.append(threading.current_thread() is threading.main_thread())
            return super().submit(fn, *args, **kwargs)

    def make():
        return Watching(lambda answer: answer)

    with ExecutorEngine(make if owned else make()) as engine:
        for _ in range(3):
            assert isinstance(one_root(engine), RootAnswer)
    assert called == [False] * 6


# Copies


# Forks


# Workers


def note(path):
    Path(path).write_text("begun")


@pytest.mark.parametrize("kind", ["spawn", "loky"])
def test_the_initializer_of_a_pool_runs(kind, tmp_path):
    path = str(tmp_path / "begun")
    if kind == "loky":
        cls, more = pytest.importorskip("loky").ProcessPoolExecutor, {}
    else:
        cls, more = ProcessPoolExecutor, {"mp_context": multiprocessing.get_context("spawn")}
    with ExecutorEngine(lambda: cls(1, initializer=note, initargs=(path,), **more), timeout=120.0) as engine:
        assert isinstance(one_root(engine), RootAnswer)
    assert Path(path).read_text() == "begun"


@linux
def test_shared_memory_has_no_name_and_is_not_mistaken_for_another():
    values = np.arange(12.0).reshape(3, 4)
    memory = SharedArray(values)
    address = memory.address
    assert not [name for name in os.listdir("/dev/shm") if "matroot" in name]
    with address.open() as file:
        np.testing.assert_array_equal(address.read(file), values)
        address.write(file, -values)
        with pytest.raises(ValueError, match="must be float64"):
            address.write(file, values[:2])
    np.testing.assert_array_equal(memory.read(), -values)
    memory.close()
    again = SharedArray(2 * values)  # takes the descriptor over
    assert again.address.path == address.path
    with pytest.raises(UnreachableError, match="gone"):
        address.open()
    np.testing.assert_array_equal(again.read(), 2 * values)
    again.close()
    with pytest.raises(UnreachableError, match="not to be reached"):
        again.address.open()


@linux
def test_memory_that_workers_cannot_open_is_given_up_for_the_pipe(monkeypatch):
    def denied(self):
        raise UnreachableError("denied")

    engine = ExecutorEngine(Inline(lambda a: a), shared_memory=True)
    monkeypatch.setattr("matroot_optim.refresh.shared.Address.open", denied)
    assert "denied" in one_root(engine).reason
    assert isinstance(one_root(engine), RootAnswer)
    assert engine.clock.failures == 1


@linux
def test_without_descriptors_matrices_take_the_pipe(monkeypatch):
    def full(name):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", full)
    assert isinstance(one_root(ExecutorEngine(Inline(lambda a: a), shared_memory=True)), RootAnswer)


@linux
def test_forgotten_jobs_keep_no_descriptor():
    engine = ExecutorEngine(Hanging(), lag=3, shared_memory=True)
    before = len(os.listdir("/proc/self/fd"))
    for due in range(50):
        engine.submit(batch(due=due))
    deadline = time.monotonic() + MARGIN
    while len(os.listdir("/proc/self/fd")) > before + 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
