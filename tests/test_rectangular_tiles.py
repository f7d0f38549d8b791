"""Polar factors of tall real matrices by compiled tiles, beside the general way."""

from dataclasses import replace

import numpy as np
import pytest
from table import EPS
from test_rectangular import distance, rectangular

from matroot import Status, _rectangular, polar, spectral_power
from matroot.backends.arrays import take
from matroot.rectangular import tall

KINDS = ("float32", "float64")
#: Rows beside strips of 128 and tiles of 8, columns beside registers.
SHAPES = ((64, 64), (150, 72), (127, 104), (300, 64), (513, 128))


@pytest.fixture
def alone(monkeypatch):
    """Let the general way fail."""
    for name in ("_any_polar", "_any_power"):
        monkeypatch.setattr(_rectangular, name, lambda *args, **options: pytest.fail("the general way was taken"))


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_accuracy(alone, shape, dtype):
    """As accurate as the general way must be (`test_polar`); the last cond needs a Newton-Schulz step."""
    (m, n), eps = shape, 2 * EPS[dtype]
    for cond in (1.5, 7) + ((1e3, 1e5) if dtype == "float32" else ()):
        A, power = rectangular(m, n, cond, dtype)
        result = polar(A, method="products")
        assert result.method == "products" and result.rank == n and result.status == Status.CONVERGED
        assert result.u.dtype == result.h.dtype == A.dtype and np.isclose(result.cond, cond, rtol=1e-3)
        u, h = result.u.astype(float), result.h.astype(float)
        assert (h == h.T).all()
        gap, error = np.linalg.norm(u.T @ u - np.eye(n), 2), np.linalg.norm(u @ h - A, 2)
        assert gap <= 10 * eps and error <= 40 * eps * np.linalg.norm(A, 2)
        assert distance(u, power(0)) <= 10 * eps * cond
        x = spectral_power(A, 0, method="products")
        assert (x.x == result.u).all() and x.residual >= result.orthogonality


@pytest.mark.parametrize("dtype", KINDS)
def test_a_wide_matrix_is_the_transpose_of_a_tall_one(alone, dtype):
    A, _ = rectangular(150, 72, 5.0, dtype)
    tall, wide = spectral_power(A, 0), spectral_power(A.T, 0)
    assert (wide.x == tall.x.T).all() and wide.x.flags.c_contiguous and wide.residual == tall.residual


def test_certificates_are_those_of_the_general_way():
    for dtype in KINDS:
        A, _ = rectangular(300, 64, 7.0, dtype)
        for ours, theirs, names in (
            (polar(A), _rectangular._any_polar(A, None, "auto"), ("orthogonality", "residual")),
            (spectral_power(A, 0), _rectangular._any_power(A, 0, None, "auto"), ("residual",)),
        ):
            for name in names:
                assert 1 / 3 < getattr(ours, name) / getattr(theirs, name) < 3


@pytest.mark.parametrize("what", ["coefficient", "sign", "rotation"])
def test_wrong_roots_are_seen(what):
    """By the certificate of the factors, whatever that of the root says."""
    A, _ = rectangular(150, 72, 7.0, "float32")
    way = tall.serving(*take(A), None, "auto", False)

    def solver(G, M):
        numbers = way.root.solver(G, M)
        if what == "coefficient":
            M *= 1.00001
        if what == "sign":
            M[0] *= -1
        if what == "rotation":  # U then is orthogonal, but not the nearest
            M[:, :2] = M[:, :2] @ [[np.cos(1e-4), np.sin(1e-4)], [-np.sin(1e-4), np.cos(1e-4)]]
        return numbers

    u, h = np.empty_like(A), np.empty((72, 72), "f4")
    assert way(A, u, h)[0] == tall.FINE
    for room in (h, h[:0]):
        assert replace(way, root=replace(way.root, solver=solver))(A, u, room)[0] == tall.UNCERTAIN[0]


def test_a_batch_is_a_loop():
    """To the last bit, also where some matrices need an SVD, are singular, or not finite."""
    A, _ = rectangular(600, 512, 10.0, "float32", batch=(2, 3))
    A[0, 1] = rectangular(600, 512, 1e6, "float32")[0]
    A[0, 2] *= 2.0**-100
    A[1, 0, 3, 3] = np.nan
    A[1, 1] = A[1, 1, :, :1]
    for function in (polar, lambda a: spectral_power(a, 0)):
        result = function(A)
        assert result.method == "products, svd" and result.status.shape == (2, 3)
        names = [name for name in ("u", "h", "x", "orthogonality") if hasattr(result, name)]
        for i in np.ndindex(2, 3):
            one = function(A[i])
            for name in (*names, "status", "residual", "rank", "cond"):
                assert np.array_equal(getattr(one, name), getattr(result, name)[i], equal_nan=True), (name, i)


def test_scales():
    """Beyond moderate sizes, where H may be subnormal, it is for the general way to say what it holds."""
    A, _ = rectangular(150, 72, 7.0)
    for scale in (1e-300, 1e300):
        assert distance(polar(A * scale).u, polar(A).u) < 2 * 10 * EPS["float64"] * 7.0 and polar(A * scale).converged
    least = np.finfo("f4").smallest_normal
    assert polar((A * least / abs(polar(A).h).max() / 2).astype("f4")).status == Status.ILL_CONDITIONED


def test_what_is_no_array_of_a_caller_is_left_alone(alone):
    """Whatever its strides, and whether or not it may be written to."""
    A, _ = rectangular(150, 72, 7.0)
    expected = polar(A).u
    room = np.zeros((300, 144))
    room[::2, ::2] = A
    frozen = A.copy()
    frozen.flags.writeable = False
    factors = tall.serving(*take(A), None, "auto", False).kernel.factors
    known = len(factors.signatures)
    for a in (room[::2, ::2], np.asfortranarray(A), frozen):
        before = a.copy()
        assert (polar(a).u == expected).all() and (a == before).all()
    assert len(factors.signatures) == known  # each would have to be compiled
