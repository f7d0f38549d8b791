"""General matrices without a root: a status, and the others of their batch are not touched."""

import numpy as np
import pytest
from test_bad_input import EYE

from matroot import Ridge, RootError, Status, inverse_pth_root, solve

ROTATION = np.array([[0.0, -1.0], [1.0, 0.0]])


NO_ROOT = {
    "zero": np.zeros((2, 2)),
    "negative": -np.eye(2),
    "a negative eigenvalue": np.array([[1.0, 5.0], [0.0, -2.0]]),
    "a hidden one": np.array([[1.0, 2.0], [3.0, 4.0]]),
    "a Jordan block at 0": np.array([[0.0, 1.0], [0.0, 0.0]]),
    "singular": np.array([[1.0, 2.0], [2.0, 4.0]]),
    "complex dtype": np.array([[1.0, 5.0], [0.0, -2.0]], complex),
}


@pytest.mark.parametrize("A", NO_ROOT.values(), ids=NO_ROOT)
def test_no_principal_root(A):
    for p in (2, 3, 12):
        result = solve(A, p, assume_a="gen")
        assert result.status == Status.NO_PRINCIPAL_ROOT, result.message
        assert "negative real axis" in result.message
        assert "Ridge" in result.message
        assert np.isnan(result.x).all()
        with pytest.raises(RootError, match="negative real axis"):
            inverse_pth_root(A, p, assume_a="gen")


def test_bad_general_matrices_leave_their_batch_alone():
    good = np.stack([EYE[:2, :2] + ROTATION * t for t in (0.1, 1, 3)])
    expected = solve(good, 3, assume_a="gen")
    for A in [*NO_ROOT.values(), np.full((2, 2), np.nan), np.diag([np.inf, 1])]:
        result = solve(np.insert(good.astype(A.dtype), 1, A, axis=0), 3, assume_a="gen")
        assert result.status[1] in (Status.NO_PRINCIPAL_ROOT, Status.NONFINITE_INPUT)
        if A.dtype == float:
            assert np.array_equal(result.x[[0, 2, 3]], expected.x)
            assert np.array_equal(result.residual[[0, 2, 3]], expected.residual)


def test_a_ridge_mends_a_general_matrix():
    result = solve(np.array([[1.0, 5.0], [0.0, -0.1]]), 2, assume_a="gen", regularization=Ridge(absolute=0.5))
    assert result.converged
    assert result.ridge == 0.5
