"""Rectangular matrices without full rank."""

import numpy as np
import pytest
from conftest import read
from table import EPS
from test_rectangular import distance, eye_of

from matroot import Status, polar, spectral_power


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (30, 30)], ids=str)
def test_rank_deficient(shape, dtype):
    """What rounding left of the zeros counts as 0; the factor is a partial isometry with the null space of A."""
    rng = np.random.default_rng(0)
    m, n = shape
    B, C = rng.standard_normal((m, 7)), rng.standard_normal((7, n))
    A = (B @ C).astype(dtype)
    result = polar(A)
    u, h = (x.astype(np.result_type(x, np.float64)) for x in (result.u, result.h))
    eps = EPS[dtype]
    assert result.rank == 7 and result.status == Status.ILL_CONDITIONED and "rank 7 of" in result.message
    assert np.linalg.norm(u @ u.conj().T @ u - u) <= 40 * eps
    assert np.linalg.norm(u @ h - A) <= 100 * eps * np.linalg.norm(A)
    assert result.orthogonality <= 40 * eps and result.residual <= 100 * eps
    X = spectral_power(A, -1)
    assert X.rank == 7 and X.status == Status.ILL_CONDITIONED
    pinv = np.linalg.pinv(B @ C, rcond=1e-5)
    assert distance(X.x.conj().T, pinv) <= 200 * eps * np.linalg.cond(B) * np.linalg.cond(C)
    half = spectral_power(A, 0.5)
    assert half.converged and half.rank == 7


def test_rank_is_of_the_users_cut():
    A = np.diag([1.0, 0.5, 1e-3])
    assert polar(A).rank == 3 and polar(A, rtol=1e-2).rank == 2
    assert np.allclose(polar(A, rtol=1e-2).u, np.diag([1, 1, 0]))
    assert np.allclose(spectral_power(A, -1, rtol=1e-2).x, np.diag([1, 2, 0]))
    assert polar(np.zeros((3, 2))).rank == 0 and (polar(np.zeros((3, 2))).u == 0).all()
    assert (spectral_power(np.zeros((3, 2)), -1).x == 0).all()
    assert spectral_power(np.zeros((3, 2)), 0.5).converged


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_its_rank(dtype):
    """A random matrix has full rank, and a product of rank 3 has rank 3, to all that is known of it."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    A = torch.from_numpy(rng.standard_normal((128, 48))).to(getattr(torch, dtype))
    result = polar(A)
    assert result.rank == 48 and result.converged
    assert np.linalg.norm(eye_of(read(result.u)) - np.eye(48), 2) <= 8 * EPS[dtype]
    low = torch.from_numpy(rng.standard_normal((128, 3)) @ rng.standard_normal((3, 48))).to(getattr(torch, dtype))
    assert polar(low).rank == 3
