"""Seconds of a training: a step of every optimizer in turn, in one process, so that the machine is one for all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import matroot

from .best import Best, best_of
from .optimizers import CONSTANT, make
from .run import WORKLOADS, factor
from .tune import Results


class Side:
    """One of the trainings, and its seconds of the processor so far."""

    def __init__(self, best: Best, data: str, size: str) -> None:
        self.problem = best.workload.load(data, size, 0)
        model, tables = self.problem.model, self.problem.tables
        self.optimizer = make(best.optimizer, model, tables, best.rate, best.options)
        self.rate, self.gradients, self.own = best.rate, 0.0, 0.0
        self.falling = best.optimizer not in CONSTANT

    def step(self, step: int, steps: int) -> None:
        """Train by the step that is counted from 0."""
        self.problem.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor(step, steps, self.falling)
        begin = time.process_time()
        self.problem.model.zero_grad()
        next(self.problem.losses)().backward()
        middle = time.process_time()
        self.optimizer.step()
        self.own += time.process_time() - middle
        self.gradients += middle - begin


def seconds(
    results: Results, name: str, data: str, size: str = "small", only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Train side by side, on one thread, with all optimizers that are tuned, or only these of them.

    Returns
    -------
    dict
        `gradient_ms`, the mean of all; and for every optimizer its own [step, seconds so far] at the evaluations.
    """
    torch.set_num_threads(1)
    _load_kernels()
    workload = WORKLOADS[name]
    wanted = [best for best in best_of(results, name) if only is None or best.optimizer in only]
    sides = {best.name: Side(best, data, size) for best in wanted}
    steps = workload.steps[size]
    own: dict[str, list[Any]] = {name: [] for name in sides}
    for step in range(1, steps + 1):
        for name, side in sides.items():
            side.step(step - 1, steps)
            if step % workload.every == 0 or step == steps:
                own[name].append([step, round(side.own, 4)])
    spent = sum(side.gradients for side in sides.values()) / (steps * len(sides))
    return {"gradient_ms": round(1e3 * spent, 2), "own": own, "torch": torch.__version__}


def _load_kernels() -> None:
    """Compute roots as the optimizers do; the first of the process, half a second, would count as one optimizer's."""
    for n in (16, 64, 128):
        matroot.inverse_pth_root(np.stack([np.eye(n)] * 2), 3, regularization=1e-6)
        matroot.solve_in_two(np.stack([np.eye(n)]), 3, regularization=1e-6)()


def path_of(results: Results) -> str:
    """The file of the seconds, beside the results."""
    return os.path.splitext(results.path)[0] + ".seconds.json"


def read(results: Results) -> dict[str, Any]:
    """What was measured before, for every workload."""
    if not os.path.exists(path_of(results)):
        return {}
    with open(path_of(results), encoding="utf-8") as file:
        return dict(json.load(file))


def write(results: Results, name: str, found: dict[str, Any], *, partly: bool = False) -> None:
    """Of one workload, in place of what was there, or `partly` in place of what was there of these optimizers."""
    kept = read(results)
    if partly and name in kept:
        found = {**kept[name], "own": {**kept[name]["own"], **found["own"]}}
    with open(path_of(results), "w", encoding="utf-8") as file:
        json.dump({**kept, name: found}, file)


def until(found: dict[str, Any], optimizer: str, step: float) -> float | None:
    """Seconds to a step: its gradients, and the optimizer's own."""
    curve: Sequence[Any] = found.get("own", {}).get(optimizer, ())
    return next((found["gradient_ms"] / 1e3 * step + own for at, own in curve if at >= step), None)


def own_ms(found: dict[str, Any], optimizer: str, share: float = 1.0) -> float | None:
    """Milliseconds of one step of the optimizer, mean of the last `share` of the training."""
    curve = found.get("own", {}).get(optimizer)
    if not curve:
        return None
    end, seconds = curve[-1]
    start, before = next(one for one in reversed([[0, 0.0], *curve]) if one[0] <= (1.0 - share) * end)
    return 1e3 * float(seconds - before) / float(end - start)
