"""Whatever a worker, an executor or a client does, a step ends in time, with a kept root and a count."""

from __future__ import annotations

import copy
import functools
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from matroot_optim import ExecutorEngine, InlineEngine, Shampoo
from matroot_optim.refresh.jobs import FACTS, Failure, RootAnswer, RootBatch, compute
from matroot_optim.refresh.shared import AVAILABLE, SharedArray, UnreachableError
from matroot_optim.step.statistics import pack
from optim.problems import assert_same, run
from optim.test_optim_engines import OPTIONS

pytestmark = pytest.mark.slow  # processes started, stopped and killed

ROOT = Path(__file__).parents[2]
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


class Raising(ThreadPoolExecutor):
    """Refuses every job."""

    def __init__(self, error):
        super().__init__(1)
        self.error = error

    def submit(self, fn, /, *args, **kwargs):
        raise self.error


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


class Inline(Executor):
    """Runs jobs at once, and changes what they return."""

    def __init__(self, change):
        self.change = change

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(self.change(fn(*args, **kwargs)))
        except BaseException as error:
            future.set_exception(error)
        return future


def raised(error):
    raise error


def with_fact(name, change):
    return lambda a: replace(a, facts={**a.facts, name: change(a.facts[name])})


WRONG = {
    "nothing": lambda a: None,
    "tuple": lambda a: (a.root, a.facts, a.seconds),
    "one root too few": lambda a: replace(a, root=a.root[1:]),
    "one root too many": lambda a: replace(a, root=np.concatenate([a.root, a.root[:1]])),
    "full matrices": lambda a: replace(a, root=np.zeros((2, 3, 3))),
    "no root": lambda a: replace(a, root=None),
    "list": lambda a: replace(a, root=a.root.tolist()),
    "float32": lambda a: replace(a, root=a.root.astype(np.float32)),
    "complex": lambda a: replace(a, root=a.root.astype(complex)),
    "objects": lambda a: replace(a, root=a.root.astype(object)),
    "no facts": lambda a: replace(a, facts={}),
    "facts are None": lambda a: replace(a, facts=None),
    "a fact more": lambda a: replace(a, facts={**a.facts, "more": a.facts["cond"]}),
    "a scalar": with_fact("residual", lambda x: float(x[0])),
    "a column": with_fact("cond", lambda x: x[:, None]),
    "too long": with_fact("status", lambda x: np.concatenate([x, x])),
    "int64": with_fact("status", lambda x: x.astype(np.int64)),
    "strings": with_fact("ridge", lambda x: x.astype(str)),
    "seconds NaN": lambda a: replace(a, seconds=float("nan")),
    "seconds None": lambda a: replace(a, seconds=None),
    "SystemExit": lambda a: raised(SystemExit(3)),
    "KeyboardInterrupt": lambda a: raised(KeyboardInterrupt()),
    "GeneratorExit": lambda a: raised(GeneratorExit()),
    "UnspeakableError": lambda a: raised(UnspeakableError()),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_is_a_failure(wrong):
    engine = ExecutorEngine(Inline(WRONG[wrong]))
    answer = one_root(engine)
    assert isinstance(answer, Failure)
    assert answer.reason
    assert (engine.clock.answers, engine.clock.failures, engine.clock.root_seconds) == (0, 1, 0.0)


@linux
@pytest.mark.parametrize("wrong", [name for name in WRONG if name.startswith(("no f", "seconds", "a ", "too"))])
def test_a_wrong_answer_through_shared_memory_is_a_failure(wrong):
    assert isinstance(one_root(ExecutorEngine(Inline(WRONG[wrong]), shared_memory=True)), Failure)
    assert isinstance(one_root(ExecutorEngine(Inline(lambda a: a), shared_memory=True)), RootAnswer)


def test_wrong_answers_keep_the_roots_of_a_run():
    engine = ExecutorEngine(Inline(WRONG["one root too few"]), lag=2)
    params, state = run(Shampoo(**OPTIONS, engine=engine))
    assert engine.clock.answers == 0
    assert all(np.isfinite(x).all() for x in params.values())
    assert all(int(state[name]) <= 0 for name in state if name.endswith("/taken"))


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


def test_ctrl_c_while_waiting_is_no_failure():
    class Interrupted(Future):
        def result(self, timeout=None):
            raise KeyboardInterrupt

    class Waits(Executor):
        def submit(self, fn, /, *args, **kwargs):
            return Interrupted()

    engine = ExecutorEngine(Waits())
    with pytest.raises(KeyboardInterrupt):
        one_root(engine)
    assert engine.clock.failures == 0


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


# Copies


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


# Forks


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
    before = set(os.listdir("/dev/shm"))
    values = np.arange(12.0).reshape(3, 4)
    memory = SharedArray(values)
    address = memory.address
    assert set(os.listdir("/dev/shm")) <= before
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
    assert len(os.listdir("/proc/self/fd")) <= before + 1


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


def test_the_facts_are_those_of_compute():
    assert set(compute(batch()).facts) == set(FACTS)
