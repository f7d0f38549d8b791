"""Parameters as trees: any nesting of lists, tuples, dicts and dataclasses, with a path for every array."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from matroot_optim.arrays import is_array

Tree = Any
Leaves = dict[str, Any]


def flatten(tree: Tree, what: str = "params") -> tuple[Leaves, Callable[[Leaves], Tree]]:
    """Return the arrays of a tree by path, and a function that rebuilds the tree with other leaves.

    A path joins dict keys, indices and field names by "/"; a single array has the path "". None has no leaf and stays
    None, and so does what a rebuild has no leaf for. In a dataclass, fields that are neither arrays nor containers do
    not change. TypeError for a leaf that is not an array, ValueError for two leaves with one path (a key that holds
    "/"); `what` names the tree in the message.

    >>> import numpy as np
    >>> leaves, rebuild = flatten({"layer": [np.zeros(2), np.ones(3)]})
    >>> list(leaves)
    ['layer/0', 'layer/1']
    >>> rebuild({"layer/0": 10, "layer/1": 20})
    {'layer': [10, 20]}
    """
    leaves: Leaves = {}
    build = _flatten(tree, "", leaves, what)
    return leaves, build


def join(*parts: str) -> str:
    """Join the names that are not empty by "/"."""
    return "/".join(part for part in parts if part)


def add_leaf(leaves: Leaves, path: str, leaf: Any, what: str) -> None:
    """Enter a leaf; raise if there is one with its path."""
    if path in leaves:
        raise ValueError(f"{what} has two arrays with the path {path!r}; rename the key that holds '/'")
    leaves[path] = leaf


def _flatten(node: Tree, path: str, leaves: Leaves, what: str) -> Callable[[Leaves], Tree]:
    if node is None:
        return lambda values: None
    if is_array(node):
        add_leaf(leaves, path, node, what)
        return lambda values: values.get(path)
    children = _children(node)
    if children is None:
        kind, at = type(node).__name__, f" at {path!r}" if path else ""
        advice = "; make a list of it, or see matroot_optim.torch" if kind == "generator" else ""
        raise TypeError(f"{what} must hold arrays in lists, tuples, dicts or dataclasses, got {kind}{at}{advice}")
    built = {name: _flatten(child, join(path, str(name)), leaves, what) for name, child in children.items()}
    return lambda values: _rebuild(node, {name: build(values) for name, build in built.items()})


def _children(node: Tree) -> dict[Any, Tree] | None:
    if isinstance(node, Mapping):
        return dict(node.items())
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    if isinstance(node, list | tuple):
        return dict(enumerate(node))
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        fields = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
        return {name: value for name, value in fields.items() if is_array(value) or _is_container(value)}
    return None


def _is_container(node: Tree) -> bool:
    return isinstance(node, Mapping | list | tuple) or (dataclasses.is_dataclass(node) and not isinstance(node, type))


def _rebuild(node: Tree, values: dict[Any, Tree]) -> Tree:
    if isinstance(node, Mapping):
        if type(node) is dict:
            return values
        rebuilt = copy.copy(node)
        if hasattr(rebuilt, "update"):  # OrderedDict, defaultdict: keep the type
            rebuilt.update(values)
            return rebuilt
        return type(node)(values)  # type: ignore[call-arg]
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*values.values())
    if isinstance(node, list | tuple):
        return type(node)(values.values())
    rebuilt = copy.copy(node)
    for name, value in values.items():
        object.__setattr__(rebuilt, name, value)  # a frozen dataclass as well
    return rebuilt
