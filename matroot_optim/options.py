"""The options of Shampoo: defaults, derived values, and conversion to and from JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from matroot import select_method
from matroot_optim.allowed import IN_BASIS, RULES, SCHEDULES, as_exponent, is_int, one_of
from matroot_optim.paths import ByPath
from matroot_optim.rules import Rule, as_plain, as_rule

if TYPE_CHECKING:
    from matroot_optim.refresh.engines import Engine

#: Options that hold for the whole optimizer and cannot be set for one parameter.
SHARED = frozenset(
    "algorithm refresh_every refresh_growth schedule stale_tolerance statistics_every start_step mix_steps clip_norm "
    "on_nonfinite groups engine".split()
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of Shampoo, checked on construction. `Shampoo` documents each option."""

    learning_rate: float | Callable[[int], float] = dataclasses.field(kw_only=False)
    algorithm: str = "shampoo"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: str = "ema"
    momentum_of: str = "gradient"
    bias_correction: bool = True
    weight_decay: float = 0.0
    decay: str = "decoupled"
    clip_norm: float | None = None
    clip_rms: float | None = None
    cautious_decay: bool = False
    cautious_update: bool = False
    hyperball: bool = False
    averaging: str = "none"
    averaging_beta: float | None = None

    block_size: int = 1024
    block_aspect: float | None = 2.0
    merge: str | int | None = "matrix"
    split: int | tuple[int, ...] | None = None
    split_dim: int = 0
    batch_dims: int = 0
    max_preconditioned_dim: int | None = 8192
    preconditioned_dims: str | tuple[int, ...] = "auto"
    precondition_vectors: bool = False
    exponent: Fraction | float | str | tuple[Any, ...] | None = Fraction(-1, 3)
    direction: str = "roots"
    spectral_exponent: float = 0.0
    statistics_of: str = "gradient"
    statistics_every: int = 1

    refresh_every: int | Callable[[int], int] = 10
    refresh_growth: float = 0.1
    schedule: str = "staggered"
    stale_tolerance: float = 0.1
    ridge: float = 1e-6
    regularization: Any = None
    basis: str = "qr"
    root_tolerance: float = 0.1
    root_method: str = "auto"
    root_dtype: str = "float64"
    root_device: str = "host"
    engine: Engine | None = None
    state_dtype: str = "float32"

    graft: str = "adam"
    graft_normalize: bool = False
    graft_per_block: bool = False
    graft_beta: float | None = None
    graft_epsilon: float = 1e-8
    start_step: int | None = None
    mix_steps: int = 0

    on_nonfinite: str = "skip"
    groups: Callable[[str], Mapping[str, Any] | None] | Mapping[str, Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        for name, (allowed, holds) in RULES.items():
            value = getattr(self, name)
            try:
                good = bool(holds(value))
            except (TypeError, ValueError, ArithmeticError, AttributeError):
                good = False
            if not good:
                raise ValueError(f"{name} must be {allowed}, got {value!r:.200}")
        put = object.__setattr__
        for name in RULES:
            value = getattr(self, name)
            if name == "exponent":
                put(self, name, as_exponent(value))
            elif name == "regularization" and value is not None:
                put(self, name, as_rule(value))
            elif isinstance(value, Fraction):
                put(self, name, float(value))
        if isinstance(self.groups, Mapping):
            put(self, "groups", ByPath(self.groups))
        if isinstance(self.split, list):
            put(self, "split", tuple(self.split))
        _check_together(self)
        put(self, "betas", tuple(float(beta) for beta in self.betas))
        if not isinstance(self.preconditioned_dims, str):
            put(self, "preconditioned_dims", tuple(self.preconditioned_dims))

    # Derived values.

    @property
    def rule(self) -> Rule:
        """Regularization of the roots: `regularization`, or the relative ridge."""
        return float(self.ridge) if self.regularization is None else self.regularization

    @property
    def of_tables(self) -> Self:
        """The options of tables, which move by roots under SOAP too: rows should share what they are divided by."""
        return self if self.algorithm == "shampoo" else replace(self, algorithm="shampoo", statistics_of="gradient")

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
    def beta_of_average(self) -> float:
        """Weight of the average in y under schedule-free, and decay of the EMA."""
        if self.averaging_beta is not None:
            return self.averaging_beta
        return 0.9 if self.averaging == "schedule_free" else 0.999

    @property
    def lag(self) -> int:
        """Steps between the submission of a root and its use."""
        return int(self.engine.lag) if self.engine is not None else 0

    @property
    def first_root_step(self) -> int:
        """The step from which roots are used, if only for the statistics."""
        return 1 if self.statistics_of == "whitened" else self.first_shampoo_step

    @property
    def first_shampoo_step(self) -> int:
        """The step, counted from 1, from which Shampoo moves the weights."""
        if self.algorithm == "soap":
            return 1
        if self.start_step is not None:
            return self.start_step
        if self.direction == "spectral":
            return 1
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
        if not is_int(value) or value < 1:
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
        if not callable(rate):
            return float(rate)
        value = float(rate(step))
        if not 0.0 <= value < math.inf:
            raise ValueError(f"learning_rate must give a number >= 0, got {value!r} at step {step}")
        return value

    def changes_for(self, path: str) -> dict[str, Any]:
        """Return the options that `groups` sets for the parameter at `path`."""
        return dict(self.groups(path) or {}) if callable(self.groups) else {}

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
        return replace(self, **changes)

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
            if (callable(value) and not isinstance(value, ByPath)) or (field.name == "engine" and value is not None):
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


def _check_together(options: Options) -> None:
    """Raise for options that exclude each other."""
    exponents = options.exponent if isinstance(options.exponent, tuple) else (options.exponent,)
    half = {Fraction(-1, 2), None}.issuperset(exponents)
    if options.statistics_of == "whitened" and options.algorithm == "shampoo" and not half:
        raise ValueError(
            f"statistics_of must be 'gradient' for exponents other than -1/2, got 'whitened' for {options.exponent}"
        )
    if options.cautious_decay and options.decay == "l2":
        raise ValueError("decay must be 'decoupled' or 'independent' with cautious_decay, got 'l2'")
    if options.direction == "spectral" and (options.algorithm, options.statistics_of) != ("shampoo", "gradient"):
        raise ValueError("direction must be 'roots' under SOAP and KL-Shampoo, got 'spectral'")
    if options.root_method != "auto":
        _check_method(options)
    if options.algorithm != "soap":
        return
    for name, allowed in {"graft": IN_BASIS, "momentum_of": ("gradient",), "schedule": SCHEDULES[:2]}.items():
        if getattr(options, name) not in allowed:
            raise ValueError(f"{name} must be {one_of(allowed)[0]} under SOAP, got {getattr(options, name)!r}")


def _check_method(options: Options) -> None:
    """Raise if there is no such method of roots, or it does not serve the rule or the exponent."""
    one = options.exponent
    p = one.denominator if isinstance(one, Fraction) and one.numerator == -1 else 2
    try:
        select_method(np.eye(2), p, method=options.root_method, regularization=options.rule)
    except ValueError as error:
        raise ValueError(
            f"root_method must be a method that serves the rule and the exponent, got {options.root_method!r}: {error}"
        ) from None


def plain_option(value: Any) -> Any:
    """Return the value of an option as numbers, strings, lists and dicts, which the options accept too."""
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, ByPath):
        value = value.rules
    if isinstance(value, dict):
        return {name: plain_option(x) for name, x in value.items()}
    return type(value)(map(plain_option, value)) if type(value) in (tuple, list) else as_plain(value)
