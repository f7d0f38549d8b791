"""Roots on the workers of a Ray cluster, used five steps later: ``python with_ray.py``."""

import numpy as np
import ray

from matroot_optim import ExecutorEngine, Shampoo


class RayExecutor:
    """The part of an executor that the engine needs."""

    def submit(self, work, *arguments):
        return ray.remote(work).options(max_retries=0).remote(*arguments).future()


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    random = np.random.default_rng(0)
    target, params = random.standard_normal((64, 32)), {"w": np.zeros((64, 32))}
    with ExecutorEngine(RayExecutor(), lag=5, timeout=120.0) as engine:
        optimizer = Shampoo(0.1, engine=engine)
        state = optimizer.init(params)
        for _step in range(60):
            state = optimizer.step(params, {"w": params["w"] - target}, state)
        print(f"{engine.clock.answers} answers, {engine.clock.failures} failures", end=", ")
        print(f"error {abs(params['w'] - target).max():.3f}")
    ray.shutdown()
