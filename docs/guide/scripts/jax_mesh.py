"""Train on the devices of several processes of JAX: ``python jax_mesh.py ADDRESS:PORT PROCESSES NUMBER`` in each."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from matroot_optim.optax import diagnostics, shampoo

if len(sys.argv) > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
params = {
    "hidden": jax.device_put(0.1 * np.random.default_rng(0).standard_normal((64, 48)).astype("float32"), rows),
    "out": jax.device_put(np.zeros((48, 10), np.float32), whole),
}
tx = shampoo(0.02, schedule="interval")  # all roots are due on one step, for all processes
state = tx.init(params)  # not under jit: the mesh is read from the parameters


def loss(params, x):
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["out"] - jnp.sin(x[:, :10])) ** 2)


@jax.jit
def step(params, state, x):
    value, grads = jax.value_and_grad(loss)(params, x)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


for t in range(20):
    batch = np.random.default_rng(t).standard_normal((32 * jax.device_count(), 64)).astype("float32")
    x = jax.make_array_from_callback(batch.shape, rows, lambda part, batch=batch: batch[part])
    params, state, value = step(params, state, x)

copy = multihost_utils.process_allgather(state, tiled=True)  # numpy arrays: one process can save them
if jax.process_index() == 0:
    copy[0].core.save("jax_mesh.npz")
print(f"process {jax.process_index()} of {jax.process_count()}: {diagnostics(state)}, loss {float(value):.4f}")
