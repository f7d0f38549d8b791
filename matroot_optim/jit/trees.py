"""Trees of jax: the leaves in jax's order, by path."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from matroot_optim.arrays import is_array
from matroot_optim.layout.trees import Leaves, Tree, add_leaf, join


def flatten(tree: Tree, what: str = "params") -> tuple[Leaves, Callable[[Leaves], Tree]]:
    """Return the arrays of a tree by path, in jax's order, and a function that rebuilds the tree with other leaves.

    Any registered class is a container, and a float is an array. jax sorts the keys of a dict, so the order does not
    depend on how the dict was made: a state that was saved by its own names fits parameters that were read from a file.
    Errors are those of `matroot_optim.layout.trees.flatten`.

    >>> leaves, rebuild = flatten({"up": jnp.zeros(2), "down": [jnp.zeros(3)]})
    >>> list(leaves)
    ['down/0', 'up']
    """
    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves: Leaves = {}
    for keys, x in found:
        if len(keys) > 1 and keys[-1] == jax.tree_util.GetAttrKey("value"):
            keys = keys[:-1]  # flax's boxes: nnx.Optimizer gives them to init, and the bare arrays to update
        path = join(*(jax.tree_util.keystr((key,), simple=True) for key in keys))
        if not is_array(x) and not isinstance(x, float):
            kind = type(x).__name__
            raise TypeError(f"{what} must hold arrays in containers that jax knows, got {kind} at {path!r}")
        add_leaf(leaves, path, jnp.asarray(x) if isinstance(x, float) else x, what)
    return leaves, lambda values: structure.unflatten([values[path] for path in leaves])
