"""Shampoo as a `torch.optim.Optimizer`. No mathematics here: parameters, groups and state dicts meet the core."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from matroot import ConditionTracker
from matroot_optim._torch.groups import (
    META,
    OF_GROUP,
    check_keywords,
    check_names,
    core_options,
    plain,
    rate,
    saved_options,
    take_shared,
)
from matroot_optim._torch.keeper import Keeper, layout_of, names_of, parameters
from matroot_optim._torch.modules import parameter_groups
from matroot_optim._torch.parameters import check_parameters, refusal
from matroot_optim._torch.records import (
    check_outline,
    cuts_from_leaves,
    cuts_from_text,
    cuts_to_text,
    record_of,
)
from matroot_optim._torch.state import ParameterStates
from matroot_optim.diagnostics import Diagnostics
from matroot_optim.layout.layout import Layout
from matroot_optim.options import SHARED
from matroot_optim.plan import Plan, make_plan, warn_if_large
from matroot_optim.shampoo import Shampoo as Core
from matroot_optim.shampoo import add_into
from matroot_optim.state import State
from matroot_optim.step.momentum import Rates

__all__ = ["Shampoo", "parameter_groups"]


class Shampoo(torch.optim.Optimizer):  # type: ignore[misc]
    """Shampoo for torch, with the keywords of `matroot_optim.Shampoo`.

    Statistics, momentum and roots are float32 (float64 for float64 parameters) whatever the parameters are, in
    memory and through ``state_dict``. Equal-shaped blocks of all parameters are worked on together.

    Parameters
    ----------
    params : torch.nn.Module; or iterable of tensors, of pairs of a name and a tensor, or of dicts that define groups
        Of a module, all parameters in the groups of `parameter_groups`, which tells tables by their modules.
        A group may set lr and every option that belongs to single parameters (weight_decay, betas, graft, block_size,
        preconditioned_dims, ...). Options of the whole (refresh_every, schedule, engine, on_nonfinite, ...) are
        keywords here, and are accepted in groups that agree. Other names in a group are left alone, unless they are
        nearly one of these.
    lr : float, or tensor of one element
        With the default graft, take Adam's.
    betas : (float, float)
    weight_decay : float
    **options
        Of `matroot_optim.Shampoo`.

    Raises
    ------
    ValueError
        An option is wrong: the message has its name, the value and what is allowed. A parameter is given twice.
    TypeError
        There is no such option, or a parameter is not whole, dense and real floating point: the message names it.

    Warns
    -----
    UserWarning
        The state will take more than three times the memory of Adam's, which the defaults never do.

    Notes
    -----
    ``state_dict()`` holds tensors, numbers and strings alone, so that ``torch.load(weights_only=True)`` reads it.
    Root jobs under way are waited for and saved with it. The entry "matroot_optim" of a group says there how its
    parameters are cut into blocks.

    What is kept belongs to the tensor, not to its place in a group.

    Examples
    --------
    >>> import torch
    >>> from matroot_optim.torch import Shampoo
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = Shampoo(model, lr=1e-3)
    >>> loss = model(torch.ones(4, 3)).square().mean()
    >>> loss.backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: torch.nn.Module | Iterable[Any],
        lr: Any = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        check_keywords(options)
        given = {"betas": betas, "weight_decay": weight_decay, **options}
        Core(rate(lr), **{name: plain(value) for name, value in given.items()})  # checks them all
        shared = {name: plain(value) for name, value in options.items() if name in SHARED}
        own = {name: value for name, value in given.items() if name not in SHARED}
        self._core: Core = Core(rate(lr), groups=self._options_of, **shared)
        self._whole = False  # while groups are still coming
        self._keeper = Keeper()
        if isinstance(params, torch.nn.Module):
            params = parameter_groups(params)
        super().__init__(params, {"lr": lr, **own, META: ""})
        self._take_shared()
        self._whole = True
        params_by_path = parameters(self.param_groups)
        if not any(map(is_lazy, params_by_path.values())):
            warn_if_large(layout_of(self._core, params_by_path), names_of(self.param_groups))

    # Groups.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        check_names(param_group)
        params = param_group["params"]
        if not isinstance(params, torch.Tensor | set):
            params = param_group["params"] = list(params)
        check_parameters(len(self.param_groups), [params] if isinstance(params, torch.Tensor) else params)
        if isinstance(params, list) and params and all(isinstance(pair, tuple) for pair in params):
            # torch does so from 2.6 on
            param_group["params"], param_group["param_names"] = [p for _, p in params], [name for name, _ in params]
        super().add_param_group(param_group)
        try:
            self._core.for_path(f"{len(self.param_groups) - 1}/0")  # checks its options
            if self._whole:
                self._take_shared()
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def _options_of(self, path: str) -> dict[str, Any]:
        """The core's options of the parameter at "group/index"."""
        return core_options(self.param_groups[int(path.partition("/")[0])])

    def _take_shared(self) -> None:
        changes = take_shared(self._core, self.param_groups)
        if changes:
            self._core = dataclasses.replace(self._core, **changes)

    def _rates(self, layout: Layout) -> list[Rates]:
        of_group = [Rates(float(g["lr"]), float(g["weight_decay"]), float(g["betas"][0])) for g in self.param_groups]
        return [of_group[int(leaf.path.partition("/")[0])] for leaf in layout.leaves]

    def _current(self) -> State:
        """The state of the parameters, groups and options there are now."""
        self._take_shared()
        return self._keeper.fit(self._core, self.param_groups)

    @property
    def state(self) -> MutableMapping[Any, Any]:
        """What is kept for every parameter, by name.

        It shows the tensors that the optimizer works on. ``state[p] = entries`` gives a parameter other ones;
        ``del state[p]`` and ``state.clear()`` let it, or all of them, start afresh.
        """
        return ParameterStates(self)

    @state.setter
    def state(self, values: Mapping[Any, Any]) -> None:
        states = ParameterStates(self)
        states.clear()
        states.update(values)

    # A step.

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
        # What is made in inference mode could not be written to by a step outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self._step()
        return loss

    def _step(self) -> None:
        state = self._current()
        params = parameters(self.param_groups)
        grads = {path: _dense(path, p.grad) for path, p in params.items() if p.grad is not None}
        weights = {path: p.detach() for path, p in params.items()}
        layout = state.layout
        g, W = layout.align(grads, "grads"), layout.align(weights, "params")
        with _full_precision(weights.values()):
            moves, self._keeper.state = self._core.advance(g, state, W, donate=True, rates=self._rates(layout))
        for path, move in zip(weights, moves, strict=True):
            if path in grads:
                add_into(weights[path], move)

    def diagnostics(self, tracker: ConditionTracker | None = None) -> Diagnostics:
        """What is known of every root; see `matroot_optim.Shampoo.diagnostics`.

        Parameters are called as in `plan`.
        """
        found, names = self._core.diagnostics(self._current()), names_of(self.param_groups)

        def called(path: str) -> str:
            group, number, *rest = path.split("/")
            return "/".join([names.get(f"{group}/{number}", f"{group}/{number}"), *rest])

        found = dataclasses.replace(
            found,
            names=[called(name) for name in found.names],
            graft_ratio={called(path): ratio for path, ratio in found.graft_ratio.items()},
            nonfinite={called(path): count for path, count in found.nonfinite.items()},
        )
        if tracker is not None:
            found.record(tracker)
        return found

    def plan(self, *, measure: bool = False) -> Plan:
        """What is done with every parameter, and what it costs; see `matroot_optim.Shampoo.plan`.

        Parameters are called by their names, where the optimizer was given ``named_parameters()``, and else by
        "group/index". Nothing is computed and nothing allocated.

        Parameters
        ----------
        measure : bool
            Time one root of every order, instead of counting operations.

        Examples
        --------
        >>> import torch
        >>> from matroot_optim.torch import Shampoo
        >>> model = torch.nn.Sequential(torch.nn.Linear(96, 384), torch.nn.Linear(384, 96))
        >>> print(Shampoo(model.named_parameters()).plan())
        parameter  shape     seen as  treatment   blocks         exponent  numbers  MB        Mflop  roots
        0.weight   384 x 96           both sides  2 of 192 x 96  -1/3      5.76     0.85      42.5   15.9 Mflop
        0.bias     384                adam                                 2        0.00307   0
        1.weight   96 x 384           both sides  2 of 96 x 192  -1/3      5.76     0.85      42.5   15.9 Mflop
        1.bias     96                 adam                                 2        0.000768  0
        state: 1.7 MB, 2.9 times Adam's
        """
        self._take_shared()
        core, names = self._core, names_of(self.param_groups)
        layout = layout_of(core, parameters(self.param_groups))
        rows = make_plan(layout, core.interval(core.settled_step), measure=measure).rows
        return Plan(tuple(dataclasses.replace(row, path=names.get(row.path, row.path)) for row in rows))

    # To a dict, and back.

    def state_dict(self) -> dict[str, Any]:
        handle = self.register_state_dict_post_hook(_fill, prepend=True)  # hooks of others see what is returned
        try:
            found: dict[str, Any] = super().state_dict()
            return found
        finally:
            handle.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state: the precision of the saved arrays is kept, whatever dtype the parameters have.

        As ever in torch, the options of groups come with it, and may be changed in ``param_groups`` afterwards.
        A dict that is refused changes nothing.

        Raises
        ------
        ValueError
            The dict is not of this optimizer, or does not fit the parameters.

        Warns
        -----
        UserWarning
            `torch.distributed.checkpoint` was not asked to be strict: a parameter that it has no state for starts
            afresh.
        """
        loaded: dict[str, Any] = {}

        def keep(_: Any, found: dict[str, Any]) -> dict[str, Any]:
            check_outline(found)
            loaded.update(found)
            return {**found, "state": {}}  # torch would round it to the dtype of the parameters

        before = {**vars(self), "defaults": dict(self.defaults)}
        handle = self.register_load_state_dict_pre_hook(keep)
        try:
            super().load_state_dict(state_dict)
            self._load(loaded)
        except Exception:
            self.__dict__.update(before)
            raise
        finally:
            handle.remove()

    def _load(self, loaded: dict[str, Any]) -> None:
        """Take over what a dict has, beside the groups."""
        self._keeper = Keeper()
        texts = [group.get(META) for group in self.param_groups]
        for group in self.param_groups:
            group[META] = ""
            for name in OF_GROUP & self.defaults.keys():
                group.setdefault(name, self.defaults[name])
        self._take_shared()
        saved, old = loaded["state"], loaded.get(META)  # older dicts have the cuts there
        if not saved:
            return
        if old is not None:
            cuts = cuts_from_leaves(old, len(texts))
        elif None in texts:
            raise ValueError("state_dict must come from matroot_optim.torch.Shampoo, got one without its metadata")
        else:
            cuts = [cuts_from_text(text) for text in texts]
        units = not (isinstance(old, Mapping) and old.get("format") == 1)
        numbers = [n for group in loaded["param_groups"] for n in group["params"]]
        extra = sorted(map(str, saved.keys() - set(numbers)))
        if extra:
            raise ValueError(f"the state_dict must have state of its parameters alone, got {', '.join(extra)}")
        params = parameters(self.param_groups)
        records = [
            record_of(path, p.shape, saved.get(number), cuts[int(path.partition("/")[0])], units=units)
            for number, (path, p) in zip(numbers, params.items(), strict=True)
        ]
        new = [path for path, record in zip(params, records, strict=True) if record is None]
        if new and not any(isinstance(number, str) for number in numbers):
            raise ValueError(f"the state_dict must have the state of all parameters, it lacks {', '.join(new)}")
        # Where parameters have names, torch was asked not to be strict, or left out what is frozen.
        trained = [path for path in new if params[path].requires_grad]
        if trained:
            warnings.warn(f"the state_dict has no state for {', '.join(trained)}; they start afresh", stacklevel=4)
        self._keeper.load(self._core, self.param_groups, records)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "defaults": self.defaults,
            "param_groups": self.param_groups,
            "_core": dataclasses.replace(self._core, groups=None),
            "_keeper": self._keeper,
            "_whole": self._whole,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({name: value for name, value in state.items() if name != "state"})
        self._core = dataclasses.replace(self._core, groups=self._options_of)


def _fill(optimizer: Shampoo, found: dict[str, Any]) -> None:
    """Put the state, and how it is cut, into the dict that torch has made."""
    layout, keeper, groups = optimizer._current().layout, optimizer._keeper, found["param_groups"]
    numbers = [n for group in groups for n in group["params"]]
    mine = zip(numbers, keeper.tensors, keeper.take_apart(optimizer._core), strict=True)
    found["state"] = {n: {**entries, **keeper.others.get(p, {})} for n, p, entries in mine}
    leaves = iter(layout.leaves)
    pending = any(name.endswith("/pending") for entries in found["state"].values() for name in entries)
    for group in groups:
        group.update(saved_options(group))
        group[META] = cuts_to_text([next(leaves) for _ in group["params"]], pending)


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
    if type(grad) is not torch.Tensor and (found := refusal(grad)) is not None:
        raise TypeError(f"the gradient of parameter {path!r} must be a plain dense tensor, got {found}")
    return grad.detach()
