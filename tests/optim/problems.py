"""Small problems and loops for the tests."""

from __future__ import annotations

import os
import time
from glob import glob

import numpy as np

from matroot_optim import apply_updates
from matroot_optim.refresh.jobs import compute


def gradients(shapes, steps, seed=0):
    rng = np.random.default_rng(seed)
    return [{k: rng.standard_normal(s) for k, s in shapes.items()} for _ in range(steps)]


SHAPES = {"a": (6, 9), "b": (9, 6), "c": (5,), "d": (7, 7), "e": (3, 4, 5)}


def weights(shapes=SHAPES, seed=1):
    return gradients(shapes, 1, seed)[0]


def run(opt, steps=30, shapes=SHAPES, seed=0, params=None, state=None, skip=0):
    """Parameters and state after the steps from `skip` on."""
    params = weights(shapes) if params is None else params
    state = opt.init(params) if state is None else state
    for g in gradients(shapes, steps, seed)[skip:]:
        updates, state = opt.update(g, state, params)
        params = apply_updates(params, updates)
    return params, state


def assert_same(a, b):
    for k in a:
        np.testing.assert_array_equal(a[k], b[k], err_msg=k)


def shared_files():
    """The anonymous files in memory that this process has open."""
    return {file for file in map(os.path.realpath, glob("/proc/self/fd/*")) if "memfd:matroot" in file}


# Workers, at module level so that a process can find them.


def compute_slowly(batch):
    time.sleep(0.05)
    return compute(batch)
