"""Lone small matrices: what is planned once for equal calls, and the numbers asked instead of arrays of one."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest

from matroot import Floor, PseudoInverse, Ridge, Status, gallery, solve
from matroot._solve import plan, planned, solve_power
from matroot.backends.arrays import take
from matroot.backends.profile import Limits
from matroot.pipeline.fused import OCTAVES, whole
from matroot.pipeline.status import doubtful, judge

EXPONENTS = [Fraction(-1, 1), Fraction(-1, 2), Fraction(-1, 8), Fraction(1, 3), Fraction(2, 3), Fraction(1, 1)]


def fused(s, dtype="float64", n=8, **options):
    values, origin = take(np.zeros((n, n), dtype))
    return whole(plan(values, origin, s, method="tridiagonal", **options), n)[1]


@pytest.mark.parametrize("s", EXPONENTS, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("options", [{}, {"rtol": 1e-6}, {"rtol": 1e-12}, {"regularization": Ridge(1e-8)}], ids=str)
def test_what_is_sure_is_what_is_judged(s, dtype, options):
    """Nothing is sure that the formulas refuse; of what they pass, all but the last octave is sure."""
    one = fused(s, dtype, **options)
    rng = np.random.default_rng(0)
    cond = np.concatenate([2 ** rng.uniform(0, 60, 3000), 2.0 ** np.arange(60), [np.inf, np.nan, 1.0]])
    residual = np.concatenate([10 ** rng.uniform(-20, 1, len(cond) - 2), [np.nan, 0.0]])
    good = judge(np.zeros(len(cond), np.int8), residual, cond, 8, one.job) == Status.CONVERGED
    end = (0.5, 2.0) if s < 0 else (0.25, 0.5)
    sure = np.array([one.sure(1.0, 0.0, r, *end, 0.0, c) for r, c in zip(residual, cond, strict=True)])
    assert not (sure & ~good).any()
    far = cond < 2.0**OCTAVES
    later = judge(np.zeros(len(cond), np.int8), 3 * residual, 2 * cond, 8, one.job) == Status.CONVERGED
    assert (sure | ~(later & good & far)).mean() > 0.95


@pytest.mark.parametrize("s", EXPONENTS, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_asymmetry_that_is_sure_is_not_doubtful(s, dtype):
    one = fused(s, dtype)
    cond = 2 ** np.random.default_rng(0).uniform(0, 60, 3000)
    gap = one.even[np.frexp(cond)[1].clip(max=OCTAVES - 1)]
    assert (doubtful(np.zeros(len(cond), np.int8), gap, cond, one.job) == Status.CONVERGED).all()
    assert (gap[cond < 1e4] == 2 * 8 * one.job.out_eps).all()


def test_what_needs_a_look_is_not_sure():
    one = fused(Fraction(-1, 2))
    assert one.sure(1.0, 0.0, 1e-16, 0.5, 2.0, 0.0, 4.0)
    assert not one.sure(0.0, 0.0, 1e-16, 0.5, 2.0, 0.0, 4.0)  # not served
    assert one.sure(1.0, 1e-15, 1e-16, 0.5, 2.0, 0.0, 4.0)  # asymmetric by rounding
    assert not one.sure(1.0, 1e-15, 1e-16, 0.5, 2.0, 0.0, 2.0**53)
    assert not one.sure(1.0, 1e-9, 1e-16, 0.5, 2.0, 0.0, 4.0)  # not symmetric
    assert not one.sure(1.0, 0.0, 1e-3, 0.5, 2.0, 0.0, 4.0)  # a residual that rounding does not explain
    single = fused(Fraction(-1, 1), "float32")
    assert not single.sure(1.0, 0.0, 1e-16, 1e39, 1e39, 0.0, 1.0)  # the root is subnormal in float32
    assert not fused(Fraction(1, 1), "float32").sure(1.0, 0.0, 1e-16, 1e-44, 1e-44, 0.0, 1.0)


@pytest.mark.parametrize("n", [2, 3, 8, 16])
@pytest.mark.parametrize("p", [1, 2, 5])
@pytest.mark.parametrize("cond", [1.0, 1e4, 1e10, 1e13, 1e20])
def test_alone_as_in_a_batch(n, p, cond):
    A, _ = gallery.spd(n, cond=min(cond, 1e15), batch=(3,), rng=n)
    A[1] *= 1e-200
    A[2] -= 2 * np.linalg.eigvalsh(A[2])[0] * np.eye(n)
    every = solve(A, p, method="tridiagonal")
    for k in range(3):
        one = solve(A[k], p, method="tridiagonal")
        for name in ("x", "status", "residual", "cond", "bits_lost", "lambda_min", "lambda_max"):
            assert np.array_equal(getattr(one, name), getattr(every, name)[k], equal_nan=True), name
        assert one.status.shape == one.cond.shape == ()


@pytest.mark.parametrize(
    "kind", ["float64", "float32", "int64", ">f8", "transposed", "read-only", "torch", "uneven", "stack"]
)
@pytest.mark.parametrize("n", [1, 2, 5, 12, 32, 40])
@pytest.mark.parametrize(
    ("s", "rule"),
    [
        (Fraction(-1, 2), 1e-9),
        (Fraction(2, 3), None),
        (Fraction(-1, 4), PseudoInverse(1e-9)),
        (Fraction(1, 2), Floor(1e-9)),
    ],
    ids=str,
)
def test_the_short_way_gives_what_the_general_way_gives(s, rule, n, kind, monkeypatch):
    """Every field, of the same type, shape and bits."""
    A = gallery.spd(n, 1e3 if n > 1 else 1.0, rng=n)[0]
    if kind in ("float64", "float32", ">f8"):
        A = A.astype(kind)
    elif kind == "int64":
        A = np.rint(A * 9).astype(int) + 9 * np.eye(n, dtype=int)
    elif kind == "uneven":  # by rounding
        A = A * (1 + 2.0**-52 * np.tri(n, k=-1))
    elif kind == "transposed":
        A = np.repeat(A, 2, axis=0)[::2].T
    elif kind == "read-only":
        A.flags.writeable = False
    elif kind == "stack":
        A = A[None, None]
    else:
        A = pytest.importorskip("torch").from_numpy(A)
    options = {"method": "tridiagonal", "regularization": rule, "rtol": 1e-3}
    with monkeypatch.context() as changed:
        changed.setattr(sys.modules["matroot._solve"], "solve_fused", None)
        short = solve_power(A, s, **options)
    with monkeypatch.context() as changed:
        changed.setattr(sys.modules["matroot._solve"], "alone", lambda *of: None)
        general = solve_power(A, s, **options)
    assert {f.name for f in fields(short)} == set(vars(short)) == set(vars(general))
    for name, value in vars(general).items():
        mine = getattr(short, name)
        assert type(mine) is type(value), name
        if hasattr(value, "shape"):
            assert mine.shape == value.shape and mine.dtype == value.dtype, name
            assert (np.asarray(mine) == np.asarray(value)).all(), name
        else:
            assert mine == value, name


@pytest.mark.parametrize("change", ["ill", "negative", "nan", "uneven"])
def test_what_is_not_sure_takes_the_general_way(change):
    A = gallery.spd(6, 1e3, rng=0)[0]
    if change == "ill":
        A = gallery.spd(6, 1e13, rng=0)[0]
    elif change == "negative":
        A -= np.eye(6)
    elif change == "nan":
        A[2, 2] = np.nan
    else:
        A[3, 1] *= 1 + 1e-15
    one, stack, every = solve(A, 4), solve(A[None, None], 4), solve(np.stack([A, np.eye(6)]), 4)
    assert one.status == stack.status[0, 0] == every.status[0]
    assert np.array_equal(one.x, every.x[0], equal_nan=True)
    assert np.array_equal(one.x, stack.x[0, 0], equal_nan=True)


def test_threads_do_not_share_their_work_space():
    A = gallery.spd(16, 1e4, batch=(64,), rng=0)[0]
    alone = [solve(a, 2).x for a in A]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert all(map(np.array_equal, alone, pool.map(lambda a: solve(a, 2).x, A)))


def test_equal_calls_are_planned_once():
    values, origin = take(np.eye(3))
    s = Fraction(-1, 2)
    assert planned(values, origin, s)[0] is planned(values.copy(), origin, s)[0]
    assert planned(values, origin, s)[0] is not planned(values, origin, s, rtol=1e-3)[0]
    assert planned(values, origin, Fraction(1, 2))[0].problem.s == Fraction(1, 2)
    assert isinstance(planned(values, origin, 0.5)[0].problem.s, float)  # equal to the fraction, and no fraction
    assert planned(values.astype("f"), take(np.eye(3, dtype="f"))[1], s)[0].out_dtype == np.float32


def test_a_new_profile_is_seen(monkeypatch):
    values, origin = take(np.eye(64))
    s, few = Fraction(-1, 2), Limits(tridiagonal_alone=8)
    assert planned(values, origin, s)[0].method.name == "tridiagonal"
    with monkeypatch.context() as changed:
        for module in ("_solve", "_selection"):
            changed.setattr(sys.modules[f"matroot.{module}"], "limits", lambda: few)
        assert planned(values, origin, s)[0].method.name == "eigen"
    assert planned(values, origin, s)[0].method.name == "tridiagonal"


def test_a_wrong_option_is_wrong_every_time():
    solve(np.eye(2), 2, rtol=0.5)
    for _ in range(2):
        with pytest.raises(ValueError, match="max_iter"):
            solve(np.eye(2), 2, max_iter=True)  # equal to 1
        with pytest.raises(ValueError, match="rtol"):
            solve(np.eye(2), 2, rtol=[0.5])
        with pytest.raises(ValueError, match="method"):
            solve(np.eye(2), 2, method=["eigen"])
    solve(np.eye(2), 2, max_iter=1)
    with pytest.raises(ValueError, match="max_iter"):
        solve(np.eye(2), 2, max_iter=True)
