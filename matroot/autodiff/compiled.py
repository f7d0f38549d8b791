"""Roots in the graphs of `torch.compile`, as registered operators: nothing is raised there, and a failure is NaN."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch

from matroot._regularization import Regularization
from matroot._result import RootResult
from matroot._status import USABLE
from matroot.autodiff.forms import Power
from matroot.autodiff.torch import Form
from matroot.methods.base import Method

Tensor = Any
#: Returns what to compute for a tensor, and what to differentiate.
Setup = Callable[[Tensor], tuple[Callable[[Tensor], RootResult[Tensor]], Power]]

#: The setups of the solves that this process has compiled, by the key that stands for them in a graph.
_setups: dict[str, Setup] = {}


def root(describe: Callable[..., tuple[str, Setup]], a: Tensor, *args: Any, **options: Any) -> Tensor:
    """Return the root of `a` as an operator; `describe` gives its key and setup, from constant arguments."""
    # Dynamo makes constants of objects without their attributes: pass classes and attributes.
    args, options = tuple(map(_taken_apart, args)), {name: _taken_apart(value) for name, value in options.items()}
    wide = a if a.dtype.is_floating_point or a.dtype.is_complex else a.to(torch.float64)
    return torch.ops.matroot.root(wide, _key(describe, *args, **options))[0]


def _taken_apart(value: Any) -> Any:
    """Return the class and the attributes of a fraction, a rule or a method."""
    if isinstance(value, Fraction):
        return Fraction, value.numerator, value.denominator
    if isinstance(value, Regularization | Method):
        names: tuple[str, ...] = type(value).__match_args__
        return type(value), *(getattr(value, name) for name in names)
    return value


def _put_together(value: Any) -> Any:
    return value[0](*value[1:]) if isinstance(value, tuple) else value


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _key(describe: Callable[..., tuple[str, Setup]], *args: Any, **options: Any) -> str:
    key, setup = describe(*map(_put_together, args), **{name: _put_together(v) for name, v in options.items()})
    _setups[key] = setup
    return key


@torch.compiler.disable  # type: ignore[untyped-decorator]
def between_graphs(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function that is not for graphs."""
    return function(*args, **options)


@torch.library.custom_op("matroot::root", mutates_args=())  # type: ignore[untyped-decorator]
def _root(a: torch.Tensor, key: str) -> tuple[torch.Tensor, torch.Tensor]:
    compute, _ = _setups[key](a)
    result = compute(a.detach())
    usable = sum(result.status == int(status) for status in USABLE) > 0
    return result.x, torch.where(usable, result.ridge, torch.nan)


@torch.library.custom_op("matroot::root_form", mutates_args=())  # type: ignore[untyped-decorator]
def _form(form: str, a: torch.Tensor, key: str, ridge: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    _, power = _setups[key](a)
    found: Tensor = Form.forward(form, power, a, ridge, u, None, None)
    return found


def _pull(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor, None]:
    a, ridge = ctx.saved_tensors
    return torch.ops.matroot.root_form("adjoint", a, ctx.key, ridge, g), None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[1])
    ctx.key = inputs[1]


_root.register_fake(lambda a, key: (a.new_empty(a.shape), a.new_empty(a.shape[:-2], dtype=torch.float64)))
_form.register_fake(lambda form, a, key, ridge, u: a.new_empty(a.shape))
_root.register_autograd(_pull, setup_context=_keep)
