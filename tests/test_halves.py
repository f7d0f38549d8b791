"""Half precisions by the kernels: the certificate is that of the rounded root, and rules are applied to the digit."""

from fractions import Fraction

import numpy as np
import pytest
from table import EPS, conjugate, distance
from test_array_kinds import SPD, power

from matroot import Floor, PseudoInverse, Ridge, Shift, Status, TargetCondition, gallery, solve
from matroot.methods.eigen import Eigen
from matroot.pipeline import retries

#: Unit roundoffs.
UNITS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def rounded(A, name):
    """The stack in a half precision; bfloat16 as a tensor of torch."""
    if name == "float16":
        return A.astype(name)
    torch = pytest.importorskip("torch")
    return torch.from_numpy(A).to(torch.bfloat16)


def as_numpy(x):
    return np.asarray(x if isinstance(x, np.ndarray) else x.double().numpy(), np.float64)


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("n", [2, 3, 8, 20, 40, 130])
@pytest.mark.parametrize("s", [Fraction(-1), Fraction(-1, 2), Fraction(-1, 4), Fraction(1, 3), Fraction(2, 3)], ids=str)
def test_the_rounded_root_is_certified(n, s, name, by_kernels):
    A = rounded(gallery.spd(n, 20.0, batch=(9,), rng=n)[0], name)
    result = solve(A, s=s)
    W, X, p = as_numpy(A), as_numpy(result.x), s.denominator
    w, Q = np.linalg.eigh((W + conjugate(W)) / 2)
    expected = (Q * w[:, None] ** float(s)) @ conjugate(Q)
    size = np.linalg.norm(expected, 2, (1, 2))
    assert (np.linalg.norm(X - expected, 2, (1, 2)) <= n**0.5 * UNITS[name] * size).all()
    assert np.isin(as_numpy(result.status), (Status.CONVERGED, Status.ILL_CONDITIONED)).all()
    goal = np.eye(n) if s < 0 else np.linalg.matrix_power(W, s.numerator)
    gap = np.linalg.matrix_power(X, p) @ (W if s < 0 else np.eye(n)) - goal
    residual = np.linalg.norm(gap, axis=(1, 2)) / (n**0.5 if s < 0 else np.linalg.norm(goal, axis=(1, 2)))
    found = as_numpy(result.residual)
    assert (found <= 3 * residual).all() and (found >= residual / 3).all()  # eight probes, or all columns up to n = 8
    assert (found > UNITS[name] / 10).all()  # that of a root in float32 is a thousandth of it


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("n", [3, 8, 20, 130])
def test_so_is_that_of_a_singular_matrix(n, name, by_kernels):
    Q = np.linalg.qr(np.random.default_rng(n).standard_normal((5, n, n)))[0]
    A = rounded(Q[:, :, : n // 2] @ conjugate(Q[:, :, : n // 2]), name)
    for s in (Fraction(1, 4), Fraction(4, 5), Fraction(1)):
        result = solve(A, s=s)
        W, X = as_numpy(A), as_numpy(result.x)
        goal = np.linalg.matrix_power(W, s.numerator)
        gap = np.linalg.norm(np.linalg.matrix_power(X, s.denominator) - goal, axis=(1, 2))
        residual = gap / np.linalg.norm(goal, axis=(1, 2))
        assert (abs(as_numpy(result.residual) - residual) <= 2 * residual).all()
        assert s == 1 or (residual > UNITS[name] / 100).all()


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("rule", [0.01, Shift(0.1), TargetCondition(5.0)], ids=str)
def test_rules_are_exact(rule, name, by_kernels):
    """A ridge was relative to an estimate of lambda_max, up to some per cent too small."""
    for n in (4, 30, 130):
        A = rounded(gallery.spd(n, 20.0, batch=(5,), rng=n)[0], name)
        w = np.linalg.eigvalsh(as_numpy(A))
        one = Ridge(rule) if isinstance(rule, float) else rule
        ridge = one.shift(w[:, -1], w[:, 0], np.ones(5))
        assert np.allclose(as_numpy(solve(A, 4, regularization=rule).ridge), ridge, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", UNITS)
def test_the_statuses_of_a_decomposition(name):
    """Ordinary, ill-conditioned, singular, negative, faint, too small a root for the dtype, zero, and not a number."""
    rng, n = np.random.default_rng(0), 6
    Q = np.linalg.qr(rng.standard_normal((8, n, n)))[0]
    w = np.geomspace(1, 0.2, n) * np.ones((8, 1))
    w[1, -1], w[2, -1], w[3, -1], w[6] = UNITS[name] * 5, 0, -0.3, 0
    A = (Q * w[:, None]) @ conjugate(Q)
    A = (A + conjugate(A)) / 2
    A[4] *= 2e-6 if name == "float16" else 1e-39
    A[5] *= 3e-5 if name == "float16" else 1e-38
    A[7, 0, 0] = np.nan
    for s in (Fraction(-1), Fraction(-1, 4), Fraction(1, 2), Fraction(1)):
        for rule in (None, 1e-2, Ridge(1e-6, retries=3), Floor(0.1)):
            for rtol in (None, 1e-2):
                given = rounded(A, name)
                ours, other = (solve(given, s=s, regularization=rule, rtol=rtol, method=m) for m in ("auto", "eigen"))
                assert (as_numpy(ours.status) == as_numpy(other.status)).all(), (s, rule, ours.status, other.status)
                for i in range(8):
                    assert as_numpy(solve(given[i], s=s, regularization=rule, rtol=rtol).status) == ours.status[i]


def test_half_precision_is_computed_wider():
    import ml_dtypes

    for dtype in (np.float16, ml_dtypes.bfloat16):
        result = solve(SPD.astype(dtype), 2, compute_dtype="float32")
        assert result.compute_dtype == "float32"
        assert solve(SPD.astype(dtype), 2).compute_dtype in ("float32", "float64")
        # correctly rounded, or the neighbour
        assert distance(result.x.astype(float), power(SPD, -0.5)) <= 2 * EPS[np.dtype(dtype).name]


def test_the_residual_is_of_the_rounded_root():
    """What float16 rounds away is in the residual: X is judged as it is returned."""
    for dtype in ("float16", "float32"):
        result = solve(SPD.astype(dtype), 2)
        X = result.x.astype(float)
        truth = np.linalg.norm(X @ X @ SPD - np.eye(3)) / 3**0.5
        assert np.isclose(result.residual, truth, rtol=1e-6)
        assert EPS[dtype] / 30 < result.residual < 30 * EPS[dtype]


def test_only_cuts_take_eigenvectors(monkeypatch):
    monkeypatch.setattr(Eigen, "run", None)
    A = gallery.spd(6, 20.0, batch=(3,), rng=0)[0].astype("float16")
    assert solve(A, 4).converged.all()
    with pytest.raises(TypeError):
        solve(A, 4, regularization=Floor(0.1))


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("rule", [Floor(0.05), PseudoInverse(0.05), Floor(absolute=0.03)], ids=str)
@pytest.mark.parametrize("n", [3, 8, 20, 130])
@pytest.mark.parametrize("s", [Fraction(-1, 2), Fraction(1, 3), Fraction(2)], ids=str)
def test_only_what_a_rule_cuts_is_decomposed(n, s, rule, name, monkeypatch):
    """The others have the bits that they have without the rule; all have the facts of a decomposition."""
    A = gallery.spd(n, 10.0, batch=(9,), rng=n)[0]
    A[[2, 7]] = gallery.spd(n, 100.0, batch=(2,), rng=n)[0]
    A, counts, attempt = rounded(A, name), [], retries.attempt
    expected = solve(A, s=s, regularization=rule, method="eigen")
    monkeypatch.setattr(retries, "attempt", lambda stack, job: counts.append(len(stack)) or attempt(stack, job))
    result, plain = solve(A, s=s, regularization=rule), solve(A, s=s)
    assert counts == [2]
    fine = [0, 1, 3, 4, 5, 6, 8]
    assert (as_numpy(result.x)[fine] == as_numpy(plain.x)[fine]).all()
    for field in ("status", "changed"):
        assert (as_numpy(getattr(result, field)) == as_numpy(getattr(expected, field))).all()
    assert np.allclose(as_numpy(result.x), as_numpy(expected.x), rtol=0, atol=4 * UNITS[name] * 10 ** max(float(-s), 0))
    assert np.allclose(as_numpy(result.residual), as_numpy(expected.residual), rtol=0.3)
