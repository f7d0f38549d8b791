"""A double of torch's CUDA tensors on CPU tensors: torch's rules about what may meet what, every crossing counted.

Each tensor says that it is on a card and holds its values in a CPU tensor, out of sight. Tensors of different devices
do not mix, save numbers of dimension 0 from the host; `numpy` is refused, by torch itself. Copies from the host and
copies to it, `item`, `bool` and masks as indices are counted, for all of these wait on a card.
"""

from __future__ import annotations

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
CROSSING = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
WAITING = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
}


class Count:
    """Crossings since the last `reset`."""

    up = down = waits = 0

    @classmethod
    def reset(cls):
        cls.up = cls.down = cls.waits = 0


class CudaTensor(torch.Tensor):
    """A tensor that says it is on a card."""

    @staticmethod
    def __new__(cls, values, device="cuda:0"):
        return torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=device
        )

    def __init__(self, values, device="cuda:0"):
        self.values = values

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    # Brackets, copies and numbers ask for a real card before they come to the dispatch: their rules are here.

    def __getitem__(self, key):
        return CudaTensor(self.values[_bare_index(key)], self.device)

    def __setitem__(self, key, value):
        if isinstance(value, torch.Tensor) and value.ndim and value.device != self.device:
            Count.up += value.device.type == "cpu"  # torch copies across
        self.values[_bare_index(key)] = value.values if isinstance(value, CudaTensor) else value

    def copy_(self, source, non_blocking=False):
        count(source.device, self.device)
        self.values.copy_(off_card(source))
        return self

    def _number(name):  # noqa: N805
        def method(self):
            Count.waits += 1
            return getattr(self.values, name)()

        return method

    for _name in ("__bool__", "__int__", "__float__", "__index__", "item", "tolist"):
        locals()[_name] = _number(_name)

    def __reduce_ex__(self, protocol):
        raise AssertionError("a CUDA tensor was pickled")


def _bare_index(key):
    for k in key if isinstance(key, tuple) else (key,):
        if isinstance(k, torch.Tensor):
            Count.up += not isinstance(k, CudaTensor)  # torch takes it to the card, and waits
            Count.waits += k.dtype is torch.bool
    return tree_map(lambda x: x.values if isinstance(x, CudaTensor) else x, key)


def run(func, args, kwargs):
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    ours = [x for x in tensors if isinstance(x, CudaTensor)]
    places = {x.device for x in ours}
    target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if func not in CROSSING:
        others = [x for x in tensors if not isinstance(x, CudaTensor) and x.ndim]
        if func in INDEXING and ours:
            Count.up += len(others)  # torch takes such an index to the card itself, and waits
        elif ours and (others or len(places) > 1):
            found = sorted({str(x.device) for x in tensors})
            raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two, {found}")
        masks = func in INDEXING and any(x.dtype is torch.bool for x in ours[1:])
        Count.waits += bool(ours) and (func in WAITING or masks)
    bare = {name: torch.device("cpu") if name == "device" and x is not None else x for name, x in kwargs.items()}
    bare_args, bare = tree_map(lambda x: x.values if isinstance(x, CudaTensor) else x, (args, bare))
    result = func(*bare_args, **bare)
    if func is aten.copy_.default:
        count(args[1].device, args[0].device)
        return args[0]
    if func is aten._to_copy.default:
        place = target or args[0].device
        count(args[0].device, place)
        if place.type == "cpu":
            return result.clone() if ours else result
    else:
        place = target or (next(iter(places)) if places else torch.device("cpu"))
    if place.type == "cpu":
        return result
    if func._schema.is_mutable:
        return args[0] if func._schema.returns else None  # lists of tensors are changed and not returned
    place = torch.device("cuda", place.index or 0)
    return tree_map(lambda x: CudaTensor(x, place) if isinstance(x, torch.Tensor) else x, result)


def count(source, target):
    Count.up += source.type == "cpu" and target.type == "cuda"
    Count.down += source.type == "cuda" and target.type == "cpu"


class _Factories(TorchDispatchMode):
    """What has no tensor of the card among its arguments, but is to make one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


@contextlib.contextmanager
def card(monkeypatch):
    """While it lasts, torch makes tensors "on a card" without one."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # so that the CPU's products are those of the card
    with _Factories():
        Count.reset()
        yield Count


def on_card(values, device="cuda:0"):
    """A copy of a CPU tensor or numpy array on the card."""
    return CudaTensor(torch.as_tensor(values).detach().clone(), device)


def off_card(x):
    """The values of a tensor, wherever it is, without a count."""
    x = x.detach()
    return x.values if isinstance(x, CudaTensor) else x
