"""Equal tuning: every optimizer gets the same number of trials, its best rate gets more seeds, no run is repeated."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .optimizers import FIRST_ORDER, RATES
from .run import WORKLOADS, line, run, steps_to

SEEDS = (0, 1, 2)
LATE = 0.9  # part of the budget at which the best first-order method gives the target


class Results:
    """Runs in a file of JSON lines. A line that a kill has cut off is run again."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.runs: list[dict[str, Any]] = []
        if os.path.exists(path):
            with open(path, "r+", encoding="utf-8") as file:
                whole = file.read().rpartition("\n")[0]
                self.runs = [json.loads(text) for text in whole.splitlines()]
                file.seek(len((whole + "\n").encode()) if whole else 0)
                file.truncate()

    def add(self, result: dict[str, Any]) -> None:
        self.runs.append(result)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line(result) + "\n")

    def find(self, **wanted: Any) -> list[dict[str, Any]]:
        return [r for r in self.runs if all(r.get(name) == value for name, value in wanted.items())]


def label(optimizer: str, options: dict[str, Any]) -> str:
    """Name of an optimizer with its options, as the tables show it."""
    return optimizer + "".join(f" {name}={value}" for name, value in sorted(options.items()))


def tune(
    results: Results,
    workload: str,
    optimizer: str,
    data: str,
    *,
    size: str = "small",
    rates: Sequence[float] = (),
    options: dict[str, Any] | None = None,
    tick: Callable[[str], Any] = print,
) -> None:
    """All rates on seed 0, then the best rate on the other seeds; what is in the results is not run again."""
    options = options or {}
    same = {"workload": workload, "size": size, "optimizer": optimizer, "options": options}

    def once(rate: float, seed: int) -> None:
        if not results.find(**same, rate=rate, seed=seed):
            found = run(workload, optimizer=optimizer, rate=rate, seed=seed, data=data, size=size, options=options)
            results.add(found)
            last = found["curve"][-1][1] if found["curve"] else "diverged"
            tick(f"{workload} {label(optimizer, options)} rate {rate:g} seed {seed}: {last}, {found['seconds']:.0f} s")

    for rate in rates or [WORKLOADS[workload].rates * rate for rate in RATES[optimizer]]:
        once(rate, SEEDS[0])
    best = best_rate(results, targets(results), **same)
    for seed in SEEDS[1:]:
        once(best, seed)


def best_rate(results: Results, target: dict[str, float], **same: Any) -> float:
    """The rate that reaches the target in the fewest steps on the first seed; before there is one, that ends best."""
    less = WORKLOADS[same["workload"]].less_is_better

    def cost(r: dict[str, Any]) -> tuple[float, float]:
        goal = target.get(r["workload"])
        found = steps_to(r["curve"], goal, less) if goal is not None else None
        best = running_best(r, less)
        return (found[0] if found else float("inf")), (best if less else -best)

    trials = results.find(**same, seed=SEEDS[0])
    return float(min(trials, key=cost)["rate"])


def running_best(r: dict[str, Any], less: bool, part: float = 1.0) -> float:
    """The best figure of a curve up to a part of the budget."""
    figures = [figure for step, figure, _ in r["curve"] if step <= part * r["steps"]]
    return (min if less else max)(figures) if figures else float("inf" if less else "-inf")


def targets(results: Results) -> dict[str, float]:
    """The frozen target of every workload, beside the results."""
    path = target_path(results)
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return {name: entry["target"] for name, entry in json.load(file).items()}


def target_path(results: Results) -> str:
    return os.path.splitext(results.path)[0] + ".targets.json"


def freeze(results: Results, workload: str) -> dict[str, Any]:
    """Write the target of a workload, once: what the best first-order method reaches on every seed late in its run.

    Raises
    ------
    ValueError
        There is a target already, or a run of an optimizer that is not of first order: a target comes before those.
    """
    path, frozen = target_path(results), {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            frozen = json.load(file)
    if workload in frozen:
        raise ValueError(f"the target of {workload} is frozen: {frozen[workload]['target']}")
    if results.find(workload=workload, optimizer="shampoo"):
        raise ValueError(f"the target of {workload} must be frozen before Shampoo has run")
    less = WORKLOADS[workload].less_is_better
    found = {name: reached for name, reached in _reached(results, workload, less)}
    if not found:
        raise ValueError(f"no first-order method has run on {workload} with {len(SEEDS)} seeds")
    best = (min if less else max)(found, key=lambda name: found[name])
    digits = 2 if less else 3
    frozen[workload] = {"target": round(found[best], digits), "from": best, "reached": found}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(frozen, file, indent=1)
    return dict(frozen[workload])


def _reached(results: Results, workload: str, less: bool) -> Iterator[tuple[str, float]]:
    """Of every first-order method at its best rate, what its worst seed has reached late in the run."""
    for name in FIRST_ORDER:
        same = {"workload": workload, "optimizer": name, "options": {}}
        if not results.find(**same):
            continue
        runs = results.find(**same, rate=best_rate(results, {}, **same))
        if len(runs) == len(SEEDS):
            yield name, (max if less else min)(running_best(r, less, LATE) for r in runs)
