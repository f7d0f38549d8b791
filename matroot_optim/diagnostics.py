"""Diagnostics of the optimizer: the quality and age of every root, counts, graft ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from matroot import ConditionTracker, Status
from matroot_optim.arrays import to_host
from matroot_optim.layout.trees import join
from matroot_optim.refresh.jobs import FACTS
from matroot_optim.state import State

#: Counts per root, reported with its facts.
COUNTED = ("refreshes", "skipped", "failures", "spared")


@dataclass(frozen=True)
class Diagnostics:
    """Diagnostics of a state at one step.

    Attributes
    ----------
    step : int
    names : list of str
        Names of the roots, "layer/kernel/block0/axis1".
    roots : dict of str to array
        Per root: residual, cond, bits_lost, lambda_max, ridge, status, n_iter, age (steps since its statistics;
        -1 if there is no root yet), refreshes, skipped (answers late, lost or bad), failures (since the last good
        root), spared.
    graft_ratio : dict of str to float
        Per parameter: the factor by which the graft scaled the direction.
    nonfinite : dict of str to int
        Per parameter: number of gradients that were not finite.
    """

    step: int
    names: list[str]
    roots: dict[str, Any]
    graft_ratio: dict[str, float]
    nonfinite: dict[str, int]

    def worst(self, fact: str) -> tuple[str, float]:
        """Return the name of the root with the largest value of a fact, and the value; ("", 0.0) without roots."""
        values = self.roots[fact]
        if not len(values):
            return "", 0.0
        k = int(np.argmax(values))
        return self.names[k], float(values[k])

    @property
    def worst_residual(self) -> float:
        """Largest certified residual of a root in use."""
        return self.worst("residual")[1]

    def to_dict(self) -> dict[str, float]:
        """Return a flat dict of floats for a logger: the worst value of each fact, and the sums of the counts."""
        ratios = list(self.graft_ratio.values())
        return {
            "step": float(self.step),
            "roots": float(len(self.names)),
            **{f"worst_{fact}": self.worst(fact)[1] for fact in ("residual", "cond", "bits_lost", "ridge", "age")},
            **{f"total_{count}": float(self.roots[count].sum()) for count in COUNTED},
            "bad_status": float((self.roots["status"] != 0).sum()),
            "nonfinite_gradients": float(sum(self.nonfinite.values())),
            "graft_ratio_min": min(ratios, default=1.0),
            "graft_ratio_max": max(ratios, default=1.0),
        }

    def __str__(self) -> str:
        """Summarize the diagnostics in one line."""
        name, residual = self.worst("residual")
        d = self.to_dict()
        parts = [f"step {self.step}: {len(self.names)} roots"]
        if d["total_refreshes"]:
            parts += [
                f"{d['total_refreshes']:.0f} refreshes",
                f"oldest {d['worst_age']:.0f} steps",
                f"worst residual {residual:.1e}{f' ({name})' if name else ''}",
                f"cond {d['worst_cond']:.1e}",
            ]
        elif self.names:
            parts.append("none computed yet")
        parts.append(f"graft {d['graft_ratio_min']:.2g} to {d['graft_ratio_max']:.2g}")
        troubles = {
            "roots skipped": d["total_skipped"],
            "bad statuses": d["bad_status"],
            "gradients not finite": d["nonfinite_gradients"],
        }
        parts += [f"{count:.0f} {what}" for what, count in troubles.items() if count]
        if d["bad_status"]:
            worst, status = self.worst("status")
            parts[-1] += f" ({worst}: {Status(int(status)).name})"
        return ", ".join(parts)

    def record(self, tracker: ConditionTracker) -> None:
        """Record every root that has been computed in a `matroot.ConditionTracker`, under its name."""
        for k, name in enumerate(self.names):
            if self.roots["age"][k] >= 0:
                values: Any = SimpleNamespace(**{fact: self.roots[fact][k : k + 1] for fact in FACTS})
                tracker.record(name, values)

    def plot(self, ax: Any = None) -> Any:
        """Plot the residual of every root over its condition number, coloured by age, and return the axes.

        Needs matplotlib.
        """
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots()
        there = self.roots["age"] >= 0
        points = ax.scatter(self.roots["cond"][there], self.roots["residual"][there], c=self.roots["age"][there])
        ax.figure.colorbar(points, ax=ax, label="age [steps]")
        ax.set(
            xscale="log", yscale="log", xlabel="condition number", ylabel="residual", title=f"roots at step {self.step}"
        )
        return ax


def joined(parts: Sequence[Diagnostics]) -> Diagnostics:
    """Return the diagnostics of several states as one; the step is the last."""
    if len(parts) == 1:
        return parts[0]
    return Diagnostics(
        max(part.step for part in parts),
        [name for part in parts for name in part.names],
        {fact: np.concatenate([part.roots[fact] for part in parts]) for fact in parts[0].roots},
        {path: ratio for part in parts for path, ratio in part.graft_ratio.items()},
        {path: count for part in parts for path, count in part.nonfinite.items()},
    )


def diagnose(state: State, tracker: ConditionTracker | None = None) -> Diagnostics:
    """Return the `Diagnostics` of a state."""
    layout, arrays = state.layout, state.arrays
    names = [join(b, f"axis{axis}") for s, axis in layout.factors for b in layout.block_names(s)]

    def gather(part: str) -> Any:
        parts = [np.asarray(to_host(arrays[f"{s.axis_name(axis)}/{part}"])) for s, axis in layout.factors]
        return np.concatenate(parts) if parts else np.zeros(0)

    roots = {part: gather(part) for part in (*FACTS, *COUNTED)}
    taken = gather("taken")
    roots["age"] = np.where(taken > 0, state.step - taken, -1)
    ratios = arrays.get("graft_ratio", [1.0] * len(layout.leaves))
    result = Diagnostics(
        state.step,
        names,
        roots,
        {leaf.path: float(r) for leaf, r in zip(layout.leaves, ratios, strict=True)},
        {leaf.path: int(n) for leaf, n in zip(layout.leaves, to_host(arrays["skipped"]), strict=True)},
    )
    if tracker is not None:
        result.record(tracker)
    return result
