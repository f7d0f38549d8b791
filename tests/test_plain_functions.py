"""The plain functions raise and warn what a result says."""

import pickle
import warnings

import numpy as np
import pytest
from table import problem
from test_result import ROWS, ill, mixed

import matroot
from matroot import (
    ConditionWarning,
    RootError,
    Status,
    fractional_power,
    inv_sqrtm,
    inverse_pth_root,
    pth_root,
    solve,
    sqrtm,
)


def test_an_error_has_the_result_and_the_indices():
    batch = mixed()
    with pytest.raises(RootError) as caught:
        inverse_pth_root(batch, 2)
    indices = caught.value.indices
    assert [i.tolist() for i in indices] == [[0, 1], [2, 1]]
    assert np.isnan(batch[indices][0]).all() and np.allclose(caught.value.result.x[0, 1], np.eye(3) / 2**0.5)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value) and copy.result.message == caught.value.result.message
    with pytest.raises(RootError) as caught:
        inverse_pth_root(batch[0, 2], 2)
    assert caught.value.indices == ()


PLAIN = {
    "inverse_pth_root": lambda a, **k: inverse_pth_root(a, 2, **k),
    "pth_root": lambda a, **k: pth_root(a, 2, **k),
    "fractional_power": lambda a, **k: fractional_power(a, -0.5, **k),
    "sqrtm": sqrtm,
    "inv_sqrtm": inv_sqrtm,
}


@pytest.mark.parametrize("call", PLAIN.values(), ids=PLAIN)
def test_plain_functions_raise(call):
    assert issubclass(RootError, np.linalg.LinAlgError)
    with pytest.raises(RootError, match=r"^the matrix has no such root: .*-1\.0e\+00"):
        call(-np.eye(3))
    with pytest.raises(RootError, match=r"^1 of 3 matrices has no root; the first, a\[1\], holds NaN"):
        call(np.stack([np.eye(2), np.eye(2) * np.nan, np.eye(2)]))
    with pytest.raises(RootError, match=r"^2 of 4 matrices have no root; the first, a\[0, 1\], has"):
        call(np.stack([np.eye(2), -np.eye(2), np.eye(2), -np.eye(2)]).reshape(2, 2, 2, 2))


@pytest.mark.parametrize("name", ["inverse_pth_root", "fractional_power", "inv_sqrtm"])
def test_plain_functions_warn(name):
    call = PLAIN[name]
    with pytest.warns(ConditionWarning, match=r"^the matrix was solved, but at cond .* digits? (is|are) left") as seen:
        x = call(ill(), compute_dtype="float32")
    assert np.isfinite(x).all()
    if name == "inverse_pth_root":
        assert seen[0].filename == __file__  # the caller's line, not ours
    with pytest.warns(ConditionWarning, match=r"^1 of 2 matrices ill-conditioned; the first, a\[1\], was solved"):
        call(np.stack([np.eye(12, dtype=np.float32), ill()]), compute_dtype="float32")
    assert issubclass(ConditionWarning, UserWarning)


def test_errors_and_warnings_are_named_as_they_are_imported():
    for kind in (RootError, ConditionWarning):
        assert (kind.__module__, pickle.loads(pickle.dumps(kind))) == ("matroot", kind)


def test_one_matrix_gives_no_sequence():
    """`x, info = solve(...)` must not find an empty one."""
    assert [one.x.shape for one in solve(np.stack([np.eye(3)] * 2), 2)] == [(3, 3)] * 2
    with pytest.raises(TypeError, match=r"RootResult of one matrix is no sequence; its array is result\.x"):
        _, _ = solve(np.eye(3), 2)
    with pytest.raises(TypeError, match=r"its array is result\.u"):
        list(matroot.polar(np.eye(3)))


def test_solve_neither_raises_nor_warns():
    batch = np.stack([np.eye(12, dtype=np.float32), ill(), -np.eye(12), np.full((12, 12), np.inf)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for row in (row for row in ROWS if row.single):
            result = solve(batch.astype(np.float32), 2, method=row.method, compute_dtype=row.arithmetic("float32"))
            assert result.status[0] == Status.CONVERGED
            assert result.status[1] != Status.CONVERGED
            assert list(result.status[2:]) == [Status.NOT_POSITIVE, Status.NONFINITE_INPUT]


def test_good_roots_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in PLAIN.values():
            call(problem(12, 1e8, seed=8)[0])


@pytest.mark.parametrize("name", ["inverse_pth_root", "fractional_power", "inv_sqrtm"])
def test_warnings_point_at_the_caller(name):
    with pytest.warns(ConditionWarning) as seen:
        PLAIN[name](ill(), compute_dtype="float32")
    assert seen[0].filename == __file__
