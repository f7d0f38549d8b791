"""Regularization rules of the roots: as an option, as plain data, stronger after a bad root, in other units."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from matroot import Floor, PseudoInverse, Ridge, Shift, TargetCondition

#: A number, which is a relative ridge, or a rule of matroot.
Rule = Any
RULES_BY_NAME: dict[str, Any] = {rule.__name__: rule for rule in (Ridge, Floor, Shift, PseudoInverse, TargetCondition)}

#: The escalation of a rule of 0 starts from this value.
EPS = float(np.finfo(np.float64).eps)


def as_rule(value: Any) -> Rule:
    """Return a rule from a rule, a relative ridge, or the dict of `as_plain`; raise for all else."""
    if isinstance(value, Mapping):
        given = dict(value)
        return RULES_BY_NAME[given.pop("rule")](**given)
    if isinstance(value, tuple(RULES_BY_NAME.values())):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating) or not 0 <= value <= 1:
        raise ValueError
    return float(value)


def as_plain(rule: Any) -> Any:
    """Return a rule as a dict of its name and its numbers, for JSON; any other value is kept.

    >>> as_plain(Floor(1e-3))
    {'rule': 'Floor', 'relative': 0.001, 'absolute': 0.0}
    """
    if type(rule).__name__ in RULES_BY_NAME:
        return {"rule": type(rule).__name__, **dataclasses.asdict(rule)}
    return rule


def stronger(rule: Rule, level: int) -> Rule:
    """Return the rule after `level` bad roots in a row: ten times more for each.

    Relative sizes become at least eps and at most 1, because a larger ridge would leave little of the statistics.

    >>> [stronger(1e-6, level) for level in (0, 1, 100)], stronger(TargetCondition(1e6), 2)
    ([1e-06, 1e-05, 1.0], TargetCondition(kappa=10000.0))
    """
    if level == 0:
        return rule
    factor = 10.0 ** min(level, 16)
    if isinstance(rule, float):
        return min(max(rule, EPS) * factor, 1.0)
    now = dataclasses.asdict(rule)
    changes: dict[str, Any] = {
        name: min(max(now[name] or 0.0, EPS) * factor, 1.0) for name in ("relative", "rtol") if name in now
    }
    if "absolute" in now:
        changes["absolute"] = now["absolute"] * factor
    if "kappa" in now:
        changes["kappa"] = max(now["kappa"] / factor, 2.0)
    return dataclasses.replace(rule, **changes)


def with_cut(rule: Rule, n: int, dtype: str, gradients: int) -> Rule:
    """Return the rule with the cut of a `PseudoInverse` that has none: the rounding of the statistics.

    A product of the gradient is wrong by about n eps, and `gradients` rounded sums by the root of their number, both
    relative to the largest eigenvalue. Eigenvalues below this are noise: they would be amplified without it.

    >>> with_cut(PseudoInverse(), 64, "float32", 900)
    PseudoInverse(rtol=1.1205673217773438e-05, absolute=0.0)
    """
    if isinstance(rule, PseudoInverse) and rule.rtol is None:
        return PseudoInverse(float(np.finfo(dtype).eps) * (n + math.isqrt(gradients)))
    return rule


def relative_ridge(rule: Rule) -> float | None:
    """Return the relative ridge of a rule that is nothing else, or None."""
    if isinstance(rule, Ridge):
        return rule.relative if not rule.absolute else None
    return rule if isinstance(rule, float) else None


def in_units(rule: Rule, exponent: int) -> Rule:
    """Return the rule for statistics that were divided by 2^exponent: only absolute sizes change."""
    absolute: float = getattr(rule, "absolute", 0.0)
    if exponent and absolute:
        with np.errstate(over="ignore"):
            size = float(np.ldexp(absolute, -exponent))
        return dataclasses.replace(rule, absolute=min(size, float(np.finfo(np.float64).max)))
    return rule
