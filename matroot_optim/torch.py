"""Shampoo as a `torch.optim.Optimizer`. No mathematics here: parameters, groups and state dicts meet the core."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from matroot import ConditionTracker
from matroot_optim.checkpoint import export, restore
from matroot_optim.config import SHARED
from matroot_optim.diagnostics import Diagnostics
from matroot_optim.layout import Layout, make_layout
from matroot_optim.momentum import Rates
from matroot_optim.shampoo import Shampoo as Core
from matroot_optim.shampoo import add_into
from matroot_optim.state import State, fresh

#: Options that a parameter group may set, beside lr, by their names in the core.
OF_GROUP = {field.name for field in dataclasses.fields(Core)} - SHARED - {"learning_rate"}
_OF_LAYOUT = sorted(OF_GROUP - {"betas", "weight_decay"})


class Shampoo(torch.optim.Optimizer):  # type: ignore[misc]
    """Shampoo for torch, with the keywords of `matroot_optim.Shampoo`.

    Statistics, momentum and roots are float32 (float64 for float64 parameters) whatever the parameters are, in
    memory and through ``state_dict``. Equal-shaped blocks of all parameters are worked on together.

    Parameters
    ----------
    params : iterable of tensors, or of dicts that define groups
        A group may set lr and every option that belongs to single parameters (weight_decay, betas, graft, block_size,
        preconditioned_dims, ...). Options of the whole (refresh_every, schedule, engine, on_nonfinite, ...) are
        keywords here.
    lr : float
        With the default graft, take Adam's.
    betas : (float, float)
    weight_decay : float
    **options
        Of `matroot_optim.Shampoo`.

    Raises
    ------
    ValueError
        An option is wrong: the message has its name, the value and what is allowed.
    TypeError
        There is no such option, or a parameter is not real floating point.

    Notes
    -----
    ``state_dict()`` holds tensors, numbers and strings alone, so that ``torch.load(weights_only=True)`` reads it.
    Root jobs under way are waited for and saved with it.

    Examples
    --------
    >>> import torch
    >>> from matroot_optim.torch import Shampoo
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = Shampoo(model.parameters(), lr=1e-3)
    >>> loss = model(torch.ones(4, 3)).square().mean()
    >>> loss.backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        if "groups" in options:
            raise TypeError("groups is what parameter groups are for in torch; give params as dicts")
        shared = {name: value for name, value in options.items() if name in SHARED}
        own = {name: value for name, value in options.items() if name not in SHARED}
        Core(lr, betas=betas, weight_decay=weight_decay, **options)  # checks them all, and their names
        self._core = Core(lr, groups=self._options_of, **shared)
        self._kept: State | None = None
        self._planned: list[tuple[Any, ...]] = []
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, **own})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        unknown = sorted(set(param_group) - OF_GROUP - {"params", "lr", "initial_lr", "name"})
        if unknown:
            raise TypeError(f"a parameter group must set lr or one of {sorted(OF_GROUP)}, got {', '.join(unknown)}")
        super().add_param_group(param_group)
        self._options_of(f"{len(self.param_groups) - 1}/0")
        if self._kept is not None:
            self._fit()

    def _options_of(self, path: str) -> dict[str, Any]:
        """The core's options of the parameter at "group/index"."""
        group = self.param_groups[int(path.partition("/")[0])]
        return {"learning_rate": float(group["lr"]), **{name: group[name] for name in OF_GROUP if name in group}}

    def _parameters(self) -> dict[str, Any]:
        """Every parameter by its path "group/index"."""
        return {f"{g}/{i}": p for g, group in enumerate(self.param_groups) for i, p in enumerate(group["params"])}

    def _layout(self) -> Layout:
        return make_layout(self._core, {path: p.detach() for path, p in self._parameters().items()})

    def _fit(self) -> State:
        """The state for the parameters and options there are now: new ones start afresh, the others keep theirs."""
        params = [p.detach() for p in self._parameters().values()]
        layout = self._layout()
        if self._kept is None:
            self._kept = fresh(self._core, layout, params)
        elif layout != self._kept.layout:
            start, meta = export(fresh(self._core, layout, params))
            names, old = export(self._kept)
            new = meta["leaves"].keys() - old["leaves"].keys()
            names.update({name: x for name, x in start.items() if "/".join(name.split("/", 2)[:2]) in new})
            old["leaves"] = {**meta["leaves"], **old["leaves"]}
            self._kept = restore(self._core, layout, params, names, old)
        self._planned = self._plan()
        return self._kept

    def _rates(self, layout: Layout) -> list[Rates]:
        groups = [self.param_groups[int(leaf.path.partition("/")[0])] for leaf in layout.leaves]
        return [Rates(float(g["lr"]), float(g["weight_decay"]), float(g["betas"][0])) for g in groups]

    def _current(self) -> State:
        """The state, refitted when an option of a group was changed that a step does not read from the group."""
        if self._kept is None or self._planned != self._plan():
            return self._fit()
        return self._kept

    def _plan(self) -> list[tuple[Any, ...]]:
        """What of the groups is in the layout: all but the rate, the weight decay and the momentum's beta."""
        return [(group["betas"][1], *map(group.get, _OF_LAYOUT)) for group in self.param_groups]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; a parameter without gradient is left alone.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss.

        Raises
        ------
        TypeError
            A gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        state = self._current()
        params = self._parameters()
        grads = {path: _dense(path, p.grad) for path, p in params.items() if p.grad is not None}
        weights = {path: p.detach() for path, p in params.items()}
        layout = state.layout
        g, W = layout.align(grads, "grads"), layout.align(weights, "params")
        with _full_precision(weights.values()):
            moves, self._kept = self._core.advance(g, state, W, donate=True, rates=self._rates(layout))
        for path, move in zip(weights, moves, strict=True):
            if path in grads:
                add_into(weights[path], move)
        return loss

    def diagnostics(self, tracker: ConditionTracker | None = None) -> Diagnostics:
        """What is known of every root; see `matroot_optim.Shampoo.diagnostics`. Paths are "group/index"."""
        return self._core.diagnostics(self._current(), tracker)

    def state_dict(self) -> dict[str, Any]:
        names, meta = export(self._current())
        plain: dict[str, Any] = super().state_dict()
        numbers = [n for group in plain["param_groups"] for n in group["params"]]
        plain["state"] = {}
        for number, path in zip(numbers, self._parameters(), strict=True):
            mine = {name.removeprefix(f"{path}/"): x for name, x in names.items() if name.startswith(f"{path}/")}
            plain["state"][number] = {name: torch.from_numpy(x.copy()) for name, x in mine.items()}
            plain["state"][number]["step"] = torch.tensor(int(names["step"]))
        plain["matroot_optim"] = _plain(meta)
        return plain

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state: the precision of the saved arrays is kept, whatever dtype the parameters have.

        As ever in torch, the options of groups come with it, and may be changed in ``param_groups`` afterwards.

        Raises
        ------
        ValueError
            The dict is of another optimizer, or a value in it is missing or wrong: the message names it. The
            optimizer stays as it was.
        """
        before = {**self.__dict__, "defaults": dict(self.defaults)}
        try:
            self._load(state_dict)
        except BaseException:  # torch has replaced the groups by then, and written to the defaults
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _load(self, state_dict: dict[str, Any]) -> None:
        saved = _check_outline(state_dict)
        if saved and "matroot_optim" not in state_dict:
            raise ValueError("state_dict must come from matroot_optim.torch.Shampoo, got one without its metadata")
        super().load_state_dict({**state_dict, "state": {}})
        for g, group in enumerate(self.param_groups):
            _check_group(g, group)
            self._core.for_path(f"{g}/0")
        params = self._parameters()
        if not params or "matroot_optim" not in state_dict:
            return
        numbers = [n for group in state_dict["param_groups"] for n in group["params"]]
        if set(numbers) != set(saved) or len(numbers) != len(saved):
            raise ValueError(f"state_dict must have the state of parameters {numbers}, got {list(saved)}")
        names: dict[str, Any] = {}
        for number, path in zip(numbers, params, strict=True):
            names.update({f"{path}/{name}": x for name, x in saved[number].items() if name != "step"})
        names["step"] = _one_step([saved[number].get("step") for number in numbers])
        detached = [p.detach() for p in params.values()]
        self._kept = restore(self._core, self._layout(), detached, names, state_dict["matroot_optim"])
        self._planned = self._plan()

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "_core": dataclasses.replace(self._core, groups=None),
            "_kept": self._kept,
            "_planned": self._planned,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._core = dataclasses.replace(self._core, groups=self._options_of)


@contextmanager
def _full_precision(tensors: Iterable[Any]) -> Iterator[None]:
    """Autocast off on the devices of these tensors: a step inside ``torch.autocast`` is the step outside."""
    with ExitStack() as stack:
        for kind in {x.device.type for x in tensors}:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _dense(path: str, grad: Any) -> Any:
    if grad.layout != torch.strided:
        raise TypeError(f"the gradient of parameter {path!r} must be dense, got layout {grad.layout}; use sparse=False")
    return grad.detach()


def _check_outline(state_dict: Any) -> Mapping[Any, Any]:
    """The state in a state dict; ValueError where the outline is not that of torch's state dicts."""
    groups = state_dict.get("param_groups") if isinstance(state_dict, Mapping) else None
    if not isinstance(groups, list) or not all(isinstance(g, Mapping) and _keys(g.get("params")) for g in groups):
        raise ValueError("state_dict must have a list of groups with keys of parameters as 'param_groups'")
    saved = state_dict.get("state")
    if not isinstance(saved, Mapping) or not all(isinstance(x, Mapping) for x in saved.values()):
        raise ValueError("state_dict must have a dict of dicts as 'state'")
    return saved


def _keys(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(key, int | str) for key in values)


def _check_group(g: int, group: Mapping[str, Any]) -> None:
    for name in ("lr", "betas", "weight_decay"):
        if name not in group:
            raise ValueError(f"state_dict must have {name!r} in group {g}")
    try:
        float(group["lr"])
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"state_dict must have a number as lr in group {g}, got {group['lr']!r}") from None


def _one_step(steps: list[Any]) -> Any:
    """The step that all parameters have."""
    for x in steps:
        whole = isinstance(x, torch.Tensor) and x.ndim == 0 and x.dtype in (torch.int32, torch.int64)
        if not whole or int(x) != int(steps[0]):
            raise ValueError(f"state_dict must have one integer as the step of all parameters, got {x!r}")
    return steps[0]


def _plain(meta: Any) -> Any:
    """Tuples as lists, so that only plain containers are saved."""
    if isinstance(meta, dict):
        return {key: _plain(value) for key, value in meta.items()}
    return [_plain(value) for value in meta] if isinstance(meta, list | tuple) else meta
