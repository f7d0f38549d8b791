"""Tables and figures of the results: steps and seconds to the fixed target, and the curves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from .run import WORKLOADS, steps_to
from .tune import SEEDS, Results, best_rate, label, targets

HEAD = ("optimizer", "rate", "steps to the target", "seconds to it", "final figure", "its own ms a step")


class Best:
    """The runs of one optimizer at its best rate, one for every seed."""

    def __init__(self, results: Results, workload: str, optimizer: str, options: dict[str, Any]) -> None:
        same = {"workload": workload, "optimizer": optimizer, "options": options}
        self.name, self.workload = label(optimizer, options), WORKLOADS[workload]
        self.rate = best_rate(results, targets(results), **same)
        self.runs = [r for seed in SEEDS for r in results.find(**same, rate=self.rate, seed=seed)[:1]]
        self.trials = len({r["rate"] for r in results.find(**same, seed=SEEDS[0])})

    def reached(self, target: float) -> list[tuple[int, float] | None]:
        """Steps and seconds to the target, for every seed."""
        return [steps_to(r["curve"], target, self.workload.less_is_better) for r in self.runs]

    @property
    def final(self) -> list[float]:
        return [r["curve"][-1][1] for r in self.runs]

    @property
    def own_ms(self) -> float:
        return median(r["step_ms_mean"] for r in self.runs)


def best_of(results: Results, workload: str) -> list[Best]:
    """Every optimizer that has been tuned on a workload to the end, at its best rate."""
    kinds = {label(r["optimizer"], r["options"]): r for r in results.find(workload=workload)}
    found = [Best(results, workload, r["optimizer"], r["options"]) for r in kinds.values()]
    return [best for best in found if len(best.runs) == len(SEEDS)]


def rows(results: Results, workload: str) -> Iterator[tuple[str, ...]]:
    """Cells of the table of one workload: medians over the seeds, and the range."""
    target = targets(results)[workload]
    for best in best_of(results, workload):
        found = best.reached(target)
        there = [x for x in found if x is not None]
        missed = len(found) - len(there)
        steps = _median_and_range([float(s) for s, _ in there], "{:.0f}") if there else "never"
        seconds = _median_and_range([s for _, s in there], "{:.1f}") if there else ""
        yield (
            best.name,
            f"{best.rate:g}",
            steps + (f", {missed} of {len(found)} never" if there and missed else ""),
            seconds,
            _median_and_range(best.final, "{:.3f}"),
            f"{best.own_ms:.1f}",
        )


def _median_and_range(values: Sequence[float], form: str) -> str:
    low, middle, high = (form.format(x) for x in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def table(results: Results, workload: str) -> str:
    """A workload's table in reStructuredText."""
    w = WORKLOADS[workload]
    lines = [
        f"{workload}: target {w.figure} {'at most' if w.less_is_better else 'at least'} {targets(results)[workload]}",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
    ]
    for cells in (HEAD, *rows(results, workload)):
        lines += [f"   {'* -' if k == 0 else '  -'} {cell}" for k, cell in enumerate(cells)]
    return "\n".join(lines) + "\n"


def pictures(results: Results, folder: str) -> list[str]:
    """Curves over steps and over seconds, one picture for each workload; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    paths = []
    for workload, target in targets(results).items():
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
        for k, best in enumerate(best_of(results, workload)):
            middle = sorted(best.runs, key=lambda r: r["curve"][-1][1])[len(best.runs) // 2]
            steps, values, seconds = zip(*middle["curve"], strict=True)
            name = best.name.split(" ")[0]
            style = {"color": f"C{k}", "label": name, "linewidth": 2.2 if name == "shampoo" else 1.3}
            axes[0].plot(steps, values, **style)
            axes[1].plot(seconds, values, **style)
        for ax, label_of_x in zip(axes, ("steps", "seconds"), strict=True):
            ax.axhline(target, color="0.5", linestyle=":", linewidth=1)
            ax.set(xlabel=label_of_x)
        axes[0].set(ylabel=WORKLOADS[workload].figure, title=workload)
        axes[0].legend(frameon=False, fontsize=8)
        path = os.path.join(folder, f"training_{workload}.png")
        figure.savefig(path, dpi=110)
        plt.close(figure)
        paths.append(path)
    return paths
