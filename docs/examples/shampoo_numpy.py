"""Shampoo in numpy: a network on optical digits, roots in a thread beside the training."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from matroot import demo_network as network
from matroot_optim import ExecutorEngine, Shampoo


def main(steps: int = 300) -> float:
    """Train, and return the accuracy on held-out digits."""
    rng = np.random.default_rng(0)
    train, test = network.load_digits().split(1437)
    params = network.init((64, 128, 10), rng)
    with ExecutorEngine(lambda: ThreadPoolExecutor(1), lag=10) as engine:
        opt = Shampoo(3e-3, weight_decay=1e-2, engine=engine)
        state = opt.init(params)
        while state.step < steps:
            for batch in train.batches(128, rng):
                loss, grads = network.loss_and_gradients(params, batch)
                state = opt.step(params, grads, state)
                if state.step % 100 == 0:
                    print(f"loss {loss:.3f}; {opt.diagnostics(state)}")
    return network.accuracy(params, test)


if __name__ == "__main__":
    print(f"accuracy on held-out digits: {main():.3f}")
