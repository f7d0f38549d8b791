"""The fuzzer itself: its references satisfy their equations to 50 digits, and it sees what is wrong."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from fuzz import general, large, narrow, relatives, symmetric
from fuzz.__main__ import attempt
from fuzz.case import Case
from fuzz.draw import draw
from fuzz.exact import Exact, identity, ratio, real_form, residual
from fuzz.relatives.trial import differing
from fuzz.verdict import judge

from matroot import Status, gallery
from matroot._solve import solve_power

FIFTY_DIGITS = 1e-50


def drawn(module, kind, dtype, s, *arguments):
    """The first matrix of a kind that has a power A^s."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        matrix = module.draw(rng, *arguments, dtype)
        known = matrix.known(s, None, 0.0) if matrix.kind == kind else None
        if known is not None and known.X is not None:
            return matrix, known
    raise AssertionError(kind)


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@pytest.mark.parametrize("kind", [k for k in general.KINDS if k not in ("negative", "zero")])
def test_general_references_to_50_digits(kind, dtype):
    for s in (Fraction(-1, 3), Fraction(2, 5)):
        matrix, known = drawn(general, kind, dtype, s)
        A = Exact.of(real_form(matrix.a))
        assert residual(A, known.X, s, None, identity(len(A.m))) < FIFTY_DIGITS


@pytest.mark.parametrize("dtype", ["float64", "complex64", "bfloat16"])
@pytest.mark.parametrize("kind", [k for k in symmetric.KINDS if k not in ("indefinite", "singular", "constant")])
def test_symmetric_references_to_50_digits(kind, dtype):
    s = Fraction(1, 3)  # an inverse root is missing where the matrix is singular in its dtype
    matrix, known = drawn(symmetric, kind, dtype, s, 4)
    A = Exact.of(real_form(matrix.a.astype(complex if dtype.startswith("complex") else float)))
    assert min(known.share, 0) > -1e-3
    if known.share > 0:
        assert residual(A, known.X, s, None, identity(len(A.m))) < FIFTY_DIGITS


def test_a_case_is_its_seed_and_index():
    for index in range(20):
        one, other = draw(1, index), draw(1, index)
        assert str(one) == str(other) and np.array_equal(one.a, other.a)
    assert str(draw(2, 0)) != str(draw(1, 0))


@pytest.mark.parametrize(("index", "fault"), [(9543, "wrong CONVERGED"), (6714, "false alarm"), (6714, "residual")])
def test_bars_beside_the_axis_are_those_of_the_jump(index, fault):
    case = draw(3, index)  # 1e-10 and 1e-9 beside it, where rounding the data moves the power by 3e-5 and 3e-7
    assert fault not in [kind for kind, _ in judge(case, solve_power(case.a, case.s, **case.options))]


def test_a_residual_below_one_rounding_of_its_evaluation_may_be_told_smaller():
    case = draw(105, 1105)  # cond 4e10: true 2.6e-7, told 2.5e-8 or 1.1e-7 by the order of the products
    result = solve_power(case.a, case.s, **case.options)
    assert judge(case, result) == []
    wrong = replace(result, x=result.x * (1 + 1e-5), residual=result.residual)
    assert "residual" in [kind for kind, _ in judge(case, wrong)]


def test_large_matrices_of_every_layout_alone_and_in_mixed_batches():
    for seed, index in [(7701, 31), (7701, 119), (7701, 295), *((1, i) for i in range(40))]:
        case = large.draw(seed, index)
        assert attempt(case)[0] == [], str(case)


def test_references_of_large_matrices():
    A = gallery.spd(40, 1e3, rng=0)[0]
    matrix = large.Spectrum(A)
    for s in (Fraction(-1, 3), Fraction(2, 5), 0.3):
        known = large.known(matrix, 2.0**-53, s, None, 0.0)
        assert np.linalg.norm(known.X - solve_power(A, s, method="eigen").x) <= 1e-12 * np.linalg.norm(known.X)
        assert known.residual(known.X) < 1e-10 < 1e-4 < known.residual(1.001 * known.X)
    assert large.known(large.Spectrum(-A), 2.0**-53, Fraction(1, 2), None, 0.0).hopeless == "indefinite"


def plain():
    """A case without difficulties, and its result."""
    matrix, _ = drawn(symmetric, "cluster", "float64", Fraction(-1, 3), 4)
    case = Case([matrix], (), "float64", Fraction(-1, 3), {"method": "eigen"})
    return case, solve_power(matrix.a, case.s, method="eigen")


WRONG = {
    "scale": (lambda r: {"x": 2 * r.x}, "wrong CONVERGED"),
    "power": (lambda r: {"x": r.x @ r.x}, "wrong CONVERGED"),
    "last digits": (lambda r: {"x": r.x * (1 + 1e-9)}, "wrong CONVERGED"),
    "not a number": (lambda r: {"x": r.x * np.nan}, "wrong CONVERGED"),
    "one entry": (lambda r: {"x": r.x + np.eye(4, k=1) * 1e-15 * np.abs(r.x).max()}, "not Hermitian"),
    "status": (lambda r: {"status": np.int8(Status.STAGNATED)}, "false alarm"),
    "residual": (lambda r: {"residual": np.float64(1e-3)}, "residual"),
    "ridge": (lambda r: {"ridge": np.float64(1e-3)}, "ridge"),
    "dtype": (lambda r: {"x": r.x.astype(np.float32)}, "kind"),
}


def test_what_is_right_is_not_reported():
    case, result = plain()
    assert judge(case, result) == []


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_reported(what):
    change, kind = WRONG[what]
    case, result = plain()
    assert kind in [found for found, _ in judge(case, replace(result, **change(result)))]


@pytest.mark.parametrize(("kind", "s"), [("indefinite", Fraction(1, 2)), ("laplacian", Fraction(-1, 2))])
def test_a_root_where_there_is_none_is_reported(kind, s):
    for seed in range(100):
        matrix = symmetric.draw(np.random.default_rng(seed), 4, "float64")
        if matrix.kind == kind and matrix.known(s, None, 0.0).hopeless:
            break
    case = Case([matrix], (), "float64", s)
    result = solve_power(matrix.a, s)
    wrong = replace(result, x=np.eye(4), status=np.int8(Status.CONVERGED))
    assert any(found.startswith("missed") for found, _ in judge(case, wrong))


def test_the_residual_of_a_power_that_vanishes():
    A = np.array([[0.0, 4.0], [0.0, 0.0]])
    X = np.array([[0.0, 16e-10], [0.0, 0.0]])
    assert residual(Exact.of(A), Exact.of(X), Fraction(2), None, identity(2)) == pytest.approx(1e-10)


def test_norms_of_any_size():
    huge = Exact.of(np.array([[1e300, 1e-300]]))
    assert ratio((huge - huge).norm(), huge.norm()) == 0
    assert ratio(huge.norm(), Exact.of(np.array([[1e-300]])).norm()) == np.inf
    assert ratio(huge.norm(), Exact.of(np.array([[5e299]])).norm()) == pytest.approx(2)


def test_narrow_dtypes_are_compared_with_the_matrix_before_it_was_rounded():
    A, rounded, dtype, s = narrow.draw(0, 15812)  # which was CONVERGED: float16, below its normal range
    assert dtype == "float16" and s == Fraction(1, 3) and abs(rounded[0, 0]) < 2.0**-14
    exact = narrow.power(A, s)
    assert abs(float(rounded[0, 0]) ** (1 / 3) / exact - 1) > narrow.UNDER_TWO_DIGITS
    found = [narrow.error(index, 0) for index in (*range(150), 15812, 17007)]
    assert not [words for _, status, off, words in found if status == "CONVERGED" and off > narrow.UNDER_TWO_DIGITS]
    assert {"CONVERGED", "ILL_CONDITIONED"} <= {status for _, status, _, _ in found}


def test_narrow_references_to_25_digits():
    A, _, _, _ = narrow.draw(0, 4)
    X = narrow.power(A, Fraction(1, 2))
    assert np.linalg.norm(X @ X - A) <= 1e-14 * np.linalg.norm(A)
    assert narrow.power(-np.eye(2), Fraction(-1, 2)) is None


def test_functions_beside_the_roots():
    names = set()
    for index in range(60):
        trial = relatives.draw(1, index)
        names.add(trial.name)
        assert trial.faults() == [], str(trial)
    assert len(names) == 10


def test_short_trainings():
    for index in range(20):
        training = relatives.draw_training(1, index)
        assert training.name.startswith("optax ") or training.faults() == [], str(training)


def first(name, **wanted):
    """The first trial of a function whose members are all usable, and its call."""
    for index in range(1000):
        trial = relatives.draw(2, index)
        fits = trial.name == name and not trial.others and str(trial.dtype) == "float64" and trial.members
        if fits and all(getattr(trial, key) == value for key, value in wanted.items()):
            result = trial.call(*trial.arrays())
            x = result if isinstance(result, np.ndarray) else getattr(result, "x", 0)
            if not np.any(getattr(result, "status", 0)) and np.isfinite(x).all():
                return trial, trial.call
    raise AssertionError(name)


@pytest.mark.parametrize("name", ["spectral_power", "orthogonalizer", "solve_apply", "stochastic_root"])
def test_trials_see_what_is_wrong(name):
    trial, call = first(name)
    trial.call = lambda *arrays: replace(call(*arrays), x=call(*arrays).x * (1 + 1e-3))
    assert trial.faults()


def test_trials_see_inputs_that_are_written_to():
    trial, call = first("polar", layouts=("C",))

    def written(a):
        result = call(a)
        a *= 2
        return result

    trial.call = written
    assert ("input written", "") in trial.faults()


def test_trials_see_a_member_that_depends_on_the_others():
    trial, call = first("spectral_power", batch=(3,))

    def mixed(a):
        result = call(a)
        return replace(result, cond=result.cond + np.nan_to_num(a).sum())

    trial.call = mixed
    assert "differs beside NaN" in [kind for kind, _ in trial.faults()]


def test_two_libraries_agree_up_to_a_rounding_of_the_dtype():
    one, other = {"x": np.ones(3)}, {"x": np.ones(3) * (1 + 2.0**-50)}
    assert differing(one, other, ()) == ["x by 8.9e-16"] and differing(one, other, (), 1e-12) == []
    assert differing(one, {"x": np.full(3, np.nan)}, (), 1e-12)
