"""Shampoo in JAX: a network on optical digits; the step is compiled, its roots are numpy's, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from matroot import demo_network as network
from matroot_optim.optax import diagnostics, shampoo


def main(steps: int = 300) -> float:
    """Train, and return the accuracy on held-out digits."""
    rng = np.random.default_rng(0)
    train, test = network.load_digits().split(1437)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), network.init((64, 128, 10), rng))
    tx = optax.chain(optax.clip_by_global_norm(1.0), shampoo(optax.cosine_decay_schedule(3e-3, steps), 1e-2))
    state = tx.init(params)

    def logits(params, X):
        return jax.nn.relu(X @ params[0]["W"] + params[0]["b"]) @ params[1]["W"] + params[1]["b"]

    @jax.jit
    def step(params, state, X, y):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(logits(params, X), y).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        rows = rng.integers(len(train.labels), size=128)
        params, state = step(params, state, jnp.asarray(train.images[rows], jnp.float32), train.labels[rows])
    print(diagnostics(state))
    return float((logits(params, test.images).argmax(axis=1) == test.labels).mean())


if __name__ == "__main__":
    print(f"accuracy on held-out digits: {main():.3f}")
