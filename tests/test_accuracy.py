"""METHODS x p x dtype x cond x spectrum x batch on known spectra, with the bars as formulas."""

from fractions import Fraction

import numpy as np
import pytest
from table import (
    BATCHES,
    CONDS,
    EPS,
    ITERATIONS,
    METHODS,
    NAMED,
    SIZES,
    SPECTRA,
    conjugate,
    distance,
    forward_bar,
    mpmath_residual,
    problem,
    true_residual,
)

from matroot import Eigen, Floor, PseudoInverse, Status, fractional_power, solve
from matroot._solve import solve_power

SCALES = (1e-30, 1e-6, 1.0, 1e6, 1e30)
#: Degrees 2 and 3, an even and an odd one, tell most of what is wrong; every degree takes minutes.
CASES = [pytest.param(row, p, marks=[] if p in (2, 3) else pytest.mark.slow) for row in METHODS for p in row.degrees]


def cases(dtype, sizes=SIZES):
    for n in sizes:
        for cond in CONDS[dtype]:
            for spectrum in SPECTRA:
                yield n, cond if n > 1 else 1.0, spectrum


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("row", "p"), CASES, ids=str)
def test_inverse_root_reaches_the_bar(row, p, dtype):
    for n, cond, spectrum in cases(dtype):
        A, root = problem(n, cond, spectrum, BATCHES[n], dtype, seed=n)
        result = solve(A, p, method=row.method, compute_dtype=row.arithmetic(dtype))
        what = f"n={n} cond={cond:g} {spectrum}"
        assert np.isin(result.status, [Status.CONVERGED, Status.ILL_CONDITIONED]).all(), what
        assert distance(result.x, root(-1 / p)) <= row.bar(cond, -1 / p, n, EPS[dtype]), what
        assert (result.x == conjugate(result.x)).all(), what
        if cond <= 1e3:
            assert result.converged.all(), what
            assert (result.residual <= row.residual * row.bar(p * cond, -1, n, EPS[dtype])).all(), what


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["complex128", "complex64"])
@pytest.mark.parametrize("row", METHODS, ids=str)
def test_hermitian(row, dtype):
    for p in (p for p in row.degrees if p in (2, 3, 8)):
        for n, cond, spectrum in cases(dtype, (1, 2, 31)):
            A, root = problem(n, cond, spectrum, BATCHES[n], dtype, seed=n)
            result = solve(A, p, method=row.method, compute_dtype=row.arithmetic(dtype))
            assert result.compute_dtype == (dtype if row.single else "complex128")
            assert distance(result.x, root(-1 / p)) <= row.bar(cond, -1 / p, n, EPS[dtype])
            assert (result.x == conjugate(result.x)).all()


@pytest.mark.parametrize("row", METHODS, ids=str)
def test_root(row):
    """A^{1/p}: better conditioned than its inverse, and so are the results."""
    for p in (p for p in row.degrees if p > 1 or row.single):
        for n, cond, spectrum in cases("float64", (1, 2, 31)):
            A, root = problem(n, cond, spectrum, BATCHES[n], seed=n)
            result = solve(A, p, inverse=False, method=row.method)
            assert np.isin(result.status, [Status.CONVERGED, Status.ILL_CONDITIONED]).all()
            # An iteration takes A^{1/p} as A A^{1/p - 1}, which is conditioned like the inverse root, over ||A^{1/p}||.
            bar = forward_bar(cond, 1 / p, n, EPS["float64"], floor=12)
            bar = max(bar, 3 * cond * EPS["float64"]) if p > 1 else bar
            assert distance(result.x, root(1 / p)) <= row.slack * bar, (n, cond, spectrum)
            assert (result.x == conjugate(result.x)).all()


@pytest.mark.parametrize("row", METHODS, ids=str)
def test_rational_exponents(row):
    for s in row.exponents:
        for cond in (1e1, 1e3):
            A, root = problem(17, cond, seed=2)
            result = solve_power(A, s, method=row.method)
            assert result.exponent == s
            bar = max(1, abs(s.numerator)) * row.bar(cond ** max(1, -float(s)), -1, 17, EPS["float64"])
            assert distance(result.x, root(s)) <= bar, (s, cond)
            assert (result.x == conjugate(result.x)).all()


@pytest.mark.parametrize("s", [0.5, -0.123456789, np.pi, -np.e / 4])
def test_any_real_exponent_by_eigen(s):
    A, root = problem(12, 1e3, seed=4)
    assert distance(fractional_power(A, s), root(s)) <= 3e3 * 4 * EPS["float64"] * max(1, abs(s))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("row", NAMED.values(), ids=str)
def test_scales(row, scale, dtype):
    for p in (p for p in row.degrees if p in (1, 2, 3, 8)):
        for cond in (1e1, 1e6):
            A, root = problem(31, cond, dtype=dtype, seed=5, scale=scale)
            result = solve(A, p, method=row.method, compute_dtype=row.arithmetic(dtype))
            assert distance(result.x, root(-1 / p)) <= row.bar(cond, -1 / p, 31, EPS[dtype])
            assert np.isclose(result.lambda_max, scale, rtol=1e-2)


@pytest.mark.parametrize("scale", [1e-300, 1e300, 1e-310], ids=str)
@pytest.mark.parametrize("row", NAMED.values(), ids=str)
def test_the_ends_of_float64(row, scale):
    for p in (p for p in row.degrees if p > 1):
        A = np.diag([1.0, 0.5, 0.25]) * scale
        expected = np.diag(np.diag(A) ** (-1 / p))
        result = solve(A, p, method=row.method)
        assert result.converged
        # powers of numbers far from 1 lose bits themselves: 700 is about log(1e300)
        assert distance(result.x, expected) <= 700 * EPS["float64"]


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
@pytest.mark.parametrize("row", METHODS, ids=str)
def test_reported_residual_is_the_true_one(row, dtype):
    """Whole products up to n = 32: within a factor 10, or as small as evaluating it in float64 can tell."""
    for p in row.degrees:
        for inverse in (True, False) if p > 1 or row.single else (True,):
            for n, cond, spectrum in [(1, 1, "geometric"), (2, 1e3, "geometric"), (31, 1e4, "two_cluster")]:
                A, _ = problem(n, cond, spectrum, dtype=dtype, seed=6)
                result = solve(A, p, inverse=inverse, method=row.method, compute_dtype=row.arithmetic(dtype))
                truth = true_residual(A, result.x, result.exponent)
                noise = 4 * (p + n**0.5) * EPS["float64"]
                assert truth / 10 - noise <= result.residual <= 10 * truth + noise * (cond if inverse else 1)
                whole = row.single or n <= 8  # only Tridiagonal certifies by itself
                assert result.certificate == ("full" if whole else "probes")


ALL_EXPONENTS = (
    *(Fraction(*f) for f in ((-1, 2), (-3, 4), (-5, 2), (-2, 1), (-7, 3), (3, 4), (5, 2), (2, 1), (7, 3))),
    *(np.pi, -np.pi, 0.61803398875, -0.61803398875),
)


@pytest.mark.parametrize("regularization", [None, PseudoInverse(), Floor(1e-3)], ids=str)
@pytest.mark.parametrize("s", ALL_EXPONENTS, ids=str)
def test_one_residual_for_every_exponent(s, regularization):
    """The definition in `RootResult`, evaluated with 50 digits; float64 itself errs by a few eps cond a."""
    for n, cond, dtype in ((2, 10, "float64"), (6, 1e4, "float64"), (5, 1e8, "float64"), (6, 1e4, "float32")):
        A, _ = problem(n, cond, dtype=dtype, seed=1)
        for row in NAMED.values():
            try:
                result = solve_power(A, s, method=row.method, regularization=regularization)
            except ValueError:
                continue  # not an exponent, or not a rule, of this method
            truth = mpmath_residual(A, result.x, s, regularization)
            a, b = (abs(s.numerator), s.denominator) if isinstance(s, Fraction) else (abs(s), 1)
            kappa = min(cond, 1e3) if isinstance(regularization, Floor) else cond
            noise = 4 * (a + b + n**0.5) * EPS["float64"] * (kappa if s < 0 else 1)
            assert truth / 10 - noise <= result.residual <= 10 * truth + noise, (str(row), n, cond, dtype)
            assert not result.converged or result.residual < 1


def test_a_residual_of_an_irrational_power_does_not_repeat_the_errors_of_the_root():
    """A decomposition made twice errs twice alike: of eps cond, nothing was seen."""
    for n in (6, 40, 150):
        A, root = problem(n, 1e8, "two_cluster", seed=2)
        for s in (-0.61803398875, -np.pi / 4):
            result = solve_power(A, s)
            assert result.residual >= distance(result.x, root(s)) / 10 - n * EPS["float64"]
            assert result.residual <= 20 * EPS["float64"] * 1e8


@pytest.mark.parametrize("row", NAMED.values(), ids=str)
def test_probes_stay_within_their_spread(row):
    for n, cond in [(33, 1e2), (64, 1e5)]:
        A, _ = problem(n, cond, dtype="float32", seed=7)
        for p in (p for p in row.degrees if p in (1, 2, 4, 7)):
            result = solve(A, p, method=row.method, compute_dtype=row.arithmetic("float32"))
            truth = true_residual(A.astype(float), result.x.astype(float), result.exponent)
            assert result.certificate == "probes"
            assert truth / 10 <= result.residual <= 10 * truth


@pytest.mark.parametrize("row", ITERATIONS, ids=str)
def test_products_are_counted(row):
    A, _ = problem(8, 1e4, seed=8)
    for p in (p for p in row.degrees if p > 1 or row.method.name != "minimax"):  # there it is a Cholesky factorization
        result = solve(A, p, method=row.method)
        assert result.n_iter > 0
        assert result.n_iter <= result.n_products <= result.n_iter * (2 * p.bit_length() + 8)


@pytest.mark.parametrize("p", [12, 20, 52, 365])
@pytest.mark.parametrize(
    "row", [row for row in METHODS if row.method.name not in ("newton_db", "schur_newton")], ids=str
)
def test_large_degrees(row, p):
    for cond in (1e1, 1e4, 1e8):
        A, root = problem(20, cond, seed=p)
        result = solve(A, p, method=row.method)
        assert result.status == Status.CONVERGED
        assert distance(result.x, root(-1 / p)) < row.bar(cond, -1 / p, 20, EPS["float64"]), cond


def test_iterations_of_coupled_newton():
    """Counts for n = 128, kappa = 1e2, 1e4, 1e6, 1e8, 1e10 in float64; a better start may save some."""
    most = {2: (11, 16, 21, 27, 32), 4: (9, 14, 19, 24, 29), 8: (8, 13, 17, 22, 27)}
    for p, counts in most.items():
        for cond, count in zip((1e2, 1e4, 1e6, 1e8, 1e10), counts, strict=True):
            A, _ = problem(128, cond, seed=9)
            result = solve(A, p, method="coupled_newton")
            assert count - 3 <= result.n_iter <= count + 1, (p, cond)


def test_eigen_refines_only_where_it_pays():
    A, root = problem(40, 1e6, "two_cluster", seed=10)
    plain, refined = (distance(solve(A, 2, method=Eigen(refine=r)).x, root(-0.5)) for r in (False, True))
    assert refined <= plain
    assert solve(A, 2, method="eigen").n_products == 5
    assert solve(A, 2, method="eigen", rtol=1e-3).n_products == 1


def test_float32_is_computed_in_float64_by_default():
    A, root = problem(31, 1e6, dtype="float32", seed=11)
    for method in ("auto", "eigen", "coupled_newton"):
        result = solve(A, 2, method=method)
        assert (result.compute_dtype, result.x.dtype) == ("float64", np.float32)
        assert distance(result.x, root(-0.5)) <= 4 * EPS["float32"]
        assert solve(A, 2, method=method, compute_dtype="float32").compute_dtype == "float32"
        assert solve(A.astype(float), 2, method=method, compute_dtype=np.float32).compute_dtype == "float32"
        assert solve(A.astype(float), 2, method=method, rtol=1e-3).compute_dtype == "float64"
        assert solve(A, 2, method=method, regularization=1e-6).compute_dtype == "float64"
    with pytest.raises(ValueError, match="float64 only"):
        solve(A, 2, method="tridiagonal", compute_dtype="float32")
    easy, _ = problem(31, 1e3, dtype="float32", seed=11)
    assert solve(easy, 2, method="eigen", rtol=1e-3).compute_dtype == "float32"
    assert solve(A, 2, method="eigen", regularization=1e-2).compute_dtype == "float32"


@pytest.mark.parametrize("row", [r for r in ITERATIONS if r.method.name != "eigen"], ids=str)
@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-8])
def test_rtol_is_kept(row, rtol):
    """And asked for less, an iteration does no more."""
    for p in (p for p in row.degrees if p in (1, 2, 3, 8)):
        for cond in (1e1, 1e4):
            A, root = problem(31, cond, seed=12)
            result = solve(A, p, method=row.method, rtol=rtol)
            assert result.converged
            assert distance(result.x, root(-1 / p)) <= rtol
            assert result.n_products <= solve(A, p, method=row.method).n_products


@pytest.mark.parametrize("p", [2000, 10**6, 10**30])
def test_huge_degrees_are_real_exponents(p):
    A, root = problem(8, 1e4, seed=1)
    result = solve(A, p)
    assert result.status == Status.CONVERGED
    assert distance(result.x, root(-1 / p)) < 20 * EPS["float64"]
    with pytest.raises(ValueError, match="integers below 1024"):
        solve(A, p, method="coupled_newton")


@pytest.mark.parametrize("p", [16, 32, 100, 365])
@pytest.mark.parametrize("row", [row for row in ITERATIONS if row.method.name != "newton_db"], ids=str)
def test_the_certificate_holds_at_large_degrees(row, p):
    """A^(-1/p) is nearly I there: the forward error forgives what the residual, of the p-th power, does not."""
    for spectrum in SPECTRA:
        A, root = problem(5, 1e11, spectrum, (3,), "float64", seed=p)
        result = solve(A, p, method=row.method)
        assert result.converged.all(), (spectrum, result.residual)
        assert distance(result.x, root(-1 / p)) <= row.bar(1e11, -1 / p, 5, EPS["float64"])
