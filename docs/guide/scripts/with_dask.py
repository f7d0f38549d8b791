"""Roots on the workers of a Dask cluster, used five steps later: ``python with_dask.py [ADDRESS]``."""

import sys

import numpy as np
from distributed import Client, LocalCluster

from matroot_optim import ExecutorEngine, Shampoo

if __name__ == "__main__":
    # without an address, a worker in this process; with that of a scheduler, its workers
    local = None if len(sys.argv) > 1 else LocalCluster(1, processes=False, dashboard_address=None)
    with Client(sys.argv[1] if local is None else local) as client:
        random = np.random.default_rng(0)
        target, params = random.standard_normal((64, 32)), {"w": np.zeros((64, 32))}
        with ExecutorEngine(client.get_executor(), lag=5, timeout=120.0) as engine:
            optimizer = Shampoo(0.1, engine=engine)
            state = optimizer.init(params)
            for _step in range(60):
                state = optimizer.step(params, {"w": params["w"] - target}, state)
            print(f"{engine.clock.answers} answers, {engine.clock.failures} failures", end=", ")
            print(f"error {abs(params['w'] - target).max():.3f}")
    if local is not None:
        local.close()
