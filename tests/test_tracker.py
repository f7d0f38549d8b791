"""RootTracker as an object: its arguments, its state, copies, and the arrays of other libraries."""

from __future__ import annotations

import copy
import pickle
import sys
from fractions import Fraction

import numpy as np
import pytest
from table import distance
from test_warm import N, power, shaken, stream

from matroot import Floor, PseudoInverse, Ridge, RootTracker, Shift, Status, TargetCondition, gallery, solve


@pytest.mark.parametrize(
    "rule",
    [Ridge(relative=1e-4, absolute=1e-7), Shift(relative=1e-4), TargetCondition(1e4), Floor(1e-4), PseudoInverse(1e-9)],
)
def test_regularizations(rule):
    A, _ = gallery.spd(N, 1e6, rng=5)
    tracker = RootTracker(2, regularization=rule)
    for size in (0, 1e-3, 2e-3):
        B = shaken(A, size)
        result = tracker.update(B)
        cold = solve(B, 2, regularization=rule, method="eigen")
        assert distance(result.x, cold.x) <= 1e-3
        assert result.status == Status.CONVERGED
        assert result.ridge == pytest.approx(float(cold.ridge), rel=1e-3)
        assert result.cond == pytest.approx(float(cold.cond), rel=1e-2)
        assert result.lambda_max == pytest.approx(float(cold.lambda_max), rel=1e-6)
    assert tracker.way == ("full" if rule.changes_spectrum else "first order")


def test_a_ridge_with_retries_ends():
    A, _ = gallery.spd(N, 1e3, rng=6)
    A -= 1e-2 * np.eye(N)
    tracker = RootTracker(4, regularization=Ridge(relative=1e-4, retries=3))
    for _ in range(3):
        result = tracker.update(A)
        assert result.status == Status.CONVERGED
        assert result.ridge == pytest.approx(0.0099, rel=1e-6)
    tracker = RootTracker(4, regularization=Ridge(relative=1e-8, retries=2))
    assert tracker.update(A).status == Status.NOT_POSITIVE


def test_shape_and_dtype_are_held_until_reset():
    A, _ = gallery.spd(N, 1e2, rng=10)
    tracker = RootTracker(2)
    tracker.update(A)
    with pytest.raises(ValueError, match=r"a is \(2, 128, 128\) float64, but this tracker follows \(128, 128\)"):
        tracker.update(np.stack([A, A]))
    with pytest.raises(ValueError, match=r"float32.*float64.*reset"):
        tracker.update(A.astype("float32"))
    tracker.reset()
    assert tracker.update(np.stack([A, A])).status.tolist() == [0, 0]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="rtol must be a number in"):
        RootTracker(2, rtol=None)
    with pytest.raises(ValueError, match="warm_from must be an int"):
        RootTracker(2, warm_from=1)
    with pytest.raises(TypeError, match="p must be a positive int"):
        RootTracker(0.5)
    with pytest.raises(ValueError, match=r"a must be \(..., n, n\), got \(3, 4\)"):
        RootTracker(2).update(np.ones((3, 4)))
    tracker = RootTracker(2)
    A, _ = gallery.spd(N, 1e2, rng=11)
    tracker.update(A)
    with pytest.raises(ValueError, match="not symmetric"):
        tracker.update(A + np.triu(np.ones_like(A), 1))
    tracker.update(A)
    assert tracker.way == "first order"


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (5, 5), (0, 3, 3), (2, 4, 4), (0, N, N)])
def test_small_and_empty(shape):
    A = np.broadcast_to(np.diag(np.arange(1.0, shape[-1] + 1)), shape).copy()
    tracker = RootTracker(2)
    for _ in range(2):
        result = tracker.update(A)
        np.testing.assert_allclose(result.x @ result.x @ A, np.broadcast_to(np.eye(shape[-1]), shape), atol=1e-12)
    assert tracker.error.shape == shape[:-2]
    assert tracker.counts["full"] == 2 * int(np.prod(shape[:-2]))


def test_the_state_goes_on_to_the_last_bit():
    batch = [
        np.stack([A, 2 * B]) for A, B in zip(take(stream(N, 0.99), 8), take(stream(N, 0.999, rng=1), 8), strict=True)
    ]
    batch[0][1, 0, 0] = np.nan
    tracker = RootTracker(4, regularization=1e-5, refine=True)
    state = tracker.state_dict()
    for at, A in enumerate(batch):
        again = RootTracker(4, regularization=1e-5, refine=True)
        again.load_state_dict({name: value.copy() for name, value in state.items()})
        one, other = tracker.update(A), again.update(A)
        np.testing.assert_array_equal(one.x, other.x)
        assert (tracker.way == again.way).all()
        assert tracker.counts == again.counts
        state = tracker.state_dict()
        assert all(isinstance(value, np.ndarray) for value in state.values())
        assert state["known"].tolist() == ([0] if at == 0 else [0, 1])
    with pytest.raises(ValueError, match=r"that of A\^\(-1/4\), this tracker's root is A\^\(-1/2\)"):
        RootTracker(2).load_state_dict(state)
    with pytest.raises(ValueError, match=r"lacks .*'Q'"):
        RootTracker(4).load_state_dict({name: v for name, v in state.items() if name != "Q"})
    with pytest.raises(ValueError, match="Q in the state must have shape"):
        RootTracker(4).load_state_dict({**state, "Q": state["Q"][:, :-1]})


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_torch(dtype):
    torch = pytest.importorskip("torch")
    A = torch.from_numpy(gallery.spd(N, 1e2, rng=12)[0]).to(getattr(torch, dtype))
    A = (A + A.T) / 2
    tracker = RootTracker(2, regularization=1e-2)
    for _ in range(2):
        result = tracker.update(A)
        A = A * 1.01
    assert isinstance(result.x, torch.Tensor)
    assert result.x.dtype == A.dtype
    assert tracker.way == "first order"
    eps = torch.finfo(A.dtype).eps
    wide = (A / 1.01).double().numpy()
    exact = power(wide + float(result.ridge) * np.eye(N), Fraction(-1, 2))
    assert distance(result.x.double().numpy(), exact) <= tracker.error + 2 * eps


def test_jax():
    jnp = pytest.importorskip("jax.numpy")
    A = jnp.asarray(gallery.spd(N, 1e2, rng=13)[0], dtype="float32")
    tracker = RootTracker(2)
    for _ in range(2):
        result = tracker.update(A)
    assert type(result.x) is type(A)
    assert tracker.way == "first order"
    exact = power(np.asarray(A), Fraction(-1, 2))
    assert distance(np.asarray(result.x, dtype=float), exact) <= tracker.error


def test_on_a_gpu_every_update_is_a_full_solve(monkeypatch):
    cupy_double = pytest.importorskip("cupy_double")
    monkeypatch.setitem(sys.modules, "cupy", cupy_double.MODULE)
    A = gallery.spd(N, 1e2, rng=14)[0]
    tracker = RootTracker(2)
    for _ in range(2):
        result = tracker.update(cupy_double.ndarray(A))
    assert type(result.x) is cupy_double.ndarray
    assert tracker.counts["full"] == 2
    assert distance(result.x.get(), power(A, Fraction(-1, 2))) <= tracker.error
    strict = RootTracker(2, rtol=1e-14).update(cupy_double.ndarray(A, device=1))
    assert strict.status.get() == Status.ILL_CONDITIONED and strict.status.device.id == strict.x.device.id == 1


@pytest.mark.parametrize("inverse", [True, False])
@pytest.mark.parametrize("p", [Fraction(1), Fraction(3, 2), Fraction(7, 5), Fraction(8, 1), Fraction(16, 15)])
def test_rational_degrees(p, inverse):
    A, _ = gallery.spd(N, 1e3, rng=15)
    tracker = RootTracker(p, inverse=inverse)
    tracker.update(A)
    errors = []
    for size in (4e-3, 1e-3):
        B = shaken(A, size)
        result = tracker.update(B)
        assert tracker.way == "first order"
        assert result.exponent == (-1 if inverse else 1) / p
        errors.append(distance(result.x, power(B, result.exponent)))
        assert errors[-1] <= tracker.error
    assert errors[0] <= 1e-5
    with pytest.raises(TypeError, match=r"p must be a positive int, got Fraction\(1, 2\)"):
        RootTracker(Fraction(1, 2))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda tracker: pickle.loads(pickle.dumps(tracker))])
def test_a_copy_goes_its_own_way(duplicate):
    A, _ = gallery.spd(N, 1e3, rng=16)
    tracker = RootTracker(4)
    tracker.update(A)
    other = duplicate(tracker)
    B, C = shaken(A, 1e-3), gallery.spd(N, 1e3, rng=17)[0]
    assert other.update(C).method.full == 1
    assert tracker.counts == {"first order": 0, "refined": 0, "full": 1, "failed": 0}
    assert tracker.update(B).method.first_order == 1
    assert other.counts["full"] == 2
    assert other.update(shaken(C, 1e-3)).status == Status.CONVERGED


def test_the_state_is_three_matrices():
    A = np.stack([gallery.spd(N, 1e3, rng=k)[0] for k in range(5)])
    tracker = RootTracker(4)
    for size in (0.0, 1e-3):
        tracker.update(np.stack([shaken(B, size) for B in A]))
        assert len(pickle.dumps(tracker)) <= 5 * (3 * N * N + 20 * N) * 8


def test_a_damaged_state_is_a_value_error():
    tracker = RootTracker(2, warm_from=2)
    tracker.update(np.diag([1.0, 2.0, 3.0]))
    state = tracker.state_dict()
    for name, values in state.items():
        wrong = (3, np.zeros((1, 1, 1, 1)), np.zeros(0), values * np.nan, values.astype(str), values[:, None], None)
        for other in wrong:
            if name == "known" and np.size(other) == 0:
                continue  # no basis is known
            with pytest.raises(ValueError, match="state"):
                RootTracker(2).load_state_dict({**state, name: other})
    for known in ([1], [-1], [0, 0]):
        with pytest.raises(ValueError, match="known in the state do not fit"):
            RootTracker(2).load_state_dict({**state, "known": np.array(known)})
    with pytest.raises(ValueError, match="must be a dict"):
        RootTracker(2).load_state_dict([state])
    loaded = RootTracker(2, warm_from=2)
    loaded.load_state_dict(state)
    assert loaded.update(np.diag([1.0, 2.0, 3.1])).converged and loaded.way == "first order"


def test_orthogonality_without_a_basis():
    """Where every update is a full solve, no basis is kept."""
    for rule in (Floor(1e-6), None):
        for shape in ((3, 3), (2, 3, 3), (0, 3, 3)):
            tracker = RootTracker(2, regularization=rule)
            assert np.isnan(tracker.orthogonality())
            tracker.update(np.broadcast_to(np.eye(3), shape))
            assert tracker.orthogonality().shape == shape[:-2] and np.isnan(tracker.orthogonality()).all()


def test_a_singular_matrix_leaves_a_state_that_loads():
    """LAPACK's zeros are negative as often as not, and have no root to start from."""
    G = np.random.default_rng(0).standard_normal((40, 3))
    tracker = RootTracker(2, inverse=False, warm_from=2)
    for k in range(4):
        A = G @ G.T * (1 + 1e-3 * k)
        again = RootTracker(2, inverse=False, warm_from=2)
        again.load_state_dict(tracker.state_dict())
        one, other = tracker.update(A), again.update(A)
        assert one.status == other.status == 0 and (one.x == other.x).all()


@pytest.mark.parametrize("p", [4, 5])
def test_the_root_of_a_singular_matrix_is_no_start_for_a_better_one(p):
    """The error of the old root stays in the new one: eps^(1/p) where the matrix was singular."""
    told = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        Q = gallery.orthogonal(3, rng=rng)
        tracker = RootTracker(p, inverse=False, rtol=1e-2, warm_from=2)
        for least in (1e-17, 1e-6):
            A = (Q * [least, 0.5, 1.0]) @ Q.T
            result = tracker.update((A + A.T) / 2)
        exact = (Q * np.array([1e-6, 0.5, 1.0]) ** (1 / p)) @ Q.T
        assert distance(result.x, exact) <= tracker.error
        told += tracker.way == "first order"
    assert told


@pytest.mark.parametrize("warm_from", [2, 128])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_shift_that_cancels_most_of_a_matrix_is_in_the_error(warm_from, dtype):
    """-A moved to 1e-8 of its size has the rounding of A in its last digits."""
    tracker = RootTracker(
        8, inverse=False, rtol=1e-2, regularization=Shift(1e-8), compute_dtype=dtype, warm_from=warm_from
    )
    eps = np.finfo(dtype).eps
    for size in (1.0, 5.87879881e-278):
        A = np.array([[-size]])
        result = tracker.update(A)
        assert tracker.error >= min(eps / 1e-8, eps ** (1 / 8)) / 8 and (dtype == "float64") == (result.status == 0)
        tracker.reset()


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
def test_the_layout_of_a_matrix_has_no_effect(dtype):
    """The ridge was not added to copies in Fortran's order, which failed their certificate and were solved in full."""
    A, _ = gallery.spd(40, 1e3, dtype=dtype, rng=3)
    C, F = (RootTracker(2, regularization=1e-2, warm_from=2) for _ in range(2))
    for k in range(3):
        B = (A * (1 + 1e-4 * k)).astype(dtype)
        one, other = C.update(B), F.update(np.asfortranarray(B))
        assert (one.x == other.x).all() and C.way == F.way == ("first order" if k else "full")


def test_a_refinement_does_not_leave_the_range_of_float32():
    """In units of a basis that is 1e98 times smaller, the rest of Q^H A Q is infinite in float32."""
    Q = gallery.orthogonal(6, rng=0)
    w = np.array([1, 0.997, 1, 1, 1, 1.003])
    for seed in range(5):
        tracker = RootTracker(1, inverse=False, rtol=2.8e-9, regularization=Shift(2e-3), refine=True, warm_from=2)
        tracker.update(np.eye(6) * 0.5)
        S = np.random.default_rng(seed).standard_normal((6, 6))
        for A in (8e97 * np.eye(6), 8e97 * ((Q * w) @ Q.T + 1e-4 * (S + S.T))):
            assert tracker.update((A + A.T) / 2).status == 0


def test_refined_and_other_bases_of_a_batch_are_saved_to_the_bit():
    """Roots of full solves were kept in float64 beside refined ones in float32, which a state then widened."""
    options = {"rtol": 1e-4, "regularization": 1e-1, "compute_dtype": "float32", "refine": True, "warm_from": 2}
    tracker, ways = RootTracker(1, **options), set()
    rng = np.random.default_rng(0)
    A = np.stack([gallery.spd(17, 1e2, rng=k)[0] for k in range(2)])
    for k in range(8):
        again = RootTracker(1, **options)
        again.load_state_dict(tracker.state_dict())
        one, other = tracker.update(A), again.update(A)
        assert (one.x == other.x).all() and (tracker.way == again.way).all()
        ways |= set(tracker.way.tolist())
        A = np.stack([shaken(A[0], 1e-4 if k % 2 else 0.1, rng=rng), A[1]])
    assert "refined" in ways


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("warm_from", [2, 128])
def test_the_error_counts_what_a_rule_has_cut(warm_from, dtype):
    """A rule that raises -1 to the level of 1e-6 leaves the rounding of 1; one that drops needs a gap."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    unit = 2.0**-24 if dtype == "float32" else 2.0**-53
    for w, rule, factor in (
        ([1e-6, 5e-7, -1.0, 3e-7], Floor(1e-3), 1e6 * 1e3),
        ([1.0, 0.5, 0.2, -3.0], Floor(1e-3), 3 * 1e3),
        ([1.0, 1e-4 * (1 + 1e-4), 1e-4 * (1 - 1e-4), 0.5], PseudoInverse(1e-4), 1e4 * 1e4 / 2),
    ):
        A = (Q * w) @ Q.T
        A = ((A + A.T) / 2).astype(dtype)
        tracker = RootTracker(2, regularization=rule, warm_from=warm_from)
        result = tracker.update(A)
        exact = np.linalg.eigvalsh(A.astype("f8"))
        got = np.linalg.eigvalsh(result.x.astype("f8"))
        kept = (
            np.maximum(exact, rule.relative * exact[-1]) if isinstance(rule, Floor) else exact[exact > exact[-1] * 1e-4]
        )
        want = np.sort(np.append(kept**-0.5, [0] * (4 - len(kept))))
        assert abs(got - want).max() / want[-1] <= tracker.error
        assert tracker.error >= factor / 2 * unit if result.compute_dtype == dtype else tracker.error > 0
        plain = RootTracker(2, regularization=Floor(1e-3), warm_from=warm_from)
        plain.update((Q * abs(np.array(w))) @ Q.T)
        assert (plain.error < 1e-10).all()  # nothing negative, nothing more to tell
