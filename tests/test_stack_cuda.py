"""stack.cu and CUDA graphs without a card: the kernels on host threads, capture and replay on the double of cupy."""

from dataclasses import replace

import cupy_double
import numpy as np
import pytest
from cuda_double import kernels
from cupy_double import Allocated, ndarray, waiting_forbidden

from matroot import gallery, solve
from matroot.backends.cuda import graphs, stacks
from matroot.backends.cuda.gpu import gpu
from matroot.backends.cuda.limits import GPULimits
from matroot.methods.conditioning import start_vector
from matroot.pipeline.device_facts import ritz

__all__ = ["kernels"]


class TestBetweenProducts:
    """stack.cu."""

    @pytest.fixture
    def backend(self, kernels, monkeypatch):
        monkeypatch.setattr(gpu(0), "limits", GPULimits(kernels=1))
        return gpu(0)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 17), (2, 70)], ids=str)
    def test_sums(self, shape, dtype, backend):
        B, n = shape
        S, M = np.random.default_rng(0).standard_normal((2, B, n, n)).astype(dtype)
        eps = float(np.finfo(dtype).eps)
        for place in ("new", "S", "M"):
            s, m = ndarray(S.copy()), ndarray(M.copy())
            out = {"new": ndarray(np.empty_like(S)), "S": s, "M": m}[place]
            stacks.combine(0.5, s, -3.0, m, 2.0, out, backend)
            assert np.allclose(out.get(), 0.5 * S - 3 * M + 2 * np.eye(n), rtol=0, atol=20 * eps)

    @pytest.mark.parametrize("s", [0.0, 1.0, 0.5])
    def test_sums_the_long_way(self, s, backend):
        S, M = np.random.default_rng(0).standard_normal((2, 3, 7, 7))
        backend.limits = GPULimits()
        for place in ("new", "S"):
            mine = ndarray(S.copy())
            out, scratch = (mine if place == "S" else ndarray(np.empty_like(S))), ndarray(np.empty_like(S))
            backend.combine(s, mine, -3.0, ndarray(M), 2.0, out, scratch)
            assert np.allclose(out.get(), s * S - 3 * M + 2 * np.eye(7), rtol=0, atol=1e-14)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("n", [1, 2, 3, 16, 33, 63, 64, 65, 150])
    def test_ends_of_the_spectrum(self, n, dtype, backend):
        A, _ = gallery.spd(n, 1e3, batch=(3,), rng=1) if n > 1 else (np.full((3, 1, 1), 2.0), None)
        A = A.astype(dtype)
        top, low = (v.get() for v in stacks.extreme_ritz(ndarray(A), start_vector(n), 16, backend))
        w = np.linalg.eigvalsh(A.astype(float))
        rounding = 1e-14 * w[:, -1]
        assert (top <= w[:, -1] + rounding).all() and (low >= w[:, 0] - rounding).all()
        if n <= 16:
            assert np.allclose(top, w[:, -1], rtol=1e-12) and (abs(low - w[:, 0]) <= 1e-13 * w[:, -1]).all()
        assert np.allclose(top, w[:, -1], rtol=0.02)

    def test_same_ends_as_with_products(self, backend, monkeypatch):
        A = ndarray(np.stack([gallery.spd(100, 1e6, s, rng=2)[0] for s in ("geometric", "two_cluster", "power_law")]))
        ours = [v.get() for v in ritz(A, backend)]
        backend.limits = GPULimits()
        theirs = [v.get() for v in ritz(A, backend)]
        assert np.allclose(ours[0], theirs[0], rtol=1e-10) and np.allclose(ours[1], theirs[1], rtol=1e-6)

    def test_matrices_without_much_of_a_spectrum(self, backend):
        A = np.stack([0 * np.eye(40), 3 * np.eye(40), np.diag(np.r_[np.ones(39), -2.0]), np.full((40, 40), np.nan)])
        top, low = (v.get() for v in stacks.extreme_ritz(ndarray(A), start_vector(40), 16, backend))
        assert np.allclose(top[:3], [0, 3, 1]) and np.allclose(low[:3], [0, 3, -2])
        assert np.isnan(top[3]) and np.isnan(low[3])

    @pytest.mark.parametrize("n", [30, 300])
    def test_few_different_eigenvalues(self, n, backend):
        """The Lanczos vectors soon span all there is, with and without a basis that is kept."""
        Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((n, 3)))
        A = np.stack(
            [np.eye(n) + (Q * np.array(w)) @ Q.T for w in ((9.0, 9.0, 9.0), (1e3, 1.0, -2.0), (1e-6, 0, -0.5))]
        )
        A = (A + A.swapaxes(-1, -2)) / 2
        top, low = (v.get() for v in stacks.extreme_ritz(ndarray(A), start_vector(n), 16, backend))
        w = np.linalg.eigvalsh(A)
        assert np.allclose(top, w[:, -1], rtol=1e-10) and np.allclose(low, w[:, 0], rtol=1e-10, atol=1e-12 * w.max())

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("rule", [None, 1e-4])
    def test_through_solve(self, backend, kernels, dtype, rule, monkeypatch):
        good, _ = gallery.spd(70, 1e3, rng=0)
        batch = np.stack([good, np.full_like(good, np.nan), good - 0.3 * np.eye(70), good / 2]).astype(dtype)
        for inverse in (True, False):
            options = {"inverse": inverse, "regularization": rule, "compute_dtype": dtype}
            backend.limits = GPULimits(kernels=1)
            with waiting_forbidden():
                ours = solve(ndarray(batch), 4, **options)
            backend.limits = GPULimits()
            theirs = solve(ndarray(batch), 4, **options)
            X, Y = ours.x.get(), theirs.x.get()
            assert (ours.status.get() == theirs.status.get()).all()
            assert np.allclose(X, Y, rtol=0, atol=1e3 * np.finfo(dtype).eps * np.nanmax(abs(Y)), equal_nan=True)
            assert np.allclose(ours.cond.get(), theirs.cond.get(), rtol=1e-3, equal_nan=True)
        assert {name.split("<")[0] for name in kernels} == {"combine", "ritz"}

    def test_few_large_matrices_go_another_way(self, backend):
        fits = lambda B, n, dtype="float64": stacks.fits_lanczos(ndarray(np.zeros((B, n, n), dtype)), backend)  # noqa: E731
        assert fits(1, 512) and fits(32, 513) and not fits(31, 513)
        assert not fits(4, 8, "complex128")
        backend.shared_bytes = 99 << 10  # of sm_120
        assert stacks.vectors(2048) + 1024 <= backend.shared_bytes


class TestGraphs:
    """Capture and replay on the double, where nothing captured is run before it is launched."""

    @pytest.fixture(params=[0, 1], ids=["cupy", "stack.cu"])
    def backend(self, kernels, monkeypatch, request):
        monkeypatch.setattr(gpu(0), "limits", GPULimits(graphs=1 << 20, kernels=request.param))
        graphs.forget()
        yield gpu(0)
        graphs.forget()

    @pytest.mark.slow
    def test_same_root(self, backend, monkeypatch):
        A = np.stack([gallery.spd(30, 1e3, rng=k)[0] for k in range(6)])
        for p, inverse in ((4, True), (3, True), (2, False)):
            ours, backend.limits = backend.limits, replace(backend.limits, graphs=0)
            plain = solve(ndarray(A), p, inverse=inverse)
            backend.limits = ours
            for part in (A, A[::-1]):  # the first captures, the second replays
                with waiting_forbidden():
                    result = solve(ndarray(part.copy()), p, inverse=inverse)
                wanted = plain.x.get() if part is A else plain.x.get()[::-1]
                assert (result.x.get() == wanted).all()
        assert len(graphs._known) == 4  # a positive root takes two schedules

    def test_what_makes_another_graph(self, backend):
        A = np.stack([gallery.spd(12, 1e2, rng=k)[0] for k in range(2)])
        for values in (A, A, A[:1], A.astype("float32")):
            solve(ndarray(values), 2, compute_dtype=values.dtype.name)
        assert len(graphs._known) == 3
        with cupy_double.Stream():
            solve(ndarray(A), 2)
        assert len(graphs._known) == 4

    def test_when_there_is_no_room_the_long_way_is_taken(self, backend, monkeypatch):
        monkeypatch.setattr(graphs, "KEPT", 2)
        for k in range(2, 6):
            X = solve(ndarray(4 * np.eye(k)), 2).x.get()
            assert np.allclose(X, np.eye(k) / 2) and len(graphs._known) == min(2, k - 1)
        graphs.forget()
        monkeypatch.setattr(cupy_double.Device, "memory", 5 * 8 * 30**2 * 16 - 1)
        assert np.allclose(solve(ndarray(4 * np.eye(30)), 2).x.get(), np.eye(30) / 2) and not graphs._known

    def test_large_stacks_and_complex_ones(self, backend):
        solve(ndarray(np.stack([np.eye(200)] * 4)), 2)
        assert not graphs._known
        W = np.random.default_rng(0).standard_normal((8, 20)) * 1j + np.eye(8, 20)
        X = solve(ndarray(W @ W.conj().T), 2).x.get()
        assert np.allclose(X @ X @ (W @ W.conj().T), np.eye(8)) and len(graphs._known) == 1

    def test_cupy_calls_no_cublas_in_a_capture(self, backend):
        """Which is why a graph is recorded by another way to cuBLAS."""
        with pytest.raises(NotImplementedError, match="during stream capture"):
            graphs.capture(backend, lambda _, *s: (backend.matmul(s[0], s[0], out=s[1]),), (ndarray(np.eye(3)[None]),))

    def test_a_failing_call_of_cublas_is_named(self, backend):
        other = cupy_double.Stream()
        backend.recorder.recording.use(other, other)  # not the current one
        with pytest.raises(RuntimeError, match="cublasGemmStridedBatchedEx failed with status 13"):
            backend.recorder.matmul(ndarray(np.eye(3)[None]), ndarray(np.eye(3)[None]))

    def test_nothing_is_allocated_in_a_capture(self, backend):
        with pytest.raises(Allocated):
            graphs.capture(backend, lambda backend, *stacks: (stacks[0] + 1,), (ndarray(np.eye(3)),))
