"""Matrices that are not quite symmetric: alone, in a batch, and what float32 sums leave behind."""

import numpy as np
import pytest
from table import NAMED

from matroot import (
    ConditionWarning,
    RootError,
    RootTracker,
    Status,
    apply_inverse_pth_root,
    cond_pth_root,
    gallery,
    inv_sqrtm,
    solve,
    solve_each,
)


def askew(A, gap):
    """A with one entry changed by gap max|A|."""
    B = A.copy()
    B[..., 0, -1] += gap * abs(A).max()
    return B


@pytest.mark.parametrize("n", [3, 40, 90])
@pytest.mark.parametrize("method", ["auto", *(name for name, row in NAMED.items() if 2 in row.degrees)])
@pytest.mark.parametrize("inverse", [True, False])
def test_one_in_a_batch_has_a_status_of_its_own(method, n, inverse):
    """By every route: the kernel, one matrix after the other, float32 and float64."""
    if method == "schur_newton":
        return  # general, whatever is assumed
    A, _ = gallery.spd(n, 100.0, batch=(5,), rng=n)
    good = solve(A, 2, method=method, inverse=inverse)
    B = A.copy()
    B[3] = askew(A[3], 1e-3)
    result = solve(B, 2, method=method, inverse=inverse)
    assert result.status.tolist() == [0, 0, 0, Status.NOT_SYMMETRIC, 0]
    assert np.isnan(result.x[3]).all() and np.isnan(result.residual[3]) and np.isnan(result.cond[3])
    assert np.isclose(result.asymmetry[3], 1e-3, rtol=1e-6) and (result.asymmetry[[0, 1, 2, 4]] <= 1e-15).all()
    assert (result.x[[0, 1, 2, 4]] == good.x[[0, 1, 2, 4]]).all()
    for words in ("not symmetric", "1.0e-03", "(A + A^T) / 2", "assume_a='gen'"):
        assert words in result.message
    with pytest.raises(ValueError, match=r"not symmetric: .* is 1\.0e-03 .*gen.*\(A \+ A\^T\) / 2"):
        solve(B[3], 2, method=method, inverse=inverse)
    alone = solve(B[3:4], 2, method=method, inverse=inverse)  # a batch of one
    assert alone.status == Status.NOT_SYMMETRIC


def test_every_door():
    A, _ = gallery.spd(6, 100.0, batch=(4,), rng=0)
    A[2] = askew(A[2], 1e-2)
    with pytest.raises(RootError, match=r"1 of 4 matrices has no root; the first, a\[2\], is not symmetric"):
        inv_sqrtm(A)
    with pytest.raises(RootError, match=r"1 of 4 .* 2 of the flattened batch, is not symmetric"):
        apply_inverse_pth_root(A, 2, np.ones(6))
    assert np.flatnonzero(np.isnan(cond_pth_root(A, 2))).tolist() == [2]
    tracker = RootTracker(2)
    good = A.copy()
    good[2] = A[1]
    tracker.update(good)
    for _ in range(2):
        assert tracker.update(A).status.tolist() == [0, 0, Status.NOT_SYMMETRIC, 0]
        assert not tracker.update(good).status.any()
    assert [int(r.status) for r in solve_each([A[0], A[2], A[1]], 2)] == [0, Status.NOT_SYMMETRIC, 0]
    for call in (inv_sqrtm, lambda a: cond_pth_root(a, 2), lambda a: apply_inverse_pth_root(a, 2, np.ones(6))):
        with pytest.raises(ValueError, match=r"not symmetric: .*\(A \+ A\^T\) / 2"):
            call(A[2])
    with pytest.raises(RootError, match="2 of 4"):
        inv_sqrtm(np.where(np.arange(4)[:, None, None] == 1, np.nan, A))


def test_what_float32_sums_leave_behind():
    """Two orders of summation, in float32, handed over in float64."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5000, 12)).astype("f4")
    one, two = np.zeros((2, 12, 12), "f4")
    for x, y in zip(X, X[::-1], strict=True):
        one += np.outer(x, x)
        two += np.outer(y, y)
    C = (np.triu(one) + np.tril(two, -1)).astype(float)
    result = solve(C, 2)
    assert 1e-8 < result.asymmetry < 7e-6 and result.converged
    mean = (C + C.T) / 2
    assert (result.x == solve(mean, 2).x).all()
    assert f"{np.log10(1 / float(result.asymmetry)):.0f}"[0] in "567" and "digits hold" in result.message


@pytest.mark.parametrize("n", [5, 90])
def test_the_digits_that_asymmetry_costs_are_counted(n):
    """A gap of 1e-6 is an error of the entries: one digit of an inverse root is left at cond 1e5."""
    for cond, status in ((1e2, Status.CONVERGED), (1e5, Status.ILL_CONDITIONED)):
        A, _ = gallery.spd(n, cond, rng=1)
        for a in (askew(A, 1e-6), np.stack([askew(A, 1e-6)] * 3)):
            for method in ("auto", "eigen"):
                result = solve(a, 2, method=method)
                assert (result.status == status).all() and (result.x == np.swapaxes(result.x, -1, -2)).all()
    assert "asymmetric by 1e-06" in result.message
    assert solve(A, 2).converged and "asymmetric" not in solve(A, 2).message
    with pytest.warns(ConditionWarning, match="asymmetric by 1e-06"):
        inv_sqrtm(askew(A, 1e-6))
    assert solve(askew(A, 1e-6), 2, inverse=False).converged


@pytest.mark.parametrize(("dtype", "bar"), [("float64", 7.6e-6), ("float32", 2.4e-4), ("float16", 2.2e-2)])
def test_the_margin(dtype, bar):
    A = np.eye(3) + 0.25
    for gap, fine in ((0.9 * bar, True), (1.2 * bar, False)):
        B = askew(A, gap)
        if dtype == "float16":
            B = np.array([[1, 0, gap], [0, 1, 0], [0, 0, 1]])
        assert (solve(B.astype(dtype)[None], 2).status[0] != Status.NOT_SYMMETRIC) == fine


def test_traced_and_recorded_results_have_it_too():
    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    A = np.stack([np.eye(3), np.eye(3) + np.triu(np.ones((3, 3)), 1)]).astype("f4")
    result = jax.jit(lambda a: solve(a, 2))(jax.numpy.asarray(A))
    assert result.status.tolist() == [0, Status.NOT_SYMMETRIC] and result.asymmetry.tolist() == [0, 1]
    t = torch.from_numpy(A)
    assert torch.func.vmap(lambda a: solve(a, 2).asymmetry)(t[:1].repeat(4, 1, 1)).shape == (4,)
    assert solve(t.requires_grad_(), 2).asymmetry.tolist() == [0, 1]
