"""RootTracker at every update of long runs: the true error, by a fresh decomposition, is at most what it reports."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from matroot import Ridge, RootTracker, Shift, Status, TargetCondition, gallery

N = 128


def power(A, s):
    w, Q = np.linalg.eigh(A)
    if s > 0:
        w = np.maximum(w, 0)
    return (Q * w ** float(s)) @ Q.T


def distance(X, Y):
    """||X - Y||_2 / ||Y||_2 of symmetric matrices."""
    return abs(np.linalg.eigvalsh(X - Y)).max() / abs(np.linalg.eigvalsh(Y)).max()


def turned(Q, angle, rng):
    """Q, every plane of it turned by up to `angle`."""
    S = rng.standard_normal(Q.shape)
    S = angle * (S - S.T) / (32 * N) ** 0.5
    return Q @ np.linalg.solve(np.eye(N) - S, np.eye(N) + S)


def averaged(A, beta, columns, rng):
    """beta A + (1 - beta) times the covariance of a few samples of covariance A."""
    G = np.linalg.cholesky(A) @ rng.standard_normal((N, columns))
    return beta * A + (1 - beta) / columns * (G @ G.T)


def ema(rng):
    A = gallery.spd(N, 1e4, rng=rng)[0]
    for _ in range(120):
        A = averaged(A, 0.99, 64, rng)
        yield A


def jump(rng):
    A, B = gallery.spd(N, 1e4, rng=1)[0], gallery.spd(N, 1e4, rng=2)[0]
    for k in range(40):
        A = {10: B, 11: gallery.spd(N, 1e4, rng=1)[0], 25: B}.get(k, A)
        A = averaged(A, 0.999, 32, rng)
        yield A


def scale(rng):
    A = gallery.spd(N, 1e4, rng=1)[0]
    for k in range(40):
        A = averaged({10: 1e6, 20: 1e-6, 30: 3.7e-5}.get(k, 1.0) * A, 0.999, 32, rng)
        yield A


def crossing(rng):
    """All eigenvalues pass through each other while their vectors turn."""
    Q, w = gallery.orthogonal(N, rng=3), np.log(gallery.eigenvalues(N, 1e4))
    for t in np.linspace(0, 1, 60):
        Q = turned(Q, 1e-3, rng)
        yield (Q * np.exp((1 - t) * w + t * w[::-1])) @ Q.T


def multiple(rng):
    """Two eigenvalues, each 64 times, and the border between their spaces turns."""
    Q, w = gallery.orthogonal(N, rng=4), np.repeat([1.0, 1e-3], N // 2)
    for _ in range(60):
        Q = turned(Q, 3e-4, rng)
        yield (Q * w) @ Q.T


def identity(rng):
    for k in range(10):
        yield (1 + 0.1 * k) * np.eye(N)


def deficient(rng):
    """Rank 20, and from time to time one more."""
    G = rng.standard_normal((N, 20))
    A = G @ G.T
    for k in range(40):
        g = rng.standard_normal((N, 1)) if k % 10 == 9 else G @ rng.standard_normal((20, 1))
        A = 0.999 * A + 0.001 * g @ g.T
        yield A


def same(rng):
    A = gallery.spd(N, 1e6, rng=5)[0]
    for _ in range(10):
        yield A


def decay(rng):
    A = gallery.spd(N, 1e4, rng=6)[0]
    for k in range(100):
        A = A * (0.5 if k % 3 else 0.9)
        yield A


def growth(rng):
    A = gallery.spd(N, 1e4, rng=7)[0]
    for _ in range(60):
        A = 1.5 * A
        yield A


def coherent(rng):
    """What grows is the mean, whose rows are alike: their rounding errors add up."""
    S = rng.standard_normal((N, N))
    S[:, 0] = 1
    Q, w = np.linalg.qr(S)[0], gallery.eigenvalues(N, 1e6)
    for _ in range(40):
        w[w.argmax()] *= 1.002
        yield (Q * np.sort(w)[::-1]) @ Q.T


def spikes(rng):
    A = gallery.spd(N, 1e6, rng=9)[0]
    for k in range(40):
        A = A.copy()
        A[k, k] += 1e-3
        yield A


DRIFTS = (ema, jump, scale, crossing, multiple, identity, deficient, same, decay, growth, coherent, spikes)
TRACKERS = {
    "float64": ("float64", 4, {"regularization": 1e-6}),
    "float32": ("float32", 4, {"regularization": 1e-6}),
    "float32 arithmetic": ("float32", 2, {"regularization": 1e-2}),
    "float32 rough": ("float32", 4, {"regularization": 1e-4, "rtol": 1e-2}),
    "inverse": ("float64", 1, {"regularization": 1e-6}),
    "square root": ("float64", 2, {"regularization": 1e-6, "inverse": False}),
    "fine": ("float64", 3, {"inverse": False, "rtol": 1e-6}),
    "3/4": ("float64", Fraction(4, 3), {"regularization": Ridge(absolute=1e-3)}),
    "shift": ("float64", 2, {"regularization": Shift(1e-5), "rtol": 1e-5}),
    "coarse": ("float64", 2, {"regularization": TargetCondition(1e5), "rtol": 0.3}),
    "refined": ("float64", 4, {"regularization": 1e-6, "refine": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize("name", TRACKERS)
def test_the_true_error_is_at_most_what_is_reported(drift, name):
    dtype, p, options = TRACKERS[name]
    tracker = RootTracker(p, **options)
    rounding = np.finfo(dtype).eps / 2 * N**0.5
    for A in drift(np.random.default_rng(0)):
        A = ((A + A.T) / 2).astype(dtype)
        result = tracker.update(A)
        if drift is deficient and tracker.regularization is None:
            assert result.status in (Status.CONVERGED, Status.ILL_CONDITIONED, Status.NOT_POSITIVE)
        else:
            assert result.status == Status.CONVERGED
        if result.status == Status.NOT_POSITIVE:
            continue
        exact = power(A.astype(float) + float(result.ridge) * np.eye(N), tracker.exponent)
        error = distance(result.x, exact)
        assert error <= tracker.error
        if result.status == Status.CONVERGED:
            assert error <= tracker.rtol + rounding
        assert (result.x == result.x.T).all()
        if drift is deficient and tracker.regularization is None:
            assert np.isnan(tracker.orthogonality())  # its eigenvalues 0 are no start for anything
        else:
            assert tracker.orthogonality() <= (1e-10 if result.compute_dtype == "float64" else 1e-4)


def test_what_is_easy_costs_no_full_solve():
    for drift in (identity, same, growth):
        tracker = RootTracker(4, regularization=1e-6)
        for A in drift(np.random.default_rng(0)):
            tracker.update(A)
        assert tracker.counts["full"] == 1, drift.__name__
    tracker = RootTracker(4, regularization=1e-6)
    for A in decay(np.random.default_rng(0)):
        tracker.update(A)
    assert tracker.counts["full"] <= 12


def test_down_to_nothing_and_back():
    A = gallery.spd(N, 1e2, rng=10)[0]
    tracker = RootTracker(2)
    for exponent in (0, -3, -300, -1000, -1070):
        result = tracker.update(np.ldexp(A, exponent))
        if exponent > -1000:
            assert result.status == Status.CONVERGED
    assert tracker.update(0 * A).status == Status.SINGULAR
    assert tracker.way == "failed"
    assert tracker.error == np.inf
    result = tracker.update(A)
    assert result.status == Status.CONVERGED
    assert distance(result.x, power(A, Fraction(-1, 2))) <= tracker.error <= 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 16, 31, 100])
def test_small_matrices(n, dtype):
    for cond in (10, 1e3, 1e5):
        A = gallery.spd(n, cond, rng=n)[0].astype(dtype)
        for p, inverse in ((1, True), (4, True), (8, True), (2, False), (4, False), (Fraction(4, 3), True)):
            tracker = RootTracker(p, inverse=inverse)
            X = tracker.update(A).x
            assert distance(X, power(A.astype(float), tracker.exponent)) <= tracker.error <= 1e-3
