"""A^{-1/p} B without the root."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from matroot import (
    ConditionWarning,
    PseudoInverse,
    Ridge,
    RootError,
    Status,
    TargetCondition,
    gallery,
    inverse_pth_root,
    solve_apply,
)
from matroot._apply import apply_inverse_pth_root
from matroot.methods.minimax import Minimax

METHODS = ("auto", "eigen", "minimax", Minimax(accurate=True))


def distance(X, Y):
    return np.linalg.norm(X - Y) / np.linalg.norm(Y)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [1, 2, 3, 4, 7])
def test_is_the_root_times_b(method, p):
    rng = np.random.default_rng(0)
    for cond in (1e1, 1e4, 1e8):
        A, root = gallery.spd(40, cond, "power_law", rng=0)
        X = root(Fraction(-1, p))
        for m in (1, 5, 40, 60):
            B = rng.standard_normal((40, m))
            kept = B.copy()
            Y = apply_inverse_pth_root(A, p, B, method=method)
            assert distance(Y, X @ B) <= 4 * cond / p * 2.0**-53 + 4000 * 2.0**-53
            assert (B == kept).all()


@pytest.mark.parametrize("method", METHODS)
def test_batches_broadcast(method):
    A, root = gallery.spd(8, 1e3, batch=(3, 1), rng=0)
    B = np.random.default_rng(1).standard_normal((2, 8, 4))
    Y = apply_inverse_pth_root(A, 4, B, method=method)
    assert Y.shape == (3, 2, 8, 4)
    assert distance(Y, root(Fraction(-1, 4)) @ B) < 1e-12
    for i in range(3):
        assert distance(apply_inverse_pth_root(A[i, 0], 4, B[1], method=method), Y[i, 1]) < 1e-13
    assert apply_inverse_pth_root(A, 4, B[..., :0], method=method).shape == (3, 2, 8, 0)
    assert apply_inverse_pth_root(A[:0], 4, B[:1], method=method).shape == (0, 1, 8, 4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kinds", ["rc", "cr", "cc"])
def test_complex(method, kinds):
    rng = np.random.default_rng(0)
    A, root = gallery.spd(12, 1e3, dtype=np.complex128 if kinds[0] == "c" else np.float64, rng=0)
    B = rng.standard_normal((12, 12)) + (1j * rng.standard_normal((12, 12)) if kinds[1] == "c" else 0)
    assert distance(apply_inverse_pth_root(A, 3, B, method=method), root(Fraction(-1, 3)) @ B) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_vector_dtypes_and_scales(method):
    A, root = gallery.spd(6, 50, rng=0)
    b = np.arange(1, 7)
    y = apply_inverse_pth_root(A, 2, b, method=method)
    assert y.shape == (6,) and y.dtype == np.float64
    assert distance(y, root(-0.5) @ b) < 1e-13
    single = apply_inverse_pth_root(A.astype("f4"), 2, b.astype("f4"), method=method)
    assert single.dtype == np.float32 and distance(single, y) < 1e-6
    for scale in (1e-300, 1e-30, 1e30, 1e300):
        assert distance(apply_inverse_pth_root(A * scale, 2, b, method=method) * scale**0.5, y) < 1e-13
        assert distance(apply_inverse_pth_root(A, 2, b * scale, method=method) / scale, y) < 1e-13


def test_torch():
    torch = pytest.importorskip("torch")
    A, _ = gallery.spd(6, 50, rng=0)
    y = apply_inverse_pth_root(torch.from_numpy(A), 2, torch.ones(6, 2, dtype=torch.float64))
    assert isinstance(y, torch.Tensor) and distance(y.numpy(), inverse_pth_root(A, 2) @ np.ones((6, 2))) < 1e-13
    with pytest.raises(TypeError, match="one library, got numpy and torch"):
        apply_inverse_pth_root(A, 2, torch.ones(6, 2))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", [1e-3, Ridge(absolute=0.1), TargetCondition(100.0)])
def test_regularization_as_in_solve(method, rule):
    A, _ = gallery.spd(20, 1e6, "low_rank", rng=0)
    B = np.random.default_rng(0).standard_normal((20, 3))
    Y = apply_inverse_pth_root(A, 4, B, method=method, regularization=rule)
    # the ridge is a multiple of an estimated lambda_max, by 16 Lanczos steps
    assert distance(Y, inverse_pth_root(A, 4, regularization=rule) @ B) < 1e-4


def test_pseudo_inverse_needs_eigen():
    A, _ = gallery.spd(10, 1e2, "low_rank", rng=0)
    B = np.ones((10, 2))
    w, Q = np.linalg.eigh(A)
    f = np.where(w > 1e-10, abs(w), np.inf) ** -0.5
    assert distance(apply_inverse_pth_root(A, 2, B, regularization=PseudoInverse(1e-10)), Q * f @ Q.T @ B) < 1e-12
    with pytest.raises(ValueError, match="PseudoInverse"):
        apply_inverse_pth_root(A, 2, B, method="minimax", regularization=PseudoInverse())


@pytest.mark.parametrize("method", METHODS)
def test_failures_say_which(method):
    A = np.stack([np.eye(5), np.diag([1.0, 1, 1, 1, -0.5]), np.eye(5), np.zeros((5, 5))])
    with pytest.raises(RootError, match=r"2 of 4 matrices .* the first, 1 of .* not positive definite"):
        apply_inverse_pth_root(A, 2, np.ones(5), method=method)
    A[0, 0, 0] = np.nan
    with pytest.raises(RootError, match=r"3 of 4 .* 0 of .* NaN or infinity"):
        apply_inverse_pth_root(A, 2, np.ones(5), method=method)
    with pytest.raises(RootError, match=r"1 of 1 .* NaN or infinity"):
        apply_inverse_pth_root(np.eye(5), 2, np.full(5, np.inf), method=method)
    with pytest.warns(ConditionWarning, match="in float64; add a ridge"):
        apply_inverse_pth_root(np.diag([1.0, 1e-15]), 2, np.ones(2), method=method)


def test_arguments():
    A = np.eye(3)
    for b in (np.ones(4), np.ones((4, 2))):
        with pytest.raises(ValueError, match=r"b must be \(..., 3, m\) to fit a \(3, 3\), got \(4"):
            apply_inverse_pth_root(A, 2, b)
    with pytest.raises(ValueError, match="method must be one of"):
        apply_inverse_pth_root(A, 2, np.ones(3), method="schur_newton")
    with pytest.raises(ValueError, match="p must be a positive int"):
        apply_inverse_pth_root(A, 0, np.ones(3))
    with pytest.raises(ValueError, match="not symmetric"):
        apply_inverse_pth_root(np.triu(np.ones((3, 3))), 2, np.ones(3))
    with pytest.raises(TypeError, match="b must be an array"):
        apply_inverse_pth_root(A, 2, ["1", "2", "3"])


def test_columns_that_are_not_finite_are_nan_and_the_others_are_served():
    A, B = np.stack([4 * np.eye(3), -np.eye(3), np.full((3, 3), np.nan)]), np.ones((3, 2))
    B[1, 1] = np.inf
    result = solve_apply(A, 2, B)
    bad = [int(Status.NOT_POSITIVE), int(Status.NONFINITE_INPUT)]
    assert result.status.tolist() == [[0, bad[1]], bad, [bad[1], bad[1]]]
    assert np.allclose(result.x[0, :, 0], 0.5, rtol=1e-15)
    assert np.isnan(result.x[1:]).all() and np.isnan(result.x[0, :, 1]).all()
    assert np.isnan(solve_apply(np.eye(2), 2, np.array([np.nan, 1.0])).x).all()


@pytest.mark.parametrize("a", [np.eye(2), lambda v: v], ids=["dense", "function"])
def test_options_of_lanczos_are_checked_for_every_kind(a):
    for options in ({"max_iter": 0}, {"max_iter": 2.5}, {"lambda_min": -1}, {"lambda_min": "a"}, {"lambda_min": True}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be None or"):
            solve_apply(a, 2, np.ones(2), **options)
