"""The allowed values of every option, in words and as a test."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from matroot_optim.paths import ByPath
from matroot_optim.rules import as_rule

GRAFTS = ("none", "sgd", "adagrad", "rmsprop", "adam", "sqrt_n", "trust_ratio")
MOMENTA = ("none", "heavy_ball", "nesterov", "ema")
MOMENTUM_OF = ("gradient", "direction")
DIRECTIONS = ("roots", "spectral")
STATISTICS_OF = ("gradient", "whitened")
ALGORITHMS = ("shampoo", "soap")
BASES = ("qr", "eigh")
#: First-order methods that SOAP can apply in the eigenbasis: those with a second moment.
IN_BASIS = ("adam", "rmsprop", "adagrad")
AVERAGING = ("none", "schedule_free", "ema")
DECAYS = ("decoupled", "l2", "independent")
STATE_DTYPES = ("float32", "bfloat16")
SCHEDULES = ("staggered", "interval", "residual")
NONFINITE = ("skip", "raise", "propagate")


def is_int(value: Any) -> bool:
    """Return True for an int that is no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float | Fraction) and math.isfinite(value)


def _fraction(value: Any) -> Fraction:
    exact = Fraction(value)
    near = exact.limit_denominator(64)
    if abs(near - exact) > Fraction(1, 10**6):  # accepts -0.3333333 as -1/3, refuses -0.123457
        raise ValueError
    return near


def as_exponent(value: Any) -> Any:
    """Return an exponent, or a tuple of them, as fractions."""
    if isinstance(value, tuple | list):
        return tuple(map(as_exponent, value))
    return None if value is None else _fraction(value)


def _is_exponent(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(not isinstance(x, tuple | list) and _is_exponent(x) for x in value)
    return value is None or (not isinstance(value, bool) and -1 <= _fraction(value) < 0)


def _is_rule(value: Any) -> bool:
    try:
        return value is None or as_rule(value) is not None
    except LookupError:
        return False


def _is_dims(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("auto", "all", "one_sided", "table", "none")
    return isinstance(value, tuple | list) and all(is_int(i) for i in value) and len(set(value)) == len(value)


def _is_engine(value: Any) -> bool:
    complete = all(callable(getattr(value, name, None)) for name in ("submit", "collect"))
    return value is None or (complete and is_int(getattr(value, "lag", None)) and value.lag >= 0)


def _is_groups(value: Any) -> bool:
    return value is None or callable(value) or ByPath(value) is not None


def one_of(names: tuple[str, ...]) -> tuple[str, Callable[[Any], bool]]:
    """Return the rule of an option that is one of these names."""
    return "one of " + ", ".join(map(repr, names)), lambda value: value in names


_FLAG = ("True or False", lambda value: isinstance(value, bool))
_POSITIVE = ("a number > 0", lambda value: _is_number(value) and value > 0)
_POSITIVE_OR_NONE = ("a number > 0 or None", lambda value: value is None or (_is_number(value) and value > 0))
_COUNT = ("an int >= 1", lambda value: is_int(value) and value >= 1)
_COUNT_OR_NONE = ("an int >= 1 or None", lambda value: value is None or (is_int(value) and value >= 1))

#: The allowed values of every option, in words and as a test.
RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "learning_rate": (
        "a number >= 0 or a function of the step (parameters go to init)",
        lambda v: (callable(v) and not hasattr(v, "parameters")) or (_is_number(v) and v >= 0),
    ),
    "algorithm": one_of(ALGORITHMS),
    "betas": (
        "two numbers, the first in [0, 1), the second in [0, 1] (1 is the sum)",
        lambda v: len(v) == 2 and all(map(_is_number, v)) and 0 <= v[0] < 1 and 0 <= v[1] <= 1,
    ),
    "momentum": (one_of(MOMENTA)[0] + " (its number is the first of betas)", one_of(MOMENTA)[1]),
    "momentum_of": one_of(MOMENTUM_OF),
    "bias_correction": _FLAG,
    "weight_decay": ("a number >= 0", lambda v: _is_number(v) and v >= 0),
    "decay": one_of(DECAYS),
    "clip_norm": _POSITIVE_OR_NONE,
    "clip_rms": _POSITIVE_OR_NONE,
    "cautious_decay": _FLAG,
    "cautious_update": _FLAG,
    "hyperball": _FLAG,
    "averaging": one_of(AVERAGING),
    "averaging_beta": ("None or a number in (0, 1)", lambda v: v is None or (_is_number(v) and 0 < v < 1)),
    "block_size": _COUNT,
    "block_aspect": ("None or a number >= 1", lambda v: v is None or (_is_number(v) and v >= 1)),
    "merge": (
        "'matrix', an int >= 1 or None",
        lambda v: v == "matrix" if isinstance(v, str) else v is None or (is_int(v) and v >= 1),
    ),
    "split": (
        "None, a number of equal parts >= 2, or a tuple of the sizes of the parts",
        lambda v: v is None or (v >= 2 if is_int(v) else len(v) >= 2 and all(is_int(n) and n >= 1 for n in v)),
    ),
    "split_dim": ("an int", is_int),
    "batch_dims": ("an int >= 0", lambda v: is_int(v) and v >= 0),
    "max_preconditioned_dim": _COUNT_OR_NONE,
    "preconditioned_dims": ("'auto', 'all', 'one_sided', 'table', 'none' or a tuple of different dimensions", _is_dims),
    "precondition_vectors": _FLAG,
    "exponent": ("None or a fraction in [-1, 0) with a denominator up to 64, or a tuple of these", _is_exponent),
    "direction": one_of(DIRECTIONS),
    "spectral_exponent": (
        "a number in [-1, 1] that is a fraction with a denominator up to 64",
        lambda v: _is_number(v) and -1 <= _fraction(v) <= 1,
    ),
    "statistics_of": one_of(STATISTICS_OF),
    "statistics_every": _COUNT,
    "refresh_every": ("an int >= 1 or a function of the step", lambda v: callable(v) or (is_int(v) and v >= 1)),
    "refresh_growth": ("a number in [0, 1]", lambda v: _is_number(v) and 0 <= v <= 1),
    "schedule": one_of(SCHEDULES),
    "stale_tolerance": _POSITIVE,
    "ridge": ("a number in [0, 1]", lambda v: _is_number(v) and 0 <= v <= 1),
    "regularization": (
        "None, a number in [0, 1], Ridge, Floor, Shift, PseudoInverse or TargetCondition",
        _is_rule,
    ),
    "basis": one_of(BASES),
    "root_tolerance": _POSITIVE,
    "root_method": ("the name of a method of matroot.solve", lambda v: isinstance(v, str) and v != ""),
    "root_dtype": one_of(("float64", "float32")),
    "root_device": one_of(("host", "device")),
    "state_dtype": one_of(STATE_DTYPES),
    "engine": ("None or an engine (an int lag >= 0, submit, collect)", _is_engine),
    "graft": one_of(GRAFTS),
    "graft_normalize": _FLAG,
    "graft_per_block": _FLAG,
    "graft_beta": ("None or a number in [0, 1)", lambda v: v is None or (_is_number(v) and 0 <= v < 1)),
    "graft_epsilon": ("a number in [0, 1)", lambda v: _is_number(v) and 0 <= v < 1),
    "start_step": _COUNT_OR_NONE,
    "mix_steps": ("an int >= 0", lambda v: is_int(v) and v >= 0),
    "on_nonfinite": one_of(NONFINITE),
    "groups": ("None, a function of the path, or a dict of options by patterns of paths", _is_groups),
}
