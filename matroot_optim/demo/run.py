"""Comparison of Shampoo with SGD and Adam on real digits: steps and seconds to the same held-out accuracy.

All three use the same network, batches and starts, and the same number of learning rates. For each method the rate is
shown that needs the fewest steps, in the median over a few starts. SGD and Adam are the short references in this file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from matroot import one_blas_thread
from matroot.demo import network
from matroot_optim import Shampoo, apply_updates

SIZES = (64, 128, 128, 10)
TRAIN = 1437
BATCH, STEPS, EVERY, SEEDS = 128, 300, 5, 3
#: Held-out accuracy to reach, and the learning rates to choose from, four per method.
TARGET = 0.92
#: In this share of the steps roots are renewed more often than every tenth step.
YOUNG = 0.4
RATES = {
    "SGD with momentum": (0.03, 0.1, 0.3, 1.0),
    "Adam": (3e-4, 1e-3, 3e-3, 1e-2),
    "Shampoo": (3e-4, 1e-3, 3e-3, 1e-2),
}

Params = network.Params
Rule = Callable[[Params, Params], Params]


def sgd(rate: float) -> Rule:
    """Return a step of SGD with heavy-ball momentum: v = 0.9 v + g, w = w - rate v."""
    velocity: dict[tuple[int, str], Any] = {}

    def step(params: Params, grads: Params) -> Params:
        for i, layer in enumerate(grads):
            for k, g in layer.items():
                velocity[i, k] = 0.9 * velocity.get((i, k), 0) + g
        return [{k: w - rate * velocity[i, k] for k, w in layer.items()} for i, layer in enumerate(params)]

    return step


def adam(rate: float) -> Rule:
    """Return a step of Adam: Kingma & Ba, 2015, algorithm 1, with its defaults."""
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
    """Return a step of `Shampoo` with its defaults: Adam's rate, roots every 10 steps, each in its own phase."""
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
    """One training run: held-out loss and accuracy every few steps, the seconds so far, the processor's of a step."""

    name: str
    rate: float
    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)

    def reached(self, target: float) -> int | None:
        """Return the index of the first evaluation with a held-out accuracy of at least `target`."""
        return next((i for i, accuracy in enumerate(self.accuracy) if accuracy >= target), None)


def run(name: str, rate: float, seed: int) -> Run:
    """Train once; the time excludes evaluation."""
    rng = np.random.default_rng(seed)
    train, test = network.load_digits().split(TRAIN)
    params = network.init(SIZES, rng)
    rule, result, spent, done = METHODS[name](rate), Run(name, rate), 0.0, 0
    with np.errstate(all="ignore"):  # a run with too large a rate may overflow
        while True:
            for batch in train.batches(BATCH, rng):
                if done % EVERY == 0:
                    result.steps.append(done)
                    result.seconds.append(spent)
                    result.loss.append(network.loss_and_gradients(params, test)[0])
                    result.accuracy.append(network.accuracy(params, test))
                if done == STEPS:
                    return result
                start, work = time.perf_counter(), time.process_time()
                _, grads = network.loss_and_gradients(params, batch)
                params = rule(params, grads)
                result.step_seconds.append(time.process_time() - work)
                spent += time.perf_counter() - start
                done += 1


@dataclass
class Entry:
    """A method with one of its rates: a run for every start."""

    runs: list[Run]

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.runs[0].name

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.runs[0].rate

    def to_target(self, what: str) -> float:
        """Return the median "steps" or "seconds" to the target; infinite if most runs do not reach it."""
        at = [(r, r.reached(TARGET)) for r in self.runs]
        return float(median(getattr(r, what)[i] if i is not None else np.inf for r, i in at))

    @property
    def best_loss(self) -> float:
        """Median over the runs of the least held-out loss; a run without a finite loss counts as infinite."""
        return float(median(min((x for x in r.loss if np.isfinite(x)), default=np.inf) for r in self.runs))

    @property
    def best_accuracy(self) -> float:
        """Median over the runs of the best held-out accuracy."""
        return float(median(max(r.accuracy) for r in self.runs))

    @property
    def step_seconds(self) -> list[float]:
        """Seconds of the processor of every step, medians over the runs: other load on the machine gives no spike."""
        return [float(median(times)) for times in zip(*(r.step_seconds for r in self.runs), strict=True)]


def best(entries: Sequence[Entry]) -> Entry:
    """Return the entry with the fewest steps to the target; ties go to the lower loss."""
    return min(entries, key=lambda e: (e.to_target("steps"), e.best_loss))


def table(chosen: Sequence[Entry]) -> str:
    """Format a table with a line for each method."""
    lines = [f"{'':18}{'rate':>8}{'steps':>8}{'seconds':>9}{'ms/step':>9}{'best loss':>11}{'best accuracy':>15}"]
    for e in chosen:
        steps, seconds = e.to_target("steps"), e.to_target("seconds")
        there = np.isfinite(steps)
        lines.append(
            f"{e.name:18}{e.rate:8.0e}{f'{steps:.0f}' if there else '-':>8}{f'{seconds:.2f}' if there else '-':>9}"
            f"{1e3 * median(e.step_seconds):9.2f}{e.best_loss:11.3f}{e.best_accuracy:15.1%}"
        )
    return "\n".join(lines)


def verdict(chosen: Sequence[Entry]) -> str:
    """Name the method with the fewest steps and the method with the least time."""
    there = [e for e in chosen if np.isfinite(e.to_target("steps"))]
    if not there:
        return f"None reached {TARGET:.0%}."
    by_steps = min(there, key=lambda e: e.to_target("steps"))
    by_clock = min(there, key=lambda e: e.to_target("seconds"))
    if by_clock is by_steps:
        return f"{by_steps.name} needs the fewest steps and the least time."
    return (
        f"{by_steps.name} needs the fewest steps; by the clock {by_clock.name} is first, "
        "for on a network this small a gradient costs next to nothing."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; return 0, or 1 if the figure cannot be drawn without matplotlib."""
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
    with one_blas_thread():  # the matrices are small: more threads would only wait for each other
        for name, rates in RATES.items():
            entries = []
            for rate in rates:
                _progress(f"{name}, rate {rate:g} ... {time.perf_counter() - start:.0f} s")
                entries.append(Entry([run(name, rate, options.seed + k) for k in range(SEEDS)]))
            chosen.append(best(entries))
    _progress("")
    print(
        f"A network {'-'.join(map(str, SIZES))} on {TRAIN} digits, batches of {BATCH}, {STEPS} steps, medians of "
        f"{SEEDS} starts;\nthe best of {len(RATES['Adam'])} learning rates each; steps and seconds to "
        f"{TARGET:.0%} of {network.load_digits().split(TRAIN)[1].labels.size} held-out digits"
    )
    print(table(chosen))
    print(verdict(chosen))
    slow = chosen[-1].step_seconds[int(YOUNG * STEPS) :]
    print(f"Shampoo's slowest step over its median: {max(slow) / median(slow):.1f} (six roots in ten steps, staggered)")
    if not options.no_figure:
        from matroot_optim.demo.figure import draw

        draw(options.figure, chosen, TARGET)
        print(f"Picture: {options.figure}")
    print(f"{time.perf_counter() - start:.1f} seconds in all")
    return 0


def _progress(text: str) -> None:
    """Print a progress line, which the next line overwrites if stderr is a terminal."""
    end = "" if sys.stderr.isatty() else "\n"
    if text or sys.stderr.isatty():
        print(f"\r{text:<60}\r{text}" if sys.stderr.isatty() else text, end=end, file=sys.stderr, flush=True)
