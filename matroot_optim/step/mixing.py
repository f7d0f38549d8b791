"""The weight of Shampoo's direction against the first-order step: 0 before Shampoo starts, then a ramp, then 1."""

from __future__ import annotations

from typing import Any

from matroot_optim.arrays import is_traced, namespace
from matroot_optim.step.inputs import Step


def mix_weights(step: Step) -> list[Any]:
    """Return the weight for every leaf, by the steps that counted for it: a leaf may be younger than the run."""
    starts = step.layout.starts
    if is_traced(step.counts):
        found = {key: _traced(*key, step.counts) for key in set(starts)}
        return [step.places.entry(found[key], i) for i, key in enumerate(starts)]
    return [_weight(*key, count) for key, count in zip(starts, step.counts, strict=True)]


def _weight(start: int, ramp: int, count: int) -> float:
    if count < start:
        return 0.0
    return min(1.0, (count - start) / ramp) if ramp else 1.0


def _traced(start: int, ramp: int, counts: Any) -> Any:
    xp = namespace(counts)
    return xp.clip((counts - start) / ramp, 0.0, 1.0) if ramp else xp.where(counts >= start, 1.0, 0.0)
