"""The number of threads that torch was told is the most that roots use, in BLAS and beside it."""

from __future__ import annotations

import importlib
import os
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from threadpoolctl import threadpool_info, threadpool_limits  # noqa: E402

from matroot import gallery, solve, solve_in_two  # noqa: E402
from matroot_optim.refresh import jobs as roots  # noqa: E402
from matroot_optim.torch import Shampoo  # noqa: E402

cpu = importlib.import_module("matroot.backends.cpu.cpu")


@pytest.fixture
def four_cores(monkeypatch):
    """A machine of four cores, where pools of threads are new."""
    monkeypatch.delenv("MATROOT_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    made = []
    monkeypatch.setattr(cpu, "_pool", lambda count, real=cpu._pool: made.append(count) or real(count))
    before = torch.get_num_threads()
    yield made
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_roots_of_a_step_use_no_more_threads_than_torch(four_cores, monkeypatch, count):
    """Many small roots, which matroot's pool shares out, and larger ones, which BLAS would; numpy was told 4."""
    seen = []

    def looking(*args, **options):
        seen.extend(lib["num_threads"] for lib in threadpool_info() if lib["internal_api"] == "openblas")
        return solve_in_two(*args, **options)

    monkeypatch.setattr(roots, "solve_in_two", looking)
    model = torch.nn.Sequential(torch.nn.Linear(256, 256, bias=False), torch.nn.Linear(256, 32, bias=False))
    opt = Shampoo(model.parameters(), 1e-3, block_size=32, start_step=1)
    torch.set_num_threads(count)
    model(torch.ones(2, 256)).square().mean().backward()
    with threadpool_limits(4, user_api="blas"):
        opt.step()
    assert set(seen) == {1}
    assert set(four_cores) == ({min(count, 4)} if count > 1 else set())
    assert opt.diagnostics().worst_residual < 1e-6


def test_the_number_of_threads_changes_no_bit(four_cores):
    A, _ = gallery.spd(96, 1e4, batch=(24,), rng=0)
    found = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        found.append((solve(A, 3).x, solve(A.astype(np.float32), 3, method="coupled_newton").x))
    assert four_cores
    assert all((x == y).all() for more in found[1:] for x, y in zip(found[0], more, strict=True))


def test_a_thread_of_its_own_is_told_as_well(four_cores):
    torch.set_num_threads(1)
    A, _ = gallery.spd(96, 1e4, batch=(24,), rng=0)
    thread = threading.Thread(target=solve, args=(A, 3))
    thread.start()
    thread.join()
    assert not four_cores
