"""What a process under mpiexec does in the tests of ranks."""

from __future__ import annotations

from mpi4py import MPI

from matroot_optim import InlineEngine, RankEngine, RankError, Shampoo
from optim.problems import assert_same, run

OPTIONS = {"learning_rate": 0.05, "block_size": 4, "ridge": 1e-4, "refresh_every": 4, "start_step": 4}


def main():
    comm = MPI.COMM_WORLD
    for schedule, lag in (("staggered", 0), ("interval", 3)):
        want, _ = run(Shampoo(**OPTIONS, schedule=schedule, engine=InlineEngine(lag)), steps=12)
        engine = RankEngine(comm, InlineEngine(lag), timeout=60)
        got, _ = run(Shampoo(**OPTIONS, schedule=schedule, engine=engine), steps=12)
        assert_same(got, want)
        roots = comm.allgather((engine.clock.roots, engine.clock.exchanges))
        assert all(mine > 0 for mine, _ in roots)
        assert len({count for _, count in roots}) == 1
    engine = RankEngine(comm, timeout=0.5)
    options = {**OPTIONS, "start_step": 1}
    if comm.rank == 0:  # the other rank never comes to an exchange
        try:
            run(Shampoo(**options, engine=engine), steps=3)
        except RankError as error:
            assert "did not come to exchange 1 within 0.5 s" in str(error), error
        else:
            raise AssertionError("a rank that does not come was not noticed")
        print("same on", comm.size, "ranks", flush=True)
    comm.Barrier()


if __name__ == "__main__":
    main()
