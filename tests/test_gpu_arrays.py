"""Dtypes, layouts and the input of solves on a double of a GPU."""

import numpy as np
import pytest
from cupy_double import Device, waiting_forbidden
from table import distance
from test_gpu import METHODS, blind, on_device

from matroot import gallery, solve
from matroot.backends.cuda.gpu import gpu

pytestmark = pytest.mark.usefixtures("cupy")


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64", "complex128", "int64"])
def test_dtypes(dtype):
    rng = np.random.default_rng(0)
    W = rng.standard_normal((3, 20, 40)) * (40 if dtype == "int64" else 1)
    if dtype.startswith("complex"):
        W = W + 1j * rng.standard_normal(W.shape)
    A = (W @ W.conj().swapaxes(-1, -2) / 40).astype(dtype)
    A = (A + A.conj().swapaxes(-1, -2)) // 2 if dtype == "int64" else A
    result = blind(A, 2)
    wide = A.astype(np.result_type(A.dtype, np.float64))
    w, Q = np.linalg.eigh((wide + wide.conj().swapaxes(-1, -2)) / 2)
    exact = (Q * w[:, None, :] ** -0.5) @ Q.conj().swapaxes(-1, -2)
    eps = 2.0**-11 if dtype == "float16" else float(np.finfo(result.x.dtype).eps)
    assert result.x.dtype == (np.float64 if dtype == "int64" else dtype)
    assert all(distance(X, Y) <= 4 * eps + 1e-13 for X, Y in zip(result.x.get(), exact, strict=True))
    assert result.status.get().tolist() == [0, 0, 0]


def test_float32_is_computed_in_float64_where_that_is_fast(monkeypatch):
    A, _ = gallery.spd(16, 1e5, rng=0)
    A = A.astype("float32")
    assert blind(A, 4).compute_dtype == "float64"
    assert blind(A, 4, rtol=1e-3).compute_dtype == "float32"
    monkeypatch.setattr(Device, "ratio", 64)  # a card made for games
    gpu.cache_clear()
    slow = blind(A, 4)
    assert slow.compute_dtype == "float32"
    assert blind(A, 4, compute_dtype="float64").compute_dtype == "float64"
    assert blind(A.astype("float64"), 4).compute_dtype == "float64"
    A = A.astype("float64")
    w, Q = np.linalg.eigh(A)
    assert distance(slow.x.get(), (Q * w**-0.25) @ Q.T) <= 3 * 1e5 / 4 * 2.0**-24


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_any_layout(method):
    A, _ = gallery.spd(10, 1e3, batch=(4,), rng=0)
    straight = blind(A, 2, method=method, regularization=1e-3).x.get()
    for view in (lambda a: a.swapaxes(-1, -2), lambda a: a[::-1][::-1], lambda a: a[:, ::-1, ::-1][:, ::-1, ::-1]):
        a = view(on_device(A))
        with waiting_forbidden():
            X = solve(a, 2, method=method, regularization=1e-3).x
        assert (X.get() == straight).all()


def test_the_input_is_never_written_to():
    A = on_device(np.stack([gallery.spd(12, 1e3, rng=0)[0], np.zeros((12, 12)), np.full((12, 12), np.nan)]))
    before = A.get()
    for method in METHODS:
        for rule in (None, 1e-3):
            solve(A, 2, method=method, regularization=rule)
            solve(A, 2, method=method, regularization=rule, inverse=False)
    assert np.array_equal(A.get(), before, equal_nan=True)
