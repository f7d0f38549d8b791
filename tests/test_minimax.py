"""Minimax on known spectra: products, symmetry, batches, and what it must refuse or report.

How accurate it is, `test_accuracy` says, with the same bars as for every method.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from table import distance

from matroot import ConditionWarning, CoupledNewton, RootError, Status, gallery, inverse_pth_root, solve
from matroot._bars import forward_error_bound
from matroot._solve import solve_power
from matroot.backends import cpu_backend as cpu
from matroot.backends.cpu.cpu import CPU
from matroot.methods import minimax
from matroot.methods import minimax_schedule as schedules
from matroot.methods.base import Problem
from matroot.methods.minimax import Minimax
from matroot.methods.minimax_schedule import schedule, step_products
from matroot.methods.minimax_steps import factors, largest_between

SPECTRA = ("geometric", "two_cluster", "power_law")


@pytest.mark.parametrize(
    "s", [Fraction(*f) for f in ((1, 2), (1, 3), (1, 4), (1, 8), (3, 4), (5, 2), (-2, 1), (-2, 3), (-3, 2), (-7, 4))]
)
def test_rational_and_positive_exponents(s):
    for cond in (1e2, 1e6, 1e10) if s > -1 else (1e2, 1e5):
        for spectrum in SPECTRA:
            A, root = gallery.spd(40, cond, spectrum, rng=3)
            result = solve_power(A, s, method=Minimax())
            # a positive power is taken of A^{1/p}, and is as far off
            root_of = Fraction(1, s.denominator) if s > 0 else s
            bar = 30 * float(forward_error_bound(np.array(cond), root_of, 2.0**-53)) + 500 * 2.0**-53
            assert distance(result.x, root(s)) <= bar


@pytest.mark.parametrize("s", [0, 1, 3])
def test_whole_powers(s):
    A, root = gallery.spd(9, 100, rng=0)
    raw = Minimax().run(A[None].copy(), Problem(s=Fraction(s)), cpu())
    assert np.allclose(raw.x[0], root(s), rtol=1e-13, atol=1e-15)
    assert raw.n_products == (2 if s == 3 else 0)


@pytest.mark.parametrize("p", [2, 4, 8])
def test_products_follow_the_schedule(p):
    """What is issued is what is reported; with the spectrum's ends known, it is the schedule's count."""
    count = 0

    class Counting(CPU):
        def sync_free(self):
            return True

        def matmul(self, a, b, out=None):
            nonlocal count
            count += 1
            return super().matmul(a, b, out=out)

    for j in (2, 4, 6, 8, 10):
        w = np.geomspace(10.0**-j, 1, 16)
        count = 0
        floor = np.array([10.0**-j * 16**0.25])
        raw = Minimax().apply(np.diag(w)[None], None, 1, Problem(s=Fraction(-1, p), floor=floor), Counting())
        assert raw.n_products == count
        ideal = schedule(p, 10.0**-j, target=8 * 2.0**-52).products
        assert abs(raw.n_products - ideal) <= 1
        assert np.allclose(raw.x[0], np.diag(w ** (-1 / p)), rtol=1e-12)


@pytest.mark.parametrize("p", range(1, 33))
@pytest.mark.parametrize("a", [0, 1, 2, 3, 7, 8, 40])
def test_factors_make_the_powers_at_the_price_stated(p, a):
    plan = factors(a, p)
    assert sum(x << j for j, (x, _, _) in enumerate(plan)) == a
    assert sum((left + right) << j for j, (_, left, right) in enumerate(plan)) == p
    if a:
        issued = len(plan) - 1 + sum(map(sum, plan))
        assert issued == step_products(1, p, a)


def test_far_fewer_products_than_newton():
    A, _ = gallery.spd(64, 1e6, rng=0)
    fast, newton = solve(A, 4, method=Minimax()), solve(A, 4, method=CoupledNewton())
    assert fast.n_products <= 30 and newton.n_products >= 75
    assert solve(A, 4, method=Minimax(), rtol=1e-3).n_products <= fast.n_products - 4


@pytest.mark.parametrize("p", [2, 4, 8])
def test_accurate_has_the_smaller_residual(p):
    A, _ = gallery.spd(64, 1e10, rng=0)
    fast, accurate, newton = (solve(A, p, method=m) for m in (Minimax(), Minimax(accurate=True), CoupledNewton()))
    assert accurate.residual < fast.residual
    assert accurate.residual < 20 * newton.residual
    assert accurate.n_products < newton.n_products


def test_rtol_is_kept():
    for rtol in (1e-1, 1e-3, 1e-6):
        A, root = gallery.spd(50, 1e5, "power_law", rng=1)
        assert distance(solve(A, 3, method=Minimax(), rtol=rtol).x, root(Fraction(-1, 3))) <= rtol


def test_complex():
    A, root = gallery.spd(30, 1e6, dtype=np.complex128, rng=0)
    for p in (2, 3, 4):
        X = solve(A, p, method=Minimax()).x
        assert distance(X, root(Fraction(-1, p))) <= 3e6 / p * 2.0**-53 + 300 * 2.0**-53
        assert (X == X.conj().T).all()


def test_diagonal_stays_diagonal():
    w = np.geomspace(1e-8, 1, 20)
    for p in (1, 2, 3, 4, 7):
        X = solve(np.diag(w), p, method=Minimax()).x
        assert not (X - np.diag(np.diag(X))).any()
        assert np.allclose(np.diag(X), w ** (-1 / p), rtol=1e-13)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e-6, 1e6, 1e30, 1e300])
def test_scaling(scale):
    A, root = gallery.spd(12, 1e3, rng=0)
    X = solve(scale * A, 4, method=Minimax()).x
    assert distance(X * scale**0.25, root(Fraction(-1, 4))) <= 1e3 * 2.0**-53 * 3 + 200 * 2.0**-53


def test_batch_equals_loop_and_permutation():
    conds = [1e1, 1e9, 1e4, 1e9, 2.0, 1e4, 1e6]
    stack = np.stack([gallery.spd(24, c, rng=i)[0] for i, c in enumerate(conds)])
    together = Minimax().run(stack.copy(), Problem(s=Fraction(-1, 4)), cpu())
    alone = [Minimax().run(A[None].copy(), Problem(s=Fraction(-1, 4)), cpu()) for A in stack]
    assert (together.x == np.concatenate([r.x for r in alone])).all()
    assert (together.n_iter == np.concatenate([r.n_iter for r in alone])).all()
    order = [3, 6, 0, 1, 5, 2, 4]
    permuted = Minimax().run(stack[order].copy(), Problem(s=Fraction(-1, 4)), cpu())
    assert (permuted.x == together.x[order]).all()


def test_bad_matrices_leave_the_others_alone():
    good = np.stack([gallery.spd(20, 1e4, rng=i)[0] for i in range(4)])
    bad = good.copy()
    bad[1] = np.diag(np.linspace(-1, 1, 20))
    bad[2, 0, 0] = np.nan
    result, clean = (solve(x, 3, method=Minimax()) for x in (bad, good))
    assert list(result.status) == [0, Status.NOT_POSITIVE, Status.NONFINITE_INPUT, 0]
    assert (result.x[[0, 3]] == clean.x[[0, 3]]).all()
    assert np.isnan(result.x[[1, 2]]).all()
    with pytest.raises(RootError, match=r"a\[1\]"):
        inverse_pth_root(bad, 3, method=Minimax())


def test_singular_without_ridge_is_not_called_converged():
    A, _ = gallery.spd(32, 1e3, "low_rank", rng=0)
    for p in (2, 4):
        assert solve(A, p, method=Minimax()).status != Status.CONVERGED
    result = solve(A, 4, method=Minimax(), regularization=1e-6)
    assert result.status == Status.CONVERGED and result.residual < 1e-7
    assert np.isclose(np.linalg.norm(result.x, 2), 1e6**0.25 * np.linalg.norm(A, 2) ** -0.25, rtol=1e-6)


def test_identity_and_tiny():
    assert np.allclose(solve(np.eye(7), 5, method=Minimax()).x, np.eye(7), rtol=0, atol=1e-15)
    assert np.allclose(solve(np.array([[16.0]]), 4, method=Minimax()).x, 0.5, rtol=1e-15)
    assert solve(np.zeros((0, 3, 3)), 2, method=Minimax()).x.shape == (0, 3, 3)


def test_max_iter():
    A, _ = gallery.spd(10, 1e8, rng=0)
    result = solve(A, 2, method=Minimax(), max_iter=2)
    assert result.status == Status.MAX_ITER and result.n_iter == 2


def test_no_host_value_decides_on_a_device():
    """Where the backend forbids syncs, the schedule follows from the floor alone."""

    class Device(CPU):
        def sync_free(self):
            return True

    A, root = gallery.spd(16, 1e5, batch=(3,), rng=0)
    problem = Problem(s=Fraction(-1, 4), floor=np.full(3, 1e-5))
    raw = Minimax().apply(A.copy(), None, 1, problem, Device())
    for X, Y in zip(raw.x, root(Fraction(-1, 4)), strict=True):
        assert distance(X, Y) <= 1e5 * 2.0**-53
    blind = Minimax().apply(A.copy(), None, 1, replace(problem, floor=None), Device())
    assert blind.n_products > raw.n_products and not blind.status.any()


def test_bounds_of_the_largest_eigenvalue():
    for n in (1, 2, 50):
        for spectrum in (*SPECTRA, "arithmetic", "low_rank"):
            A, _ = gallery.spd(n, 1e4, spectrum, rng=0)
            above, below = largest_between(A[None], (A @ A)[None], CPU())
            largest = np.linalg.eigvalsh(A)[-1]
            assert below[0] * (1 - 1e-14) <= largest <= above[0] * (1 + 1e-14)
            assert above[0] <= np.linalg.norm(A @ A) ** 0.5 * (1 + 1e-7)


def test_a_schedule_too_short_for_the_spectrum_is_reported(monkeypatch):
    def hopeful(p, lower, **options):
        return schedules.schedule(p, min(0.9, lower * 1e4), **options)

    A, _ = gallery.spd(16, 1e8, "two_cluster", rng=0)
    monkeypatch.setattr(minimax, "schedule", hopeful)
    assert solve(A, 4, method=Minimax()).status == Status.STAGNATED


def test_a_wrong_coefficient_shows(monkeypatch):
    def wrong(p, lower, **options):
        plan = schedules.schedule(p, lower, **options)
        last = plan.steps[-1]
        return replace(plan, steps=(*plan.steps[:-1], (*last[:-1], last[-1] * 1.001)))

    A, root = gallery.spd(16, 1e3, rng=0)
    monkeypatch.setattr(minimax, "schedule", wrong)
    result = solve(A, 4, method=Minimax())
    assert distance(result.x, root(Fraction(-1, 4))) > 1e-6 and result.residual > 1e-6


def test_arguments():
    with pytest.raises(ValueError, match="must be a bool, got 1"):
        Minimax(accurate=1)
    with pytest.raises(ValueError, match="use method='eigen'"):
        solve_power(np.eye(2), 0.1234567, method=Minimax())
    assert repr(Minimax()) == "Minimax(accurate=False)"
    with pytest.warns(ConditionWarning):
        A, _ = gallery.spd(8, 1e6, rng=0)
        inverse_pth_root(A.astype(np.float32), 2, method=Minimax(), compute_dtype="float32")


@pytest.mark.parametrize(("smallest", "ridge"), [(-9.2e-3, 1.55e-2), (-9.7e-9, 2.9e-8), (-1e-3, 1.001e-3)])
@pytest.mark.parametrize("s", [Fraction(-1, 4), Fraction(5, 8)])
def test_a_ridge_that_cancels_a_negative_eigenvalue_promises_less_than_it_says(smallest, ridge, s):
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    A = (Q * np.array([1.0, 0.6, 0.3, 0.1, smallest])) @ Q.T
    A = (A + A.T) / 2
    result, exact = (solve_power(A, s, method=m, regularization=ridge) for m in (Minimax(), "eigen"))
    assert result.status == exact.status == 0
    assert distance(result.x, exact.x) <= 100 * 2.0**-53 * float(exact.cond)
