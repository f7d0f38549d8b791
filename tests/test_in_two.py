"""`solve_in_two`: the bits of `solve`, whether there are halves or not."""

from __future__ import annotations

import numpy as np
import pytest

from matroot import PseudoInverse, solve, solve_in_two
from matroot.methods import tridiagonal_large

FIELDS = ("x", "status", "residual", "cond", "lambda_max", "lambda_min", "ridge", "bits_lost", "changed")


def matrices(k, n, dtype=np.float64):
    G = np.random.default_rng(n).standard_normal((k, n, 2 * n))
    return (G @ G.swapaxes(-1, -2)).astype(dtype)


@pytest.mark.parametrize("rule", [None, 1e-6, PseudoInverse(1e-2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("k", "n"), [(2, 5), (1, 80), (3, 80), (1, 130)])
def test_the_bits_are_those_of_solve(k, n, dtype, rule):
    A = matrices(k, n, dtype)
    got, want = solve_in_two(A, 3, regularization=rule)(), solve(A, 3, regularization=rule)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    assert got.x.dtype == want.x.dtype


@pytest.mark.parametrize(("n", "halves"), [(32, False), (40, True), (80, True)])
def test_the_reduction_is_in_the_first_half(n, halves, monkeypatch):
    calls = []
    real = tridiagonal_large.Solver.reduced
    monkeypatch.setattr(tridiagonal_large.Solver, "reduced", lambda *a: calls.append(len(a[1])) or real(*a))
    finish = solve_in_two(matrices(1, n), 2)
    assert len(calls) == halves
    assert (finish().status == 0).all()
    assert len(calls) == halves


def test_hard_matrices_are_those_of_solve():
    A = matrices(4, 80)
    A[1, 0, 1] += 1.0
    A[2] = np.nan
    A[3] -= 1e3 * np.eye(80)
    got, want = solve_in_two(A, 3)(), solve(A, 3)
    assert len({*want.status.tolist()}) == 4
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)


def test_other_arrays_and_bad_arguments():
    torch = pytest.importorskip("torch")
    A = torch.eye(70, dtype=torch.float64)[None]
    assert bool((solve_in_two(A, 2)().x == solve(A, 2).x).all())
    assert solve_in_two(np.eye(70), 2)().x.shape == (70, 70)
    with pytest.raises(ValueError, match="p must be a positive int"):
        solve_in_two(matrices(1, 80), 0)
    with pytest.raises(TypeError, match="solve has no option 'methods'; did you mean 'method'"):
        solve_in_two(matrices(1, 80), 2, methods="eigen")
    A = matrices(1, 80)
    for options in ({"p": 2, "inverse": False}, {"s": 0.3}, {"p": 3}):
        assert (solve_in_two(A, **options)().x == solve(A, **options).x).all()
