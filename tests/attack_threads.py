"""Interrupt solves and fork beside them, a thousand times: ``python -m tests.attack_threads --help``.

BLAS must have the threads it had, numpy its error state, and every child and every later solve must finish with the
same bits.
"""

import argparse
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.linalg  # noqa: F401  brings a BLAS of its own
from threadpoolctl import ThreadpoolController

from matroot import Eigen, Floor, RootTracker, gallery, solve
from matroot_optim import ExecutorEngine, InlineEngine, Shampoo

#: Seconds a child may take on a busy machine.
PATIENCE = 120.0


class Blas:
    """The threads of every BLAS library, set and read from the main thread."""

    def __init__(self):
        self.libraries = ThreadpoolController().select(user_api="blas").lib_controllers

    def counts(self):
        return [library.get_num_threads() for library in self.libraries]

    def set(self, counts):
        for library, count in zip(self.libraries, counts, strict=True):
            library.set_num_threads(count)
        assert self.counts() == list(counts)


def spd(n, batch=(), dtype="f8"):
    return gallery.spd(n, 1e4, batch=batch, rng=n)[0].astype(dtype)


def works():
    """Solves of all kinds, by name: small and large, one and many, on the pool and not."""
    lone, many, small, single = spd(150), spd(50, (12,)), spd(8, (400,)), spd(60, (3,), "f4")
    general = np.eye(40) + 0.02 * np.random.default_rng(0).standard_normal((40, 40))
    gradients = np.random.default_rng(1).standard_normal((3, 80, 20))

    def tracked():
        tracker = RootTracker(4, rtol=1e-3)
        return [tracker.update(lone * scale).x for scale in (1.0, 1.001)][-1]

    def trained(engine):
        opt = Shampoo(0.1, refresh_every=2, start_step=2, engine=engine)
        W = np.zeros(gradients.shape[1:])
        state = opt.init(W)
        for G in gradients:
            update, state = opt.update(G, state, W)
            W = W + update
        return W

    def in_a_thread():
        with ExecutorEngine(lambda: ThreadPoolExecutor(1), lag=1) as engine:
            return trained(engine)

    return {
        "lone": lambda: solve(lone, 2).x,
        "many": lambda: solve(many, 4, method=Eigen()).x,
        "small": lambda: solve(small, 2).x,
        "single": lambda: solve(single, 2, rtol=1e-3).x,
        "general": lambda: solve(general, 3, assume_a="gen").x,
        "clamped": lambda: solve(many, 2, regularization=Floor(relative=1e-3)).x,
        "inverse": lambda: solve(lone, 1).x,
        "tracked": tracked,
        "optimizer": lambda: trained(InlineEngine(1)),
        "optimizer in a thread": in_a_thread,
    }


class Struck(BaseException):
    """What the signal handler raises, as Ctrl-C's raises KeyboardInterrupt."""


class Striker:
    """A signal in the middle of a function, from the kernel's timer or from another thread."""

    def __init__(self):
        self.armed = False
        self.landed = 0
        for number in (signal.SIGALRM, signal.SIGINT):
            signal.signal(number, self.handle)

    def handle(self, number, frame):
        if self.armed:
            self.armed = False
            raise Struck

    def strike(self, work, delay, by_timer):
        other = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        try:
            self.armed = True
            if by_timer:
                signal.setitimer(signal.ITIMER_REAL, delay)
            else:
                other.start()
            work()
            self.armed = False
        except Struck:
            self.landed += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if not by_timer:
            other.join()


def jobs_under_way():
    """Whether a root that the optimizer has sent to a thread may still go on there, and hold BLAS."""
    return any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate())


def interrupts(count, rng, blas, say):
    """Strike `count` solves; returns what went wrong."""
    faults, striker = [], Striker()
    todo = works()
    expected = {name: work() for name, work in todo.items()}
    seconds = {}
    for name, work in todo.items():
        begin = time.perf_counter()
        work()
        seconds[name] = time.perf_counter() - begin
    state = np.geterr()
    done = 0
    while striker.landed < count and done < 20 * count:
        if done % 25 == 0:
            before = [rng.randint(1, 64) for _ in blas.libraries]
            blas.set(before)
        name = rng.choice(list(todo))
        striker.strike(todo[name], rng.uniform(1e-6, 1.2 * seconds[name]), by_timer=rng.random() < 0.7)
        done += 1
        deadline = time.monotonic() + PATIENCE
        while blas.counts() != before and jobs_under_way() and time.monotonic() < deadline:
            time.sleep(1e-3)
        if blas.counts() != before:
            faults.append(f"{name}: BLAS threads became others")
            blas.set(before)
        if np.geterr() != state:
            faults.append(f"{name}: numpy's error state {state} became {np.geterr()}")
            np.seterr(**state)
    for name, work in todo.items():
        if not (work() == expected[name]).all():
            faults.append(f"{name}: other bits after the interrupts")
    say(f"{striker.landed} interrupts in {done} solves, {len(faults)} faults")
    return faults


def steps(count, rng, blas, say):
    """Strike steps of one optimizer whose roots are computed in a thread, each until it ends; what went wrong."""
    faults, striker = [], Striker()
    gradients = np.random.default_rng(1).standard_normal((60, 40, 20))
    with ExecutorEngine(lambda: ThreadPoolExecutor(1), lag=1, timeout=PATIENCE) as engine:
        opt = Shampoo(0.1, refresh_every=2, start_step=2, engine=engine)

        def trained(step):
            W = np.zeros(gradients.shape[1:])
            state = opt.init(W)
            for G in gradients:
                update, state = step(lambda G=G, state=state, W=W: opt.update(G, state, W))
                W = W + update
            return W

        def struck(work):
            found = []
            while not found and striker.landed < count:
                striker.strike(lambda: found.append(work()), rng.uniform(1e-6, 1.2 * seconds), by_timer=True)
            return found[0] if found else work()

        expected = trained(lambda work: work())
        begin = time.perf_counter()
        trained(lambda work: work())
        seconds = (time.perf_counter() - begin) / len(gradients)
        while striker.landed < count:
            if not (trained(struck) == expected).all():
                faults.append("steps: other bits after the interrupts")
        if engine.clock.failures:
            faults.append(f"steps: {engine.clock.failures} failures")
    say(f"{striker.landed} interrupts of steps, {len(faults)} faults")
    return faults


def forks(count, rng, blas, say):
    """Fork `count` children while two threads solve; returns what went wrong."""
    faults, todo = [], works()
    expected = {name: todo[name]() for name in ("lone", "many", "small", "general")}
    before = [rng.randint(2, 8) for _ in blas.libraries]
    blas.set(before)
    stop = threading.Event()

    def load(names):
        while not stop.is_set():
            for name in names:
                todo[name]()

    threads = [threading.Thread(target=load, args=(names,)) for names in (["small", "many"], ["lone", "general"])]
    for thread in threads:
        thread.start()
    try:
        for i in range(count):
            time.sleep(rng.uniform(0, 0.01))
            name = list(expected)[i % len(expected)]
            code = in_a_child(lambda name=name: check(blas, before, todo[name], expected[name]))
            if code:
                faults.append(f"{name}: {OUTCOMES.get(code, code)}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if blas.counts() != before:
        faults.append(f"the parent's BLAS threads {before} became {blas.counts()}")
    say(f"{count} forks, {len(faults)} faults")
    return faults


OUTCOMES = {1: "the child raised", 2: "BLAS threads at the start", 3: "other bits", 4: "BLAS threads at the end"}


def check(blas, before, work, expected):
    """In a child: its exit code."""
    if blas.counts() != before:
        return 2
    if not (work() == expected).all():
        return 3
    return 4 if blas.counts() != before else 0


def in_a_child(work):
    """The exit code of a forked child, or "hung"."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(1e-3)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung"


def cold(count, rng, blas, say):
    """Fork `count` children while another thread imports and compiles for its first root."""
    A, C, faults = spd(8, (4,)), np.array([[2.0, 1.0], [0.5, 3.0]]), []
    first = threading.Thread(target=lambda: (solve(A, 2), solve(C, 2, assume_a="gen")))
    first.start()
    for _ in range(count):
        time.sleep(rng.uniform(0, 0.3))
        code = in_a_child(lambda: int(not (solve(A, 2).converged.all() and solve(C, 2, assume_a="gen").converged)))
        if code:
            faults.append(f"cold: {OUTCOMES.get(code, code)}")
    first.join()
    say(f"{count} forks during the first root, {len(faults)} faults")
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interrupts", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="interrupts of one optimizer's steps")
    parser.add_argument("--forks", type=int, default=0)
    parser.add_argument("--cold", type=int, default=0, help="forks while the first root of the process is computed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, blas = random.Random(options.seed), Blas()
    faults = cold(options.cold, rng, blas, print) if options.cold else []
    for attack, count in ((interrupts, options.interrupts), (steps, options.steps), (forks, options.forks)):
        faults += attack(count, rng, blas, lambda line: print(line, flush=True)) if count else []
    for fault in sorted(set(faults)):
        print(f"{faults.count(fault)} times {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
