"""polar and spectral_power: accuracy against 50 digits, certificates, ranks, kinds of arrays."""

import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg
from conftest import dtype_of, read
from table import EPS

import matroot
from matroot import Status, polar, spectral_power
from matroot.gallery.symmetric import orthogonal

SHAPES = ((1, 1), (3, 1), (4, 4), (9, 5), (5, 9), (40, 20), (70, 70))


def rectangular(m, n, cond, dtype="float64", batch=(), rng=0):
    """A matrix with geometric singular values, and the function that gives its powers before rounding."""
    rng = np.random.default_rng(rng)
    field = complex if np.dtype(dtype).kind == "c" else float
    k = min(m, n)
    U = orthogonal(m, batch=batch, dtype=field, rng=rng)[..., :k]
    V = orthogonal(n, batch=batch, dtype=field, rng=rng)[..., :k]
    S = np.geomspace(1, 1 / cond, k) if k > 1 else np.ones(k)
    power = lambda s: (U * S ** float(s)) @ V.conj().mT  # noqa: E731
    return power(1).astype(dtype), power


def distance(X, Y):
    return np.linalg.norm(X - Y, 2) / np.linalg.norm(Y, 2)


def eye_of(u):
    return u.conj().mT @ u if u.shape[-2] >= u.shape[-1] else u @ u.conj().mT


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_polar(shape, dtype):
    """Orthogonal and backward stable to a few eps, whatever the condition number."""
    m, n = shape
    eps = 2 * EPS[dtype]
    for cond in (1.5, 10, 1e3) + ((1e5,) if eps > 1e-10 else (1e8, 1e12)):
        A, _ = rectangular(m, n, cond, dtype)
        result = polar(A)
        assert result.u.dtype == result.h.dtype == A.dtype
        u, h = (x.astype(np.result_type(x, np.float64)) for x in (result.u, result.h))
        assert (h == h.conj().mT).all()
        assert np.linalg.norm(eye_of(u) - np.eye(min(m, n)), 2) <= 10 * eps
        assert np.linalg.norm(u @ h - A, 2) <= 40 * eps * np.linalg.norm(A, 2)
        assert np.linalg.eigvalsh(h)[0] >= -40 * eps
        assert result.rank == min(m, n)
        assert (result.status == Status.CONVERGED) or cond * eps > 1e-2
        assert np.isclose(result.cond, cond if min(m, n) > 1 else 1, rtol=0.1)


def test_what_products_lose_is_told():
    """The Gram matrix has the square of the condition number: whoever asks for products gets no more than it holds."""
    for cond in (1e4, 1e6, 1e7, 1e8):
        for s in (-1, Fraction(-1, 2), Fraction(1, 2), Fraction(3, 2), 2):
            A, power = rectangular(30, 12, cond)
            result = spectral_power(A, s, method="products")
            if result.converged:
                assert distance(result.x, power(s)) <= 1e-2
            assert distance(spectral_power(A, s).x, power(s)) <= 1e-15 * 30 * (cond if s < 1 else 1)
    assert spectral_power(A, -1, method="products").status != Status.CONVERGED


def test_products_and_svd_agree():
    for cond in (1.5, 10, 1e4):
        A, _ = rectangular(60, 25, cond, "float32")
        assert polar(A).method == "products" and polar(A, method="svd").method == "svd"
        assert distance(polar(A).u, polar(A, method="svd").u) < 1e-6
    A, _ = rectangular(60, 25, 1e4)
    assert polar(A).method == "svd" and polar(A[:, :5]).method in ("products", "svd")
    assert polar(A[:, :12] + np.eye(60, 12) * 3).method == "products"


@pytest.mark.parametrize("side", ["tall", "wide"])
def test_as_scipy(side):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((8, 5) if side == "tall" else (5, 8))
    u, h = scipy.linalg.polar(A)
    result = polar(A)
    assert np.allclose(result.u, u, atol=1e-13) and np.allclose(result.h, h, atol=1e-13)
    assert result.converged and "rank 5" in result.message and "PolarResult" in repr(result)
    assert distance(spectral_power(A, -1).x.T, scipy.linalg.pinv(A)) < 1e-13


def test_scales():
    A, _ = rectangular(12, 7, 20.0)
    u = polar(A).u
    for scale in (1e-300, 1e-40, 1e40, 1e300):
        result = polar(A * scale)
        assert distance(result.u, u) < 1e-14 and distance(result.h / scale, polar(A).h) < 1e-14
        assert result.converged and result.residual < 1e-14
        assert distance(spectral_power(A * scale, 0.5).x / scale**0.5, spectral_power(A, 0.5).x) < 1e-13
    assert distance(polar(A * 2.0**-600).u, u) < 1e-14
    assert spectral_power(A * 1e-200, 2).status == Status.DIVERGED
    assert spectral_power(A.astype("f4") * np.float32(1e-30), 2).status >= Status.ILL_CONDITIONED


def test_a_batch_is_a_loop():
    """To the last bit, also where some matrices need an SVD, are singular, or not finite."""
    for dtype in ("float32", "float64"):
        A, _ = rectangular(20, 8, 10.0, dtype, batch=(2, 3))
        A[0, 1] = rectangular(20, 8, 1e7, dtype)[0]
        A[0, 2] = 0
        A[1, 0, 3, 3] = np.nan
        A[1, 1] = A[1, 1, :, :1]
        result = polar(A)
        assert result.method == "products, svd"
        assert result.status.shape == (2, 3) and result.status[1, 0] == Status.NONFINITE_INPUT
        assert np.isnan(result.u[1, 0]).all() and np.isnan(result.h[1, 0]).all()
        assert result.rank[1, 1] == 1 and result.rank[0, 2] == 0
        assert "NONFINITE_INPUT" in result.message
        for i in np.ndindex(2, 3):
            one = polar(A[i])
            for name in ("u", "h", "status", "orthogonality", "residual", "rank", "cond"):
                assert np.array_equal(getattr(one, name), getattr(result, name)[i], equal_nan=True), (name, i)
        x = spectral_power(A, 0.5).x
        assert all(np.array_equal(spectral_power(A[i], 0.5).x, x[i], equal_nan=True) for i in np.ndindex(2, 3))


def test_certificates_are_of_what_is_returned():
    for m, n in ((20, 10), (150, 60)):
        A, _ = rectangular(m, n, 50.0, "float32")
        result = polar(A)
        u, h = result.u.astype(float), result.h.astype(float)
        gap = np.linalg.norm(u.T @ u - np.eye(n)) / n**0.5
        error = np.linalg.norm(u @ h - A) / np.linalg.norm(A)
        near = 1e-6 if n <= 32 else 1.0
        assert np.isclose(result.orthogonality, gap, rtol=near) and np.isclose(result.residual, error, rtol=near)
        assert result.certificate == ("full" if n <= 32 else "probes")
        x = spectral_power(A, 1.5)
        X = x.x.astype(float)
        G = A.astype(float).T @ A.astype(float)
        first = np.linalg.norm(np.linalg.matrix_power(X.T @ X, 2) - np.linalg.matrix_power(G, 3))
        assert 0.3 * first / np.linalg.norm(np.linalg.matrix_power(G, 3)) <= x.residual <= 1e-5


@pytest.mark.parametrize("what", ["exponent", "coefficient", "sign"])
def test_wrong_results_are_seen(monkeypatch, what):
    """A certificate that nothing can fail is none."""
    from matroot.rectangular import powers

    solve = powers.solve_power

    def wrong(G, s, **options):
        root = solve(G, s - Fraction(1, 50) if what == "exponent" else s, **options)
        if what == "coefficient":
            root.x[...] *= 1.001
        if what == "sign":
            root.x[..., 0, :] *= -1
        return root

    monkeypatch.setattr(powers, "solve_power", wrong)
    for n in (12, 60):
        A, _ = rectangular(80, n, 50.0, "float32")
        assert spectral_power(A, Fraction(1, 2)).status == Status.STAGNATED
        assert spectral_power(A, Fraction(-1, 3), method="products").status == Status.STAGNATED
        if what != "coefficient":  # the Newton-Schulz step mends that
            assert polar(A).status == Status.STAGNATED


def test_kinds(kind):
    values = np.array([[4.0, 2.0], [1.0, 3.0], [2.0, 2.0]])
    values = values + 1j * values[::-1] if kind.complex else values
    a = kind.make(np.stack([values, 2 * values]))
    before = read(a).copy()
    result = polar(a)
    eps = EPS[kind.result_dtype]
    u, h = scipy.linalg.polar(values)
    for x, y, scale in ((result.u, u, 1), (result.h, h, 2)):
        assert kind.is_mine(x) and dtype_of(x) == kind.result_dtype
        assert distance(read(x)[1], scale * y) <= 20 * eps
    for name in ("status", "orthogonality", "residual", "rank", "cond", "converged"):
        assert kind.is_mine(getattr(result, name)) and tuple(getattr(result, name).shape) == (2,)
    x = spectral_power(a, -1).x
    assert kind.is_mine(x) and distance(read(x)[0].conj().T, np.linalg.pinv(values)) <= 100 * eps
    assert (read(a) == before).all()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 4, 2), (2, 0, 0), (2, 0, 5, 3), (2, 3, 0)], ids=str)
def test_empty(shape):
    a = np.zeros(shape, "f4")
    result = polar(a)
    assert result.u.shape == shape and result.h.shape == (*shape[:-2], shape[-1], shape[-1])
    assert result.u.dtype == np.float32 and not result.status.any() and isinstance(result.message, str)
    assert spectral_power(a, 0.5).x.shape == shape and "SpectralResult" in repr(spectral_power(a, -1))


def test_layouts():
    A, _ = rectangular(12, 6, 10.0, batch=(4,))
    expected = polar(A).u
    wide = np.zeros((4, 24, 12))
    wide[:, ::2, ::2] = A
    frozen = A.copy()
    frozen.flags.writeable = False
    for a in (wide[:, ::2, ::2], np.asfortranarray(A), frozen, A.astype(">f8")):
        assert (polar(a).u == expected).all()


def test_on_a_double_of_a_gpu(monkeypatch):
    import cupy_double
    from cupy_double import ndarray

    from matroot.backends.cuda.gpu import gpu

    monkeypatch.setitem(sys.modules, "cupy", cupy_double.MODULE)
    gpu.cache_clear()
    for dtype in ("float32", "float64", "complex64"):
        for shape in ((24, 10), (10, 24)):
            A, power = rectangular(*shape, 30.0, dtype, batch=(3,))
            A[2, 1, 1] = np.nan
            result = polar(ndarray(A.copy()))
            assert isinstance(result.u, ndarray)
            u, status = result.u.get(), result.status.get()
            assert status.tolist() == [0, 0, Status.NONFINITE_INPUT] and np.isnan(u[2]).all()
            assert all(distance(u[i], power(0)[i]) <= 30 * 30 * EPS[dtype] for i in range(2))
            x = spectral_power(ndarray(A.copy()), 0.5).x.get()
            assert all(distance(x[i], power(0.5)[i]) <= 30 * 30 * EPS[dtype] for i in range(2))
    gpu.cache_clear()


def test_arguments():
    A = np.eye(3)
    for s in (True, "1", None):
        with pytest.raises(TypeError, match="s must be an int"):
            spectral_power(A, s)
    for s in (np.inf, np.nan, np.pi, 65, 1e300, 10**400, Fraction(1, 65), -1.5):
        with pytest.raises(ValueError, match="ratio of integers up to 64"):
            spectral_power(A, s)
    for rtol in (-1, 1, "0", np.nan):
        with pytest.raises(ValueError, match="rtol must be"):
            polar(A, rtol=rtol)
    with pytest.raises(ValueError, match="'auto', 'products' or 'svd'"):
        polar(A, method="qdwh")
    with pytest.raises(ValueError, match=r"must be \(..., m, n\), got \(3,\)"):
        polar(np.ones(3))
    with pytest.raises(TypeError, match="bool"):
        polar(np.ones((3, 2), bool))
    with pytest.raises(TypeError, match="nested lists"):
        polar([["1"]])
    assert matroot.PolarResult is type(polar(A))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_power_1_of_zero_matrices_says_nothing_beside_its_status(dtype):
    A = np.zeros((2, 6, 3), dtype)
    A[1] = np.eye(6, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = spectral_power(A, 1)
    assert (result.x == A).all() and result.status.tolist() == [0, 0]


@pytest.mark.parametrize("s", [Fraction(1, 3), 0.5, 1, 2])
@pytest.mark.parametrize("n", [3, 40])
def test_what_the_users_cut_drops_is_no_fault_of_a_positive_power(s, n):
    A = np.eye(n + 2, n)
    A[0, 0] = 1e-4
    for rtol in (None, 1e-2):
        result = spectral_power(A, s, rtol=rtol)
        assert result.status == Status.CONVERGED and result.rank == n - (rtol is not None)


@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (3, 5), (40, 36)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_subnormal_matrices(shape, dtype):
    """U is that of the scaled matrix; H has the digits of subnormal numbers, of which the status tells."""
    info, rng = np.finfo(dtype), np.random.default_rng(0)
    for bits in (2, 6):  # that are left below the largest entry
        A = rng.standard_normal(shape)
        A = (A / abs(A).max() * 2.0**bits * float(info.smallest_subnormal)).astype(dtype)
        result, wide = polar(A), A.astype("f8") / float(info.smallest_subnormal)
        assert result.status == Status.ILL_CONDITIONED
        U = scipy.linalg.polar(wide)[0]
        assert distance(result.u.astype("f8"), U) <= 20 * shape[0] ** 0.5 * max(float(info.eps), 2.0**-50) * result.cond
        H = scipy.linalg.polar(wide)[1]
        assert abs(result.h.astype("f8") / float(info.smallest_subnormal) - H).max() <= 0.501
    assert polar(A.astype("f8") / float(info.smallest_subnormal)).converged
