"""The figure of the demonstration: held-out accuracy against steps and seconds, and the time of each step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matroot_optim.demo.run import Entry

COLORS = ("#9a9a9a", "#0072b2", "#d55e00")


def draw(path: Path, entries: Sequence[Entry], target: float) -> None:
    """Draw three panels, one colour per method: medians over the starts, and every run as a thin line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for entry, color in zip(entries, COLORS, strict=True):
        middle = {
            what: [median(at) for at in zip(*(getattr(r, what) for r in entry.runs), strict=True)]
            for what in ("steps", "seconds", "accuracy")
        }
        for ax, what in zip(axes, ("steps", "seconds"), strict=False):
            for r in entry.runs:
                ax.plot(getattr(r, what), [100 * a for a in r.accuracy], color=color, lw=0.5, alpha=0.4)
            ax.plot(
                middle[what],
                [100 * a for a in middle["accuracy"]],
                color=color,
                lw=2,
                label=f"{entry.name}, rate {entry.rate:g}",
            )
        axes[2].plot([1e3 * s for s in entry.step_seconds], color=color, lw=0.8)
    for ax in axes[:2]:
        ax.axhline(100 * target, color="black", lw=0.6, ls=":")
        ax.set_ylim(60, 96)
    axes[0].set(xlabel="steps", ylabel="held-out accuracy, %", title="Accuracy against steps")
    axes[0].legend(frameon=False, loc="lower right")
    axes[1].set(xlabel="seconds", title="The same against seconds", xscale="log")
    axes[1].set_xlim(left=min(r.seconds[1] for entry in entries for r in entry.runs))
    axes[2].set(xlabel="step", ylabel="milliseconds", title="What each step took", yscale="log")
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=120)
    plt.close(fig)
