"""Trees of parameters: every container, paths, and refusals."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest

from matroot_optim import SOAP, KLShampoo, Shampoo, apply_updates
from matroot_optim.layout.trees import flatten, join


class Pair(NamedTuple):
    a: object
    b: object


@dataclasses.dataclass(frozen=True)
class Layer:
    kernel: object
    name: str = "layer"
    sub: object = None


TREES = {
    "array": (np.ones(2), [""]),
    "list": ([np.ones(1), np.ones(2)], ["0", "1"]),
    "tuple": ((np.ones(1), (np.ones(2),)), ["0", "1/0"]),
    "dict": ({"a": {"b": np.ones(1)}, "c": np.ones(2)}, ["a/b", "c"]),
    "ordered": (OrderedDict(z=np.ones(1), a=np.ones(2)), ["z", "a"]),
    "namedtuple": (Pair(np.ones(1), [np.ones(2)]), ["a", "b/0"]),
    "dataclass": (Layer(np.ones(1), sub={"x": np.ones(2)}), ["kernel", "sub/x"]),
    "none": ([None, np.ones(1)], ["1"]),
    "empty": ({}, []),
    "int keys": ({0: np.ones(1)}, ["0"]),
}


@pytest.mark.parametrize("kind", TREES)
def test_flatten_and_rebuild(kind):
    tree, paths = TREES[kind]
    leaves, rebuild = flatten(tree)
    assert list(leaves) == paths
    again = rebuild(leaves)
    assert type(again) is type(tree)
    assert list(flatten(again)[0]) == paths
    assert all(flatten(again)[0][path] is leaves[path] for path in paths)


@pytest.mark.parametrize("kind", TREES)
def test_one_step_on_every_tree(kind):
    tree, paths = TREES[kind]
    opt = Shampoo(0.1)
    updates, state = opt.update(tree, opt.init(tree), tree)
    moved = apply_updates(tree, updates)
    assert list(flatten(moved)[0]) == paths
    assert all(f"{join(path, 'momentum')}" in state for path in paths)
    assert all(x.mean() < 1 for x in flatten(moved)[0].values())


def test_dataclass_keeps_what_is_no_array():
    _, rebuild = flatten(Layer(np.ones(1), name="first"))
    assert rebuild({"kernel": 3}) == Layer(3, name="first")


@pytest.mark.parametrize("leaf", [1.0, "text", len])
def test_no_array_is_refused(leaf):
    with pytest.raises(TypeError, match=r"params must hold arrays .* at 'a/0'"):
        Shampoo(0.1).init({"a": [leaf]})


def test_equal_paths_are_refused():
    with pytest.raises(ValueError, match="two arrays with the path 'a/b'"):
        Shampoo(0.1).init({"a": {"b": np.ones(1)}, "a/b": np.ones(1)})


@pytest.mark.parametrize("dtype", [np.int64, np.complex128, bool])
def test_dtype_is_refused(dtype):
    with pytest.raises(TypeError, match="parameter 'w' must be real floating point"):
        Shampoo(0.1).init({"w": np.ones(2, dtype)})


def test_gradients_in_another_order_and_missing():
    params = {"a": np.ones((2, 3)), "b": np.ones(4), "c": np.ones(2)}
    opt = Shampoo(0.1)
    state = opt.init(params)
    updates, state = opt.update({"b": np.ones(4), "a": np.ones((2, 3)), "c": None}, state, params)
    assert list(updates) == ["b", "a", "c"]
    assert updates["c"] is None
    assert state["c/count"] == 0
    assert state["a/count"] == 1
    assert state["c/skipped"] == 0
    moved = apply_updates(params, updates)
    np.testing.assert_array_equal(moved["c"], params["c"])


def test_wrong_gradients_are_refused():
    opt = Shampoo(0.1)
    state = opt.init({"a": np.ones(2)})
    with pytest.raises(ValueError, match="grads must have the paths that init saw, got the new path 'b'"):
        opt.update({"b": np.ones(2)}, state)
    with pytest.raises(ValueError, match=r"grads must have shape \(2,\) at 'a', got \(3,\)"):
        opt.update({"a": np.ones(3)}, state)
    with pytest.raises(ValueError, match="updates must have the paths of params, got 'b'"):
        apply_updates({"a": np.ones(2)}, {"b": np.ones(2)})


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (3, 0, 2), (1, 1), (2, 3, 0, 1), (1, 1, 1, 1), (2, 1, 3, 1)])
def test_small_and_empty_shapes(shape):
    opt = Shampoo(0.1, start_step=1)
    W = np.ones(shape)
    state = opt.init(W)
    for _ in range(3):
        u, state = opt.update(np.ones(shape), state, W)
    assert u.shape == shape
    assert np.isfinite(u).all()


def test_neither_argument_is_written_to():
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((5, 4)), "b": rng.standard_normal(3)}
    opt = Shampoo(0.1, weight_decay=0.1, refresh_every=2)
    state = opt.init(params)
    _, state = opt.update(params, state, params)
    kept = {name: np.array(x) for name, x in state.items()}
    before = {k: v.copy() for k, v in params.items()}
    first, _ = opt.update(params, state, params)
    second, _ = opt.update(params, state, params)
    for k in params:
        np.testing.assert_array_equal(params[k], before[k])
        np.testing.assert_array_equal(first[k], second[k])
    for name, x in kept.items():
        np.testing.assert_array_equal(state[name], x)


def test_step_in_place_gives_the_same_numbers():
    rng = np.random.default_rng(0)
    opt = Shampoo(0.1, weight_decay=0.1, refresh_every=3, block_size=4, momentum="nesterov")
    a = {"w": rng.standard_normal((6, 9)), "b": rng.standard_normal(3)}
    b = {k: v.copy() for k, v in a.items()}
    views = dict(b)
    sa, sb = opt.init(a), opt.init(b)
    for _ in range(12):
        g = {k: rng.standard_normal(v.shape) for k, v in a.items()}
        u, sa = opt.update(g, sa, a)
        a = apply_updates(a, u)
        sb = opt.step(b, g, sb)
    for k in a:
        assert b[k] is views[k]
        np.testing.assert_array_equal(a[k], b[k])
    for name in sa:
        np.testing.assert_array_equal(sa[name], sb[name])


@pytest.mark.parametrize("make", [Shampoo, SOAP, KLShampoo])
def test_an_empty_parameter_does_not_stop_the_others(make):
    params = {"a": np.zeros((0, 4)), "b": np.eye(3), "c": np.zeros(0)}
    alone = {"b": np.eye(3)}
    opt = make(0.1)
    state, of_alone = opt.init(params), opt.init(alone)
    for _ in range(6):
        state = opt.step(params, {name: 2 * x for name, x in params.items()}, state)
        of_alone = opt.step(alone, {"b": 2 * alone["b"]}, of_alone)
    assert np.array_equal(params["b"], alone["b"]) and not np.array_equal(alone["b"], np.eye(3))
