"""The curve of numpy, which every framework follows as closely as it follows itself after a change in the last bits."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from .trial import Fault

if TYPE_CHECKING:
    from .optimizers import Arrays, Training

#: Times the distance of two runs of numpy whose gradients differ by rounding.
FACTOR = 1000
#: Runs with other gradients that show this distance.
RUNS = 3


def faults(training: Training, found: Arrays) -> list[Fault]:
    """Compare the parameters and averages that a framework found with those of numpy."""
    from .optimizers import by_numpy

    if training.framework == "numpy":
        return []
    if training.framework == "optax":
        training = dense(training)
        if training.options.get("averaging") and not all_finite(training):
            return []  # optax's averages count the steps of the whole tree, those of numpy the steps of a parameter
    usual = by_numpy(training, None)
    if training.framework == "in place":
        return [("in place", f"{k} by {gap(x, usual[k]):.1e}") for k, x in found.items() if gap(x, usual[k])]
    near = [by_numpy(shaken(training, k), None) for k in range(RUNS)]
    result: list[Fault] = []
    for k, x in found.items():
        bits = 8 if training.options.get("state_dtype") == "bfloat16" else 52  # which names round otherwise
        unit = max(float(np.finfo(x.dtype).eps), 4 * 2.0**-bits / FACTOR)
        size = np.abs(np.nan_to_num(usual[k])).max(initial=0.0) + 0.01 * len(training.gradients)
        room = FACTOR * (max(gap(other[k], usual[k]) for other in near) + unit * size)
        if not gap(x, usual[k]) <= room:
            result.append(("another curve", f"{k} by {gap(x, usual[k]):.1e}, rounding explains {room:.1e}"))
    return result


def gap(x: np.ndarray, y: np.ndarray) -> float:
    """The largest difference; infinite where only one is finite."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.where(same, 0.0, abs(x - y)), nan=np.inf).max(initial=0.0))


def all_finite(training: Training) -> bool:
    return all(np.isfinite(g).all() for step in training.gradients for g in step.values() if g is not None)


def dense(training: Training) -> Training:
    """The training of four steps that optax makes, with zeros for missing gradients."""
    steps = [
        {k: np.zeros_like(training.params[k]) if g is None else g for k, g in step.items()}
        for step in training.gradients[:4]
    ]
    return dataclasses.replace(training, gradients=steps)


def shaken(training: Training, seed: int) -> Training:
    """The training with other roundings of its gradients."""
    rng = np.random.default_rng(seed)

    def other(g: np.ndarray | None) -> np.ndarray | None:
        if g is None:
            return None
        noise = 1 + 2 * np.finfo(g.dtype).eps * rng.standard_normal(g.shape)
        return np.asarray(g * noise, g.dtype)

    return dataclasses.replace(training, gradients=[{k: other(g) for k, g in s.items()} for s in training.gradients])
