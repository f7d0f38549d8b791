"""orthogonalizer: X^H A X = I on the directions that are kept, and what was dropped."""

import sys

import mpmath
import numpy as np
import pytest
from conftest import dtype_of, read
from table import EPS

from matroot import PseudoInverse, Status, gallery, inv_sqrtm, orthogonalizer


def overlaps(exponents, n_atoms):
    """Overlap matrix of normalized Gaussians on a chain of atoms, one of every exponent on every atom."""
    a, x = (v.ravel() for v in np.meshgrid(exponents, np.arange(float(n_atoms))))
    total = a[:, None] + a
    return np.sqrt(2 * np.sqrt(a[:, None] * a) / total) * np.exp(-a[:, None] * a / total * (x[:, None] - x) ** 2)


def defect(X, A):
    """||X^H A X - I||_F / sqrt(k) in 50 digits."""
    with mpmath.workdps(50):
        X, A = mpmath.matrix(X.tolist()), mpmath.matrix(A.tolist())
        R = X.H * A * X - mpmath.eye(X.cols)
        return float(mpmath.mnorm(R, "f")) / X.cols**0.5


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("n", [1, 2, 9, 60])
def test_full_rank_is_an_inverse_square_root(n, dtype):
    for cond in (1.5, 1e3, 1e6):
        A, root = gallery.spd(n, cond, dtype=dtype, rng=n)
        result = orthogonalizer(A, rtol=1e-9)
        X = result.x.astype(np.result_type(A, np.float64))
        assert result.x.dtype == A.dtype and X.shape == (n, n) and result.mask.all()
        bar = 20 * (EPS[dtype] + n**0.5 * EPS["float64"]) * max(cond, 1)
        assert np.linalg.norm(X.conj().T @ A @ X - np.eye(n)) / n**0.5 <= bar
        assert result.residual <= bar
        assert (result.status == Status.CONVERGED) == (EPS[dtype] * result.cond <= 10**-1.5)
        norms = np.linalg.norm(X, axis=0)
        assert (np.diff(norms) >= -1e-3 * norms.max()).all()  # descending eigenvalues
        S = root(-0.5)
        assert np.linalg.norm(X @ X.conj().T - S @ S) <= (100 * EPS[dtype] * cond + 1e-13) * np.linalg.norm(S @ S)


def test_overlaps_of_a_rich_basis():
    """What quantum chemistry does with a threshold of 1e-7: fewer functions, orthonormal."""
    S = overlaps([1.5, 0.4, 0.1, 0.025], 8)
    w = np.linalg.eigvalsh(S)[::-1]
    for cut, options in (
        (1e-7 * w[0], {"rtol": 1e-7}),
        (1e-7, {"rtol": 0.0, "absolute": 1e-7}),
        (1e-3, {"absolute": 1e-3}),
    ):
        result = orthogonalizer(S, **options)
        k = int((w > cut).sum())
        assert result.rank == k < 32 and result.x.shape == (32, k) and result.converged
        assert np.isclose(result.kept_least, w[k - 1], rtol=1e-6) and result.kept_least > cut
        assert np.isclose(result.dropped_most, w[k], rtol=1e-6) and result.dropped_most <= cut
        assert np.isclose(result.cond, w[0] / w[k - 1], rtol=1e-6)
        assert defect(result.x, S) <= 20 * 6 * 2.0**-53 * result.cond
        assert 0.1 <= result.residual / defect(result.x, S) <= 10
        assert f"{k} of 32 directions" in result.message and "OrthogonalizerResult" in repr(result)
    square = inv_sqrtm(S, regularization=PseudoInverse(rtol=1e-7))
    X = orthogonalizer(S, rtol=1e-7).x
    assert np.linalg.norm(X @ X.T - square @ square) <= 1e-8 * np.linalg.norm(square @ square)


def test_rank_without_a_cut():
    """Dependent functions are found by the rounding of their dtype."""
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        B = rng.standard_normal((50, 6))
        A = (B @ B.T).astype(dtype)
        result = orthogonalizer(A)
        assert result.rank == 6 and result.x.shape == (50, 6) and result.converged
        assert np.linalg.norm(result.x.T.astype(float) @ A @ result.x - np.eye(6)) < 1e3 * EPS[dtype]
    full = orthogonalizer(np.eye(4))
    assert full.rank == 4 and np.isnan(full.dropped_most) and full.smallest == 1
    zero = orthogonalizer(np.zeros((3, 3)))
    assert zero.rank == 0 and zero.x.shape == (3, 0) and np.isnan(zero.kept_least) and zero.converged


def test_batch_of_unequal_rank():
    rng = np.random.default_rng(0)
    B = rng.standard_normal((2, 3, 10, 10))
    for i, k in enumerate((3, 10, 7, 5, 10, 1)):
        B[i // 3, i % 3, :, k:] = 0
    A = B @ B.mT
    A[1, 1, 2, 2] = np.nan
    result = orthogonalizer(A)
    ranks = [3, 10, 7, 5, 0, 1]
    assert result.rank.ravel().tolist()[:4] == ranks[:4] and result.rank[1, 2] == 1
    assert result.x.shape == (2, 3, 10, 10) and result.mask.shape == (2, 3, 10)
    assert result.status.ravel().tolist() == [0, 0, 0, 0, Status.NONFINITE_INPUT, 0]
    for i in np.ndindex(2, 3):
        X, mask = result.x[i], result.mask[i]
        if i == (1, 1):
            assert np.isnan(X).all() and not mask.any()
            continue
        assert mask.sum() == result.rank[i] and (X[:, ~mask] == 0).all()
        assert np.allclose(X.T @ A[i] @ X, np.diag(mask * 1.0), atol=1e-9)
        one = orthogonalizer(A[i])
        assert (one.x == X[:, mask]).all() and one.residual == result.residual[i]
    assert orthogonalizer(A[0, :1]).x.shape == (1, 10, 3)


def test_what_is_no_overlap_matrix():
    A = np.stack([np.eye(4), np.diag([1.0, 1, 1, -0.5]), np.eye(4), np.diag([1.0, 1, 1, -1e-17])])
    A[2, 0, 1] = 0.3
    result = orthogonalizer(A)
    assert result.status.tolist() == [0, Status.NOT_POSITIVE, Status.NOT_SYMMETRIC, 0]
    assert result.rank.tolist() == [4, 0, 0, 3] and result.smallest[1] == -0.5
    assert np.isnan(result.x[1:3]).all() and "-5.0e-01" in orthogonalizer(A[1]).message
    with pytest.raises(ValueError, match=r"not symmetric: .* 3\.0e-01"):
        orthogonalizer(A[2])
    assert orthogonalizer(A[1], absolute=0.6).converged  # beyond rounding, but not beyond the cut


def test_scales():
    A, _ = gallery.spd(6, 100.0, rng=0)
    X = orthogonalizer(A).x
    for scale in (1e-300, 1e-30, 1e30, 1e300):
        result = orthogonalizer(A * scale, absolute=0.05 * scale)
        k = int(orthogonalizer(A, absolute=0.05).rank)
        assert k < 6 and result.rank == k
        assert np.allclose(abs(result.x) * scale**0.5, abs(X[:, :k]), rtol=1e-10)
        assert np.isclose(result.kept_least / scale, orthogonalizer(A, absolute=0.05).kept_least)


def test_kinds(kind):
    values = np.array([[2.0, 2.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 8.0]])
    if kind.complex:
        values = values + 1j * np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]]) * 0
    a = kind.make(np.stack([values, values]))
    result = orthogonalizer(a)
    assert kind.is_mine(result.x) and dtype_of(result.x) == kind.result_dtype and tuple(result.x.shape) == (2, 3, 2)
    X = read(result.x)[1]
    assert np.allclose(X.conj().T @ values @ X, np.eye(2), atol=20 * EPS[kind.result_dtype])
    for name in ("status", "rank", "mask", "kept_least", "dropped_most", "smallest", "residual", "cond"):
        assert kind.is_mine(getattr(result, name)), name


def test_on_a_double_of_a_gpu(monkeypatch):
    import cupy_double
    from cupy_double import ndarray

    from matroot.backends.cuda.gpu import gpu

    monkeypatch.setitem(sys.modules, "cupy", cupy_double.MODULE)
    gpu.cache_clear()
    A, _ = gallery.spd(8, 100.0, batch=(2,), rng=0)
    result = orthogonalizer(ndarray(A.copy()), absolute=0.05)
    same = orthogonalizer(A, absolute=0.05)
    assert isinstance(result.x, ndarray) and np.allclose(abs(result.x.get()), abs(same.x))
    gpu.cache_clear()


def test_arguments_and_empty():
    for absolute in (-1, np.nan, np.inf, "1"):
        with pytest.raises(ValueError, match="absolute must be"):
            orthogonalizer(np.eye(2), absolute=absolute)
    with pytest.raises(ValueError, match=r"must be \(..., n, n\), got \(2, 3\)"):
        orthogonalizer(np.ones((2, 3)))
    for shape, wanted in (((0, 0), (0, 0)), ((2, 0, 0), (2, 0, 0)), ((0, 3, 3), (0, 3, 3))):
        result = orthogonalizer(np.zeros(shape))
        assert result.x.shape == wanted and isinstance(repr(result), str)


def matrix(w, seed=0):
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(w), len(w))))[0]
    return (Q * w) @ Q.T


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch scripts formulas of its forward mode
def test_torch_differentiates_what_is_the_same_for_all_bases():
    """Of first and second order, where kept eigenvalues are equal, and one is dropped."""
    torch = pytest.importorskip("torch")
    A = torch.from_numpy(matrix([1.0, 1.0, 0.5, 1e-9])).requires_grad_()
    F = torch.from_numpy(matrix([2.0, 1.0, -1.0, 0.5], 1))

    def projected(a):
        x = orthogonalizer((a + a.mT) / 2, absolute=1e-3).x
        assert x.shape == (4, 3)
        return x @ x.mT, torch.linalg.eigvalsh(x.mT @ F @ x)

    assert torch.autograd.gradcheck(projected, (A,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(projected, (A,))
    result = orthogonalizer(A, absolute=1e-3)
    assert np.array_equal(result.x.detach(), orthogonalizer(A.detach().numpy(), absolute=1e-3).x)
    with pytest.raises(RuntimeError, match=r"use x @ x\.mH"):
        result.x[:, 0].sum().backward()
    with pytest.raises(TypeError, match=r"torch\.func"):
        torch.func.grad(lambda a: orthogonalizer(a).x.sum())(A)


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e150])
def test_gradients_at_any_scale(scale):
    """Of full rank, X X^T is the inverse, whose derivative in E is -A^-1 E A^-1."""
    torch = pytest.importorskip("torch")
    w = np.array([1.0, 1.0, 1e-8])
    A, G = matrix(w), matrix([2.0, 1.0, -1.0], 3)
    a = torch.from_numpy(A * scale).requires_grad_()
    x = orthogonalizer(a).x * scale**0.5
    (x @ x.mT).backward(torch.from_numpy(G))
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    inverse = (Q / w) @ Q.T
    exact = -inverse @ G @ inverse
    assert np.linalg.norm(a.grad.numpy() * scale - exact) <= 1e-6 * np.linalg.norm(exact)


def test_gradients_of_a_batch_with_failures():
    torch = pytest.importorskip("torch")
    stack = np.stack(
        [matrix([3.0, 2.0, 1.0]), matrix([2.0, 1.0, 0.0]), -matrix([3.0, 2.0, 1.0]), np.full((3, 3), np.nan)]
    )
    A = torch.from_numpy(stack.astype(np.float32)).requires_grad_()
    x = orthogonalizer(A).x
    (x @ x.mT).sum().backward()
    assert torch.isnan(A.grad).any((1, 2)).tolist() == [False, False, True, True]
    for i in range(2):
        alone = A.detach()[i].requires_grad_()
        x = orthogonalizer(alone).x
        (x @ x.mT).sum().backward()
        assert torch.allclose(A.grad[i], alone.grad, rtol=1e-5)


@pytest.mark.slow
def test_jax_traces_and_differentiates():
    jax = pytest.importorskip("jax")
    A = np.stack([matrix([3.0, 3.0, 1.0]), matrix([2.0, 1.0, 0.0], 1)]).astype(np.float32)

    def total(a):
        x = orthogonalizer(a).x
        return (x @ x.T)[0].sum()

    result = jax.jit(orthogonalizer)(A)
    assert result.x.shape == (2, 3, 3) and result.rank.tolist() == [3, 2]
    assert result.mask.tolist() == [[True] * 3, [True, True, False]]
    found = jax.vmap(jax.grad(total))(A)
    E = np.stack([matrix([1.0, -2.0, 0.5], 7), matrix([1.0, 0.0, 0.0], 1)])
    t = 1e-4
    for a, e, g in zip(A.astype(float), E, found, strict=True):

        def pinv(a):
            return np.linalg.pinv(a, rcond=1e-3, hermitian=True)[0].sum()

        difference = (pinv(a + t * e) - pinv(a - t * e)) / (2 * t)
        assert abs((np.asarray(g) * e).sum() - difference) <= 1e-4 * abs(difference)


@pytest.mark.parametrize("n", [1, 2, 40])
def test_a_matrix_of_rank_0_has_a_value_and_a_gradient_of_0(n):
    """A zero matrix, alone and in a batch, and one that an absolute cut leaves nothing of."""
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    batch = np.stack([np.zeros((n, n)), np.diag(np.arange(1.0, n + 1)), -1e-9 * np.eye(n)])
    for A in (batch[0], batch, batch[:1]):
        wanted = orthogonalizer(A, absolute=1e-6).x
        S = torch.tensor(A, requires_grad=True)
        x = orthogonalizer(S, absolute=1e-6).x
        assert np.array_equal(x.detach().numpy(), wanted)
        (x @ x.mT).sum().backward()
        assert S.grad.isfinite().all() and not S.grad.reshape(-1, n, n)[0].any()

        def total(a):
            x = orthogonalizer(a, absolute=1e-6).x
            return (x @ x.mT).sum()

        G = np.asarray(jax.grad(total)(jax.numpy.asarray(A, "float32")))
        assert np.isfinite(G).all() and not G.reshape(-1, n, n)[0].any()
        traced = np.asarray(jax.jit(lambda a: orthogonalizer(a, absolute=1e-6).x)(jax.numpy.asarray(A, "float32")))
        k = wanted.shape[-1]
        assert np.allclose(traced[..., :k], wanted) and not traced[..., k:].any()
