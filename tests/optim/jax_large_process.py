"""Callbacks with a megabyte on eight devices of this process; test_optim_jax_meshes.py runs it.

`jax.pure_callback` waits for ever for a thread that waits for the callback.
"""

from __future__ import annotations

import faulthandler

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from matroot_optim.jit import dealing
from matroot_optim.jit.shards import Shards
from matroot_optim.optax import shampoo, soap

N = 512


def main():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    shape = jax.ShapeDtypeStruct((N, N), jnp.float32)
    double = jax.jit(lambda x: dealing.on_hosts(Shards(mesh, ()), lambda k, x: [2 * x], [shape], x)[0])
    x = jax.device_put(np.ones((N, N), np.float32), NamedSharding(mesh, P()))
    assert float(double(x + 1).min()) == 4.0
    for tx in (
        shampoo(1.0, start_step=1, refresh_every=1, block_size=N),
        soap(1.0, refresh_every=1, block_size=N),
        shampoo(1.0, direction="spectral"),
    ):
        directions(tx, mesh)
    print("done")


def directions(tx, mesh):
    """Those of parameters in parts, with a state that knows the mesh or not, and inside of a `shard_map`."""
    noise = np.random.default_rng(0).standard_normal((N, N))
    W = (np.eye(N) + noise / (4 * N**0.5)).astype(np.float32)  # singular values from 1/2 to 3/2
    parts, whole = (jax.device_put(W, NamedSharding(mesh, spec)) for spec in (P("x"), P()))
    inside = jax.shard_map(tx.update, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    update, state = jax.jit(tx.update), tx.init(jnp.asarray(W))
    want, _ = update(jnp.asarray(W), state, jnp.asarray(W))
    for step, x, start in (
        (update, parts, tx.init(parts)),
        (update, parts, jax.jit(tx.init)(parts)),
        (jax.jit(inside), whole, jax.device_put(state, NamedSharding(mesh, P()))),
    ):
        got, _ = step(x, start, x)
        np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=0, atol=1e-4)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(300, exit=True)
    main()
