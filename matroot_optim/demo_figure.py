"""The demonstration's picture: held-out loss against steps and seconds, and what each step took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matroot_optim.demo import Run

COLORS = ("#9a9a9a", "#0072b2", "#d55e00")


def draw(path: Path, runs: Sequence[Run], target: float) -> None:
    """Three panels, one colour a method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for run, color in zip(runs, COLORS, strict=True):
        axes[0].plot(run.steps, run.loss, color=color, lw=2)
        axes[1].plot(run.seconds, run.loss, color=color, lw=2)
        at = run.reached(target)
        if at is not None:
            axes[0].plot(run.steps[at], run.loss[at], "o", color=color, ms=7)
            axes[1].plot(run.seconds[at], run.loss[at], "o", color=color, ms=7)
        axes[2].plot([1e3 * s for s in run.step_seconds], color=color, lw=0.8, label=f"{run.name}, rate {run.rate:g}")
    for ax in axes[:2]:
        ax.axhline(target, color="black", lw=0.6, ls=":")
        ax.set(yscale="log", ylim=(0.8 * min(min(r.loss) for r in runs), 3))
    axes[0].set(xlabel="steps", ylabel="held-out loss", title="Loss against steps")
    axes[1].set(xlabel="seconds", title="The same against seconds", xscale="log")
    axes[1].set_xlim(left=min(r.seconds[1] for r in runs))
    axes[2].set(xlabel="step", ylabel="milliseconds", title="What each step took", yscale="log")
    axes[2].legend(frameon=False, fontsize=8)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=120)
    plt.close(fig)
