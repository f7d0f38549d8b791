"""Parameter groups of a torch module, with tables in a group of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from matroot_optim.paths import ByPath

#: Modules whose matrices are tables: a step uses few of their rows, and the rows are nearly independent.
TABLES = (torch.nn.Embedding, torch.nn.EmbeddingBag)


def parameter_groups(
    model: torch.nn.Module,
    *,
    tables: Iterable[torch.nn.Module | torch.Tensor] = (),
    rules: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups of a model for `Shampoo`: the tables, which move by row, and all others.

    A table is the weight of a `torch.nn.Embedding` or `torch.nn.EmbeddingBag` of any shape, including that of a tied
    head, and every matrix in `tables`. In the other group, tables are still found by their shape.

    Parameters
    ----------
    model : torch.nn.Module
    tables : iterable of modules and tensors, optional
        More tables of the model: matrices, or modules with such matrices, like an output layer that is not tied.
    rules : dict, optional
        Options by patterns of names: ``{"*.qkv.weight": {"split": 3}}``. Parameters with the same options of their own
        get a group together.

    Returns
    -------
    groups : list of dict
        Named "dense" and "tables"; a group without parameters is left out. Before they are passed to an optimizer, the
        groups may be edited with every option that `Shampoo` accepts in a group. Parameters come with their names.
        Parameters of integers are left out. Frozen ones are not; they have no state until they are thawed.

    Raises
    ------
    TypeError
        `model` is not a module, or one of `tables` is neither a module nor a tensor.
    ValueError
        One of `tables` does not belong to the model.

    Examples
    --------
    >>> import torch
    >>> from matroot_optim.torch import Shampoo, parameter_groups
    >>> model = torch.nn.Sequential(torch.nn.Embedding(100, 32), torch.nn.Linear(32, 64), torch.nn.Linear(64, 100))
    >>> groups = parameter_groups(model, tables=[model[2]])
    >>> [(group["name"], [name for name, _ in group["params"]]) for group in groups]
    [('dense', ['1.weight', '1.bias', '2.bias']), ('tables', ['0.weight', '2.weight'])]
    >>> groups[0]["weight_decay"] = 0.1
    >>> optimizer = Shampoo(groups, lr=1e-3)
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    # Integers, as of quantized weights, have no gradient.
    named = [(name, p) for name, p in model.named_parameters() if p.dtype.is_floating_point or p.dtype.is_complex]
    known = {id(p) for _, p in named}
    apart = {id(p) for module in model.modules() if isinstance(module, TABLES) for p in _matrices(module)}
    for table in tables:
        for p in _matrices(table):
            if id(p) not in known:
                raise ValueError(f"tables must be of the model, got a {type(table).__name__} of shape {tuple(p.shape)}")
            apart.add(id(p))
    groups: list[dict[str, Any]] = [{"name": "dense"}, {"name": "tables", "preconditioned_dims": "table"}]
    for k, group in enumerate(groups):
        group["params"] = [(name, p) for name, p in named if (id(p) in apart) == k]
    return [part for group in groups for part in _by_rules(group, ByPath(rules or {})) if part["params"]]


def _by_rules(group: dict[str, Any], rules: ByPath) -> list[dict[str, Any]]:
    """Divide a group by the options that the rules give its parameters."""
    found: dict[str, dict[str, Any]] = {"{}": {**group, "params": []}}
    for name, p in group["params"]:
        changes = rules(name)
        mine = found.setdefault(repr(changes), {**group, **changes, "params": []})
        mine["params"].append((name, p))
    return list(found.values())


def _matrices(source: Any) -> Iterator[Any]:
    """Iterate over the parameters of a module that are not vectors, or over the given tensor."""
    if isinstance(source, torch.Tensor):
        return iter([source])
    if not isinstance(source, torch.nn.Module):
        raise TypeError(f"tables must be modules and tensors, got {type(source).__name__}")
    return (p for p in source.parameters() if is_lazy(p) or p.ndim > 1)
