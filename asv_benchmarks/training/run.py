"""One training run and its record."""

from __future__ import annotations

import json
import math
import platform
import time
from typing import Any

import torch

from .apps import APPS
from .clicks import CLICKS
from .images import IMAGES
from .language import CAUSAL, MASKED, PLAIN
from .optimizers import AVERAGED, CONSTANT, make
from .problem import Problem, Workload
from .translation import TRANSLATION

WORKLOADS: dict[str, Workload] = {w.name: w for w in (TRANSLATION, CAUSAL, MASKED, PLAIN, CLICKS, APPS, IMAGES)}
WARM_UP = 0.05


def factor(step: int, steps: int, falling: bool = True) -> float:
    """Of the learning rate at a step counted from 0: a linear warm-up, then a cosine to zero, or a constant."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    if not falling:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def run(
    name: str,
    *,
    optimizer: str,
    rate: float,
    seed: int,
    data: str,
    size: str = "small",
    steps: int | None = None,
    every: int | None = None,
    options: dict[str, Any] | None = None,
    tick: Any = None,
) -> dict[str, Any]:
    """Train once, on one thread.

    Parameters
    ----------
    every : int, optional
        Steps between two evaluations, which change nothing in the training; the workload's own if not given.

    Returns
    -------
    dict
        What was run, and the curve: [step, figure, seconds of training so far] at every evaluation. `seconds` leave
        the evaluations out; `step_ms` is the optimizer's own median.
    """
    torch.set_num_threads(1)
    workload = WORKLOADS[name]
    steps, every = steps or workload.steps[size], every or workload.every
    problem = workload.load(data, size, seed)
    opt = make(optimizer, problem.model, problem.tables, rate, options or {})
    curve, spent, own = [], 0.0, []
    for step, loss_of_batch in zip(range(steps), problem.losses, strict=False):
        problem.model.train()
        begin = time.perf_counter()
        for group in opt.param_groups:
            group["lr"] = rate * factor(step, steps, falling=optimizer not in CONSTANT)
        problem.model.zero_grad()
        loss = loss_of_batch()
        loss.backward()
        middle = time.perf_counter()
        opt.step()
        end = time.perf_counter()
        spent += end - begin
        own.append(end - middle)
        if not math.isfinite(float(loss.detach())):
            break
        if (step + 1) % every == 0 or step + 1 == steps:
            curve.append([step + 1, round(figure_of(problem, opt, optimizer in AVERAGED), 5), round(spent, 3)])
            if tick is not None:
                tick(step + 1, steps, curve[-1][1])
    return {
        "workload": name,
        "size": size,
        "optimizer": optimizer,
        "rate": rate,
        "seed": seed,
        "steps": steps,
        "options": options or {},
        "curve": curve,
        "seconds": round(spent, 2),
        "step_ms": round(1e3 * sorted(own)[len(own) // 2], 3),
        "step_ms_mean": round(1e3 * sum(own) / len(own), 3),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def figure_of(problem: Problem, opt: Any, averaged: bool) -> float:
    """The figure on the held-out data, of the averages of the weights where the optimizer keeps them."""
    with torch.no_grad():
        if averaged:
            opt.eval()
            problem.settle()
        problem.model.eval()
        figure = problem.evaluate()
        if averaged:
            opt.train()
    return figure


def steps_to(curve: list[list[float]], target: float, less: bool) -> tuple[int, float] | None:
    """Steps and seconds at the first evaluation that reaches the target; None when none does."""
    for step, figure, seconds in curve:
        if (figure <= target) if less else (figure >= target):
            return int(step), seconds
    return None


def line(result: dict[str, Any]) -> str:
    """A result as one line of JSON."""
    return json.dumps(result, separators=(",", ":"))
