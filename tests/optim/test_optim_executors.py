"""What executors and workers raise, return and are made of: wrong answers are failures, wrong arguments are refused."""

from __future__ import annotations

import functools
import threading
import time
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

from matroot_optim import ExecutorEngine, Shampoo
from matroot_optim.refresh import shared
from matroot_optim.refresh.jobs import FACTS, Failure, RootAnswer, compute
from matroot_optim.refresh.shared import SharedArray
from optim.problems import run, shared_files
from optim.test_optim_engines import OPTIONS
from optim.test_optim_workers import MARGIN, Hanging, batch, linux, one_root

pytestmark = pytest.mark.slow  # processes started, stopped and killed


class Raising(ThreadPoolExecutor):
    """Refuses every job."""

    def __init__(self, error):
        super().__init__(1)
        self.error = error

    def submit(self, fn, /, *args, **kwargs):
        raise self.error


class Slow(ThreadPoolExecutor):
    """Takes a job only when it may."""

    def __init__(self):
        super().__init__(1)
        self.asked, self.may = threading.Event(), threading.Event()
        self.may.set()

    def submit(self, fn, /, *args, **kwargs):
        self.asked.set()
        assert self.may.wait(60)
        return super().submit(fn, *args, **kwargs)


class UnspeakableError(Exception):
    def __repr__(self):
        raise ValueError("no words")


ERRORS = [
    TypeError("no"),
    MemoryError(),
    KeyError("x"),
    AssertionError(),
    BufferError(),
    UnspeakableError(),
    TimeoutError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("owned", [True, False])
def test_submit_that_raises(error, owned):
    engine = ExecutorEngine((lambda: Raising(error)) if owned else Raising(error), lag=1)
    params, state = run(Shampoo(**OPTIONS, engine=engine), steps=12)
    assert engine.clock.answers == 0
    assert engine.clock.failures > 0
    assert sum(int(state[name]) for name in state if name.endswith("/skipped")) > 0
    assert all(np.isfinite(x).all() for x in params.values())


def broken_factory():
    raise OSError("no processes left")


def nothing():
    return None


@pytest.mark.parametrize("make", [broken_factory, nothing])
def test_a_factory_that_makes_no_executor(make):
    engine = ExecutorEngine(make)
    run(Shampoo(**OPTIONS, engine=engine), steps=10)
    assert engine.clock.answers == 0
    assert engine.clock.failures > 0


class OnlyResult:
    """The least of a future."""

    def __init__(self, value):
        self.value = value

    def result(self, timeout=None):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def test_result_alone_will_do():
    class Least:
        def submit(self, fn, *args):
            return OnlyResult(fn(*args))

    class Late:
        def submit(self, fn, *args):
            return OnlyResult(TimeoutError())

    assert isinstance(one_root(ExecutorEngine(Least())), RootAnswer)
    assert "not there" in one_root(ExecutorEngine(Late(), timeout=1.0)).reason


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 2**70])
def test_a_timeout_longer_than_threads_can_wait(timeout):
    with ExecutorEngine(lambda: ThreadPoolExecutor(1), timeout=timeout) as engine:
        assert isinstance(one_root(engine), RootAnswer)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), "1", True, [1.0]])
def test_wrong_timeouts(timeout):
    with pytest.raises(ValueError, match="timeout must be None or a number"):
        ExecutorEngine(Hanging(), timeout=timeout)


def wants_one(workers):
    return ThreadPoolExecutor(workers)


class NeedsOne(ThreadPoolExecutor):
    def __init__(self, workers):
        super().__init__(workers)


@pytest.mark.parametrize("wrong", [list, dict, Fraction, int, 3, None, "pool"])
def test_what_makes_no_executor_is_refused_at_construction(wrong):
    with pytest.raises(TypeError, match="executor must have submit or make an executor, got"):
        ExecutorEngine(wrong)


@pytest.mark.parametrize("wrong", [wants_one, NeedsOne, lambda n: None])
def test_what_needs_arguments_is_refused_at_construction(wrong):
    with pytest.raises(TypeError, match="without arguments"):
        ExecutorEngine(wrong)


@pytest.mark.parametrize("make", [ThreadPoolExecutor, functools.partial(wants_one, 1), lambda: wants_one(1)])
def test_classes_and_functions_that_make_executors(make):
    with ExecutorEngine(make) as engine:
        assert isinstance(one_root(engine), RootAnswer)


OCCUPIED = threading.Event()


def occupy():
    OCCUPIED.set()
    time.sleep(1.0)


@pytest.mark.filterwarnings("default")  # what Dask warns of is its own
@pytest.mark.parametrize("when", ["before", "under way"])
def test_a_closed_dask_client_is_a_failure(when):
    distributed = pytest.importorskip("distributed")
    client = distributed.Client(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=50
    )
    with client:
        engine = ExecutorEngine(client.get_executor())
        assert isinstance(one_root(engine), RootAnswer)
        if when == "under way":
            busy = client.submit(occupy, pure=False)  # kept: Dask drops what nobody waits for
            assert OCCUPIED.wait(60)
            sent = engine.submit(batch())
    if when == "before":
        busy, sent = None, engine.submit(batch(4))
    assert isinstance(engine.collect(sent), Failure)
    del busy


def test_the_facts_are_those_of_compute():
    assert set(compute(batch()).facts) == set(FACTS)


@linux
@pytest.mark.parametrize("end", ["late", "closed"])
def test_a_job_given_up_while_it_is_being_started_keeps_no_memory(end, monkeypatch):
    before, made = shared_files(), []
    asked, may = threading.Event(), threading.Event()

    def slowly(*args):
        asked.set()
        assert may.wait(60)
        made.append(SharedArray(*args))
        return made[-1]

    with ExecutorEngine(lambda: ThreadPoolExecutor(1), timeout=60, shared_memory=True) as engine:
        one_root(engine)
        monkeypatch.setattr(shared, "SharedArray", slowly)
        kept = engine.submit(batch())
        assert asked.wait(60)
        engine.timeout = 0.1
        if end == "late":
            assert engine.collect(kept) == Failure("not there after 0.1 s")
        else:
            engine.close()
            assert kept.answer == Failure("the engine was closed")
        may.set()
        soon(lambda: made and kept.memory is None and shared_files() <= before)
    assert kept.future is None


@pytest.mark.parametrize("end", ["late", "closed"])
def test_an_executor_whose_submit_hangs_does_not_hold_the_step(end):
    executor = Slow()
    with ExecutorEngine(lambda: executor, timeout=60) as engine:
        assert isinstance(one_root(engine), RootAnswer)
        executor.asked.clear()
        executor.may.clear()
        kept = engine.submit(batch())
        assert executor.asked.wait(60)
        engine.timeout = 0.1
        begin = time.monotonic()
        if end == "late":
            assert isinstance(engine.collect(kept), Failure)
            assert isinstance(one_root(engine), Failure)
        else:
            engine.close()
        assert time.monotonic() - begin < MARGIN
        executor.may.set()


def test_an_executor_of_the_caller_whose_submit_hangs_does_not_hold_the_step():
    with Slow() as executor:
        engine = ExecutorEngine(executor, timeout=0.1)
        executor.may.clear()
        begin = time.monotonic()
        assert isinstance(one_root(engine), Failure)
        assert isinstance(one_root(engine), Failure)
        assert time.monotonic() - begin < MARGIN
        executor.may.set()
        engine.timeout = 60
        assert isinstance(one_root(engine), RootAnswer)


@pytest.mark.parametrize("end", ["refused", "broken"])
def test_a_job_of_an_old_executor_does_not_end_the_new_one(end):
    new = ThreadPoolExecutor(1)

    class Old(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            engine._executor = new  # as another thread may do, between the error and its answer
            if end == "refused":
                raise BrokenExecutor
            future = Future()
            future.set_exception(BrokenExecutor())
            return future

    with ExecutorEngine(lambda: Old(1), timeout=60) as engine:
        assert isinstance(one_root(engine), Failure)
        assert engine._executor is new
        assert isinstance(one_root(engine), RootAnswer)


def test_an_executor_that_is_made_too_late_is_shut_down():
    executor, asked, may = ThreadPoolExecutor(1), threading.Event(), threading.Event()

    def make():
        asked.set()
        assert may.wait(60)
        return executor

    engine = ExecutorEngine(make, timeout=0.1)
    kept = engine.submit(batch())
    assert asked.is_set()
    engine.close()
    may.set()
    soon(lambda: executor._shutdown)
    assert kept.answer == Failure("the engine was closed")


def soon(true):
    until = time.monotonic() + 30
    while not true() and time.monotonic() < until:
        time.sleep(0.01)
    assert true()
