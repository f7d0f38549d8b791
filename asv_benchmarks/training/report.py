"""Tables and figures of the results: steps and seconds to the fixed target, and the curves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from math import inf
from statistics import median

from list_table import list_table

from . import times
from .best import Best, best_of
from .optimizers import TITLES
from .run import WORKLOADS
from .tune import Results, targets

#: What the pictures show; more curves cannot be told apart.
PICTURED = ("adamw", "sgd", "adagrad", "muon", "soap", "distributed_shampoo", "shampoo")
HEAD = (
    *("optimizer", "rate", "steps to the target", "seconds to it", "final figure"),
    *("its own ms a step", "in the last third"),
)


def rows(results: Results, workload: str) -> Iterator[tuple[str, ...]]:
    """Cells of the table of one workload, first the first at the target: medians over the seeds, and the range."""
    target, measured = targets(results)[workload], times.read(results).get(workload, {})

    def place(best: Best) -> tuple[float, float]:
        end = median(best.final)
        steps = median(inf if x is None else x[0] for x in best.reached(target))
        return steps, end if best.workload.less_is_better else -end

    for best in sorted(best_of(results, workload), key=place):
        found = best.reached(target)
        there = [float(x[0]) for x in found if x is not None]
        missed = len(found) - len(there)
        steps = _median_and_range(there, "{:.0f}") if there else "never"
        seconds = times.until(measured, best.name, median(there)) if there else None
        own = [times.own_ms(measured, best.name, share) for share in (1.0, 1 / 3)]
        yield (
            TITLES[best.optimizer],
            f"{best.rate:g}",
            steps + (f", {missed} of {len(found)} never" if there and missed else ""),
            "" if seconds is None else f"{seconds:.1f}",
            _median_and_range(best.final, "{:.3f}"),
            *("" if ms is None else f"{ms:.1f}" for ms in own),
        )


def _median_and_range(values: Sequence[float], form: str) -> str:
    low, middle, high = (form.format(x) for x in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def table(results: Results, workload: str) -> str:
    """A workload's table in reStructuredText."""
    w, target = WORKLOADS[workload], targets(results)[workload]
    head = f"Target: {w.figure} at {'most' if w.less_is_better else 'least'} {target}."
    return f"{head}\n\n{list_table((HEAD, *rows(results, workload)))}"


def tables(results: Results, folder: str) -> list[str]:
    """A file for the table of each workload, for pages that include it."""
    paths = []
    for workload in targets(results):
        paths.append(os.path.join(folder, f"{workload}.rst"))
        with open(paths[-1], "w", encoding="utf-8") as file:
            file.write(table(results, workload))
    return paths


def pictures(results: Results, folder: str) -> list[str]:
    """Curves over steps and over seconds, one picture for each workload; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    paths = []
    for workload, target in targets(results).items():
        measured = times.read(results).get(workload, {})
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
        shown = [best for best in best_of(results, workload) if best.optimizer in PICTURED]
        for best in sorted(shown, key=lambda best: PICTURED.index(best.optimizer)):
            middle = sorted(best.runs, key=lambda r: r["curve"][-1][1])[len(best.runs) // 2]
            steps, values, seconds = zip(*middle["curve"], strict=True)
            if best.name in measured.get("own", {}):
                seconds = tuple(times.until(measured, best.name, step) for step in steps)
            ours = best.optimizer == "shampoo"
            color = f"C{PICTURED.index(best.optimizer)}"
            style = {"color": color, "label": best.optimizer, "linewidth": 2.2 if ours else 1.3}
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
