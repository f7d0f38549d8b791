"""Check of the tensors given to the torch adapter, whose errors name an unsupported kind and the remedy; precision."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from matroot_optim._torch.storage import is_dtensor, is_served
from matroot_optim.arrays import state_dtype
from matroot_optim.shampoo import add_into

_WHOLE = "keep the parameters whole on every rank, as torch.nn.parallel.DistributedDataParallel does"


def check_parameters(group: int, params: Iterable[Any]) -> None:
    """Raise if a parameter is not supported, or is given twice.

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
        A parameter is given twice.
    """
    seen: dict[int, str] = {}
    for i, given in enumerate(params):
        name, x = given if isinstance(given, tuple) else ("", given)
        if not isinstance(x, torch.Tensor):
            continue  # torch raises for this
        title = f"{group}/{i}" + (f" ({name})" if name else "")
        if id(x) in seen:
            raise ValueError(f"each parameter must be given once, got {title!r}, which is {seen[id(x)]!r}")
        seen[id(x)] = title
        if is_lazy(x):
            continue  # a lazy parameter has no shape yet
        found = refusal(x)
        if found is not None:
            raise TypeError(f"parameter {title!r} must be a plain dense tensor, got {found}")
        state_dtype(x, title)


def refusal(x: Any) -> str | None:
    """Return the kind of an unsupported tensor and the remedy; None for a supported tensor."""
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return "a tensor inside torch.func.vmap or torch.func.grad; call the optimizer outside of it"
    return next((f"{kind(x)}; {remedy}" for holds, kind, remedy in _UNSERVED if holds(x)), None)


def _made_by(module: str, name: str) -> Callable[[Any], bool]:
    """Return a test for a class that does not import its module: if the module is not loaded, no such tensor exists."""

    def holds(x: Any) -> bool:
        found = getattr(sys.modules.get(module), name, None)
        return found is not None and isinstance(x, found)

    return holds


def _is_flat(x: Any) -> bool:
    return bool(getattr(x, "_is_flat_param", False) or getattr(x, "_fsdp_flattened", False))


#: Test, name and remedy of every unsupported kind; the first match is reported.
_UNSERVED: tuple[tuple[Callable[[Any], bool], Callable[[Any], str], str], ...] = (
    (
        _made_by("torch._subclasses.fake_tensor", "FakeTensor"),
        lambda x: "a FakeTensor, which has no values",
        "make the optimizer outside of FakeTensorMode",
    ),
    (
        lambda x: is_dtensor(x) and not is_served(x),
        lambda x: f"a DTensor with placements {tuple(x.placements)}",
        "shard dimension 0 along one dimension of the mesh, as fully_shard does, or " + _WHOLE,
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
        lambda x: torch.utils._python_dispatch.is_traceable_wrapper_subclass(x) and not is_dtensor(x),
        lambda x: f"a {type(x).__name__}, which wraps other tensors",
        "give those",
    ),
    (lambda x: x.is_inference(), lambda x: "a tensor made in inference mode", "clone it outside of inference mode"),
)


# Of a step.


@contextmanager
def full_precision(tensors: Iterable[Any]) -> Iterator[None]:
    """Turn autocast off on the devices of these tensors, so that ``torch.autocast`` does not change a step."""
    with ExitStack() as stack:
        for kind in {x.device.type for x in tensors}:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def dense(path: str, grad: Any) -> Any:
    """Return a gradient without its graph.

    Raises
    ------
    TypeError
        The gradient is not a plain dense tensor.
    """
    if grad.layout != torch.strided:
        raise TypeError(f"the gradient of parameter {path!r} must be dense, got layout {grad.layout}; use sparse=False")
    if type(grad) is not torch.Tensor and (found := refusal(grad)) is not None:
        raise TypeError(f"the gradient of parameter {path!r} must be a plain dense tensor, got {found}")
    return grad.detach()


def add_moves(pairs: Iterable[tuple[Any, Any]]) -> None:
    """Add to every parameter its move, in one call for all of a device and a dtype."""
    alike: dict[Any, tuple[list[Any], list[Any]]] = {}
    for W, move in pairs:
        if W.dtype != move.dtype:
            add_into(W, move)
        else:
            weights, moves = alike.setdefault((W.device, W.dtype), ([], []))
            weights.append(W)
            moves.append(move)
    for weights, moves in alike.values():
        torch._foreach_add_(weights, moves)
