"""Roots of tensors that torch differentiates, of first and second order, in reverse and forward mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache, partial
from typing import Any

import torch

from matroot._result import RootResult
from matroot._status import USABLE
from matroot.autodiff.forms import OF_THE_RULE, Power, evaluate
from matroot.backends import backend_of
from matroot.backends.arrays import take

Tensor = Any

#: Fields of a result that are no tensors.
PLAIN = ("n_products", "method", "compute_dtype", "certificate", "exponent", "rtol")
#: The powers that `_operator` has met, and their numbers.
_powers: dict[Power, int] = {}
#: Tensors of a result beside x; some may be None.
FACTS = tuple(f.name for f in fields(RootResult) if f.name != "x" and f.name not in PLAIN)


class Call:
    """One solve, and its result once it has been run.

    Attributes
    ----------
    power : Power
    compute : callable
        Returns the result for a tensor.
    x : str
        The field of the result that is differentiated.
    facts : tuple of str
        Its other fields that are tensors or None.
    kept : list of array, optional
        Filled by `compute`; see `matroot.autodiff.forms.evaluate`.
    """

    def __init__(
        self,
        power: Power,
        compute: Callable[[Tensor], Any],
        x: str,
        facts: tuple[str, ...],
        kept: list[Any] | None = None,
    ) -> None:
        self.power, self.compute, self.x, self.facts, self.kept = power, compute, x, facts, kept
        self.result: Any = None


def solve(a: Tensor, power: Power, compute: Callable[..., RootResult[Tensor]], job: Any) -> RootResult[Tensor]:
    """Return the result of `compute`, with an x that torch can differentiate in `a`."""
    kept: list[Any] = []
    result: RootResult[Tensor] = recorded(a, Call(power, partial(compute, kept=kept), "x", FACTS, kept))
    return result


def recorded(a: Tensor, call: Call) -> Any:
    """Return the result of a call, with a field that torch can differentiate in `a`."""
    if not torch._C._are_functorch_transforms_active():
        x = Eager.apply(a, call)
        return replace(call.result, **{call.x: x})
    x, *facts, _ = Root.apply(a, call)
    given: dict[str, Any] = {
        name: None if getattr(call.result, name) is None else x for name, x in zip(call.facts, facts, strict=True)
    }
    return replace(call.result, **{call.x: x}, **given)


def alike(a: Tensor, e: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return both tensors in one shape and dtype."""
    dtype = torch.promote_types(a.dtype, e.dtype)
    dtype = dtype if dtype.is_floating_point or dtype.is_complex else torch.float64
    return a.to(dtype).expand(shape), e.to(dtype).expand(shape)


def derivative(a: Tensor, e: Tensor, power: Power) -> Tensor:
    """Return the derivative at a in the direction e, which torch can differentiate in both."""
    ridge = torch.full(a.shape[:-2], OF_THE_RULE, dtype=torch.float64, device=a.device)
    return Form.apply("derivative", power, a, ridge, e, None, None)


def product(X: Tensor, b: Tensor) -> Tensor:
    """Return X b in the wider dtype of the two, also under `torch.autocast`, which would round both."""
    dtype = torch.promote_types(X.dtype, b.dtype)
    with torch.autocast(X.device.type, enabled=False):
        return X.to(dtype) @ b.to(dtype)


def _constant(value: Any) -> Tensor:
    """Return a fact as a tensor where it is, whatever `torch.set_default_device` says; None as an empty one."""
    if value is None:
        return torch.empty(0, device="cpu")
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value, device="cpu")


def _remember(ctx: Any, power: Power, a: Tensor, usable: Tensor, facts: dict[str, Tensor], kept: Tensor | None) -> None:
    """Keep what a derivative needs: the ridge is NaN where there is no root."""
    if power.assume_a == "any":
        ridge = torch.zeros(usable.shape, dtype=torch.float64, device=usable.device)
        if power.s < 1:
            usable = usable & (facts["rank"] == min(a.shape[-2:]))
    else:
        ridge = facts["ridge"]
    ridge = torch.where(usable, ridge, torch.nan)
    ctx.power = power
    ctx.save_for_backward(a, ridge, kept)
    ctx.save_for_forward(a, ridge, kept)


class Root(torch.autograd.Function):  # type: ignore[misc]
    """The power of `a`, the facts of its result, and what is kept for derivatives; only the power is differentiable.

    Transforms of torch.func see the facts because they are outputs.
    """

    @staticmethod
    def forward(a: Tensor, call: Call) -> tuple[Tensor, ...]:
        result = call.result = call.compute(a.detach())
        facts = [getattr(result, name) for name in call.facts]
        kept = call.kept[0] if call.kept else None
        return getattr(result, call.x), *map(_constant, (*facts, kept))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        a, call = inputs
        ctx.constants = len(output) - 1
        ctx.mark_non_differentiable(*output[1:])
        facts = dict(zip(call.facts, output[1:-1], strict=True))
        usable = sum(facts["status"] == int(status) for status in USABLE) > 0
        _remember(ctx, call.power, a, usable, facts, output[-1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, *facts: Tensor) -> tuple[Any, ...]:
        a, ridge, kept = ctx.saved_tensors
        return Form.apply("adjoint", ctx.power, a, ridge, g, None, kept), None

    @staticmethod
    def jvp(ctx: Any, da: Tensor, call: None) -> tuple[Any, ...]:
        a, ridge, kept = ctx.saved_tensors
        return (Form.apply("derivative", ctx.power, a, ridge, da, None, kept), *[None] * ctx.constants)

    @staticmethod
    def vmap(info: Any, in_dims: Any, a: Tensor, call: Call) -> tuple[Any, ...]:
        out = Root.apply(a.movedim(in_dims[0], 0), call)
        return out, tuple(None if x.shape == (0,) else 0 for x in out)


class Eager(torch.autograd.Function):  # type: ignore[misc]
    """`Root` without transforms of torch.func, which its other outputs are for: these take a while."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, call: Call) -> Tensor:
        result = call.result = call.compute(a.detach())
        usable = torch.isin(result.status, torch.tensor(USABLE, device=result.status.device))
        _remember(ctx, call.power, a, usable, vars(result), _constant(call.kept[0]) if call.kept else None)
        return getattr(result, call.x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        a, ridge, kept = ctx.saved_tensors
        return _form("adjoint", ctx.power, a, ridge, g, None, kept), None

    @staticmethod
    def jvp(ctx: Any, da: Tensor, call: None) -> Tensor:
        a, ridge, kept = ctx.saved_tensors
        return Form.apply("derivative", ctx.power, a, ridge, da, None, kept)


def _form(*arguments: Any) -> Tensor:
    """Return `Form.apply`, or only its value where nothing can differentiate that."""
    level = torch.autograd.forward_ad._current_level
    plain = not (torch.is_grad_enabled() or level >= 0 or torch._C._are_functorch_transforms_active())
    return Form.forward(*arguments) if plain else Form.apply(*arguments)


class Form(torch.autograd.Function):  # type: ignore[misc]
    """A form of `matroot.autodiff.forms`: linear in u, or bilinear in u and v."""

    @staticmethod
    def forward(
        form: str, power: Power, a: Tensor, ridge: Tensor, u: Tensor, v: Tensor | None, kept: Tensor | None
    ) -> Tensor:
        tensors = [d for d in (a, ridge, u, v) if d is not None]
        if torch._C._len_torch_dispatch_stack() or any(map(torch._C._functorch.is_legacy_batchedtensor, tensors)):
            traced: Tensor = _operator()(form, _powers.setdefault(power, len(_powers)), a, ridge, u, v)
            return traced
        if not a.numel():
            return torch.zeros_like(a)
        values, origin = take(a.detach())
        if not values.size:
            return torch.zeros_like(a)
        given = [take(_dense(d))[0] for d in (u, v) if d is not None]
        xp, size = backend_of(values).xp, values.shape[-2:]
        stack = values.reshape(-1, *size)
        form_of_a = None
        if kept is not None and kept.numel():
            form_of_a = take(kept.detach())[0].reshape(len(stack), *kept.shape[a.dim() - 2 :])
        with backend_of(values).here(origin):
            out, _ = evaluate(
                form,
                power,
                stack,
                tuple(d.reshape(stack.shape) for d in given),
                take(ridge.detach().broadcast_to(a.shape[:-2]))[0].reshape(len(stack)),
                form_of_a,
            )
        return origin.give_back(xp.ascontiguousarray(out.reshape(values.shape)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        form, power, a, ridge, u, _, kept = inputs
        ctx.form, ctx.power = form, power
        ctx.save_for_backward(a, ridge, u, kept)
        ctx.save_for_forward(a, ridge, u, kept)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        a, ridge, u, kept = ctx.saved_tensors

        def form(name: str, *directions: Tensor) -> Tensor:
            return Form.apply(name, ctx.power, a, ridge, *directions, *[None] * (2 - len(directions)), kept)

        of_a = of_u = None
        if ctx.form == "derivative":
            of_a = form("second_adjoint", u, g) if ctx.needs_input_grad[2] else None
            of_u = form("adjoint", g) if ctx.needs_input_grad[4] else None
        elif ctx.form == "adjoint":
            of_a = form("second_adjoint", g, u) if ctx.needs_input_grad[2] else None
            of_u = form("derivative", g) if ctx.needs_input_grad[4] else None
        else:
            raise _third_order()
        return None, None, of_a, None, of_u, None, None

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, da: Tensor | None, dridge: Any, du: Tensor | None, *constants: Any) -> Tensor:
        a, ridge, u, kept = ctx.saved_tensors
        if ctx.form not in ("derivative", "adjoint"):
            raise _third_order()
        total = None
        if du is not None:
            total = Form.apply(ctx.form, ctx.power, a, ridge, du, None, kept)
        if da is not None:
            pair = ("second", u, da) if ctx.form == "derivative" else ("second_adjoint", da, u)
            moved = Form.apply(pair[0], ctx.power, a, ridge, *pair[1:], None)
            total = moved if total is None else total + moved
        return total

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        size = info.batch_size
        front = [
            x if not isinstance(x, torch.Tensor) else x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(inputs, in_dims, strict=True)
        ]
        return Form.apply(*front), 0


@cache
def _operator() -> Callable[..., Tensor]:
    """Return the forms as an operator, for what sees operators alone.

    That is torch's older vmap (``is_grads_batched``, ``vectorize``), which calls it in a loop, and the traces of
    ``torch.func.linearize``.
    """

    @torch.library.custom_op("matroot::form", mutates_args=())  # type: ignore[untyped-decorator]
    def form(
        name: str, power: int, a: torch.Tensor, ridge: torch.Tensor, u: torch.Tensor, v: torch.Tensor | None
    ) -> torch.Tensor:
        found: Tensor = Form.forward(name, list(_powers)[power], a, ridge, u, v, None)
        return found

    form.register_fake(lambda name, power, a, ridge, u, v: a.new_empty(a.shape))
    operator: Callable[..., Tensor] = form
    return operator


def _dense(d: Tensor) -> Tensor:
    """Return a direction without its history; torch stands for some zeros by a tensor without memory."""
    d = d.detach()
    return torch.zeros(d.shape, dtype=d.dtype, device=d.device) if d._is_zerotensor() else d


def _third_order() -> Exception:
    return NotImplementedError("roots have derivatives of first and second order; this asks for the third")
