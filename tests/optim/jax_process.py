"""JAX on eight devices of this process, or on four of two processes; test_optim_jax_meshes.py runs it."""

from __future__ import annotations

import copy
import faulthandler
import os
import pickle
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from matroot_optim import RankEngine, Shampoo, apply_updates
from matroot_optim.jit import dealing
from matroot_optim.optax import diagnostics, load, refresh_roots, shampoo

jax.config.update("jax_disable_most_optimizations", True)

SHAPES = {"up": (16, 8), "bias": (16,), "odd": (5, 8)}
SPECS = {"up": P("x", "y"), "bias": P("x"), "odd": P()}
OPTIONS = {"refresh_every": 2, "block_size": 8, "ridge": 1e-3, "start_step": 1, "refresh_growth": 0.0}
OPTIONS["schedule"] = "interval"  # few branches to compile
STEPS = 4


def made(shapes, mesh, sharded, seed):
    """Arrays on the mesh, with specs as jit spells them."""
    rng, found = np.random.default_rng(seed), {}
    for k, shape in shapes.items():
        x = rng.standard_normal(shape).astype(np.float32)
        if mesh is None:
            found[k] = jnp.asarray(x)
            continue
        spec = SPECS[k] if sharded else P()
        spec = P(*spec, *(None,) * (x.ndim - len(spec))) if mesh.explicit_axes else spec
        found[k] = jax.make_array_from_callback(shape, NamedSharding(mesh, spec), lambda at, x=x: x[at])
    return found


def whole(tree):
    """The values in this process."""
    gather = multihost_utils.process_allgather
    return {k: np.asarray(x) if x.is_fully_addressable else gather(x, tiled=True) for k, x in tree.items()}


def places(tree):
    return [(x.sharding, x.dtype) for x in jax.tree.leaves(tree)]


def train(tx, mesh=None, sharded=False, between=lambda state: state, step=None):
    """Parameters and state; on the way shardings stay, and nothing is compiled twice."""
    params = made(SHAPES, mesh, sharded, 99)
    state = between(tx.init(params))
    step = step or program(tx)
    before, compiled = places((params, state)), step._cache_size()
    for t in range(STEPS):
        params, state = step(made(SHAPES, mesh, sharded, t), state, params)
        state = between(state)
        assert mesh is None or places((params, state)) == before
    assert mesh is None or step._cache_size() <= compiled + 1
    return params, state


def program(tx):
    @jax.jit
    def step(g, state, params):
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    return step


def apart(a, b):
    a, b = whole(a), whole(b)
    return max(float(np.abs(a[k] - b[k]).max()) for k in b)


def counted():
    """A list that gets the number of roots of every call."""
    found, real = [], dealing.compute
    dealing.compute = lambda batch: found.append(len(batch.matrix)) or real(batch)
    return found


def mesh_of(kind, shape):
    return jax.make_mesh(shape, ("x", "y"), axis_types=(kind, kind))


def devices():
    roots = counted()
    tx = shampoo(0.05, 0.1, **OPTIONS)
    want, alone = train(tx)
    total = sum(roots)
    roots.clear()
    got, state = train(tx, mesh_of(AxisType.Auto, (4, 2)))
    assert apart(got, want) == 0.0, "replicated parameters have the bits of one device"
    assert sum(roots) == total, "each root once"
    roots.clear()
    mesh = mesh_of(AxisType.Explicit, (4, 2))
    step = program(tx)
    got, state = train(tx, mesh, sharded=True, step=step)
    assert apart(got, want) <= 2e-6
    assert sum(roots) == total
    assert (diagnostics(state).roots["refreshes"] == diagnostics(alone).roots["refreshes"]).all()
    saved(tx, got, state, step)
    of_weights(mesh)
    graph(mesh_of(AxisType.Auto, (4, 2)))
    table(mesh_of(AxisType.Auto, (8, 1)))


def of_weights(mesh):
    """What sees the weights and counts steps beside the direction; `train` sees that it stays and is compiled once."""
    tx = shampoo(optax.linear_schedule(0.05, 0.01, STEPS), 0.1, hyperball=True, averaging="ema", **OPTIONS)
    want, _ = train(tx)
    step = program(tx)
    params, state = train(tx, mesh, sharded=True, step=step)
    assert apart(params, want) <= 2e-6
    g = made(SHAPES, mesh, True, 7)
    want, _ = step(g, state, params)
    updates, _ = tx.update(g, state, params)  # not compiled
    assert apart(optax.apply_updates(params, updates), want) <= 2e-6
    for copied in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        again = jax.device_put(copied, jax.tree.map(lambda x: x.sharding, state))
        assert apart(step(g, again, params)[0], want) == 0.0
    assert step._cache_size() == 1


def table(mesh):
    """The rows of a table stay on their devices: what is sent is of the size of its statistic."""
    tx = shampoo(0.05, 0.1, **{**OPTIONS, "block_size": 32})
    opt = Shampoo(0.05, weight_decay=0.1, **{**OPTIONS, "block_size": 32})
    rng, sharding = np.random.default_rng(0), NamedSharding(mesh, P("x"))
    words = np.ones((400, 32), np.float32)
    params, there = {"words": words}, {"words": jax.device_put(words, sharding)}
    state, far = opt.init(params), tx.init(there)
    step = program(tx).lower(there, far, there).compile()
    for _ in range(STEPS):
        g = rng.standard_normal(words.shape).astype(np.float32)
        updates, state = opt.update({"words": g}, state, params)
        params = apply_updates(params, updates)
        there, far = step({"words": jax.device_put(g, sharding)}, far, there)
    assert float(np.abs(whole(there)["words"] - params["words"]).max()) <= 1e-4
    assert diagnostics(far).roots["refreshes"].min() > 0
    gathered = re.findall(r"f32\[([\d,]+)\][^=]* (?:all-gather|all-to-all|collective-permute)", step.as_text())
    assert not [shape for shape in gathered if np.prod([int(n) for n in shape.split(",")]) > 32 * 32], gathered


def saved(tx, params, state, step):
    """A file of a sharded run: every array comes back to its place, and the next step is the same."""
    with tempfile.TemporaryDirectory() as folder:
        state[0].core.save(Path(folder, "state.npz"))
        loaded = load(Path(folder, "state.npz"), tx.init(params), params)
    assert places(loaded) == places(state)
    g = made(SHAPES, params["up"].sharding.mesh, True, 7)
    assert apart(step(g, loaded, params)[0], step(g, state, params)[0]) == 0.0


def graph(mesh):
    """Roots in the graph: one gather of all results in a branch, and no other collective."""
    tx = shampoo(0.05, 0.1, roots="graph", **OPTIONS)
    params = made(SHAPES, mesh, False, 99)
    state = tx.init(params)
    step = program(tx).lower(params, state, params).compile()
    for t in range(STEPS):
        params, state = step(made(SHAPES, mesh, False, t), state, params)
    assert diagnostics(state).roots["refreshes"].min() > 0
    assert diagnostics(state).worst_residual < 1e-2
    text = step.as_text()
    collectives = re.findall(r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", text)
    branches = max(found.count(",") + 1 for found in re.findall(r"branch_computations=\{([^}]*)\}", text))
    assert set(collectives) == {"all-gather"}, collectives
    assert len(collectives) <= branches - 1, (len(collectives), branches)  # the branch without roots has none


def two(address, number):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, 2, int(number))
    roots = counted()
    tx = shampoo(0.05, 0.1, **OPTIONS)
    want, _ = train(tx)
    total = sum(roots)
    roots.clear()
    mesh = mesh_of(AxisType.Auto, (2, 2))
    step = program(tx)
    got, state = train(tx, mesh, step=step)
    assert apart(got, want) == 0.0
    assert 0.3 * total <= sum(roots) <= 0.7 * total
    everyone = multihost_utils.process_allgather(np.asarray(sum(roots)))
    assert everyone.sum() == total, "each root on one process"
    reshards(tx, state, made(SHAPES, mesh, True, 99))
    ranks(mesh)
    failing(tx, mesh, step)


def reshards(tx, state, params):
    """A state that one process can save loads onto parameters that lie in parts on all."""
    copy = multihost_utils.process_allgather(state, tiled=True)
    start = tx.init(params)
    saved = copy[0].core
    with tempfile.TemporaryDirectory() as folder:  # each process has its own
        saved.save(Path(folder, "state.npz"))
        loaded = load(Path(folder, "state.npz"), start, params)
    assert places(loaded) == places(start)
    again = multihost_utils.process_allgather(loaded[0].arrays, tiled=True)
    wrong = [k for k, x in saved.arrays.items() if not np.array_equal(x, again[k], equal_nan=True)]
    assert set(wrong) <= {"graft_ratio"}, wrong  # which is not saved


def ranks(mesh):
    """Roots outside of the update, dealt to the processes."""
    engine = RankEngine("jax", timeout=60)
    tx = shampoo(0.05, 0.1, roots="host", engine=engine, **OPTIONS)
    got, _ = train(tx, mesh, sharded=True, between=refresh_roots)
    want, _ = train(shampoo(0.05, 0.1, roots="host", **OPTIONS), between=refresh_roots)
    assert apart(got, want) <= 2e-6
    assert engine.clock.roots > 0
    assert engine.ranks.size == RankEngine().ranks.size == 2


def failing(tx, mesh, step):
    """Roots that fail in one process are skipped in both."""
    real = dealing.compute

    def compute(batch):
        if jax.process_index() == 1:
            raise MemoryError("no room")
        return real(batch)

    dealing.compute = compute
    _, state = train(tx, mesh, step=step)
    skipped = diagnostics(state).roots["skipped"]
    assert 0 < (skipped > 0).sum() < len(skipped)


def lost(address, number, what):
    """A NaN in the part of a gradient that one process has is one for both. Then process 1 dies, or does not come."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, 2, int(number), heartbeat_timeout_seconds=20)
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P("x"))

    def array(values):
        return jax.make_array_from_callback(values.shape, rows, lambda at: values[at])

    tx = shampoo(0.05, **OPTIONS)
    params, g = {"w": array(np.ones((8, 8), np.float32))}, np.ones((8, 8), np.float32)
    state, step = tx.init(params), program(tx)
    for t in range(4):
        before = whole(params)["w"]
        g[7, 0] = np.nan if t == 2 else 1.0  # in the last row, which process 1 has
        params, state = step({"w": array(g)}, state, params)
        moved = np.abs(whole(params)["w"] - before)
        assert (moved == 0).all() if t == 2 else (moved > 0).all(), t
    assert diagnostics(state).nonfinite == {"w": 1}
    print("both skipped it", flush=True)
    if number == "1":
        if what == "dead":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    try:
        for _ in range(2):
            params, state = step({"w": array(g)}, state, params)
            jax.block_until_ready(params)
    except jax.errors.JaxRuntimeError as error:
        print(error, flush=True)
        if what == "dead":
            raise
        faulthandler.dump_traceback_later(1, exit=True)  # the exit of Python would wait for the other process
        time.sleep(600)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    print("done", flush=True)
