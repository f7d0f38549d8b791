"""`optimizer.state`: torch's mapping of parameters to entries, as a view of the optimizer's arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
import torch

from matroot_optim._torch.keeper import Keeper, slots
from matroot_optim._torch.records import Record, pending_entries, pending_names
from matroot_optim.shampoo import Shampoo


class ParameterStates(MutableMapping[Any, Any]):
    """The entries of every parameter of an optimizer; a frozen parameter may have none."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def __iter__(self) -> Iterator[Any]:
        return iter(self._keeper.served(self._optimizer.param_groups).values())

    def __contains__(self, p: object) -> bool:
        try:
            return len(self[p]) > 0
        except KeyError:
            return False

    def __len__(self) -> int:
        return len(self._keeper.served(self._optimizer.param_groups))

    @property
    def _keeper(self) -> Keeper:
        found: Keeper = self._optimizer._keeper
        return found

    def __getitem__(self, p: Any) -> MutableMapping[str, Any]:
        if not isinstance(p, torch.Tensor):
            raise KeyError(p)
        record = self._keeper.records.get(p)
        if record is not None:
            return record.entries
        return TensorState(self._keeper.others.setdefault(p, {}), lambda: self._own(p))

    def __setitem__(self, p: Any, entries: Mapping[str, Any]) -> None:
        record = Record(dict(entries))
        self._keeper.give(p, record if record.own else None)
        if not record.own and record.entries:  # of other code alone: the parameter starts afresh
            self._keeper.others[p] = record.entries

    def __delitem__(self, p: Any) -> None:
        if not (isinstance(p, torch.Tensor) and (self._keeper.records.get(p) or any(p is q for q in self))):
            raise KeyError(p)
        self._keeper.give(p, None)  # also where the options no longer fit the state

    def clear(self) -> None:
        self._optimizer._keeper = self._keeper.empty()

    def _own(self, p: Any) -> Mapping[str, Any]:
        """Return the optimizer's current entries of a parameter.

        Raises
        ------
        KeyError
            The parameter is in no group.
        """
        keeper, optimizer = self._keeper, self._optimizer
        number = keeper.number(optimizer.param_groups, p)
        if number is None:
            optimizer._current()
            number = keeper.number(optimizer.param_groups, p)
        if number is None and any(p is q for group in optimizer.param_groups for q in group["params"]):
            return {}  # frozen
        if number is None or keeper.state is None:
            raise KeyError(p)
        return Own(optimizer._core, keeper, number)

    def __repr__(self) -> str:
        return f"<{len(self)} parameters at step {self._optimizer._current().step}>"


class Own(Mapping[str, Any]):
    """The optimizer's own entries of one parameter: tensors that share memory with a state.

    Entries in `parts` are read-only: what one rank owns of a tensor.
    """

    def __init__(self, core: Shampoo, keeper: Keeper, number: int) -> None:
        assert keeper.state is not None
        self.parts = keeper.parts(number)
        self._state, self._places = keeper.state, keeper.places[number]
        self._core, self._layout = core, keeper.layout

    @cached_property
    def _slots(self) -> int:
        """As of `pending_entries`; read late, since torch asks for the entries of all parameters and reads none."""
        return slots(self._core, self._layout) if self._layout is not None else 0

    def __iter__(self) -> Iterator[str]:
        pending = pending_names(self._places) if self._slots else ()
        return iter([*self._places, *self.parts, *pending, "step"])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> Any:
        if name.endswith("/pending") and self._slots:
            return pending_entries(self._state, [self._places], self._slots)[0][name]
        if name in self.parts:
            return self.parts[name]
        array, k = ("step", None) if name == "step" else self._places[name]
        x = self._state.arrays[array]
        x = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
        return x if k is None else x[k]


class TensorState(MutableMapping[str, Any]):
    """The entries of one parameter: the optimizer's current entries, and those of other code.

    A value set under a name of the optimizer is copied into the optimizer's tensor. After the parameter has left the
    optimizer, the last values remain.

    Parameters
    ----------
    others : mapping
    look : callable
        Returns the optimizer's entries; a KeyError means that the parameter has left.
    """

    def __init__(self, others: MutableMapping[str, Any], look: Callable[[], Mapping[str, Any]] = dict) -> None:
        self._others = others
        self._look = look
        self._last = look()

    @property
    def _own(self) -> Mapping[str, Any]:
        with suppress(KeyError):
            self._last = self._look()
        return self._last

    def __iter__(self) -> Iterator[str]:
        return iter([*self._own, *self._others])

    def __len__(self) -> int:
        return len(self._own) + len(self._others)

    def __getitem__(self, name: str) -> Any:
        own = self._own
        return own[name] if name in own else self._others[name]

    def __setitem__(self, name: str, value: Any) -> None:
        own = self._own
        if name not in own:
            self._others[name] = value
            return
        if name in getattr(own, "parts", ()):
            raise TypeError(f"{name} must not be set with owned blocks; load a state_dict")
        old = own[name]
        value = torch.as_tensor(value, device=old.device)
        if old.shape != value.shape:
            raise ValueError(f"{name} must have shape {tuple(old.shape)}, got {tuple(value.shape)}")
        old.copy_(value)

    def __delitem__(self, name: str) -> None:
        del self._others[name]

    def __repr__(self) -> str:
        return repr(dict(self))
