"""Steps of the optimizer: evenness, cost without roots, waiting for roots, and comparison with pytorch_optimizer.

``python -m benchmarks.bench_optim [evenness] [overhead] [waiting] [peers]``, in asv_benchmarks/, prints the tables of
docs/guide/optimizer.rst. The peers need
``pip install --no-deps pytorch_optimizer``.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any

from .common import core, in_turn, speedup, unit  # pins the process first

import numpy as np  # isort: skip

from matroot_optim import ExecutorEngine, Shampoo

EVERY = 10
#: Three layers each, from the input to the output.
NETWORKS = {
    "64-128-128-10": (64, 128, 128, 10),
    "256-256-256-256": (256, 256, 256, 256),
    "784-512-512-10": (784, 512, 512, 10),
    "512-512-512-512": (512, 512, 512, 512),
    "1024-1024-1024-1024": (1024, 1024, 1024, 1024),
}
SMALL = tuple(name for name in NETWORKS if max(NETWORKS[name]) < 1024)
SCHEDULES = ("staggered", "in a thread", "interval")
EQUAL = tuple(name for name in NETWORKS if len(set(NETWORKS[name])) == 1)
SMALL_EQUAL = [name for name in EQUAL if name in SMALL]


def weights(sizes: Sequence[int], rng: Any) -> list[Any]:
    """Matrices and biases, float32."""
    pairs = itertools.pairwise(sizes)
    return [x for m, n in pairs for x in (rng.standard_normal((m, n), np.float32) / m**0.5, np.zeros(n, np.float32))]


def gradients(params: Sequence[Any], rng: Any, count: int = 4 * EVERY) -> Iterator[list[Any]]:
    """For ever, in turn, `count` noisy gradients whose statistics are far from multiples of I."""

    def one(W: Any) -> Any:
        scales = [np.geomspace(1, 1e-2, n, dtype=np.float32) for n in W.shape]
        return rng.standard_normal(W.shape, np.float32) * (scales[0][:, None] * scales[1] if W.ndim == 2 else scales[0])

    return itertools.cycle([[one(W) for W in params] for _ in range(count)])


class Training:
    """`Shampoo` on a network, its steps timed one by one."""

    def __init__(self, sizes: Sequence[int], **options: Any) -> None:
        rng = np.random.default_rng(0)
        self.params = weights(sizes, rng)
        self.grads = gradients(self.params, rng)
        self.opt = Shampoo(1e-3, **{"refresh_every": EVERY, **options})
        self.state = self.opt.init(self.params)

    def step(self, clock: Callable[[], float] = time.perf_counter) -> float:
        """Seconds of one step in place."""
        grads = next(self.grads)
        start = clock()
        self.state = self.opt.step(self.params, grads, self.state)
        return clock() - start

    def update(self) -> None:
        """A pure step, its updates thrown away."""
        self.state = self.opt.update(next(self.grads), self.state, self.params)[1]

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()


def evenness(sizes: Sequence[int], schedule: str, repeats: int = 5, **options: Any) -> tuple[float, float]:
    """Slowest step over the median step, and the median, of 200 steps after the first ones.

    The seconds of a step are the median of the same step in `repeats` runs, and the processor's where all is done in
    one thread, so that a moment in which the machine was busy with something else is not called a spike. "in a thread"
    is staggered, on a pool of one worker with a lag of an interval: seconds by the wall, which want a core to spare.
    """
    runs = []
    for _ in range(repeats):
        if schedule == "in a thread":
            with ExecutorEngine(lambda: ThreadPoolExecutor(1), lag=EVERY) as engine:
                runs.append(seconds_of_steps(Training(sizes, engine=engine, **options), time.perf_counter))
        else:
            runs.append(seconds_of_steps(Training(sizes, schedule=schedule, **options), time.thread_time))
    seconds = [median(step) for step in zip(*runs, strict=True)]
    return max(seconds) / median(seconds), median(seconds)


def seconds_of_steps(training: Training, clock: Callable[[], float], count: int = 200) -> list[float]:
    """Of each of `count` steps, after those in which young statistics have shorter intervals."""
    training.steps(12 * EVERY)
    return [training.step(clock) for _ in range(count)]


@core(["64-128-128-10"], ["staggered"])
class Evenness:
    """Wanted at most 1.5 when staggered, or in a thread where the layers are unequal."""

    params = (list(SMALL), list(SCHEDULES))
    param_names = ("network", "schedule")
    timeout = 600

    @unit("slowest step over the median step")
    def track_evenness(self, network: str, schedule: str) -> float:
        return evenness(NETWORKS[network], schedule)[0]


@core(["256-256-256-256"], ["in place"])
class Overhead:
    """Steps without roots beside their products alone; wanted at most 2."""

    params = (list(EQUAL), ["in place", "pure"])
    param_names = ("network", "how")
    timeout = 300

    def setup(self, network: str, how: str) -> None:
        # Roots at the first step, and at none that is timed.
        training = Training(
            NETWORKS[network], schedule="interval", refresh_every=10**9, refresh_growth=0.0, start_step=1
        )
        training.step()
        self.step = training.update if how == "pure" else training.step
        self.products = products(training.params)

    @unit("times the seconds of its products")
    def track_overhead(self, network: str, how: str) -> float:
        mine, bound = self.seconds()
        return mine / bound

    def seconds(self) -> list[float]:
        """Of a step, and of its products."""
        return in_turn(self.step, self.products, rounds=9, sample=0.1)


def products(params: Sequence[Any]) -> Callable[[], None]:
    """G G^T, G^T G, L G and (L G) R of every matrix, and nothing else."""
    rng = np.random.default_rng(1)
    matrices = [rng.standard_normal(W.shape, np.float32) for W in params if W.ndim == 2]
    roots = [[rng.standard_normal((n, n), np.float32) for n in G.shape] for G in matrices]

    def run() -> None:
        for G, (L, R) in zip(matrices, roots, strict=True):
            G @ G.T, G.T @ G, L @ G @ R

    return run


def waiting(sizes: Sequence[int], batch: int = 2048, steps: int = 100) -> dict[str, float]:
    """A thread pool of one worker, lag one interval: seconds in roots, and waited for by the training thread.

    Between two steps are the products of a forward and a backward pass over a batch.
    """
    with ExecutorEngine(lambda: ThreadPoolExecutor(1), lag=EVERY) as engine:
        training = Training(sizes, engine=engine)
        X = [np.ones((batch, m), np.float32) for m in sizes]
        matrices = [W for W in training.params if W.ndim == 2]

        def passes() -> None:
            for x, y, W in zip(X, X[1:], matrices, strict=False):
                x @ W, y @ W.T, x.T @ y

        def run(count: int) -> float:
            start = time.perf_counter()
            for _ in range(count):
                passes()
                training.step()
            return time.perf_counter() - start

        run(3 * EVERY)
        roots, waited = engine.clock.root_seconds, engine.clock.waited_seconds
        spent = run(steps)
        roots, waited = engine.clock.root_seconds - roots, engine.clock.waited_seconds - waited
    return {"seconds": spent, "roots": roots, "waited": waited, "share": waited / roots}


@core(["256-256-256-256"])
class Waiting:
    """Wait for roots in a thread pool, with a free core, as a share of the seconds in roots; target: below 0.05."""

    params = SMALL_EQUAL
    param_names = ("network",)
    timeout = 300

    @unit("share of the seconds in roots")
    def track_waiting(self, network: str) -> float:
        return waiting(NETWORKS[network])["share"]


#: Our steps wanted at least this many times faster.
PEERS = {"ScalableShampoo": 2.0, "SOAP": 1.0}


def torch_steps(make: Callable[[Any], Any], sizes: Sequence[int]) -> Callable[[], None]:
    """An interval of steps of a torch optimizer on three linear layers, past the steps in which it starts."""
    import torch

    layers = [torch.nn.Linear(m, n) for m, n in itertools.pairwise(sizes)]
    return interval_of(make, [p for layer in layers for p in layer.parameters()])


def interval_of(make: Callable[[Any], Any], params: list[Any]) -> Callable[[], None]:
    """An interval of steps of a torch optimizer on these parameters, past the steps in which it starts."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    rng = np.random.default_rng(0)
    grads = gradients([p.detach().numpy() for p in params], rng)
    optimizer = make(params)

    def interval() -> None:
        for _ in range(EVERY):
            for p, g in zip(params, next(grads), strict=True):
                p.grad = torch.from_numpy(g).clone()
            optimizer.step()

    interval()
    interval()
    return interval


def ours(params: Any) -> Any:
    """Our defaults at the interval of a settled training: it is shorter at first."""
    from matroot_optim.torch import Shampoo

    return Shampoo(params, lr=1e-3, refresh_every=EVERY, refresh_growth=0.0)


def theirs(name: str) -> Callable[[Any], Any]:
    """A peer with roots (or bases) as often as ours, and blocks as large as it allows on these layers."""
    import pytorch_optimizer

    how: dict[str, Any] = {
        "ScalableShampoo": {
            "preconditioning_compute_steps": EVERY,
            "start_preconditioning_step": EVERY,
            "block_size": 1024,
        },
        "SOAP": {"precondition_frequency": EVERY},
    }[name]
    return partial(getattr(pytorch_optimizer, name), lr=1e-3, **how)


@core(["SOAP"], ["256-256-256-256"])
class Peers:
    """Whole steps, roots included, on the same torch model on the CPU, at the same interval."""

    params = (list(PEERS), list(NETWORKS))
    param_names = ("peer", "network")
    timeout = 600

    def setup(self, peer: str, network: str) -> None:
        if find_spec("pytorch_optimizer") is None:
            raise NotImplementedError
        self.ours = torch_steps(ours, NETWORKS[network])
        self.peer = torch_steps(theirs(peer), NETWORKS[network])

    @unit("times faster")
    def track_speedup(self, peer: str, network: str) -> float:
        return speedup(self.ours, self.peer, rounds=5)

    def seconds(self) -> list[float]:
        """Of one step of ours, and of theirs."""
        return [s / EVERY for s in in_turn(self.ours, self.peer, rounds=5)]


class Categories:
    """26 tables of 2000 x 16, each with a root for its columns and a graft for all rows, beside AdamW's steps."""

    timeout = 600

    def setup(self) -> None:
        import torch

        def tables() -> list[Any]:
            return [torch.nn.Parameter(torch.zeros(2000, 16)) for _ in range(26)]

        self.ours = interval_of(ours, tables())
        self.adamw = interval_of(partial(torch.optim.AdamW, foreach=True), tables())

    @unit("times AdamW's seconds")
    def track_over_adamw(self) -> float:
        return speedup(self.adamw, self.ours, rounds=5)


def print_evenness() -> None:
    _table("network", "schedule", "median step, ms", "slowest / median")
    for name, schedule in itertools.product(SMALL, SCHEDULES):
        ratio, middle = evenness(NETWORKS[name], schedule)
        _row(name, schedule, f"{1e3 * middle:.1f}", f"{ratio:.2f}")
    for size in (512, 256):
        ratio, middle = evenness(NETWORKS["784-512-512-10"], "staggered", block_size=size)
        _row(f"784-512-512-10 in blocks of {size}", "staggered", f"{1e3 * middle:.1f}", f"{ratio:.2f}")


def print_overhead() -> None:
    _table("network", "how", "step without roots, ms", "its products, ms", "ratio")
    for name, how in itertools.product(EQUAL, ("in place", "pure")):
        one = Overhead()
        one.setup(name, how)
        mine, bound = one.seconds()
        _row(name, how, f"{1e3 * mine:.1f}", f"{1e3 * bound:.1f}", f"{mine / bound:.2f}")


def print_waiting() -> None:
    _table("network", "seconds in roots", "seconds waited", "share")
    for name in SMALL_EQUAL:
        found = waiting(NETWORKS[name])
        _row(name, f"{found['roots']:.2f}", f"{found['waited']:.4f}", f"{found['share']:.4f}")


def print_peers() -> None:
    _table("peer", "network", "our step, ms", "its step, ms", "times faster")
    for peer, name in itertools.product(PEERS, NETWORKS):
        pair = Peers()
        pair.setup(peer, name)
        mine, other = pair.seconds()
        _row(peer, name, f"{1e3 * mine:.1f}", f"{1e3 * other:.1f}", f"{other / mine:.2f}")


TABLES = {
    "evenness": print_evenness,
    "overhead": print_overhead,
    "waiting": print_waiting,
    "peers": print_peers,
}


def main() -> None:
    """Print the tables of docs/guide/optimizer.rst that are named, or all."""
    for name in sys.argv[1:] or TABLES:
        TABLES[name]()


def _table(*head: str) -> None:
    print("\n.. csv-table::\n   :header-rows: 1\n")
    _row(*(f'"{name}"' for name in head))


def _row(*cells: str) -> None:
    print("   " + ", ".join(cells), flush=True)


if __name__ == "__main__":
    main()
