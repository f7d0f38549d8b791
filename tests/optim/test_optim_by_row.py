"""Rows that ranks may share: the same bits in any part of a table, whichever library multiplies them."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim.step import by_row

torch = pytest.importorskip("torch")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["in chunks", "as it is"])
def way(request, monkeypatch):
    """Chunks on any processor, or what this one does."""
    if request.param == "in chunks":
        monkeypatch.setattr(by_row, "same_in_every_place", lambda n, dtype: True)
    return request.param


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 1, 5), (1, 95, 16), (3, 96, 7), (2, 200, 32), (1, 0, 4), (2, 4, 50, 8)])
def test_products_are_those_of_numpy(shape, dtype, way, one_thread):
    rng = np.random.default_rng(0)
    G = rng.standard_normal(shape).astype(dtype)
    X = rng.standard_normal((shape[0], shape[-1], shape[-1])).astype(dtype)
    axis = len(shape) - 2
    found = by_row.precondition_by_row(torch.from_numpy(G), [torch.from_numpy(X)], (axis,))
    want = np.einsum("b...i,bij->b...j", G.astype(np.float64), X.astype(np.float64))
    assert found.shape == shape
    np.testing.assert_allclose(found.numpy(), want, rtol=0, atol=20 * np.finfo(dtype).eps * shape[-1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [3, 16, 24, 64, 96, 205, 256])
def test_a_row_has_the_same_bits_in_any_part(n, dtype, one_thread):
    rng = np.random.default_rng(n)
    G = torch.from_numpy(rng.standard_normal((1, 400, n)).astype(dtype))
    roots = [torch.from_numpy(rng.standard_normal((1, n, n)).astype(dtype))]
    whole = by_row.precondition_by_row(G, roots, (1,))
    flipped = by_row.precondition_by_row(G.mT, roots, (0,))
    assert torch.equal(flipped.mT, whole)  # of the first dimension, whose roots are symmetric
    turned = [by_row.rotated_by_row(G, roots, (1,), back=back) for back in (False, True)]
    for first, stop in ((0, 1), (5, 7), (3, 130), (96, 192), (200, 400)):
        some = G[:, first:stop]
        assert torch.equal(by_row.precondition_by_row(some, roots, (1,)), whole[:, first:stop])
        for back in (False, True):
            assert torch.equal(by_row.rotated_by_row(some, roots, (1,), back=back), turned[back][:, first:stop])


@pytest.mark.parametrize("back", [False, True])
def test_coordinates_and_back(back, way, one_thread):
    rng = np.random.default_rng(1)
    G, Q = rng.standard_normal((2, 37, 16)), np.linalg.qr(rng.standard_normal((2, 16, 16)))[0]
    found = by_row.rotated_by_row(torch.from_numpy(G), [torch.from_numpy(Q)], (1,), back=back)
    np.testing.assert_allclose(found.numpy(), G @ (Q.mT if back else Q), atol=1e-13)


def test_the_example_sees_a_place_that_differs(monkeypatch):
    """A BLAS whose last rows go another way, as OpenBLAS's for AVX2 do, is not taken."""

    class Uneven(np.ndarray):
        def __matmul__(self, other):
            product = np.asarray(self) @ np.asarray(other)
            product[-2:] = np.nextafter(product[-2:], np.inf)
            return product

    ones = np.tile
    monkeypatch.setattr(np, "tile", lambda x, shape: ones(x, shape).view(Uneven))
    assert not by_row.same_in_every_place.__wrapped__(16, "f")
