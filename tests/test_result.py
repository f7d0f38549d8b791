"""RootResult, Status and their sentences; the errors and warnings of the plain functions."""

import dataclasses
import re
from fractions import Fraction

import numpy as np
import pytest
from table import EPS, NAMED, problem

import matroot
from matroot import CoupledNewton, Eigen, PseudoInverse, Ridge, RootResult, Status, solve
from matroot.methods.base import Raw

true_run = CoupledNewton.run
CONTRACT = [
    "x", "companion", "status", "residual", "cond", "bits_lost", "n_iter", "n_products", "lambda_max", "ridge",
    "method", "compute_dtype",
]  # fmt: skip
NAMES = [
    "CONVERGED", "ILL_CONDITIONED", "MAX_ITER", "STAGNATED", "DIVERGED", "NOT_POSITIVE", "NO_PRINCIPAL_ROOT",
    "NONFINITE_INPUT", "NOT_SYMMETRIC", "SINGULAR",
]  # fmt: skip
ROWS = list(NAMED.values())


def ill(dtype="float32", n=12):
    """A matrix whose root float32 arithmetic cannot hold."""
    return problem(n, 1.8e6, dtype=dtype, seed=1)[0]


def test_status_codes():
    assert [s.name for s in Status] == NAMES
    assert Status.CONVERGED == 0
    assert len({int(s) for s in Status}) == len(NAMES)
    for status in Status:
        assert len(status.sentence) > 20


def test_fields_of_the_contract():
    names = [f.name for f in dataclasses.fields(RootResult)]
    assert [name for name in names if name in CONTRACT] == CONTRACT
    result = solve(np.eye(3), 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.x = None


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_shapes_and_dtypes(row, batch):
    A, _ = problem(5, 1e3, batch=batch, seed=2)
    result = solve(A, 2, method=row.method)
    assert result.x.shape == A.shape
    for name in ("status", "residual", "cond", "bits_lost", "n_iter", "lambda_max", "lambda_min", "ridge", "converged"):
        assert getattr(result, name).shape == batch, name
    assert result.status.dtype == np.int8
    assert result.residual.dtype == result.cond.dtype == result.ridge.dtype == np.float64
    assert result.n_iter.dtype.kind == "i"
    assert result.converged.dtype == bool
    assert isinstance(result.n_products, int)
    assert result.exponent == Fraction(-1, 2)
    assert result.method == row.method
    assert result.compute_dtype == "float64"
    assert (result.companion is not None) == (row.method.name == "newton_db")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_numbers(row):
    for cond in (1.5, 1e3, 1e6):
        for p in row.degrees:
            A, _ = problem(24, cond, seed=3, scale=7.0)
            result = solve(A, p, method=row.method)
            assert np.isclose(result.cond, cond, rtol=0.05)
            assert np.isclose(result.lambda_max, 7, rtol=0.01)
            assert np.isclose(result.lambda_min, 7 / cond, rtol=0.05)
            assert np.isclose(result.bits_lost, max(0, np.log2(cond / p)), atol=0.1)
            assert result.bits_lost >= 0
            assert result.ridge == 0
            if row.method.name == "eigen":
                assert np.isclose(result.cond, np.linalg.cond(A), rtol=1e-8)
                assert np.isclose(result.lambda_max, np.linalg.eigvalsh(A)[-1], rtol=1e-13)
                assert result.n_iter == 0


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_bits_lost_for_other_exponents(row):
    A, _ = problem(10, 1e4, seed=4)
    result = solve(A, 2, inverse=False, method=row.method)
    assert np.isclose(result.bits_lost, np.log2(1e4 / 2), atol=0.1)
    assert np.isclose(result.cond, 1e4, rtol=0.05)


def test_condition_of_large_matrices_is_close():
    for spectrum in ("geometric", "two_cluster", "power_law", "arithmetic"):
        A, _ = problem(200, 1e5, spectrum, seed=5)
        result = solve(A, 4, method="coupled_newton")
        assert 0.9e5 <= result.cond <= 1.001e5
        assert 0.99 <= result.lambda_max <= 1 + 1e-12


def test_numbers_are_as_short_for_one_matrix_of_a_batch():
    text = repr(solve(np.stack([np.diag([1.0, 3.0])] * 3), 2)[1])
    assert "bits_lost: 0.585\n" in text and "cond: 3\n" in text


def test_repr_has_a_line_per_field():
    result = solve(np.stack([np.eye(3), -np.eye(3)]), 2, method="eigen")
    lines = repr(result).splitlines()
    assert lines[0] == "RootResult"
    names = [line.split(":")[0].strip() for line in lines[1:]]
    assert names[0] == "message"
    assert names[1:] == [f.name for f in dataclasses.fields(RootResult)]
    text = repr(result)
    assert "CONVERGED 1, NOT_POSITIVE 1" in text
    assert "(2, 3, 3) float64" in text
    assert "Eigen(" in text
    assert str(result) == text
    assert len(max(lines, key=len)) < 400


def test_message_of_one():
    good = solve(np.diag([4.0, 1.0]), 2).message
    assert re.fullmatch(r"converged: residual \d\.\de-\d\d, about 16 digits hold at cond 4\.0e\+00", good)
    early = solve(np.diag([1.0, 4.0]), 2, method="coupled_newton", rtol=1e-2)
    assert early.residual > 1e-12 and f"about {-np.log10(early.residual):.0f} digits hold" in early.message
    indefinite = solve(np.diag([1.0, -0.25]), 2).message
    assert "-2.5e-01" in indefinite
    assert "regularization=Ridge(absolute=...)" in indefinite
    assert "NaN" in solve(np.full((2, 2), np.nan), 2).message


def mixed():
    """A batch (2, 3): all converged but a NaN at [0, 2] and a negative definite matrix at [1, 1]."""
    batch = np.stack([k * np.eye(3) for k in range(1, 7)]).reshape(2, 3, 3, 3)
    batch[0, 2], batch[1, 1] = np.nan, -batch[1, 1]
    return batch


def test_one_failed_matrix_does_not_hide_the_numbers_of_the_others():
    result = solve(mixed(), 2)
    assert (
        "4 CONVERGED, 1 NOT_POSITIVE (first [1, 1]), 1 NONFINITE_INPUT (first [0, 2]); [0, 2] holds" in result.message
    )
    (residual,) = [line for line in repr(result).splitlines() if "residual:" in line and "median" in line]
    low, _, high, _, median = residual.split(": ")[1].replace(",", "").split()
    good = np.sort(result.residual[result.status == 0])
    assert [float(low), float(high), float(median)] == pytest.approx([good[0], good[-1], good[1]], rel=1e-2)


def test_parts_of_a_result():
    result = solve(mixed(), 2, method="newton_db")
    assert len(result) == 2 and [len(row) for row in result] == [3, 3]
    assert np.array_equal(result[0, 1].x, result.x[0, 1]) and result[0, 1].message.startswith("converged")
    assert result[..., 0].companion.shape == (2, 3, 3)
    failed = result[result.status != 0]
    assert failed.x.shape == (2, 3, 3) and failed.status.tolist() == [Status.NONFINITE_INPUT, Status.NOT_POSITIVE]
    assert failed.method is result.method
    with pytest.raises(IndexError):
        result[0, 1, 0]
    with pytest.raises(TypeError):
        len(result[0, 1])


def test_message_of_many_is_of_the_worst():
    batch = np.stack([np.eye(3), -np.eye(3), np.eye(3), -2 * np.eye(3)])
    message = solve(batch, 2).message
    assert message.startswith("4 matrices: 2 CONVERGED, 2 NOT_POSITIVE (first [1]); [1] has no such root")
    assert solve(np.zeros((0, 3, 3)), 2).message == "empty batch"
    assert "3 matrices: 3 CONVERGED; [" in solve(np.stack([np.eye(2)] * 3), 2).message


def test_digits_that_are_left():
    """16 digits less log10(cond / p); 7 less of a matrix that came in float32, whatever it was computed in."""
    for cond, p, digits in [(1e2, 1, 14), (1e6, 1, 10), (1e6, 8, 11), (1e10, 2, 6)]:
        message = solve(problem(6, cond, seed=6)[0], p).message
        assert f"about {digits} digits" in message, message
    for cond, digits in ((2, 7), (1e2, 6), (1e4, 4)):
        assert f"about {digits} digits" in solve(problem(6, cond, dtype="float32", seed=6)[0], 2).message
    assert "about 3 digits" in solve(np.eye(2, dtype=np.float16), 2).message
    # the square root of a singular matrix: half of them
    assert "about 8 digits" in solve(np.diag([1.0, 0.0]), 2, inverse=False).message


@pytest.mark.parametrize(
    ("dtype", "remedy"), [("float64", "compute_dtype='float64'"), ("float32", "a matrix gathered in float64")]
)
def test_ill_conditioned_says_what_to_do(dtype, remedy):
    A = ill(dtype)
    result = solve(A, 2, method="coupled_newton", compute_dtype="float32")
    assert result.status == Status.ILL_CONDITIONED
    message = result.message
    assert re.search(r"costs 2\d of the 24 bits of float32: about [01] digits? (is|are) left", message), message
    assert f"use {remedy}, or regularization=1e-05 (a ridge)" in message
    assert not result.converged
    # what it recommends, it accepts; no arithmetic brings back what a float32 matrix has lost
    assert solve(A, 2, method="coupled_newton", compute_dtype="float64").converged == (dtype == "float64")
    assert solve(A, 2, method="coupled_newton", compute_dtype="float32", regularization=1e-5).converged


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_float64_meets_its_end_too(row):
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((9, 9)))[0]
    for smallest in (1e-15, 1e-16, 1e-18):
        A = (Q * np.geomspace(1, smallest, 9)) @ Q.T
        result = solve((A + A.T) / 2, 2, method=row.method)
        assert result.status != Status.CONVERGED, result.message
        assert "'float64'" not in result.message


def test_max_iter_says_so():
    A, _ = problem(10, 1e6, seed=7)
    result = solve(A, 2, method="coupled_newton", max_iter=3)
    assert result.status == Status.MAX_ITER
    assert result.n_iter == 3
    assert "after 3 iterations" in result.message
    assert "raise max_iter" in result.message


def test_certificate_is_named():
    for method, most in (("eigen", 32), ("coupled_newton", 32), ("tridiagonal", 8)):
        assert solve(problem(most, 10)[0], 2, method=method).certificate == "full"
        assert solve(problem(most + 1, 10)[0], 2, method=method).certificate == "probes"


def test_the_method_says_why_it_was_chosen():
    result = solve(np.eye(3), 2)
    assert result.method.reason
    assert result.method.reason in repr(result.method)
    assert solve(np.eye(3), 2, method="coupled_newton").method.reason == ""
    assert solve(np.eye(3), 2, method=Eigen(refine=False)).method == Eigen(refine=False)
    assert repr(Eigen(refine=False)) == "Eigen(refine=False)"


def test_companion_only_where_it_is_free():
    A, _ = problem(7, 1e2, seed=9)
    result = solve(A, 4, method="newton_db")
    assert np.linalg.norm(result.companion @ result.x - np.eye(7)) <= 1e3 * 7 * EPS["float64"]
    assert solve(A, 4, method="eigen").companion is None


def test_pseudo_inverse_of_zero_is_zero():
    result = solve(np.stack([np.zeros((3, 3)), np.eye(3)]), 2, regularization=PseudoInverse())
    assert result.converged.all()
    assert (result.x[0] == 0).all()
    assert list(result.cond) == [1, 1]


def test_ridge_is_reported_in_the_units_of_the_matrix():
    A = np.stack([1e-30 * np.diag([1.0, 0.0]), 1e20 * np.diag([2.0, 0.0])])
    for row in ROWS:
        result = solve(A, 2, method=row.method, regularization=Ridge(relative=1e-3))
        assert np.allclose(result.ridge, [1e-33, 2e17], rtol=1e-2)
        assert np.allclose(result.lambda_max, [1e-30, 2e20], rtol=1e-2)
        assert np.allclose(result.cond, 1001, rtol=1e-2)


def test_public_names_are_documented():
    for name in matroot.__all__:
        thing = getattr(matroot, name)
        assert thing.__doc__, name


def test_a_residual_that_rounding_does_not_explain_is_never_converged(monkeypatch):
    """A root that is off by 1e-6 at cond 10, whoever computed it, and however content that method was."""
    A, _ = problem(10, 10.0)
    monkeypatch.setattr(
        CoupledNewton,
        "run",
        lambda self, A, problem, backend: Raw(
            (1 + 1e-6) * true_run(self, A, problem, backend).x, np.zeros(len(A), np.int8), np.ones(len(A), np.int64), 1
        ),
    )
    for s in (-1 / 3, 1 / 2):
        p = round(1 / abs(s))
        result = solve(A, p, inverse=s < 0, method="coupled_newton")
        assert result.status == Status.ILL_CONDITIONED
        assert "about 6 digits" in result.message or "about 5 digits" in result.message
