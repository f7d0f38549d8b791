"""The options of Shampoo: defaults, allowed values, and conversion to and from JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

from matroot_optim.rules import Rule, as_plain, as_rule

GRAFTS = ("none", "sgd", "adagrad", "rmsprop", "adam", "sqrt_n", "trust_ratio")
MOMENTA = ("none", "heavy_ball", "nesterov", "ema")
MOMENTUM_OF = ("gradient", "direction")
DECAYS = ("decoupled", "l2", "independent")
SCHEDULES = ("staggered", "interval", "residual")
NONFINITE = ("skip", "raise", "propagate")

#: Options that hold for the whole optimizer and cannot be set for one parameter.
SHARED = frozenset(
    "refresh_every refresh_growth schedule stale_tolerance statistics_every start_step mix_steps clip_norm "
    "on_nonfinite groups engine".split()
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of Shampoo, checked on construction. `Shampoo` documents each option."""

    learning_rate: float | Callable[[int], float] = dataclasses.field(kw_only=False)
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: str = "ema"
    momentum_of: str = "gradient"
    bias_correction: bool = True
    weight_decay: float = 0.0
    decay: str = "decoupled"
    clip_norm: float | None = None
    clip_rms: float | None = None

    block_size: int = 1024
    block_aspect: float | None = 2.0
    merge: str | int | None = "matrix"
    max_preconditioned_dim: int | None = 8192
    preconditioned_dims: str | tuple[int, ...] = "auto"
    precondition_vectors: bool = False
    exponent: Fraction | float | str | tuple[Any, ...] | None = Fraction(-1, 3)
    statistics_every: int = 1

    refresh_every: int | Callable[[int], int] = 10
    refresh_growth: float = 0.1
    schedule: str = "staggered"
    stale_tolerance: float = 0.1
    ridge: float = 1e-6
    regularization: Any = None
    root_tolerance: float = 0.1
    root_method: str = "auto"
    root_dtype: str = "float64"
    root_device: str = "host"
    engine: Any = None

    graft: str = "adam"
    graft_normalize: bool = False
    graft_per_block: bool = False
    graft_beta: float | None = None
    graft_epsilon: float = 1e-8
    start_step: int | None = None
    mix_steps: int = 0

    on_nonfinite: str = "skip"
    groups: Callable[[str], Mapping[str, Any] | None] | None = None

    def __post_init__(self) -> None:
        for name, (allowed, holds) in RULES.items():
            value = getattr(self, name)
            try:
                good = bool(holds(value))
            except (TypeError, ValueError, ArithmeticError, AttributeError):
                good = False
            if not good:
                raise ValueError(f"{name} must be {allowed}, got {value!r}")
        put = object.__setattr__
        for name in RULES:
            value = getattr(self, name)
            if name == "exponent":
                put(self, name, _exponent(value))
            elif name == "regularization" and value is not None:
                put(self, name, as_rule(value))
            elif isinstance(value, Fraction):
                put(self, name, float(value))
        put(self, "betas", tuple(float(beta) for beta in self.betas))
        if not isinstance(self.preconditioned_dims, str):
            put(self, "preconditioned_dims", tuple(self.preconditioned_dims))

    # Derived values.

    @property
    def rule(self) -> Rule:
        """Regularization of the roots: `regularization`, or the relative ridge."""
        return float(self.ridge) if self.regularization is None else self.regularization

    @property
    def beta2_of_graft(self) -> float:
        """Decay of the graft's second moment; 1 means a sum."""
        if self.graft == "adagrad":
            return 1.0
        if self.graft in ("rmsprop", "adam"):
            if self.graft_beta is not None:
                return self.graft_beta
            return self.betas[1] if self.betas[1] < 1.0 else 0.999
        return self.betas[1]

    @property
    def lag(self) -> int:
        """Steps between the submission of a root and its use."""
        return int(self.engine.lag) if self.engine is not None else 0

    @property
    def first_shampoo_step(self) -> int:
        """The step, counted from 1, from which Shampoo moves the weights."""
        if self.start_step is not None:
            return self.start_step
        if self.graft == "none":
            return 1 + self.lag
        if not self.refresh_growth:
            return self.interval(1) + self.lag
        # Statistics of a few gradients span too few directions. The first roots used are `lag` steps old; 2 lag gives
        # their statistics `lag` more gradients than without a lag.
        return math.ceil(0.5 / self.refresh_growth) + 2 * self.lag

    def interval(self, step: int) -> int:
        """Return the number of steps between two roots of one matrix, as of `step`.

        `refresh_every` is halved until it is at most `refresh_growth` times the step, because means over few steps
        change fast.
        """
        every = self.refresh_every
        value = every(step) if callable(every) else every
        if not _is_int(value) or value < 1:
            raise ValueError(f"refresh_every must give an int >= 1, got {value!r} at step {step}")
        while value > 1 and value > self.refresh_growth * step and self.refresh_growth:
            value //= 2
        return int(value)

    @property
    def settled_step(self) -> int:
        """A step from which the interval between two roots no longer grows, if `refresh_every` is a number."""
        every = self.refresh_every
        return 1 if callable(every) or not self.refresh_growth else math.ceil(every / self.refresh_growth) + 1

    def rate(self, step: int) -> float:
        """Return the learning rate of a step counted from 0, as in optax."""
        rate = self.learning_rate
        return float(rate(step)) if callable(rate) else float(rate)

    def changes_for(self, path: str) -> dict[str, Any]:
        """Return the options that `groups` sets for the parameter at `path`."""
        return dict(self.groups(path) or {}) if self.groups is not None else {}

    def for_path(self, path: str) -> Self:
        """Return the options of the parameter at `path`: these options with the changes from `groups`."""
        changes = self.changes_for(path)
        if not changes:
            return self
        names = {field.name for field in dataclasses.fields(self)}
        for name in changes:
            if name not in names or name in SHARED:
                allowed = ", ".join(sorted(names - SHARED))
                raise ValueError(f"groups({path!r}) must set only options of one parameter ({allowed}), got {name!r}")
        return dataclasses.replace(self, **changes)

    # JSON.

    def to_json(self) -> str:
        """Return the options as JSON.

        Raises
        ------
        ValueError
            An option is a function or an engine, which JSON cannot hold: replace it first, and pass it to `from_json`.
        """
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if callable(value) or (field.name == "engine" and value is not None):
                raise ValueError(
                    f"{field.name} must be plain data to be written as JSON, got {value!r}; "
                    f"use dataclasses.replace(opt, {field.name}=...) first and give it back to from_json"
                )
            values[field.name] = plain_option(value)
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str, **changes: Any) -> Self:
        """Read options written by `to_json`; `changes` (functions, an engine) override them."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"text must be a JSON object of options, got {type(values).__name__}")
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise ValueError(f"text must hold only options of {cls.__name__}, got {', '.join(unknown)}")
        return cls(**{**values, **changes})


def plain_option(value: Any) -> Any:
    """Return the value of an option as numbers, strings, lists and dicts, which the options accept too."""
    if isinstance(value, Fraction):
        return str(value)
    return type(value)(map(plain_option, value)) if type(value) in (tuple, list) else as_plain(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float | Fraction) and math.isfinite(value)


def _fraction(value: Any) -> Fraction:
    exact = Fraction(value)
    near = exact.limit_denominator(64)
    if abs(near - exact) > Fraction(1, 10**6):  # accepts -0.3333333 as -1/3, refuses -0.123457
        raise ValueError
    return near


def _exponent(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_exponent, value))
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
        return value in ("auto", "all", "one_sided", "none")
    return isinstance(value, tuple | list) and all(_is_int(i) for i in value) and len(set(value)) == len(value)


def _is_engine(value: Any) -> bool:
    complete = all(callable(getattr(value, name, None)) for name in ("submit", "collect"))
    return value is None or (complete and _is_int(getattr(value, "lag", None)) and value.lag >= 0)


def _one_of(names: tuple[str, ...]) -> tuple[str, Callable[[Any], bool]]:
    return "one of " + ", ".join(map(repr, names)), lambda value: value in names


_FLAG = ("True or False", lambda value: isinstance(value, bool))
_POSITIVE = ("a number > 0", lambda value: _is_number(value) and value > 0)
_POSITIVE_OR_NONE = ("a number > 0 or None", lambda value: value is None or (_is_number(value) and value > 0))
_COUNT = ("an int >= 1", lambda value: _is_int(value) and value >= 1)
_COUNT_OR_NONE = ("an int >= 1 or None", lambda value: value is None or (_is_int(value) and value >= 1))

#: The allowed values of every option, in words and as a test.
RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "learning_rate": ("a number >= 0 or a function of the step", lambda v: callable(v) or (_is_number(v) and v >= 0)),
    "betas": (
        "two numbers, the first in [0, 1), the second in [0, 1] (1 is the sum)",
        lambda v: len(v) == 2 and all(map(_is_number, v)) and 0 <= v[0] < 1 and 0 <= v[1] <= 1,
    ),
    "momentum": _one_of(MOMENTA),
    "momentum_of": _one_of(MOMENTUM_OF),
    "bias_correction": _FLAG,
    "weight_decay": ("a number >= 0", lambda v: _is_number(v) and v >= 0),
    "decay": _one_of(DECAYS),
    "clip_norm": _POSITIVE_OR_NONE,
    "clip_rms": _POSITIVE_OR_NONE,
    "block_size": _COUNT,
    "block_aspect": ("None or a number >= 1", lambda v: v is None or (_is_number(v) and v >= 1)),
    "merge": (
        "'matrix', an int >= 1 or None",
        lambda v: v == "matrix" if isinstance(v, str) else v is None or (_is_int(v) and v >= 1),
    ),
    "max_preconditioned_dim": _COUNT_OR_NONE,
    "preconditioned_dims": ("'auto', 'all', 'one_sided', 'none' or a tuple of different dimensions", _is_dims),
    "precondition_vectors": _FLAG,
    "exponent": ("None or a fraction in [-1, 0) with a denominator up to 64, or a tuple of these", _is_exponent),
    "statistics_every": _COUNT,
    "refresh_every": ("an int >= 1 or a function of the step", lambda v: callable(v) or (_is_int(v) and v >= 1)),
    "refresh_growth": ("a number in [0, 1]", lambda v: _is_number(v) and 0 <= v <= 1),
    "schedule": _one_of(SCHEDULES),
    "stale_tolerance": _POSITIVE,
    "ridge": ("a number in [0, 1]", lambda v: _is_number(v) and 0 <= v <= 1),
    "regularization": (
        "None, a number in [0, 1], Ridge, Floor, Shift, PseudoInverse or TargetCondition",
        _is_rule,
    ),
    "root_tolerance": _POSITIVE,
    "root_method": ("the name of a method of matroot.solve", lambda v: isinstance(v, str) and v != ""),
    "root_dtype": _one_of(("float64", "float32")),
    "root_device": _one_of(("host", "device")),
    "engine": ("None or an engine (an int lag >= 0, submit, collect)", _is_engine),
    "graft": _one_of(GRAFTS),
    "graft_normalize": _FLAG,
    "graft_per_block": _FLAG,
    "graft_beta": ("None or a number in [0, 1)", lambda v: v is None or (_is_number(v) and 0 <= v < 1)),
    "graft_epsilon": ("a number in [0, 1)", lambda v: _is_number(v) and 0 <= v < 1),
    "start_step": _COUNT_OR_NONE,
    "mix_steps": ("an int >= 0", lambda v: _is_int(v) and v >= 0),
    "on_nonfinite": _one_of(NONFINITE),
    "groups": ("None or a function of the path", lambda v: v is None or callable(v)),
}
