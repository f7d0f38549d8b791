"""Train numpy arrays under MPI, each root on one rank: ``mpiexec -n 2 python -m mpi4py mpi.py``."""

import numpy as np
from mpi4py import MPI

from matroot_optim import RankEngine, Shampoo

comm = MPI.COMM_WORLD
rng = np.random.default_rng(0)
target = rng.standard_normal((48, 32))
params = {"W": np.zeros((48, 32)), "b": np.zeros(32)}

engine = RankEngine(comm, timeout=300.0)
optimizer = Shampoo(0.05, engine=engine)
state = optimizer.init(params)


def gradients(params, rng):
    """Return loss and gradients on this rank's part of the batch."""
    x = rng.standard_normal((64, 48))
    error = x @ params["W"] + params["b"] - x @ target
    return (error**2).mean() / 2, {"W": x.T @ error / error.size, "b": error.sum(0) / error.size}


for step in range(60):
    loss, mine = gradients(params, np.random.default_rng([step, comm.rank]))
    mean = {name: comm.allreduce(g) / comm.size for name, g in mine.items()}  # the same on all ranks
    state = optimizer.step(params, mean, state)

print(f"rank {comm.rank} of {comm.size}: {engine.clock.roots} roots, loss {loss:.4f}", flush=True)
