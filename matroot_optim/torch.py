"""Shampoo as a `torch.optim.Optimizer`: an adapter of parameters, groups and state dicts to the core."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch.nn.parameter import is_lazy

from matroot import ConditionTracker
from matroot_optim import kl_shampoo, soap
from matroot_optim._torch.averages import Averages
from matroot_optim._torch.groups import (
    META,
    OF_GROUP,
    check_keywords,
    check_names,
    core_options,
    plain,
    rate,
    rates_of,
    take_shared,
)
from matroot_optim._torch.keeper import Keeper, check_last, layout_of, parameters
from matroot_optim._torch.loading import check_outline, records_of
from matroot_optim._torch.modules import parameter_groups
from matroot_optim._torch.naming import names_of, naming
from matroot_optim._torch.parameters import add_moves, check_parameters, dense, full_precision
from matroot_optim._torch.saving import fill, hide
from matroot_optim._torch.shards.keeper import ShardedKeeper
from matroot_optim._torch.shards.step import moves_of_shards
from matroot_optim._torch.state import ParameterStates
from matroot_optim._torch.storage import check_devices, group_of, is_dtensor, local
from matroot_optim.checkpoint.collecting import uncollected
from matroot_optim.diagnostics import Diagnostics
from matroot_optim.options import SHARED
from matroot_optim.plan import Plan, make_plan, warn_if_large
from matroot_optim.presets import preset_options
from matroot_optim.shampoo import Shampoo as Core
from matroot_optim.state import State
from matroot_optim.step.momentum import Rates

__all__ = ["SOAP", "KLShampoo", "Shampoo", "parameter_groups"]


class Shampoo(Averages, torch.optim.Optimizer):  # type: ignore[misc]
    """Shampoo for torch, with the keywords of `matroot_optim.Shampoo`.

    Statistics, momentum and roots are float32 (float64 for float64 parameters) for parameters of any dtype, in
    memory and in ``state_dict``. Equal-shaped blocks of all parameters are processed together.

    Parameters
    ----------
    params : torch.nn.Module; or iterable of tensors, of pairs of a name and a tensor, or of dicts that define groups
        A module gives all its parameters, in the groups of `parameter_groups`, which finds tables by their modules.
        A group may set lr and every option of single parameters (weight_decay, betas, graft, block_size,
        preconditioned_dims, ...). Options of the whole optimizer (refresh_every, schedule, engine, on_nonfinite, ...)
        are keywords here; groups may repeat them if all groups agree. Other names in a group are ignored, with
        a warning for options of other optimizers; those that look like a misspelled option are refused.
    lr : float, or tensor of one element
        With the default graft, take Adam's.
    betas : (float, float)
    weight_decay : float
    shard : bool, process group, or 1-D device mesh
        Deal the blocks to the ranks: each keeps the statistics, roots and moments of its blocks alone. True: among the
        world, or along the dimension of the mesh that the parameters are sharded over; for such parameters, those of
        `torch.distributed.fsdp.fully_shard`, this is on in any case.
    **options
        Options of `matroot_optim.Shampoo`.

    Raises
    ------
    ValueError
        An option is wrong: the message has its name, the value and what is allowed. A parameter is given twice.
    TypeError
        An option is unknown, or a parameter is not dense and real floating point, or is sharded otherwise than along
        dimension 0: the message names it.
    RankError
        With `shard`, in a step: a rank has other parameters or options, or lacks a gradient.

    Warns
    -----
    UserWarning
        The state will take more than three times the memory of Adam's. With the default options it never does.

    Notes
    -----
    ``state_dict()`` holds only tensors, numbers and strings, so ``torch.load(weights_only=True)`` reads it. It waits
    for pending root jobs and includes them. The entry "matroot_optim" of each group in the dict describes how the
    parameters of the group are cut into blocks.

    The state belongs to the tensor, not to the tensor's place in a group. A frozen parameter has none until it is
    thawed or gets a gradient.

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

    _kind: ClassVar[type[Core]] = Core
    _hidden = False

    def __init__(
        self,
        params: torch.nn.Module | Iterable[Any],
        lr: Any = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        shard: Any = False,
        **options: Any,
    ) -> None:
        check_keywords(type(self).__name__, options)
        given = {"betas": betas, "weight_decay": weight_decay, **options}
        self._kind(rate(lr), **{name: plain(value) for name, value in given.items()})  # checks all options
        shared = {name: plain(value) for name, value in options.items() if name in SHARED}
        own = {name: value for name, value in given.items() if name not in SHARED}
        self._core: Core = self._kind(rate(lr), groups=self._options_of, **shared)
        self._whole = False  # until all groups are added
        self._keeper: Keeper = Keeper()
        if isinstance(params, torch.nn.Module):
            params = parameter_groups(params)
        super().__init__(params, {"lr": lr, **own, META: ""})
        self._take_shared()
        self._whole = True
        params_by_path = parameters(self.param_groups)
        if shard is not False or any(map(is_dtensor, params_by_path.values())):
            group = group_of(shard or True, params_by_path.values())
            check_devices(group, params_by_path.values())
            self._keeper = ShardedKeeper(group)
        if not any(map(is_lazy, params_by_path.values())):
            with naming(self.param_groups):
                layout = layout_of(self._core, self._keeper.served(self.param_groups))
            warn_if_large(layout, names_of(self.param_groups))

    @classmethod
    def preset(cls, name: str, params: torch.nn.Module | Iterable[Any], **changes: Any) -> Self:
        """Return the optimizer with the options of a published one; see `matroot_optim.Shampoo.preset`.

        Parameters
        ----------
        name : {"anil2020", "google", "meta", "anil2026"}
        params : torch.nn.Module, or iterable
            As of `Shampoo`.
        **changes
            Options to change, such as lr.

        Examples
        --------
        >>> import torch
        >>> from matroot_optim.torch import Shampoo
        >>> optimizer = Shampoo.preset("google", torch.nn.Linear(3, 2), lr=0.01)
        """
        options = preset_options(name)
        options["lr"] = options.pop("learning_rate")
        return cls(params, **{**options, **changes})

    # Groups.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        check_names(param_group)
        params = param_group["params"]
        if not isinstance(params, torch.Tensor | set):
            params = param_group["params"] = list(params)
        check_parameters(len(self.param_groups), [params] if isinstance(params, torch.Tensor) else params)
        if isinstance(params, list) and params and all(isinstance(pair, tuple) for pair in params):
            # torch >= 2.6 does this itself
            param_group["params"], param_group["param_names"] = [p for _, p in params], [name for name, _ in params]
        elif self.param_groups and "param_names" in self.param_groups[0] and not isinstance(params, set):
            # The first groups may be a model's, whose names nobody asked for.
            params = [params] if isinstance(params, torch.Tensor) else params
            param_group["param_names"] = [f"{len(self.param_groups)}/{i}" for i in range(len(params))]
        super().add_param_group(param_group)
        try:
            check_last(self._core, self.param_groups, layout=self._whole)
            if self._whole:
                self._take_shared()
                if not isinstance(self._keeper, ShardedKeeper) and any(map(is_dtensor, param_group["params"])):
                    raise TypeError("the first parameters must be DTensors too, or shard=True, if later ones are")
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def _options_of(self, path: str) -> dict[str, Any]:
        """Return the core's options of the parameter at "group/index"."""
        return core_options(self.param_groups[int(path.partition("/")[0])])

    def _take_shared(self) -> None:
        changes = take_shared(self._core, self.param_groups)
        if changes:
            self._core = dataclasses.replace(self._core, **changes)

    def _rates(self, of_group: Sequence[Rates]) -> list[Rates]:
        """Return the rates of every parameter with a state."""
        return [of_group[int(path.partition("/")[0])] for path in self._keeper.params]

    def _current(self) -> State:
        """Return the state, fitted to the current parameters, groups and options."""
        self._take_shared()
        with naming(self.param_groups):
            return self._keeper.fit(self._core, self.param_groups)

    @property
    def state(self) -> MutableMapping[Any, Any]:
        """Entries of every parameter, by name.

        The values are the tensors that the optimizer uses. ``state[p] = entries`` replaces the entries of a parameter;
        ``del state[p]`` resets one parameter, ``state.clear()`` all parameters.
        """
        return {} if self._hidden else ParameterStates(self)

    @state.setter
    def state(self, values: Mapping[Any, Any]) -> None:
        states = ParameterStates(self)
        states.clear()
        states.update(values)

    def __repr__(self) -> str:
        unseen = f"    {META}: "  # a place for checkpoints
        return "\n".join(line for line in super().__repr__().splitlines() if not line.startswith(unseen))

    # A step.

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; parameters without a gradient do not change.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss.

        Raises
        ------
        TypeError
            A gradient is sparse.
        """
        if torch.compiler.is_compiling():
            from matroot_optim._torch.eager import outside_of_graphs  # which imports the compiler

            return outside_of_graphs(self._step_with, closure)
        return self._step_with(closure)

    def _step_with(self, closure: Callable[[], Any] | None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # A tensor made in inference mode could not be modified by a step outside of that mode.
        with naming(self.param_groups), torch.inference_mode(False), torch.no_grad():
            self._step()
        return loss

    def _step(self) -> None:
        self.refuse_averages("step()")
        of_group = [rates_of(group) for group in self.param_groups]
        state = self._current()
        params, rates = self._keeper.params, self._rates(of_group)
        if isinstance(self._keeper, ShardedKeeper) and self._keeper.layout is not None:
            with full_precision(map(local, params.values())):
                moves = moves_of_shards(self._core, self._keeper, params, rates)
                add_moves((local(params[path]), move) for path, move in moves.items())
            return
        layout = state.layout
        weights = [p.detach() for p in params.values()]
        grads = [None if p.grad is None else dense(path, p.grad) for path, p in params.items()]
        g, W = layout.fitted(grads, "grads"), layout.fitted(weights, "params")
        with full_precision(weights):
            of_leaves, self._keeper.state = self._core.advance(g, state, W, donate=True, rates=rates)
        add_moves((w, move) for x, w, move in zip(grads, weights, of_leaves, strict=True) if x is not None)

    def diagnostics(self, tracker: ConditionTracker | None = None) -> Diagnostics:
        """Return the diagnostics of every root; see `matroot_optim.Shampoo.diagnostics`.

        Parameters are named as in `plan`.
        """
        found, names = self._core.diagnostics(self._current()), names_of(self.param_groups)

        def named(path: str) -> str:
            group, number, *rest = path.split("/")
            return "/".join([names.get(f"{group}/{number}", f"{group}/{number}"), *rest])

        def called(path: str) -> str:
            return named(self._keeper.whole_name(path))

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
        """Return the treatment and the cost of every parameter; see `matroot_optim.Shampoo.plan`.

        Parameters have their names if the optimizer was given ``named_parameters()``, else "group/index". Without
        `measure`, nothing is computed or allocated.

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
        layout = layout_of(core, self._keeper.served(self.param_groups))
        rows = make_plan(layout, core.interval(core.settled_step), measure=measure).rows
        return Plan(tuple(dataclasses.replace(row, path=names.get(row.path, row.path)) for row in rows))

    # Saving and loading.

    @uncollected()
    def state_dict(self) -> dict[str, Any]:
        self.refuse_averages("state_dict()")
        last = self.register_state_dict_pre_hook(hide)  # after those of users, which may read the state
        first = self.register_state_dict_post_hook(fill, prepend=True)  # hooks of users get the complete dict
        try:
            found: dict[str, Any] = super().state_dict()
            return found
        finally:
            self._hidden = False
            last.remove()
            first.remove()

    @uncollected()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; the saved arrays keep their precision for parameters of any dtype.

        As in every torch optimizer, the dict also sets the options of the groups, which may be changed in
        ``param_groups`` afterwards. A dict that is refused changes nothing.

        Raises
        ------
        ValueError
            The dict is not of this optimizer, has other groups, or does not fit the parameters.

        Warns
        -----
        UserWarning
            The dict lacks the state of a parameter, which starts afresh: it was frozen, or
            `torch.distributed.checkpoint` has loaded the dict without strictness.
        """
        self.refuse_averages("load_state_dict()")
        loaded: dict[str, Any] = {}
        afresh: list[str] = []

        def keep(_: Any, found: dict[str, Any]) -> dict[str, Any]:
            check_outline(found, self.param_groups)
            loaded.update(found)
            return {**found, "state": {}}  # torch would round the state to the dtype of the parameters

        before = {**vars(self), "defaults": dict(self.defaults)}
        last = self.register_load_state_dict_pre_hook(keep)
        first = self.register_load_state_dict_post_hook(lambda _: afresh.extend(self._load(loaded)), prepend=True)
        try:
            with naming(self.param_groups):
                super().load_state_dict(state_dict)
        except Exception:
            self.__dict__.update(before)
            raise
        finally:
            last.remove()
            first.remove()
        if afresh:
            names = names_of(self.param_groups)
            afresh = [names.get(path, path) for path in afresh]
            warnings.warn(f"the state_dict has no state for {', '.join(afresh)}; they start afresh", stacklevel=3)

    def _load(self, loaded: dict[str, Any]) -> list[str]:
        """Load the state from a dict whose groups torch has already loaded; return what starts afresh."""
        self._keeper = self._keeper.empty()
        texts = [group.get(META) for group in self.param_groups]
        for group in self.param_groups:
            group[META] = ""
            for name in OF_GROUP & self.defaults.keys():
                group.setdefault(name, self.defaults[name])
        self._take_shared()
        params = parameters(self.param_groups)
        records = records_of(loaded, texts, params, whole=not isinstance(self._keeper, ShardedKeeper))
        if records is None:
            return []
        new = [path for path, record in zip(params, records, strict=True) if record is None]
        # With named parameters, the load was not strict, or torch has left out frozen parameters.
        trained = [path for path in new if params[path].requires_grad]
        self._keeper.load(self._core, self.param_groups, records)
        return trained

    def __getstate__(self) -> dict[str, Any]:
        return {
            "defaults": self.defaults,
            "param_groups": self.param_groups,
            "_core": dataclasses.replace(self._core, groups=None),
            "_keeper": self._keeper,
            "_training": self._training,
            "_whole": self._whole,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({name: value for name, value in state.items() if name != "state"})
        self._core = dataclasses.replace(self._core, groups=self._options_of)


class SOAP(Shampoo):
    """SOAP for torch, with the keywords of `matroot_optim.SOAP`; in all else like `Shampoo`.

    Parameters
    ----------
    params : torch.nn.Module; or iterable of tensors, of pairs of a name and a tensor, or of dicts that define groups
    lr : float, or tensor of one element
        Take Adam's, or twice that.
    betas : (float, float)
    weight_decay : float
    **options
        Options of `matroot_optim.SOAP`.

    Examples
    --------
    >>> import torch
    >>> from matroot_optim.torch import SOAP
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = SOAP(model, lr=3e-3)
    >>> loss = model(torch.ones(4, 3)).square().mean()
    >>> loss.backward()
    >>> optimizer.step()
    """

    _kind = soap.SOAP

    def __init__(
        self, params: Any, lr: Any = 3e-3, *, betas: tuple[float, float] = (0.95, 0.95), **options: Any
    ) -> None:
        super().__init__(params, lr, betas=betas, **options)


class KLShampoo(Shampoo):
    """KL-Shampoo for torch, with the keywords of `matroot_optim.KLShampoo`; in all else like `Shampoo`."""

    _kind = kl_shampoo.KLShampoo
