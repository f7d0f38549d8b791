"""BLAS's threads: as they were found, whatever interrupts a solve or forks beside it, and never seen in the bits."""

import gc
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from table import problem
from threadpoolctl import threadpool_limits

from matroot import gallery, one_blas_thread, solve
from matroot.backends.cpu import blas, cpu
from matroot.backends.cpu.blas import _libraries
from matroot.backends.holds import Setting, confined, held

ROOT = Path(__file__).parents[1]


def counts():
    return [read() for read in _libraries()[0].readers]


def run(*command, timeout=600, **env):
    """A fresh process; numpy says nothing there of forks beside threads."""
    where = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **where, **env},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks and timers")
@pytest.mark.parametrize("attack", ("--interrupts", "--forks", "--steps", "--cold"))
def test_attack(attack):
    """Thirty of each; by hand a thousand, see `attack_threads`."""
    done = run("-W", "ignore", "-m", "tests.attack_threads", attack, "30")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 " in done.stdout and "0 faults" in done.stdout


class StruckError(Exception):
    pass


def test_what_a_handler_raises_inside_of_compiled_code_is_what_the_caller_gets():
    """C that finds an exception beside its result makes a SystemError of it."""

    @confined
    def work(depth):
        error = KeyboardInterrupt()
        for _ in range(depth):
            cause, error = error, SystemError("returned a result with an exception set")
            error.__cause__ = cause
        raise error

    for depth in range(3):
        with pytest.raises(KeyboardInterrupt):
            work(depth)
    with pytest.raises(SystemError, match="alone"):
        confined(lambda: (_ for _ in ()).throw(SystemError("alone")))()


def raise_at(step):
    """A trace function that raises at the step-th bytecode of any Python function that is called from now on."""
    seen = 0

    def trace(frame, event, arg):
        nonlocal seen
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == step:
                raise StruckError
        return trace

    return trace


def test_an_exception_at_any_bytecode_skips_nothing(request):
    """What a signal handler can do, at every place where Python could call one."""
    gc.disable()  # a collection runs code of others, which would be struck instead
    request.addfinalizer(gc.enable)
    with threadpool_limits(3, user_api="blas"):
        step, raised = 0, True
        while raised:
            step, raised = step + 1, False
            try:
                sys.settrace(raise_at(step))
                with one_blas_thread():
                    pass
            except StruckError:
                raised = True
            finally:
                sys.settrace(None)
            assert set(counts()) == {3}
            assert not _libraries()[0].holders
        assert step > 20


def test_each_library_gets_back_its_own_number():
    numbers = [5, 2]
    setting = Setting(
        [lambda i=i: numbers[i] for i in (0, 1)], [lambda value, i=i: numbers.__setitem__(i, value) for i in (0, 1)]
    )
    with held([setting], 1):
        with held([setting], 1):
            assert numbers == [1, 1]
        assert numbers == [1, 1]
    assert numbers == [5, 2]
    with ExitStack() as stack:
        stack.enter_context(held([setting], 1))
        assert numbers == [1, 1]
    assert numbers == [5, 2]
    begun = held([setting], 1)
    begun.__exit__(None, None, None)
    assert numbers == [5, 2]
    with pytest.raises(StruckError), held([setting], 1):
        raise StruckError
    assert numbers == [5, 2]


def exit_code(right):
    """Of a forked child that ends with 0 if `right()`."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = int(not right())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called:RuntimeWarning")  # jax's, where other tests imported it
def test_a_forked_child_keeps_the_blocks_of_its_own_thread_only():
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with one_blas_thread():
            inside.set()
            leave.wait()

    with threadpool_limits(2, user_api="blas"):
        other = threading.Thread(target=hold)
        other.start()
        assert inside.wait(60)
        try:
            assert exit_code(lambda: set(counts()) == {2}) == 0
            with one_blas_thread():
                assert exit_code(lambda: set(counts()) == {1}) == 0
        finally:
            leave.set()
            other.join()
        assert set(counts()) == {2}


def test_where_every_thread_has_a_number_of_its_own():
    """MKL, and OpenBLAS over OpenMP: a thread of the pool is held, too, and another thread is left alone."""
    number = threading.local()
    own = blas._OfThisThread([(lambda: getattr(number, "value", 4), lambda value: setattr(number, "value", value))])
    seen = []

    def work(part):
        seen.append(number.value)

    def elsewhere():
        blas.held_in_its_thread(work)(slice(0))
        seen.append(number.value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blas, "_libraries", lambda: (Setting([], []), own))
        with one_blas_thread():
            assert number.value == 1
            other = threading.Thread(target=elsewhere)
            other.start()
            other.join()
        assert number.value == 4
    assert seen == [1, 4]


@pytest.mark.parametrize("options", ({}, {"method": "minimax"}, {"assume_a": "gen"}, {"rtol": 1e-3}))
def test_bits_do_not_depend_on_the_threads_of_blas(options):
    A, _ = gallery.spd(300, 1e4, rng=0)
    A = A.astype(np.float32 if "rtol" in options else np.float64)
    seen = []
    for count in (1, 2, 3):
        with threadpool_limits(count, user_api="blas"):
            seen.append(solve(A, 2, **options).x)
            assert set(counts()) == {count}
    assert (seen[0] == seen[1]).all()
    assert (seen[0] == seen[2]).all()


def test_the_user_may_ask_for_more(monkeypatch):
    monkeypatch.setenv("MATROOT_BLAS_THREADS", "2")
    with one_blas_thread():
        assert set(counts()) == {2}
    for nonsense in ("0", "", "many"):
        monkeypatch.setenv("MATROOT_BLAS_THREADS", nonsense)
        with one_blas_thread():
            assert set(counts()) == {1}


def test_two_threads_at_once():
    """Solves from several threads give the same numbers, and leave BLAS's thread counts as they were."""
    from threadpoolctl import threadpool_info, threadpool_limits

    A, _ = problem(70, 1e4, batch=(12,), seed=1)
    names = ("eigen", "coupled_newton", "auto")
    expected = {method: solve(A, 4, method=method).x for method in names}
    answers, errors = [], []

    def work():
        try:
            for method in names:
                answers.append((method, solve(A, 4, method=method).x))
        except Exception as error:
            errors.append(error)

    with threadpool_limits(2, user_api="blas"):
        before = [lib["num_threads"] for lib in threadpool_info()]
        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert [lib["num_threads"] for lib in threadpool_info()] == before
    assert not errors
    assert len(answers) == 12
    for method, x in answers:
        assert (x == expected[method]).all()


def test_any_thread_holds_blas_and_the_last_one_restores_it():
    """threadpoolctl lets the thread that asked first set OpenBLAS, here the main one, and ignores the others."""
    from threadpoolctl import threadpool_limits

    from matroot.backends.cpu.blas import _libraries, one_blas_thread

    counts = lambda: {read() for read in _libraries()[0].readers}  # noqa: E731
    inside, leave = threading.Event(), threading.Event()
    seen = []

    def hold():
        with one_blas_thread():
            seen.append(counts())
            inside.set()
            leave.wait(60)

    with threadpool_limits(2, user_api="blas"):
        other = threading.Thread(target=hold)
        other.start()
        assert inside.wait(60)
        with one_blas_thread():
            leave.set()
            other.join()
            seen.append(counts())
        assert seen == [{1}, {1}] and counts() == {2}


def test_threads_are_restored_after_an_error():
    from threadpoolctl import threadpool_info, threadpool_limits

    A, _ = problem(70, 1e2, batch=(12,), seed=1)
    A[7, 0, 1] += 1
    with threadpool_limits(2, user_api="blas"):
        before = [lib["num_threads"] for lib in threadpool_info()]
        with pytest.raises(ValueError, match="not symmetric"):
            solve(A[7], 2)
        assert [lib["num_threads"] for lib in threadpool_info()] == before


def test_number_of_threads_is_the_users(monkeypatch):
    A, _ = problem(40, 1e2, batch=(20,), seed=2)
    expected = solve(A, 2).x
    for count in ("1", "3", "nonsense"):
        monkeypatch.setenv("MATROOT_NUM_THREADS", count)
        assert (solve(A, 2).x == expected).all()


def test_threads_have_the_callers_error_state(monkeypatch):
    """numpy keeps it for every thread: what a solve ignores would be a warning from its chunks."""
    monkeypatch.setattr(cpu, "threads", lambda: 2)
    found = []
    with np.errstate(over="ignore", invalid="raise"):
        cpu.in_threads(lambda part: found.append(np.geterr()), [slice(i, i + 1) for i in range(4)])
        assert found == [np.geterr()] * 4
