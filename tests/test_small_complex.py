"""Complex matrices in lanes, as real ones of twice the size."""

from fractions import Fraction

import numpy as np
import pytest
from table import EPS, distance
from test_small import EPS64

from matroot import PseudoInverse, Status, gallery, solve
from matroot._solve import solve_power


@pytest.mark.parametrize("rule", [None, 1e-3, PseudoInverse(1e-3)], ids=str)
def test_complex_roots_are_hermitian_to_the_last_bit(rule):
    """Also where the imaginary part is rounding noise, of which the two copies differ."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((300, 3, 3)) + 1j * rng.standard_normal((300, 3, 3)))[0]
    A = (Q * [1 - 1e-15, 1.0, 1.0]) @ Q.conj().swapaxes(1, 2)
    X = solve((A + A.conj().swapaxes(1, 2)) / 2, 6, regularization=rule).x
    assert (X == X.conj().swapaxes(1, 2)).all()


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("n", (1, 3, 8, 9, 20))
def test_hermitian_matrices(n, dtype):
    """They are real ones of twice the size, whose root has the same form."""
    cond = 1e3 if n > 1 else 1.0
    A, root = gallery.spd(n, cond, batch=(11,), dtype="complex128", rng=2)
    A = A.astype(dtype)
    A[3] *= 64
    for s in (Fraction(-1, 3), Fraction(1, 2)):
        result, reference = (solve_power(A, s, method=m) for m in ("tridiagonal", "eigen"))
        X = result.x
        assert result.converged.all()
        assert X.dtype == dtype
        assert result.compute_dtype == "complex128"
        assert (X == X.conj().swapaxes(1, 2)).all()
        others = np.arange(11) != 3
        assert distance(X[others], root(s)[others]) <= (5 * cond + 20 * n**0.5) * EPS[dtype]
        assert distance(X, reference.x) <= (5e3 + 100) * EPS64 + 2 * EPS[dtype]
        for name in ("cond", "lambda_min", "lambda_max"):
            assert np.allclose(getattr(result, name), getattr(reference, name), rtol=1e-9)
        wide, exact = X.astype("complex128"), A.astype("complex128")
        P = np.linalg.matrix_power(wide, s.denominator)
        gap = P @ exact - np.eye(n) if s < 0 else P - exact
        truth = np.linalg.norm(gap, axis=(1, 2)) / (n**0.5 if s < 0 else np.linalg.norm(exact, axis=(1, 2)))
        assert (result.residual <= 10 * truth + 10 * EPS64).all()
        assert (truth <= 10 * result.residual + 10 * EPS64).all()


def test_a_bad_hermitian_matrix_beside_others():
    A, _ = gallery.spd(5, 1e2, batch=(9,), dtype="complex128", rng=2)
    good = solve(A, 2, method="tridiagonal").x
    A[1], A[4] = np.nan, -A[4]
    A[6, 2, 3] = np.inf
    result = solve(A, 2, method="tridiagonal")
    assert np.flatnonzero(~result.converged).tolist() == [1, 4, 6]
    assert (result.x[result.converged] == good[result.converged]).all()
    A[0, 1, 1] += 1e-3j
    with pytest.raises(ValueError, match=r"not Hermitian: .*gen"):
        solve(A[0], 2, method="tridiagonal")
    result = solve(A, 2, method="tridiagonal")
    assert result.status[0] == Status.NOT_SYMMETRIC and np.isnan(result.x[0]).all()
    assert (result.x[result.converged] == good[result.converged]).all() and result.converged.sum() == 5
