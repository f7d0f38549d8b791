"""RootTracker: its bound holds, its decisions follow the bound, its basis stays orthonormal."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from table import distance

from matroot import RootTracker, Status, gallery
from matroot.backends import cpu_backend as cpu
from matroot.drift import first_order
from matroot.drift.first_order import full, moved, root, seen
from matroot.drift.update import LONGEST_WAIT
from matroot.methods.hermitian import asymmetry, hermitian_product, hermitian_sum
from matroot.methods.ogita_aishima import polished, rotation

N = 128
RNG = np.random.default_rng(0)


def power(A, s):
    w, Q = np.linalg.eigh(A.astype(np.result_type(A.dtype, np.float64)))
    return (Q * w ** float(s)) @ Q.conj().T


def shaken(A, size, rng=0):
    """A^{1/2} (I + S) A^{1/2} with ||S||_2 of about `size`: every direction moves in proportion to its eigenvalue."""
    H = power(A, 0.5)
    S = np.random.default_rng(rng).standard_normal(A.shape)
    B = H @ (np.eye(len(A)) + size * (S + S.T) / (8 * len(A)) ** 0.5) @ H
    return (B + B.conj().T) / 2


def stream(n, beta, cond=1e5, columns=None, turn=1e-4, rng=0, start=0):
    """EMA of G G^T, G of that condition number with slowly turning singular vectors."""
    rng = np.random.default_rng(rng)
    m = columns or n
    root_of_cov = gallery.eigenvalues(n, cond) ** 0.5
    U = gallery.orthogonal(n, rng=rng)
    S = rng.standard_normal((n, n))
    R = np.linalg.qr(np.eye(n) + turn * (S - S.T))[0]
    A = (U * root_of_cov**2) @ U.T
    for t in range(start, 10**9):
        U = U @ R
        G = (U * root_of_cov) @ rng.standard_normal((n, m))
        A = beta * A + (1 - beta) * (G @ G.T) / m
        if t >= 0:
            yield (A + A.T) / 2


@pytest.mark.parametrize("inverse", [True, False])
@pytest.mark.parametrize("p", [1, 2, 3, 4, 7])
def test_first_order_is_of_second_order_and_within_its_bound(p, inverse):
    s = Fraction(-1 if inverse else 1, p)
    A, _ = gallery.spd(N, 1e3, rng=1)
    errors = []
    for size in (4e-3, 1e-3):
        tracker = RootTracker(p, inverse=inverse, rtol=1e-3)
        first = tracker.update(A)
        assert tracker.way == "full"
        assert distance(first.x, power(A, s)) <= tracker.error <= 1e-10
        moved_on = shaken(A, size)
        result = tracker.update(moved_on)
        assert tracker.way == "first order"
        assert result.status == Status.CONVERGED
        assert result.n_products == 4
        assert (result.x == result.x.T).all()
        errors.append(distance(result.x, power(moved_on, s)))
        assert errors[-1] <= tracker.error <= 1e-3
        if (p, inverse) != (1, False):
            assert distance(first.x, power(moved_on, s)) > 20 * errors[-1]
    if (p, inverse) == (1, False):  # X = A: first order is exact
        assert max(errors) <= 1e-7
    else:
        assert errors[0] == pytest.approx(16 * errors[1], rel=0.2)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("cond", [1e2, 1e6])
def test_the_bound_holds_however_far_the_matrix_moves(cond, dtype):
    A, _ = gallery.spd(N, cond, rng=2, dtype=dtype)
    for size in np.geomspace(1e-6, 3, 12):
        tracker = RootTracker(4, rtol=0.5)
        tracker.update(A)
        B = shaken(A, size)
        if np.linalg.eigvalsh(B)[0] <= 0:
            break
        result = tracker.update(B)
        assert distance(result.x, power(B, Fraction(-1, 4))) <= tracker.error
    assert size > 0.3


@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-5, 1e-8])
def test_rtol_decides(rtol):
    A, _ = gallery.spd(N, 1e4, rng=3)
    tracker = RootTracker(2, rtol=rtol)
    tracker.update(A)
    ways = set()
    for step, size in enumerate(np.geomspace(1e-7, 1, 15)):
        tracker.reset()
        tracker.update(A)
        B = shaken(A, size, step)
        result = tracker.update(B)
        ways.add(str(tracker.way))
        assert distance(result.x, power(B, Fraction(-1, 2))) <= min(rtol, tracker.error)
    assert ways == {"first order", "full"}


def test_500_updates_of_a_drifting_matrix():
    tracker = RootTracker(4, regularization=1e-5)
    for t, A in zip(range(500), stream(N, 0.999), strict=False):
        result = tracker.update(A)
        assert result.status == Status.CONVERGED
        assert tracker.error <= 1e-3
        if t % 25 == 0:
            exact = power(A + float(result.ridge) * np.eye(N), Fraction(-1, 4))
            assert distance(result.x, exact) <= tracker.error
            assert result.ridge == pytest.approx(1e-5 * np.linalg.eigvalsh(A)[-1], rel=1e-4)
    assert tracker.counts["first order"] > 350
    assert sum(tracker.counts.values()) == 500
    assert "500 roots" in tracker.summary()


def test_the_refined_basis_stays_orthonormal():
    tracker = RootTracker(4, regularization=1e-5, refine=True)
    worst = 0.0
    for t, A in zip(range(250), stream(N, 0.95), strict=False):
        result = tracker.update(A)
        assert tracker.error <= 1e-3
        worst = max(worst, float(tracker.orthogonality()))
        if t % 25 == 0:
            exact = power(A + float(result.ridge) * np.eye(N), Fraction(-1, 4))
            assert distance(result.x, exact) <= tracker.error
    assert worst <= 1e-10
    assert tracker.counts["refined"] > 150
    assert tracker.counts["full"] <= 80


def test_refinement():
    backend = cpu()
    A, _ = gallery.spd(N, 1e6, rng=4)
    w, Q = np.linalg.eigh(A)
    s = Fraction(-1, 2)
    basis = full(A, Q, w, 0.0, power(A, s), s, 1.0)
    B = shaken(A, 0.1)
    at = moved(basis, B, None, s, 1e-3, backend)
    new = first_order.refined(basis, B, at, s, backend)
    after = seen(new, new.E.copy(), new.w, None, s, 1e-3, backend)
    assert after.eta < at.eta**2
    assert np.linalg.norm(new.Q.T @ new.Q - np.eye(N)) <= min(1e-12, new.defect)
    X = np.empty_like(B)
    root(new, after, s, 1.0, X, backend)
    assert distance(X, power(B, -0.5)) <= after.error < 1e-4
    again = moved(new, B, None, s, 1e-3, backend)  # nothing has moved since
    np.testing.assert_array_equal(again.E, new.E)
    Y = np.empty_like(B)
    root(new, again, s, 1.0, Y, backend)
    assert distance(Y, X) <= 1e-12


def test_rotations_in_clusters_are_cut_off():
    d = np.repeat([1.0, 2.0], N // 2)
    S = RNG.standard_normal((N, N))
    E = 1e-3 * (S + S.T)
    np.fill_diagonal(E, 0)
    W = rotation(E, d, cpu(), turn=1)
    assert np.linalg.norm(W.T @ W - np.eye(N), 2) < 1e-2
    Q, defect = polished(W, cpu(), np.dtype("float32"))
    assert np.linalg.norm(Q.T @ Q - np.eye(N)) <= defect <= 1e-11
    Q, defect = polished(np.full((4, 4), np.nan), cpu(), np.dtype("float32"))
    assert not defect < 1


@pytest.mark.parametrize("kind", ["f", "c"])
def test_norm_bound(kind):
    def bound(E, **options):
        return first_order.norm_bound(lambda V: E @ V, first_order._probes(len(E), kind), **options)

    for n, size in ((2, 1.0), (40, 1e-30), (150, 1e8)):
        E = RNG.standard_normal((n, n)) + (1j * RNG.standard_normal((n, n)) if kind == "c" else 0)
        E = size * (E + E.conj().T)
        norm = np.linalg.norm(E, 2)
        assert norm <= bound(E) <= 1.6 * norm
    assert norm <= bound(E, enough=3 * norm) <= 3 * norm
    assert bound(np.zeros((5, 5))) == 0
    assert bound(np.full((5, 5), np.nan)) == np.inf


def test_each_matrix_of_a_batch_decides_for_itself_as_it_would_alone():
    A = np.stack([gallery.spd(N, 1e4, rng=k)[0] for k in range(6)]).reshape(2, 3, N, N)
    B = A.copy()
    B[0, 1] = gallery.spd(N, 1e4, rng=99)[0]
    B[1, 0] *= 1.001
    B[1, 1, 3, 3] = np.nan
    B[1, 2] = -B[1, 2]
    tracker = RootTracker(4)
    tracker.update(A)
    before = A.copy()
    result = tracker.update(B)
    assert (before == A).all()
    assert tracker.way.tolist() == [["first order", "full", "first order"], ["first order", "failed", "failed"]]
    assert result.status.tolist() == [[0, 0, 0], [0, Status.NONFINITE_INPUT, Status.NOT_POSITIVE]]
    assert np.isnan(result.x[1, 1:]).all()
    assert tracker.error.shape == (2, 3)
    assert (result.method.first_order, result.method.full, result.method.failed) == (3, 1, 2)
    assert "first_order=3" in repr(result.method)
    for i in np.ndindex(2, 3):
        alone = RootTracker(4)
        alone.update(A[i])
        one = alone.update(B[i])
        np.testing.assert_allclose(one.x, result.x[i], rtol=1e-9)
        assert alone.way == tracker.way[i]
    tracker.update(A)
    assert tracker.way[1, 1] == tracker.way[1, 2] == "first order"  # the state of the last good root was kept


def test_a_matrix_that_jumps_is_left_to_full_solves():
    tracker = RootTracker(2)
    for k in range(60):
        tracker.update(gallery.spd(N, 1e3, rng=k)[0])
    assert tracker.counts["full"] == 60
    assert tracker._bases[0].misses >= 5
    A = gallery.spd(N, 1e3, rng=60)[0]
    ways = []
    for _ in range(LONGEST_WAIT + 2):
        tracker.update(A)
        ways.append(str(tracker.way))
    assert ways[-1] == "first order"
    assert tracker._bases[0].misses == 0


def test_a_wrong_root_is_refused_by_its_residual(monkeypatch):
    A, _ = gallery.spd(N, 1e4, rng=9)
    tracker = RootTracker(4)
    tracker.update(A)

    def wrong(basis, at, s, factor, out, backend):
        out[...] = 1.1 * factor * basis.X
        return 0.0

    monkeypatch.setattr("matroot.drift.update.root", wrong)
    result = tracker.update(shaken(A, 1e-3))
    assert tracker.way == "full"
    assert result.residual < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_an_uneven_matrix_counts_as_its_hermitian_part(dtype):
    A, _ = gallery.spd(N, 1e2, rng=18, dtype="complex128" if dtype == "complex128" else "float64")
    eps = np.finfo(dtype).eps
    noise = eps**0.5 / 8 * abs(A).max() * np.triu(np.ones_like(A), 1)
    tracker = RootTracker(2, rtol=1e-2)
    tracker.update(A.astype(dtype))
    B = shaken(A, 1e-3) + noise
    result = tracker.update(B.astype(dtype))
    assert tracker.way == "first order"
    B = B.astype(dtype).astype(A.dtype)
    assert distance(result.x, power((B + B.conj().T) / 2, Fraction(-1, 2))) <= tracker.error
    assert (result.x == result.x.conj().T).all()


@pytest.mark.parametrize("n", [1, 5, 130, 300])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_hermitian_blocks(n, dtype):
    S = RNG.standard_normal((n, n)) + (1j * RNG.standard_normal((n, n)) if dtype == "complex128" else 0)
    Y = S.astype(dtype)
    H = hermitian_product(Y, Y.conj().T, cpu())
    np.testing.assert_allclose(H, Y @ Y.conj().T, rtol=1e-5, atol=1e-4)
    assert asymmetry(H) == 0
    out = np.empty((n, n), dtype)
    hermitian_sum(H, Y, Y.conj().T, 2.0, cpu(), out)
    np.testing.assert_allclose(out, 4 * H, rtol=1e-5, atol=1e-3)
    assert asymmetry(out) == 0
    H[n - 1, 0] += 3
    assert asymmetry(H) == pytest.approx(3 if n > 1 else 0, rel=1e-5)
    H[0, n - 1] = np.nan
    assert np.isnan(asymmetry(H))
