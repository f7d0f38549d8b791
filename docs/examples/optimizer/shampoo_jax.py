"""
Shampoo in JAX
==============

`matroot_optim.optax.shampoo` is a gradient transformation of optax, and the whole step is compiled. Its roots are
computed by numpy in float64, in a callback, although JAX itself computes in float32 here.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from matroot.demo import network
from matroot_optim.optax import diagnostics, shampoo

steps = 200
rng = np.random.default_rng(0)
train, test = network.load_digits().split(1437)
params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), network.init((64, 128, 10), rng))
tx = optax.chain(optax.clip_by_global_norm(1.0), shampoo(optax.cosine_decay_schedule(3e-3, steps), 1e-2))
state = tx.init(params)


def logits(params, X):
    """Outputs of the network."""
    return jax.nn.relu(X @ params[0]["W"] + params[0]["b"]) @ params[1]["W"] + params[1]["b"]


@jax.jit
def step(params, state, X, y):
    """One step of training, compiled."""

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, X), y).mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


losses = []
for _ in range(steps):
    rows = rng.integers(len(train.labels), size=128)
    params, state, loss = step(params, state, jnp.asarray(train.images[rows], jnp.float32), train.labels[rows])
    losses.append(float(loss))
accuracy = float((logits(params, test.images).argmax(axis=1) == test.labels).mean())
print(diagnostics(state))
print(f"accuracy on held-out digits: {accuracy:.3f}")

# %%
fig, axis = plt.subplots(figsize=(7, 4), layout="constrained")
axis.semilogy(losses)
axis.set(xlabel="step", ylabel="training loss")

# %%
# The roots are certified in float64, and the diagnostics say how good the worst of them is. On an accelerator
# ``shampoo(..., roots="graph")`` computes them inside the compiled step, in float32.
