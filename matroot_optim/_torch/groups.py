"""Parameter groups of torch: the option names, their values, and the options that all groups share."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from matroot_optim.allowed import RULES
from matroot_optim.names import FOREIGN, HARMLESS, advice
from matroot_optim.options import SHARED, Options
from matroot_optim.rules import as_plain
from matroot_optim.step.momentum import Rates

#: Key of a group whose value, in a state dict, describes the cuts of its parameters.
META = "matroot_optim"
#: Options that a parameter group may set in addition to lr, by their names in the core.
OF_GROUP = {field.name for field in dataclasses.fields(Options)} - SHARED - {"learning_rate"}
#: Options of a group that the layout depends on.
OF_LAYOUT = sorted(OF_GROUP - {"betas", "weight_decay"})
_OF_ALL = SHARED - {"groups"}
#: Names in groups by the names that a user may write.
_OURS = {**{name: name for name in (*OF_GROUP, *_OF_ALL, "lr")}, "learning_rate": "lr"}


def check_keywords(kind: str, names: Iterable[str]) -> None:
    """Raise if a keyword is not an option of this class; the message suggests the nearest option.

    Raises
    ------
    TypeError
    """
    for name in names:
        if name == "groups":
            raise TypeError("groups is what parameter groups are for in torch; give params as dicts")
        if name not in OF_GROUP | _OF_ALL:
            raise TypeError(f"{kind} has no option {name!r}; {advice(name, _OURS)}")


def check_names(group: Mapping[str, Any]) -> None:
    """Raise if a name in a parameter group looks like a misspelled option; other unknown names are allowed.

    Raises
    ------
    TypeError

    Warns
    -----
    UserWarning
        An option of another optimizer is set, and would change its numbers.
    """
    for name in map(str, group):
        if name == "groups":
            raise TypeError("groups is what parameter groups are for in torch; give params as dicts")
        meant = _nearly(name)
        if meant is not None:
            raise TypeError(f"a parameter group has {name!r}; did you mean {meant!r}?")
        value = group.get(name)
        off = value is None or (isinstance(value, int | float) and not value)
        if name in FOREIGN.keys() - HARMLESS - _OURS.keys() and not off:
            warnings.warn(f"a parameter group has {name!r}, which does nothing here; {FOREIGN[name]}", stacklevel=5)


def _nearly(name: str) -> str | None:
    if name in _OURS:
        return _OURS[name] if _OURS[name] != name else None
    near = get_close_matches(name, _OURS, 1, 0.8)
    # weight_decay_mult, max_momentum and fix_step are not misspellings
    if not near or near[0][0] != name[0] or f"_{near[0]}_" in f"_{name}_":
        return None
    return _OURS[near[0]]


def plain(value: Any) -> Any:
    """Convert numpy numbers and 0-d arrays and tensors to Python numbers, in tuples and lists too."""
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor | np.ndarray) and value.ndim == 0):
        return value.item()
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    return value


def rate(value: Any) -> Any:
    """Return the learning rate of a group as a number.

    Raises
    ------
    TypeError
        The rate is a function.
    ValueError
        The rate is not a number >= 0.
    """
    if callable(value) and not isinstance(value, torch.Tensor):
        raise TypeError(f"lr must be a number, got {value!r}; use a scheduler of torch.optim.lr_scheduler")
    allowed, holds = RULES["learning_rate"][0].partition(" or ")[0], RULES["learning_rate"][1]
    one = isinstance(value, torch.Tensor | np.ndarray) and value.shape == (1,)  # torch's optimizers take these too
    number = value.item() if one else plain(value)
    if not holds(number):
        raise ValueError(f"lr must be {allowed}, got {value!r}")
    return number


def rates_of(group: Mapping[str, Any]) -> Rates:
    """Return the numbers of a group that every step reads anew.

    Raises
    ------
    TypeError
        The rate is a function.
    ValueError
        A number is not allowed.
    """
    found = {name: plain(group[name]) for name in ("weight_decay", "betas")}
    for name, value in found.items():
        allowed, holds = RULES[name]
        try:
            good = holds(value)
        except TypeError:  # no pair
            good = False
        if not good:
            raise ValueError(f"{name} must be {allowed}, got {value!r:.200}")
    return Rates(float(rate(group["lr"])), float(found["weight_decay"]), float(found["betas"][0]))


def core_options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a group as options of the core."""
    return {"learning_rate": rate(group["lr"]), **{name: plain(group[name]) for name in OF_GROUP if name in group}}


def saved_options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a group for ``torch.load(weights_only=True)``: no numpy numbers, no fractions, no rules."""

    def safe(name: str, value: Any) -> Any:
        if isinstance(value, Fraction):
            return str(value) if name == "exponent" else float(value)
        if type(value) in (tuple, list):
            return type(value)(safe(name, x) for x in value)
        return value if isinstance(value, torch.Tensor) else as_plain(plain(value))

    return {name: value if name == "params" else safe(name, value) for name, value in group.items()}


def take_shared(options: Options, groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Remove options of the whole optimizer from the groups; return those that differ from `options`.

    A group without such an option counts as having that of `options`.

    Raises
    ------
    ValueError
        The groups do not agree.
    """
    there = sorted({name for group in groups for name in _OF_ALL.intersection(group)})
    changes = {}
    for name in there:
        values = [plain(group.get(name, getattr(options, name))) for group in groups]
        if any(value != values[0] for value in values):
            raise ValueError(f"{name} must be the same in all parameter groups, got {', '.join(map(repr, values))}")
        if values[0] != getattr(options, name):
            changes[name] = values[0]
    for group in groups:
        for name in there:
            group.pop(name, None)
    return changes
