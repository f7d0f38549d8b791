"""Shampoo beside SGD and Adam on real digits: steps and seconds to the same held-out loss.

The same network, batches and start for all three, the same number of learning rates each, the best of which is shown.
SGD and Adam are the ten-line references of this file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from matroot import demo_network as network
from matroot_optim import Shampoo, apply_updates

SIZES = (64, 128, 128, 10)
TRAIN = 1437
BATCH, STEPS, EVERY = 128, 400, 5
#: Held-out loss to reach, and the rates to choose from: as many for each.
TARGET = 0.25
RATES = {
    "SGD with momentum": (0.03, 0.1, 0.3, 1.0),
    "Adam": (3e-4, 1e-3, 3e-3, 1e-2),
    "Shampoo": (3e-4, 1e-3, 3e-3, 1e-2),
}

Params = network.Params
Rule = Callable[[Params, Params], Params]


def sgd(rate: float) -> Rule:
    """Heavy-ball momentum: v = 0.9 v + g, w = w - rate v."""
    velocity: dict[tuple[int, str], Any] = {}

    def step(params: Params, grads: Params) -> Params:
        for i, layer in enumerate(grads):
            for k, g in layer.items():
                velocity[i, k] = 0.9 * velocity.get((i, k), 0) + g
        return [{k: w - rate * velocity[i, k] for k, w in layer.items()} for i, layer in enumerate(params)]

    return step


def adam(rate: float) -> Rule:
    """Kingma & Ba, 2015, algorithm 1, with its defaults."""
    m: dict[tuple[int, str], Any] = {}
    v: dict[tuple[int, str], Any] = {}
    t = 0

    def step(params: Params, grads: Params) -> Params:
        nonlocal t
        t += 1
        for i, layer in enumerate(grads):
            for k, g in layer.items():
                m[i, k] = 0.9 * m.get((i, k), 0) + 0.1 * g
                v[i, k] = 0.999 * v.get((i, k), 0) + 0.001 * g * g
        size = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        return [
            {k: w - size * m[i, k] / (np.sqrt(v[i, k]) + 1e-8) for k, w in layer.items()}
            for i, layer in enumerate(params)
        ]

    return step


def shampoo(rate: float) -> Rule:
    """The defaults of `Shampoo`: Adam's rate, roots every 10 steps, each in its own phase."""
    opt = Shampoo(rate)
    state = None

    def step(params: Params, grads: Params) -> Params:
        nonlocal state
        state = opt.init(params) if state is None else state
        moves, state = opt.update(grads, state, params)
        return apply_updates(params, moves)

    return step


METHODS: dict[str, Callable[[float], Rule]] = {"SGD with momentum": sgd, "Adam": adam, "Shampoo": shampoo}


@dataclass
class Run:
    """One training: the held-out loss and accuracy every few steps, and the seconds spent in steps so far."""

    name: str
    rate: float
    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)

    def reached(self, target: float) -> int | None:
        """Index of the first look at which the held-out loss is at most `target`."""
        return next((i for i, loss in enumerate(self.loss) if loss <= target), None)


def run(name: str, rate: float, seed: int) -> Run:
    """Train once; evaluation is not timed."""
    rng = np.random.default_rng(seed)
    train, test = network.load_digits().split(TRAIN)
    params = network.init(SIZES, rng)
    rule, result, spent, done = METHODS[name](rate), Run(name, rate), 0.0, 0
    with np.errstate(all="ignore"):  # a rate may be too large
        while True:
            for batch in train.batches(BATCH, rng):
                if done % EVERY == 0:
                    result.steps.append(done)
                    result.seconds.append(spent)
                    result.loss.append(network.loss_and_gradients(params, test)[0])
                    result.accuracy.append(network.accuracy(params, test))
                if done == STEPS:
                    return result
                start = time.perf_counter()
                _, grads = network.loss_and_gradients(params, batch)
                params = rule(params, grads)
                result.step_seconds.append(time.perf_counter() - start)
                spent += result.step_seconds[-1]
                done += 1


def best(runs: Sequence[Run]) -> Run:
    """The first at the target; where none gets there, the lowest loss at the end."""
    there = [r for r in runs if r.reached(TARGET) is not None]
    if there:
        return min(there, key=lambda r: (r.reached(TARGET), r.loss[-1]))
    return min(runs, key=lambda r: r.loss[-1] if np.isfinite(r.loss[-1]) else np.inf)


def table(chosen: Sequence[Run]) -> str:
    """A line for each method, for people."""
    lines = [f"{'':18}{'rate':>8}{'steps':>8}{'seconds':>9}{'ms/step':>9}{'best loss':>11}{'best accuracy':>15}"]
    for r in chosen:
        at = r.reached(TARGET)
        steps = "-" if at is None else str(r.steps[at])
        seconds = "-" if at is None else f"{r.seconds[at]:.2f}"
        lines.append(
            f"{r.name:18}{r.rate:8.0e}{steps:>8}{seconds:>9}{1e3 * float(np.median(r.step_seconds)):9.2f}"
            f"{min(r.loss):11.3f}{max(r.accuracy):15.1%}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; 0, or 1 when the picture cannot be drawn for want of matplotlib."""
    parser = argparse.ArgumentParser(prog="matroot_optim demo", description=__doc__)
    parser.add_argument("--figure", type=Path, default=Path("matroot-optim-demo.png"), metavar="PNG")
    parser.add_argument("--no-figure", action="store_true", help="tables only")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if not options.no_figure and find_spec("matplotlib") is None:
        print("matroot_optim demo: the picture needs matplotlib, or run with --no-figure", file=sys.stderr)
        return 1
    start = time.perf_counter()
    chosen = []
    with threadpool_limits(limits=1):  # the matrices are small: more threads would only wait for each other
        for name, rates in RATES.items():
            runs = []
            for rate in rates:
                print(f"\r{name}, rate {rate:g} ...".ljust(48), end="", file=sys.stderr, flush=True)
                runs.append(run(name, rate, options.seed))
            chosen.append(best(runs))
    print("\r".ljust(49) + "\r", end="", file=sys.stderr)
    print(
        f"A network {'-'.join(map(str, SIZES))} on {TRAIN} digits, batches of {BATCH}, {STEPS} steps;\n"
        f"the best of {len(RATES['Adam'])} learning rates each; steps and seconds to a held-out loss of {TARGET}"
    )
    print(table(chosen))
    slow = chosen[-1].step_seconds[20:]
    print(f"Shampoo's slowest step over its median: {max(slow) / float(np.median(slow)):.1f} (roots are staggered)")
    if not options.no_figure:
        from matroot_optim.demo_figure import draw

        draw(options.figure, chosen, TARGET)
        print(f"Picture: {options.figure}")
    print(f"{time.perf_counter() - start:.1f} seconds in all")
    return 0
