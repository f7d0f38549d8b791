"""Copies of an engine, and forked processes: each has an executor of its own, or none."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from matroot_optim import ExecutorEngine, InlineEngine, Shampoo
from matroot_optim.refresh.jobs import Failure, RootAnswer
from optim.problems import assert_same, run
from optim.test_optim_engines import OPTIONS
from optim.test_optim_workers import batch, one_root, spawn_pool

pytestmark = pytest.mark.slow  # processes started, stopped and killed


def copies(opt):
    return [copy.copy(opt), copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]


def test_a_copy_of_an_optimizer_has_an_executor_of_its_own_and_the_first_is_unharmed():
    want, _ = run(Shampoo(**OPTIONS, engine=InlineEngine(3)), steps=14)
    with ExecutorEngine(spawn_pool, lag=3, timeout=120.0) as engine:
        opt = Shampoo(**OPTIONS, engine=engine)
        params, state = run(opt, steps=9)
        assert state.pending
        executor = engine._executor
        for other in [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]:
            copied = copy.deepcopy(state)
            with other.engine:
                assert other.engine is not engine
                assert other.running_engine is other.engine
                assert other.engine.clock.answers == 0
                got, _ = run(other, steps=14, params=params, state=copied, skip=9)
            assert_same(got, want)
        got, _ = run(opt, steps=14, params=params, state=state, skip=9)
        assert engine._executor is executor
    assert_same(got, want)
    assert engine.clock.failures == 0
    assert not multiprocessing.active_children()


def test_a_copy_shares_an_executor_that_was_given():
    with ThreadPoolExecutor(1) as executor:
        engine = ExecutorEngine(executor, lag=2, timeout=7.0)
        for other in (copy.copy(engine), copy.deepcopy(engine)):
            assert other._executor is executor
            assert (other.lag, other.timeout) == (2, 7.0)
            assert isinstance(one_root(other), RootAnswer)
            other.close()
        assert isinstance(one_root(engine), RootAnswer)
        with pytest.raises(TypeError, match="must have a function that makes its executor to be pickled"):
            pickle.dumps(Shampoo(0.1, engine=engine))


def test_a_given_pool_of_processes_survives_copies_of_the_optimizer():
    with spawn_pool() as executor:
        opt = Shampoo(**OPTIONS, engine=ExecutorEngine(executor, timeout=120.0))
        for _ in range(2):
            run(copy.deepcopy(opt), steps=10)
            with pytest.raises(TypeError, match="to be pickled"):
                pickle.dumps(opt)
        assert executor.submit(abs, -1).result(60) == 1
        assert opt.engine.clock.failures == 0


def test_a_copy_of_a_closed_engine_is_closed():
    engine = ExecutorEngine(ThreadPoolExecutor)
    engine.close()
    for other in copies(engine):
        assert "closed" in one_root(other).reason


def in_a_fork(work):
    """What `work` returns in a forked child."""
    end, child_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(child_end, json.dumps(work()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(child_end)
    begin = time.monotonic()
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() - begin > 60:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    with os.fdopen(end) as file:
        text = file.read()
    assert text, "the child hangs or failed"
    return json.loads(text)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
@pytest.mark.parametrize("owned", [True, False])
@pytest.mark.parametrize("timeout", [None, 20.0])
def test_a_forked_child_has_a_fresh_executor_or_counts_failures(owned, timeout):
    pool = ThreadPoolExecutor(1)
    engine = ExecutorEngine((lambda: ThreadPoolExecutor(1)) if owned else pool, timeout=timeout)
    one_root(engine)
    sent = engine.submit(batch())

    def child():
        old, new = engine.collect(sent), one_root(engine)
        engine.close()
        return [isinstance(old, Failure), isinstance(new, Failure), engine.clock.failures]

    assert in_a_fork(child) == ([True, False, 1] if owned else [True, True, 2])
    assert isinstance(engine.collect(sent), RootAnswer)
    assert isinstance(one_root(engine), RootAnswer)
    assert engine.clock.failures == 0
    engine.close()
    pool.shutdown()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
def test_a_forked_child_that_closes_the_engine_leaves_the_pool_of_its_parent():
    with ExecutorEngine(spawn_pool, timeout=120.0) as engine:
        one_root(engine)
        executor = engine._executor
        in_a_fork(lambda: engine.close() or 0)
        assert isinstance(one_root(engine), RootAnswer)
        assert engine._executor is executor
