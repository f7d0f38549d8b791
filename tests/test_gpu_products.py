"""What cupy has not: rounded products, symmetric ones by halves, stacks of eigendecompositions; on doubles."""

import sys
from fractions import Fraction

import cupy_double
import numpy as np
import pytest
from cuda_double import kernels
from cupy_double import Cublas, Cusolver, Libcusolver, ndarray, waiting_forbidden
from table import distance

from matroot import Floor, RootError, Status, gallery, inverse_pth_root, solve
from matroot._bars import forward_error_bound
from matroot.backends.cuda import cublas, cusolver, graphs, libraries
from matroot.backends.cuda.gpu import gpu
from matroot.backends.cuda.limits import GPULimits

__all__ = ["kernels"]
UNIT = {"tf32": 2.0**-11, "bfloat16": 2.0**-8}


@pytest.fixture(autouse=True)
def cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", cupy_double.MODULE)
    gpu.cache_clear()
    Cublas.calls.clear()
    yield cupy_double.MODULE
    gpu.cache_clear()


def blind(A, p, **options):
    with waiting_forbidden():
        return solve(ndarray(np.array(A)), p, **options)


class TestGemm:
    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
    def test_parts_of_stacks(self, dtype):
        rng = np.random.default_rng(0)
        a, b = (rng.integers(-9, 9, (3, 11, 11)).astype(dtype) for _ in range(2))
        c = ndarray(np.full((3, 11, 11), 7, dtype))
        cublas.gemm(ndarray(a)[:, 2:5], ndarray(b)[:, :, 1:9], c[:, 4:7, 3:11], gpu(0))
        wanted = np.full((3, 11, 11), 7, dtype)
        wanted[:, 4:7, 3:11] = a[:, 2:5] @ b[:, :, 1:9]
        assert (c.get() == wanted).all()

    @pytest.mark.parametrize("rounding", UNIT)
    @pytest.mark.parametrize("dtype", ["float32", "complex64"])
    def test_rounding(self, dtype, rounding):
        rng = np.random.default_rng(1)
        a, b = (rng.standard_normal((2, 20, 20)).astype(dtype) for _ in range(2))
        C = gpu(0).rounded(rounding).matmul(ndarray(a), ndarray(b)).get()
        error = abs(C - a.astype("complex128") @ b).max() / (abs(a) @ abs(b)).max()
        assert UNIT[rounding] / 100 <= error <= 2.1 * UNIT[rounding]
        assert abs(gpu(0).matmul(ndarray(a), ndarray(b)).get() - a @ b).max() <= 1e-5

    def test_what_is_no_square_stack_of_float32_is_not_rounded(self):
        backend, v = gpu(0).rounded("tf32"), np.full((2, 9, 1), 1 + 2.0**-20)
        assert (backend.matmul(ndarray(np.stack([np.eye(9)] * 2)), ndarray(v)).get() == v).all()
        single = np.stack([np.eye(9, dtype="float32")] * 2)
        assert (backend.matmul(ndarray(single), ndarray(v.astype("float32"))).get() == v).all()
        assert not Cublas.calls


class TestRounding:
    @pytest.mark.slow
    @pytest.mark.parametrize("rounding", UNIT)
    @pytest.mark.parametrize("method", ["auto", "minimax", "coupled_newton", "higher_order", "newton_db"])
    @pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
    def test_vouched_for_means_within_rtol(self, method, p, rounding):
        """CONVERGED is said of no root that is off by more than rtol, and is said where the bound allows it."""
        if method == "newton_db" and p not in (2, 4, 8):
            return
        for n in (7, 40):
            for rtol in (1e-1, 1e-2):
                conds = (1.5, 4.0, 20.0, 100.0, 1e3)
                stack, roots = zip(*(gallery.spd(n, cond, rng=n) for cond in conds), strict=True)
                A = np.stack(stack).astype("float32")
                result = blind(A, p, method=method, rtol=rtol, compute_dtype=rounding)
                assert result.compute_dtype == rounding and result.x.dtype == "float32"
                status, X = result.status.get(), result.x.get()
                bound = 4 * forward_error_bound(result.cond.get(), Fraction(-1, p), UNIT[rounding])
                for code, x, root, b in zip(status, X, roots, bound, strict=True):
                    assert code or distance(x, root(Fraction(-1, p))) <= rtol
                    assert code or b <= rtol
                    assert code in (0, Status.ILL_CONDITIONED) or b > rtol
                assert Cublas.calls and {compute for *_, compute in Cublas.calls} == {cublas.ROUNDING[rounding]}

    def test_the_certificate_is_in_full(self):
        """The residual is that of the root that is returned, as numpy finds it."""
        A, _ = gallery.spd(30, 5.0, rng=0)
        result = blind(A.astype("float32"), 4, rtol=1e-1, compute_dtype="tf32")
        X = result.x.get().astype(float)
        R = np.linalg.matrix_power(X, 4) @ A.astype("float32") - np.eye(30)
        assert np.isclose(result.residual.get(), np.linalg.norm(R) / 30**0.5, rtol=0.5)
        assert 1e-4 <= result.residual.get() <= 1e-1

    def test_the_condition_number_is_what_limits_it(self):
        A, _ = gallery.spd(30, 1e6, rng=0)
        result = blind(A.astype("float32"), 4, rtol=1e-1, compute_dtype="tf32", regularization=1e-3)
        assert result.status.get() == Status.ILL_CONDITIONED
        assert "tf32" in result.message and "11" in result.message
        with pytest.warns(UserWarning, match="digit"):
            inverse_pth_root(ndarray(A.astype("float32")), 4, rtol=1e-1, compute_dtype="tf32", regularization=1e-3)

    def test_float64_and_half_precisions_in(self):
        A, root = gallery.spd(20, 3.0, rng=0)
        for dtype in ("float64", "float16"):
            result = blind(A.astype(dtype), 2, rtol=5e-2, compute_dtype="tf32")
            assert result.x.dtype == dtype and result.status.get() == 0
            assert distance(result.x.get().astype(float), root(Fraction(-1, 2))) <= 5e-2

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({}, r"rtol >= 0\.001, got None"),
            ({"rtol": 1e-4}, r"rtol >= 0\.001, got 0\.0001"),
            ({"rtol": 1e-2, "method": "eigen"}, "takes a decomposition"),
            ({"rtol": 1e-2, "regularization": Floor(relative=1e-2)}, "decomposition.*Floor"),
        ],
    )
    def test_refused(self, options, words):
        with pytest.raises(ValueError, match=words):
            solve(ndarray(np.eye(3, dtype="float32")), 2, compute_dtype="tf32", **options)

    def test_not_on_the_cpu(self):
        with pytest.raises(ValueError, match="is for arrays on a CUDA device"):
            solve(np.eye(3), 2, rtol=1e-2, compute_dtype="tf32")

    @pytest.mark.slow
    def test_small_matrices_and_shortcuts(self, kernels, monkeypatch):
        """small.cu multiplies in full, and is left out; the others go together with rounding."""
        A, root = gallery.spd(16, 3.0, batch=(2,), rng=0)
        monkeypatch.setattr(gpu(0), "limits", GPULimits(fused=64, eigen=64, kernels=1, graphs=1 << 20, halves=1))
        graphs.forget()
        for _ in range(2):
            result = blind(A.astype("float32"), 4, rtol=1e-2, compute_dtype="tf32")
            assert (result.status.get() == 0).all()
            assert all(distance(x, root(Fraction(-1, 4))[i]) <= 1e-2 for i, x in enumerate(result.x.get()))
        assert {name.split("<")[0] for name in kernels} == {"combine", "ritz"}
        graphs.forget()


class TestHalves:
    """Symmetric products from their lower triangle, where float32 input is computed in float64."""

    @pytest.fixture
    def backend(self, kernels, monkeypatch):
        monkeypatch.setattr(gpu(0), "limits", GPULimits(halves=8))
        return gpu(0)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 64, 65, 130, 260])
    def test_mirror(self, backend, n, dtype):
        A = np.random.default_rng(0).standard_normal((3, n, n)).astype(dtype)
        mine = ndarray(A.copy())
        from matroot.backends.cuda.stacks import mirror

        mirror(mine, backend)
        assert (mine.get() == np.tril(A) + np.tril(A, -1).swapaxes(-1, -2)).all()

    @pytest.mark.parametrize("n", [8, 32, 33, 130, 300])
    def test_product(self, backend, n):
        S, _ = gallery.spd(n, 100.0, batch=(2,), rng=0)
        T = S @ S
        out = backend.symmetric_matmul(ndarray(S), ndarray(T), out=ndarray(np.empty_like(S))).get()
        assert (out == out.swapaxes(-1, -2)).all()
        assert np.allclose(out, S @ T, rtol=0, atol=n * 1e-15 * abs(S @ T).max())
        work = sum(m * rows * k for m, rows, k, _, _ in Cublas.calls)
        assert work <= (0.625 if n == 300 else 1) * n**3 * (1.05 if n == 300 else 1)

    @pytest.mark.parametrize(("p", "inverse"), [(1, True), (4, True), (8, True), (3, False)])
    def test_roots_of_float32(self, backend, p, inverse):
        """No digit of float32 is lost by it."""
        for cond in (1e6,):
            A, _ = gallery.spd(70, cond, rng=0)
            A = A.astype("float32")
            ours = blind(A, p, inverse=inverse)
            assert ours.compute_dtype == "float64" and ((p == 1 and not inverse) or Cublas.calls)
            w, Q = np.linalg.eigh(A.astype(float))
            X = (Q * w ** ((-1 if inverse else 1) / p)) @ Q.T
            assert distance(ours.x.get(), X) <= 2 * 2.0**-24 + cond * 2.0**-50
            held = not inverse or 2.0**-24 * cond / p <= 10**-1.5  # two digits of what came in float32
            assert ours.status.get() == (Status.CONVERGED if held else Status.ILL_CONDITIONED)
            Cublas.calls.clear()

    def test_only_with_digits_to_spare(self, backend):
        A, _ = gallery.spd(40, 1e2, rng=0)
        for values, options in (
            (A, {}),
            (A.astype("float32"), {"compute_dtype": "float32"}),
            (A + 0j, {}),
            (A.astype("complex64"), {}),
        ):
            blind(values, 4, **options)
        blind(A[:7, :7].astype("float32"), 4)
        assert not Cublas.calls

    def test_in_a_graph(self, backend):
        backend.limits = GPULimits(halves=8, graphs=1 << 20, kernels=1)
        graphs.forget()
        A, root = gallery.spd(40, 1e3, batch=(2,), rng=0)
        for scale in (1.0, 16.0):
            X = blind((scale * A).astype("float32"), 4).x.get()
            assert distance(X[1], root(Fraction(-1, 4))[1] * scale**-0.25) <= 1e-4
        assert len(graphs._known) == 1
        exact = blind(A, 4).x.get()  # of float64: no digits to spare, and so another graph
        backend.limits = GPULimits(kernels=1)
        assert len(graphs._known) == 2 and (exact == blind(A, 4).x.get()).all()
        graphs.forget()


class TestSecondTry:
    """A card whose float64 is slow computes float32 in float32; what that fails goes again, for those who wait."""

    @pytest.fixture(autouse=True)
    def slow(self, monkeypatch):
        monkeypatch.setattr(cupy_double.Device, "ratio", 64)

    @pytest.mark.parametrize("method", ["auto", "eigen", "coupled_newton"])
    def test_plain_functions(self, method):
        hard, _ = gallery.spd(20, 1.5e6, rng=0)
        easy, _ = gallery.spd(20, 1e1, rng=1)
        A = np.stack([easy, hard]).astype("float32")
        assert blind(A, 4, method=method).status.get()[1] != Status.CONVERGED
        X = inverse_pth_root(ndarray(A), 4, method=method)
        w, Q = np.linalg.eigh(A[1].astype(float))
        assert distance(X.get()[1], (Q * w**-0.25) @ Q.T) <= 1e-6
        assert (X.get()[0] == blind(A, 4, method=method).x.get()[0]).all()

    def test_not_where_float32_was_asked_for(self):
        A, _ = gallery.spd(20, 1.8e6, rng=0)
        with pytest.warns(UserWarning, match="float32"):
            inverse_pth_root(ndarray(A.astype("float32")), 1, method="eigen", compute_dtype="float32")

    def test_what_float64_cannot_mend_is_an_error(self):
        A = np.stack([np.eye(3), np.diag([1.0, 1.0, -1.0]), np.full((3, 3), np.nan)]).astype("float32")
        with pytest.raises(RootError, match="2 of 3 matrices have no root"):
            inverse_pth_root(ndarray(A), 2)


class TestBatchedEigen:
    """cuSOLVER's XsyevBatched, between Jacobi and one matrix at a time."""

    @pytest.fixture
    def backend(self, kernels, monkeypatch):
        monkeypatch.setattr(gpu(0), "limits", GPULimits(jacobi=0, batched=50))
        return gpu(0)

    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
    def test_decomposition(self, backend, dtype, monkeypatch):
        rng = np.random.default_rng(0)
        W = rng.standard_normal((5, 9, 20)) + (1j * rng.standard_normal((5, 9, 20)) if "complex" in dtype else 0)
        A = (W @ W.conj().swapaxes(-1, -2)).astype(dtype)
        A = (A + A.conj().swapaxes(-1, -2)) / 2
        before = A.copy()
        monkeypatch.setattr(cusolver, "MOST", 2 * 81)  # two at a time
        w, Q = (v.get() for v in backend.eigh(ndarray(A)))
        eps = float(np.finfo(dtype).eps)
        assert w.dtype == A.real.dtype and Q.dtype == dtype and (A == before).all()
        assert np.allclose(w, np.linalg.eigvalsh(A), rtol=0, atol=20 * eps * w.max())
        assert abs(A @ Q - Q * w[:, None, :]).max() <= 40 * eps * w.max()
        assert np.allclose(backend.eigvalsh(ndarray(A)).get(), w, rtol=0, atol=20 * eps * w.max())
        assert Cusolver.open == 0

    def test_a_failure_is_that_matrix_alone(self, backend, monkeypatch):
        monkeypatch.setattr(Libcusolver, "fails", {1})
        monkeypatch.setattr(cusolver, "MOST", 2 * 400)  # two at a time: the second of each call fails
        A = np.stack([gallery.spd(20, 1e2, rng=k)[0] for k in range(5)])
        result = blind(A, 4, method="eigen")
        fine = [True, False, True, False, True]
        assert (result.status.get() == 0).tolist() == fine
        assert np.isfinite(result.x.get()).all((-1, -2)).tolist() == fine

    def test_which_go_there(self, backend, monkeypatch):
        seen = []
        monkeypatch.setattr(cusolver, "eigvalsh", lambda A, xp: seen.append(A.shape) or A[..., 0])
        for shape in ((3, 50, 50), (1, 50, 50), (3, 51, 51)):
            backend.eigvalsh(ndarray(np.stack([np.eye(shape[-1])] * shape[0])))
        assert seen == [(3, 50, 50)]

    def test_an_old_library_is_named(self, backend, monkeypatch):
        monkeypatch.setattr(libraries, "CDLL", lambda path: object())
        cusolver._library.cache_clear()
        with pytest.raises(AttributeError, match="cusolverDn"):
            backend.eigh(ndarray(np.stack([np.eye(9)] * 2)))
