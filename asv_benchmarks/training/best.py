"""Every optimizer at its best rate."""

from __future__ import annotations

from typing import Any

from .run import WORKLOADS, steps_to
from .tune import SEEDS, Results, best_rate, label, targets


class Best:
    """The runs of one optimizer at its best rate, one for every seed."""

    def __init__(self, results: Results, workload: str, optimizer: str, options: dict[str, Any]) -> None:
        same = {"workload": workload, "optimizer": optimizer, "options": options}
        self.optimizer, self.options, self.name = optimizer, options, label(optimizer, options)
        self.workload = WORKLOADS[workload]
        self.rate = best_rate(results, targets(results), **same)
        self.runs = [r for seed in SEEDS for r in results.find(**same, rate=self.rate, seed=seed)[:1]]
        self.trials = len({r["rate"] for r in results.find(**same, seed=SEEDS[0])})

    def reached(self, target: float) -> list[tuple[int, float] | None]:
        """Steps and seconds to the target, for every seed."""
        return [steps_to(r["curve"], target, self.workload.less_is_better) for r in self.runs]

    @property
    def final(self) -> list[float]:
        return [r["curve"][-1][1] for r in self.runs]


def best_of(results: Results, workload: str) -> list[Best]:
    """Every optimizer that has been tuned on a workload to the end, at its best rate."""
    kinds = {label(r["optimizer"], r["options"]): r for r in results.find(workload=workload)}
    found = [Best(results, workload, r["optimizer"], r["options"]) for r in kinds.values()]
    return [best for best in found if len(best.runs) == len(SEEDS)]
