"""Condition numbers against perturbed roots and dense derivatives; the extreme eigenvalues; the tracker."""

import json
import re
from fractions import Fraction

import numpy as np
import pytest
from table import SPECTRA

import matroot
from matroot import (
    ConditionTracker,
    PseudoInverse,
    Shift,
    Status,
    TargetCondition,
    cond_pth_root,
    frechet_derivative,
    gallery,
    solve,
)
from matroot._bars import forward_error_bound
from matroot._solve import solve_power
from matroot.backends.cpu.cpu import CPU
from matroot.methods.conditioning import (
    PROBES,
    bits_lost,
    cond_from_eigenvalues,
    divided_differences,
    largest_eigenvalue,
    norm2,
    random_columns,
    residual,
)
from matroot.pipeline.reference import factor


def derivative_norm(A, p):
    """||L||_2 of A -> A^{-1/p} from its n^2 x n^2 matrix: the solution of sum X^i L X^{p-1-i} = (A^{-1})'."""
    w, Q = np.linalg.eigh(A)
    X = (Q * w ** (-1 / p)) @ Q.T
    inverse = np.linalg.inv(A)
    K = sum(
        np.kron(np.linalg.matrix_power(X, p - 1 - i).T, np.linalg.matrix_power(X, i)) for i in range(p)
    )  # vec(X^i L X^(p-1-i))
    return np.linalg.norm(np.linalg.solve(K, -np.kron(inverse.T, inverse)), 2), np.linalg.norm(X)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_condition_number_is_that_of_the_derivative(p, spectrum):
    A, _ = gallery.spd(6, 1e3, spectrum, rng=p)
    norm, size = derivative_norm(A, p)
    assert float(cond_pth_root(A, p)) == pytest.approx(norm * np.linalg.norm(A) / size, rel=1e-8)
    assert float(cond_pth_root(A, p, assume_a="gen")) == pytest.approx(float(cond_pth_root(A, p)), rel=0.05)


@pytest.mark.parametrize("p", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("assume_a", ["pos", "gen"])
def test_condition_number_of_the_root_itself(p, assume_a):
    """The largest singular value of the map E -> L(A, E), from all its columns; and singular matrices."""
    A, _ = gallery.spd(5, 1e3, rng=p)
    E = np.eye(25).reshape(25, 5, 5)
    L = np.array([frechet_derivative(A, e, p, inverse=False, assume_a=assume_a).ravel() for e in E])
    expected = np.linalg.norm(L, 2) * np.linalg.norm(A) / np.linalg.norm(matroot.pth_root(A, p))
    found = cond_pth_root(A, p, inverse=False, assume_a=assume_a)
    assert float(found) == pytest.approx(expected, rel=1e-10 if assume_a == "pos" else 0.05)
    singular = np.diag([1.0, 0.0])
    assert cond_pth_root(singular, p, inverse=False, assume_a=assume_a) == (1.0 if p == 1 else np.inf)


@pytest.mark.parametrize("p", [1, 2, 4])
def test_a_perturbation_moves_the_root_by_that_much(p):
    """The worst direction reaches it; no random one exceeds it."""
    A, _ = gallery.spd(12, 1e4, rng=3)
    cond = float(cond_pth_root(A, p))
    w, Q = np.linalg.eigh(A)
    X = (Q * w ** (-1 / p)) @ Q.T

    def moved(E):
        E *= 1e-9 * np.linalg.norm(A) / np.linalg.norm(E)
        v, U = np.linalg.eigh(A + E)
        return np.linalg.norm((U * v ** (-1 / p)) @ U.T - X) / np.linalg.norm(X) / 1e-9

    assert moved(np.outer(Q[:, 0], Q[:, 0])) == pytest.approx(cond, rel=1e-2)
    rng = np.random.default_rng(0)
    for _ in range(20):
        E = rng.standard_normal((12, 12))
        assert moved(E + E.T) <= 1.01 * cond


@pytest.mark.parametrize("p", range(1, 9))
def test_divided_differences_without_cancellation(p):
    """Close eigenvalues: the quotient of differences has no digit left; the formula has all, by exact rationals."""
    u = np.array([1.0, 1 + 2.0**-40, 3.0, 2.0**-7])
    w = u**p
    exact = np.empty((4, 4))
    for i, a in enumerate(map(Fraction, u)):
        for j, b in enumerate(map(Fraction, u)):
            total = sum(a**k * b ** (p - 1 - k) for k in range(p))
            exact[i, j] = float(-1 / (a * b * total))
    assert np.allclose(divided_differences(w, p), exact, rtol=30 * p * 2.0**-53, atol=0)


def test_condition_of_what_has_no_root():
    assert cond_pth_root(np.diag([1.0, 0.0]), 2) == np.inf
    assert cond_pth_root(np.diag([1.0, -1.0]), 2) == np.inf
    assert cond_pth_root(np.diag([1.0, -1.0]), 2, assume_a="gen") == np.inf
    stack = np.stack([np.eye(2), np.full((2, 2), np.nan), np.diag([1.0, 1e-4])])
    cond = cond_pth_root(stack, 2)
    assert np.isnan(cond[1]) and np.isfinite(cond[[0, 2]]).all()
    assert cond[0] == pytest.approx(0.5)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_condition_does_not_change_with_the_scale(scale):
    A, _ = gallery.spd(5, 1e4, rng=0)
    assert float(cond_pth_root(A * scale, 4)) == pytest.approx(float(cond_pth_root(A, 4)), rel=1e-9)
    w = np.array([1e-6, 1.0])
    assert cond_from_eigenvalues(w * scale, 3) == pytest.approx(cond_from_eigenvalues(w, 3), rel=1e-12)


@pytest.mark.parametrize("n", [1, 5, 16, 200])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_largest_eigenvalue_from_below(n, dtype):
    A, _ = gallery.spd(n, 1e6, "power_law", batch=(3,), dtype=dtype, rng=n)
    top = np.linalg.eigvalsh(A)[:, -1]
    found = largest_eigenvalue(A, CPU())
    eps = float(np.finfo(dtype).eps)
    assert (found <= top * (1 + 20 * eps)).all()
    assert (found >= top * (1 - (1e-2 if n > 16 else 100 * eps))).all()
    assert norm2(A, CPU()) == pytest.approx(top, rel=1e-2 if n > 16 else 1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n", [17, 64, 200])
def test_an_invariant_subspace_does_not_mislead(n, sign, dtype):
    """I + low rank: Lanczos is done after a few steps, and must not make eigenvalues out of rounding."""
    rng = np.random.default_rng(n)
    arrow = np.eye(n)
    arrow[0, 1:] = arrow[1:, 0] = 0.99 / np.sqrt(n - 1)
    levels = np.diag(rng.choice([1.0, 2.0, 1e-3], n))
    matrices = [np.eye(n), np.zeros((n, n)), arrow, levels]
    for rank in range(1, 6):
        U = np.linalg.qr(rng.standard_normal((n, rank)))[0]
        matrices.append(np.eye(n) + (U * np.geomspace(1, 1e6, rank)) @ U.T)
    A = (sign * np.array(matrices)).astype(dtype)
    A = (A + A.swapaxes(1, 2)) / 2
    w = np.linalg.eigvalsh(A.astype(np.float64))
    assert abs(largest_eigenvalue(A, CPU()) - w[:, -1]).max() <= 20 * np.finfo(dtype).eps * abs(w).max()
    assert norm2(A, CPU()) == pytest.approx(abs(w).max(1), rel=1e-3)


@pytest.mark.parametrize("method", ["coupled_newton", "minimax", "newton_db", "higher_order", "eigen"])
@pytest.mark.parametrize("rule", [None, 1e-3, Shift(1e-2), TargetCondition(50.0)], ids=str)
def test_facts_of_identity_plus_low_rank(method, rule):
    n = 64
    A = np.eye(n)
    A[0, 1:] = A[1:, 0] = 0.99 / np.sqrt(n - 1)
    result = solve(A, 2, method=method, regularization=rule)
    w = np.linalg.eigvalsh(A) + float(result.ridge)
    assert float(result.lambda_max) == pytest.approx(1.99, rel=1e-9)
    assert float(result.cond) == pytest.approx(w[-1] / w[0], rel=1e-6)
    if rule == 1e-3:
        assert float(result.ridge) == pytest.approx(1.99e-3, rel=1e-9)


def test_bits_lost():
    assert bits_lost(np.array([1.0, 2.0**12]), Fraction(-1, 4)).tolist() == [0.0, 10.0]


@pytest.mark.parametrize("s", [Fraction(-1, 2), Fraction(-2), Fraction(1, 2), Fraction(3)])
def test_forward_error_bound_holds_for_the_worst_perturbation(s):
    """Of a diagonal matrix: the smallest eigenvalue moves by eps ||A||."""
    for cond in (1e1, 1e5):
        eps = 1e-9
        w = np.array([1 / cond, 1.0])
        moved = abs((w + eps) ** float(s) - w ** float(s)).max() / (w ** float(s)).max()
        assert moved <= 1.001 * forward_error_bound(np.array(cond), s, eps)


@pytest.mark.parametrize(
    "s", [Fraction(-1, 4), Fraction(-3, 4), Fraction(-2, 3), Fraction(-3, 10), Fraction(-7, 8)], ids=str
)
def test_the_certificate_of_a_good_root_is_good(s):
    """X^b A^a = I would err by eps cond^a: of order 1 for -3/10 at cond 1e5."""
    for cond in (1e3, 1e6):
        A, root = gallery.spd(20, cond, rng=1)
        other = factor(A[None], s, None, "pos", CPU())
        found, _ = residual(A[None], root(s)[None], s, CPU(), None, other)
        assert found[0] < 2 * (abs(s.numerator) + s.denominator) * cond * 2.0**-53
        wrong, _ = residual(A[None], 1.001 * root(s)[None], s, CPU(), None, other)
        assert wrong[0] == pytest.approx(1.001**s.denominator - 1, rel=1e-3)


# The tracker


def test_tracker_follows_every_name():
    tracker = ConditionTracker()
    for k in range(5):
        tracker.record("a", solve(np.diag([1.0, 10.0**-k]), 4))
    tracker.record("b", solve(np.stack([np.eye(2), np.diag([1.0, -1.0])]), 2))
    values = tracker.to_dict()
    assert values["a"]["cond"] == pytest.approx([10.0**k for k in range(5)])
    assert values["b"]["status"] == [int(Status.NOT_POSITIVE)]
    assert set(values["a"]) == {"cond", "lambda_max", "residual", "bits_lost", "status", "n_iter"}
    assert len(tracker) == 2
    json.dumps(values["a"])
    head, a, b = tracker.summary().splitlines()
    assert head.split()[0] == "name" and a.split()[:2] == ["a", "5"] and b.split()[-1] == "NOT_POSITIVE"


def test_tracker_forgets_old_records_but_not_the_worst():
    tracker = ConditionTracker(max_records=3)
    tracker.record("a", solve(np.diag([1.0, -1.0]), 2))
    for _ in range(10):
        tracker.record("a", solve(np.eye(2), 2))
    assert len(tracker.to_dict()["a"]["cond"]) == 3
    assert tracker.summary().splitlines()[1].split()[1] == "11"
    assert tracker.summary().splitlines()[1].endswith("NOT_POSITIVE")


def test_tracker_leaves_out_what_failed():
    tracker = ConditionTracker()
    tracker.record("a", solve(np.stack([np.eye(2), np.diag([4.0, 1.0]), np.full((2, 2), np.nan)]), 2))
    tracker.record("a", solve(np.full((2, 2), np.nan), 2))
    tracker.record("a", solve(np.eye(2), 2))
    cond = tracker.to_dict()["a"]["cond"]
    assert cond[0] == 4 and np.isnan(cond[1]) and cond[2] == 1
    line = tracker.summary().splitlines()[1].split()
    assert line[2:4] == ["1", "4"] and line[-1] == "NONFINITE_INPUT"


def test_tracker_of_nothing():
    tracker = ConditionTracker()
    tracker.record("empty", solve(np.empty((0, 3, 3)), 2))
    assert len(tracker) == 0 and tracker.to_dict() == {}
    assert len(tracker.summary().splitlines()) == 1
    for wrong in (0, -1, 1.5, True, "x"):
        with pytest.raises(ValueError, match="max_records"):
            ConditionTracker(max_records=wrong)


def test_tracker_plots(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tracker = ConditionTracker(max_records=2)
    for k in range(4):
        tracker.record("a", solve(np.diag([1.0, 10.0**-k]), 4))
    tracker.record("singular", solve(np.diag([1.0, 0.0]), 2, regularization=PseudoInverse()))
    ax = tracker.plot()
    line = ax.get_lines()[0]
    assert line.get_xdata().tolist() == [2, 3]
    assert line.get_ydata() == pytest.approx([100, 1000])
    ax.figure.savefig(tmp_path / "plot.png")
    plt.close(ax.figure)
    assert matroot.ConditionTracker().plot() is not None
    plt.close("all")


@pytest.mark.parametrize(
    "s", [Fraction(-7, 2), Fraction(-5, 3), Fraction(5, 4), Fraction(4, 3), Fraction(-3, 4), Fraction(1, 2)], ids=str
)
@pytest.mark.parametrize("method", ["eigen", "coupled_newton", "minimax"])
def test_what_rounding_explains_is_no_alarm(s, method):
    """And the digits that are promised do hold."""
    for cond in (1e2, 1e5, 1e9):
        A, root = gallery.spd(12, cond, rng=2)
        result = solve_power(A, s, method=method)
        assert result.status == Status.CONVERGED, result.message
        error = np.linalg.norm(result.x - root(s), 2) / np.linalg.norm(root(s), 2)
        digits = int(re.search(r"about (\d+) digit", result.message).group(1))
        assert error < 10.0 ** (1 - digits)


def test_rtol_of_powers_beyond_the_root():
    """The a-th power of a root has a times its relative error."""
    A, root = gallery.spd(8, 11.0, batch=(17,), rng=1)
    for s in (Fraction(-3, 2), Fraction(-7, 2), Fraction(-5, 3)):
        for rtol in (1e-3, 1e-6):
            X = solve_power(A, s, method="coupled_newton", rtol=rtol).x
            error = np.linalg.norm(X - root(s), 2, axis=(1, 2)) / np.linalg.norm(root(s), 2, axis=(1, 2))
            assert error.max() < rtol


@pytest.mark.parametrize("n", [9, 33, 82, 300])
def test_probes_see_errors_in_one_coordinate_and_in_the_difference_of_two(n):
    """Of 256 pairs of rows of +-1 one is alike: duplicate features were in a blind spot of the certificate."""
    V = random_columns(n, PROBES)
    assert np.allclose(np.linalg.norm(V, axis=1), PROBES**0.5, rtol=1e-14)
    cosines = V @ V.T / PROBES - np.eye(n)
    assert abs(cosines).max() < 0.99  # (e_i -+ e_j) / sqrt(2) is seen at sqrt(1 -+ this) of its length
