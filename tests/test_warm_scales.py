"""Trackers of matrices whose size changes, and the precision of their arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from table import distance
from test_warm import RNG, N, power, shaken

from matroot import RootTracker, Status, gallery
from matroot.backends import cpu_backend as cpu
from matroot.drift.first_order import full, moved


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_scales_and_growth(size):
    A, _ = gallery.spd(N, 1e4, rng=7)
    tracker = RootTracker(4)
    exact = power(A, Fraction(-1, 4))
    for factor in (0.98, 1.0, 1.03, 1.06, 1.1):  # crosses a power of two somewhere
        result = tracker.update(size * factor * A)
        assert distance(result.x * (size * factor) ** 0.25, exact) <= tracker.error
    assert tracker.counts["first order"] >= 3
    result = tracker.update(size * 1e-4 * A)
    assert distance(result.x * (size * 1e-4) ** 0.25, exact) <= tracker.error


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_jumps_out_of_range(dtype):
    A = gallery.spd(N, 1e2, rng=7)[0].astype(dtype)
    tracker = RootTracker(2, regularization=1e-2)
    for k in (0, 100, -100, 90) if dtype == "float32" else (0, 900, -900, 30):
        result = tracker.update(A * A.dtype.type(2.0) ** k)
        assert tracker.way == "full"
        assert result.status == Status.CONVERGED


def test_what_float32_cannot_hold_is_not_called_converged():
    A = gallery.spd(N, 1e6, rng=8)[0].astype("float32")
    tracker = RootTracker(4, compute_dtype="float32")
    for _ in range(3):
        assert tracker.update(A).status == Status.ILL_CONDITIONED
        assert tracker.error > 1e-3
    tracker = RootTracker(4)
    for _ in range(2):
        result = tracker.update(A)
        assert result.status == Status.CONVERGED
        assert result.compute_dtype == "float64"
        assert result.x.dtype == np.float32
        assert distance(result.x, power(A, Fraction(-1, 4))) <= tracker.error
    tracker = RootTracker(4, regularization=1e-2)
    for size in (0.0, 1e-3):
        result = tracker.update(shaken(A.astype(float), size).astype("float32"))
    assert (result.compute_dtype, str(tracker.way)) == ("float32", "first order")


def test_rounding_of_the_narrow_products_is_measured():
    """Float32 errs by 3 u ||D|| where the rows of D are alike, as those of a mean are, and by 0.5 u ||D|| mostly."""
    S = RNG.standard_normal((256, 256))
    S[:, 0] = 1
    Q, w = np.linalg.qr(S)[0], gallery.eigenvalues(256, 1e6)
    w = np.sort(w)[::-1]
    s = Fraction(-1, 4)
    A = (Q * w) @ Q.T
    basis = full(A, Q, w, 0.0, power(A, s), s, 1.0)
    w[0] *= 1.01
    D = (Q * w) @ Q.T - A
    exact = Q.T @ D @ Q
    for rtol in (0.3, 1e-2, 1e-3):
        at = moved(basis, A + D, None, s, rtol, cpu())
        W = (at.b / at.b.min()) ** (float(s - 1) / 2)
        E = exact - np.diag(at.d - basis.w) - at.E
        true = abs(s) * np.linalg.norm(W[:, None] * E * W, 2) / at.b.min()
        assert true <= at.noise
    assert at.noise <= 40 * true
    assert at.error <= 1e-3


@pytest.mark.parametrize("spectrum", ["geometric", "two_cluster"])
@pytest.mark.parametrize("p", [1, 2])
def test_a_matrix_that_was_scaled(p, spectrum):
    """A root that has become smaller keeps the error of the old one: it counts for more."""
    n, cond, rtol = 130, 1e6, 1e-8
    A, root = gallery.spd(n, cond, spectrum, rng=0)
    for factor in (1e-6, 1e-3, 0.1, 1.5, 10, 1e3, 1e4, 1e6):
        tracker = RootTracker(p, rtol=rtol)
        tracker.update(A)
        result = tracker.update(factor * A)
        exact = root(-1 / p) * factor ** (-1 / p)
        error = np.linalg.norm(result.x - exact, 2) / np.linalg.norm(exact, 2)
        assert error <= tracker.error
        assert error <= rtol if result.converged else result.status == Status.ILL_CONDITIONED
