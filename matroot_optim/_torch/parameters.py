"""The tensors that the torch adapter serves; any other is refused with what it is and what to do instead."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from matroot_optim.arrays import state_dtype

_WHOLE = "keep the parameters whole on every rank, as torch.nn.parallel.DistributedDataParallel does"


def check_parameters(group: int, params: Iterable[Any]) -> None:
    """Refuse a parameter that is not served, or that is given twice.

    Parameters
    ----------
    group : int
        Number of the parameter group, for the message.
    params : iterable of tensors, or of pairs of a name and a tensor

    Raises
    ------
    TypeError
        A parameter is sharded, sparse, nested, quantized, without values, or not real floating point.
    ValueError
        A parameter is there twice.
    """
    seen: dict[int, str] = {}
    for i, given in enumerate(params):
        name, x = given if isinstance(given, tuple) else ("", given)
        if not isinstance(x, torch.Tensor):
            continue  # torch has a message for it
        title = f"{group}/{i}" + (f" ({name})" if name else "")
        if id(x) in seen:
            raise ValueError(f"each parameter must be given once, got {title!r}, which is {seen[id(x)]!r}")
        seen[id(x)] = title
        if is_lazy(x):
            continue  # it has no shape yet
        found = refusal(x)
        if found is not None:
            raise TypeError(f"parameter {title!r} must be a plain dense tensor, got {found}")
        state_dtype(x, title)


def refusal(x: Any) -> str | None:
    """Name the kind of a tensor that is not served, and the remedy; None for a tensor that is served."""
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return "a tensor inside torch.func.vmap or torch.func.grad; call the optimizer outside of it"
    return next((f"{kind(x)}; {remedy}" for holds, kind, remedy in _UNSERVED if holds(x)), None)


def _made_by(module: str, name: str) -> Callable[[Any], bool]:
    """A test for a class of a module that is not imported for it: without the module there is no such tensor."""

    def holds(x: Any) -> bool:
        found = getattr(sys.modules.get(module), name, None)
        return found is not None and isinstance(x, found)

    return holds


def _is_flat(x: Any) -> bool:
    return bool(getattr(x, "_is_flat_param", False) or getattr(x, "_fsdp_flattened", False))


#: Test, name and remedy of every kind that is not served; the first that holds is told.
_UNSERVED: tuple[tuple[Callable[[Any], bool], Callable[[Any], str], str], ...] = (
    (
        _made_by("torch._subclasses.fake_tensor", "FakeTensor"),
        lambda x: "a FakeTensor, which has no values",
        "make the optimizer outside of FakeTensorMode",
    ),
    (
        _made_by("torch.distributed.tensor", "DTensor"),
        lambda x: f"a DTensor with placements {tuple(x.placements)}",
        _WHOLE,
    ),
    (_is_flat, lambda x: "a flat parameter of FullyShardedDataParallel, which has no matrices", _WHOLE),
    (lambda x: x.is_nested, lambda x: "a nested tensor", "use one tensor for each component"),
    (lambda x: x.is_quantized, lambda x: f"a quantized tensor ({x.dtype})", "train its float original"),
    (lambda x: x.is_meta, lambda x: "a tensor on the meta device, which has no values", "call to_empty() first"),
    (
        lambda x: x.layout != torch.strided,
        lambda x: f"one of layout {x.layout}",
        "use x.to_dense()",
    ),
    (
        torch.utils._python_dispatch.is_traceable_wrapper_subclass,
        lambda x: f"a {type(x).__name__}, which wraps other tensors",
        "give those",
    ),
    (lambda x: x.is_inference(), lambda x: "a tensor made in inference mode", "clone it outside of inference mode"),
)
