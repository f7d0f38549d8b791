"""Engines: the same numbers from every one, and workers that fail, hang or die."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

from matroot import one_blas_thread
from matroot_optim import ExecutorEngine, InlineEngine, Shampoo
from matroot_optim.refresh.jobs import RootBatch, compute
from matroot_optim.step.statistics import pack
from optim.problems import assert_same, run, shared_files

OPTIONS = {
    "learning_rate": 0.05,
    "refresh_every": 4,
    "block_size": 4,
    "ridge": 1e-4,
    "start_step": 8,
    "refresh_growth": 0.0,
}


def spawned():
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


@pytest.mark.parametrize("lag", [0, 1, 4, 6])
def test_threads_are_inline_with_the_same_lag(lag):
    want, _ = run(Shampoo(**OPTIONS, engine=InlineEngine(lag)))
    with ExecutorEngine(lambda: ThreadPoolExecutor(3), lag=lag) as engine:
        got, state = run(Shampoo(**OPTIONS, engine=engine))
    assert_same(got, want)
    assert engine.clock.failures == 0
    assert all(p.due > 30 for p in state.pending)


def test_lag_changes_the_numbers():
    assert abs(run(Shampoo(**OPTIONS))[0]["a"] - run(Shampoo(**OPTIONS, engine=InlineEngine(3)))[0]["a"]).max() > 1e-6


@pytest.mark.parametrize("make", ("threads", "processes"))
def test_large_blocks_are_the_same_to_the_bit_with_several_blas_threads(make):
    """Neither the workers' BLAS threads nor the hold on those of this process is seen in the numbers."""
    from threadpoolctl import threadpool_limits

    gradients = np.random.default_rng(0).standard_normal((6, 300, 12))

    def train(engine):
        opt = Shampoo(0.1, block_size=512, refresh_every=2, start_step=2, schedule="interval", engine=engine)
        W = np.zeros(gradients.shape[1:])
        state = opt.init(W)
        for G in gradients:
            update, state = opt.update(G, state, W)
            W = W + update
        return W

    with threadpool_limits(2, user_api="blas"):
        want = train(InlineEngine(1))
        with ExecutorEngine((lambda: ThreadPoolExecutor(2)) if make == "threads" else spawned, lag=1) as engine:
            got = train(engine)
    assert (got == want).all()
    assert engine.clock.failures == 0


@pytest.mark.parametrize("shared", [True, False])
def test_processes_are_inline_with_the_same_lag(shared):
    before = shared_files()  # of tests before this one, whose workers never answered
    want, _ = run(Shampoo(**OPTIONS, engine=InlineEngine(3)))
    with ExecutorEngine(spawned, lag=3, timeout=120, shared_memory=shared) as engine:
        got, _ = run(Shampoo(**OPTIONS, engine=engine))
    assert_same(got, want)
    assert engine.clock.failures == 0
    assert not multiprocessing.active_children()
    assert shared_files() <= before


def test_loky():
    loky = pytest.importorskip("loky")
    want, _ = run(Shampoo(**OPTIONS, engine=InlineEngine(3)))
    executor = loky.ProcessPoolExecutor(1)
    try:
        got, _ = run(Shampoo(**OPTIONS, engine=ExecutorEngine(executor, lag=3, timeout=120)))
    finally:
        executor.shutdown(wait=True, kill_workers=True)
    assert_same(got, want)


@pytest.mark.filterwarnings("default")  # what Dask warns of is its own
def test_dask():
    distributed = pytest.importorskip("distributed")
    want, _ = run(Shampoo(**OPTIONS, engine=InlineEngine(3)), steps=12)
    with distributed.Client(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=50
    ) as client:
        engine = ExecutorEngine(client.get_executor(), lag=3, timeout=120)
        got, _ = run(Shampoo(**OPTIONS, engine=engine), steps=12)
    assert_same(got, want)
    assert engine.clock.failures == 0


MPI_SCRIPT = """
from mpi4py.futures import MPICommExecutor
from mpi4py import MPI
import numpy as np
from matroot_optim import ExecutorEngine, InlineEngine, Shampoo
from optim.problems import assert_same, run, shared_files
from optim.test_optim_engines import OPTIONS

with MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
    if executor is not None:
        engine = ExecutorEngine(executor, lag=3, timeout=120)
        got, _ = run(Shampoo(**OPTIONS, engine=engine), steps=12)
        want, _ = run(Shampoo(**OPTIONS, engine=InlineEngine(3)), steps=12)
        assert_same(got, want)
        assert engine.clock.failures == 0, engine.clock
        print("same on", MPI.COMM_WORLD.size, "ranks")
"""


def test_mpi():
    pytest.importorskip("mpi4py")
    mpiexec = os.path.join(os.path.dirname(sys.executable), "mpiexec")
    if not os.path.exists(mpiexec):
        pytest.skip("mpiexec is not installed beside Python")
    paths = [os.path.dirname(os.path.dirname(__file__)), os.path.dirname(os.path.dirname(os.path.dirname(__file__)))]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [mpiexec, "-n", "2", sys.executable, "-c", MPI_SCRIPT]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert "same on 2 ranks" in done.stdout, done.stderr[-3000:]


class Faulty(Executor):
    """Runs jobs at once, but some raise, hang, or return garbage."""

    def __init__(self, fault, which):
        self.fault, self.which, self.count = fault, which, 0

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.count += 1
        if self.count not in self.which:
            future.set_result(fn(*args, **kwargs))
        elif self.fault == "raises":
            future.set_exception(MemoryError("no room"))
        elif self.fault == "garbage":
            future.set_result("garbage")
        elif self.fault == "refuses":
            raise RuntimeError("cannot schedule new futures")
        return future  # "hangs": never done


@pytest.mark.parametrize("fault", ["raises", "garbage", "refuses", "hangs"])
def test_a_failing_worker_costs_a_counter_and_keeps_the_root(fault):
    engine = ExecutorEngine(Faulty(fault, {7, 8}), lag=2, timeout=0.05)
    params, state = run(Shampoo(**OPTIONS, engine=engine))
    assert engine.clock.failures == 2
    assert all(np.isfinite(x).all() for x in params.values())
    skipped = sum(int(state[name]) for name in state if "/axis" in name and name.endswith("/skipped"))
    assert skipped >= 2
    clean, _ = run(Shampoo(**OPTIONS, engine=InlineEngine(2)))
    assert all(np.linalg.norm(params[k] - clean[k]) < 0.5 * np.linalg.norm(clean[k]) for k in params)


def test_update_is_pure_with_jobs_under_way():
    from optim.problems import weights

    with ExecutorEngine(lambda: ThreadPoolExecutor(2), lag=2) as engine:
        opt = Shampoo(**OPTIONS, engine=engine)
        params, state = run(opt, steps=10)
        g = {k: np.ones_like(v) for k, v in weights().items()}
        first, _ = opt.update(g, state, params)
        second, _ = opt.update(g, state, params)
    assert_same(first, second)


def test_wrong_executors():
    with pytest.raises(TypeError, match="executor must have submit"):
        ExecutorEngine(3)
    with pytest.raises(ValueError, match="timeout must be"):
        ExecutorEngine(list, timeout=0)


def test_blas_limit_is_restored_after_overlapping_blocks():
    from threadpoolctl import threadpool_info

    def threads():
        return [m["num_threads"] for m in threadpool_info() if m["user_api"] == "blas"]

    import scipy.linalg  # noqa: F401

    before = threads()
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with one_blas_thread():
            inside.set()
            leave.wait()

    other = threading.Thread(target=hold)
    other.start()
    inside.wait()
    with one_blas_thread():
        assert set(threads()) == {1}
    assert set(threads()) == {1}
    leave.set()
    other.join()
    assert threads() == before


def longest_standstill(work):
    """Share of the time of `work` in another thread for which this thread could not run, at most at once."""
    other = threading.Thread(target=work)
    begin = last = time.perf_counter()
    longest = 0.0
    other.start()
    while other.is_alive():
        time.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest / (last - begin)


def test_a_root_in_a_thread_does_not_stop_the_training():
    """LAPACK as scipy calls it holds Python's lock from beginning to end."""
    G = np.random.default_rng(0).standard_normal((600, 1200))
    batch = RootBatch(pack(G @ G.T)[None], Fraction(-1, 4), 1e-6, "auto", "float64")
    assert min(longest_standstill(lambda: compute(batch)) for _ in range(4)) < 0.3


@pytest.mark.parametrize("lag", [0, 1, 3, 7])
def test_what_is_sent_at_a_step_is_used_lag_steps_later(lag):
    opt = Shampoo(0.1, refresh_every=5, refresh_growth=0.0, schedule="interval", engine=InlineEngine(lag))
    W = np.random.default_rng(0).standard_normal((3, 4))
    state, seen = opt.init(W), {}
    for t in range(1, 21):
        _, state = opt.update(W * t, state, W)
        seen.setdefault(int(state["block0/axis0/taken"]), t)
    sent = [1, 6, 11, 16]
    assert {taken: t for taken, t in seen.items() if taken} == {t: t + lag for t in sent if t + lag <= 20}
