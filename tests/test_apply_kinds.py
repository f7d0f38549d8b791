"""A^s B of every kind of matrix: what fails says why, dense arrays, and derivatives."""

import sys
from fractions import Fraction

import numpy as np
import pytest
from test_solve_apply import EPS, EXPONENTS, FORMS, columns, errors, grid, linalg, of_reference, power, sparse

from matroot import (
    ConditionWarning,
    Ridge,
    RootError,
    Shift,
    Status,
    apply_fractional_power,
    apply_inverse_pth_root,
    apply_pth_root,
    gallery,
    solve_apply,
)


class TestFailures:
    def test_status_of_every_column(self):
        B = columns(9, 3)
        B[2, 1] = np.nan
        B[:, 2] = 0
        for method in ("lanczos", "poles"):
            result = solve_apply(grid(3), 2, B, method=method)
            assert result.status.tolist() == [0, Status.NONFINITE_INPUT, 0]
            assert np.isnan(result.x[:, 1]).all() and not result.x[:, 2].any() and result.error[2] == 0
            assert "3 columns: 2 CONVERGED, 1 NONFINITE_INPUT (first [1])" in result.message

    @pytest.mark.parametrize("method", ["lanczos", "poles"])
    @pytest.mark.parametrize(
        ("diagonal", "status"),
        [
            ([1.0, 2, -1e-3], Status.NOT_POSITIVE),
            ([1.0, 2, 0], Status.SINGULAR),
            ([0.0, 0, 0], Status.SINGULAR),
            ([1.0, np.inf, 1], Status.NONFINITE_INPUT),
            ([1.0, np.nan, 1], Status.NONFINITE_INPUT),
        ],
    )
    def test_matrices_without_a_root(self, diagonal, status, method):
        A = sparse.diags_array(np.array(diagonal)).tocsr()
        result = solve_apply(A, 2, np.ones(3), method=method)
        assert result.status == status and np.isnan(result.x).all() and np.isnan(result.error)
        with pytest.raises(RootError) as raised:
            apply_inverse_pth_root(A, 2, np.ones(3), method=method)
        assert raised.value.result.status == status

    @pytest.mark.parametrize("method", ["lanczos", "poles"])
    def test_semidefinite_matrices_have_positive_powers(self, method):
        A, B = sparse.diags_array([1.0, 4, 0, 9]).tocsr(), columns(4, 2)
        x = apply_pth_root(A, 2, B, method=method)
        assert np.allclose(x, B * np.array([1, 2, 0, 3])[:, None], atol=1e-6)
        assert (solve_apply(A, 2, B, method=method, inverse=False).status == 0).all()

    def test_too_few_steps(self):
        A, _ = gallery.spd(80, 1e8, rng=0)
        result = solve_apply(lambda v: A @ v, 2, columns(80, 1), max_iter=10)
        assert result.status[0] == Status.MAX_ITER and "raise max_iter" in result.message
        with pytest.raises(RootError, match="not converged after 10 iterations"):
            apply_inverse_pth_root(lambda v: A @ v, 2, columns(80, 1), max_iter=10)

    def test_an_rtol_that_rounding_forbids(self):
        A, _ = gallery.spd(30, 1e6, rng=0)
        result = solve_apply(sparse.csr_array(A), 2, columns(30, 1), rtol=1e-14)
        assert result.status[0] == Status.ILL_CONDITIONED and "rounding may cost" in result.message
        with pytest.warns(ConditionWarning, match="rounding may cost a relative error of"):
            apply_inverse_pth_root(sparse.csr_array(A), 2, columns(30, 1), rtol=1e-14)

    def test_digits_are_those_of_the_input(self):
        A, _ = gallery.spd(30, 1e7, rng=0)
        result = solve_apply(sparse.csr_array(A.astype("f4")), 2, columns(30, 1), regularization=Ridge(absolute=1e-7))
        assert result.status[0] == Status.ILL_CONDITIONED

    @pytest.mark.parametrize("form", FORMS)
    def test_what_is_not_symmetric(self, form):
        A = np.triu(np.ones((6, 6)))
        with pytest.raises(ValueError, match="a is not symmetric"):
            solve_apply(FORMS[form](A), 2, np.ones(6))
        with pytest.raises(ValueError, match="a is not Hermitian"):
            solve_apply(FORMS[form](A * 1j), 2, np.ones(6, complex))

    def test_functions_that_misbehave(self):
        def broken(v):
            raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            solve_apply(broken, 2, np.ones(6))
        for wrong in (lambda v: v[:3], lambda v: v[:, None], lambda v: v.sum()):
            with pytest.raises((ValueError, TypeError), match=r"a\(v\) must be an array like v"):
                solve_apply(wrong, 2, np.ones(6))
        with pytest.raises(TypeError, match="the product A v must be an array"):
            solve_apply(lambda v: None, 2, np.ones(6))
        asked = []
        solve_apply(lambda v: asked.append(v) or v, 2, np.ones(6))  # which returns what it was given

    def test_what_is_given_stays(self):
        A, B = grid(4), columns(16, 2)
        kept, other = A.copy(), B.copy()
        for method in ("lanczos", "poles"):
            solve_apply(A, 2, B, method=method, regularization=0.1)
        assert (A != kept).nnz == 0 and (B == other).all()

    def test_arguments(self):
        A, b = grid(3), np.ones(9)
        for options, text in (
            ({"method": "eigen"}, "method must be one of"),
            ({"regularization": Shift(1e-3)}, "Shift needs a dense array; use Ridge"),
            ({"rtol": 2.0}, "rtol must be"),
            ({"max_iter": 0}, "max_iter must be"),
            ({"lambda_min": -1.0}, "lambda_min must be"),
            ({"compute_dtype": "float32"}, "compute_dtype is for dense arrays"),
        ):
            with pytest.raises(ValueError, match=text):
                solve_apply(A, 2, b, **options)
        with pytest.raises(ValueError, match=r"factorizes A: a must be a scipy\.sparse matrix"):
            solve_apply(lambda v: v, 2, b, method="poles")
        with pytest.raises(ValueError, match=r"a must be \(n, n\) for a b of n = 4 rows, got \(9, 9\)"):
            solve_apply(A, 2, np.ones(4))
        with pytest.raises(ValueError, match=r"b must be \(n,\) or \(n, m\)"):
            solve_apply(A, 2, np.ones((2, 9, 3)))
        for s in (0, 1, 2, -1.5):
            for a in (A, A.toarray()):
                with pytest.raises(ValueError, match=r"s must be in \[-1, 1\), and not 0"):
                    solve_apply(a, None, b, s=s)
        with pytest.raises(TypeError, match="give p, for a root, or s"):
            solve_apply(A, 2, b, s=0.5)
        with pytest.raises(ValueError, match="no bound for method='minimax'"):
            solve_apply(A.toarray(), 2, b, method="minimax")


class TestKinds:
    @pytest.mark.parametrize(("a", "b", "x"), [("f4", "f4", "f4"), ("f4", "f8", "f8"), ("i4", "f2", "f8")])
    def test_dtypes(self, a, b, x):
        A = (grid(3) * 4).astype(a)
        B = columns(9, 2, b)
        exact = power(A.toarray().astype(float), -0.5, B.astype(float))
        for form in (A, linalg.aslinearoperator(A)):
            result = solve_apply(form, 2, B)
            assert result.x.dtype == x and (result.status == 0).all()
            assert (errors(result.x, exact) <= result.error).all() and result.error.max() < 100 * np.finfo(x).eps

    def test_a_real_matrix_and_complex_columns(self):
        A, B = grid(4), columns(16, 2, "c16")
        for method in ("lanczos", "poles"):
            x = apply_fractional_power(A, -0.3, B, method=method)
            assert errors(x, power(A.toarray(), -0.3, B)).max() < 1e-13

    @pytest.mark.parametrize("size", [0, 1, 2])
    def test_small_sizes(self, size):
        A = sparse.csr_array(4 * np.eye(size))
        for k in (0, 1, 3):
            for method in ("lanczos", "poles"):
                assert np.allclose(solve_apply(A, 2, np.ones((size, k)), method=method).x, 0.5)

    def test_an_invariant_subspace_ends_early(self):
        A = sparse.diags_array(np.arange(1.0, 21))
        result = solve_apply(A, 2, np.eye(20)[:, :3] + np.eye(20)[:, 5:8], method="lanczos")
        assert result.n_iter <= 4 and (result.status == 0).all()

    def test_torch(self):
        torch = pytest.importorskip("torch")
        A = grid(4)
        dense = torch.from_numpy(A.toarray())
        B = torch.from_numpy(columns(16, 2))
        exact = power(A.toarray(), -0.5, B.numpy())
        for a in (dense.to_sparse(), lambda v: dense @ v):
            result = solve_apply(a, 2, B)
            assert isinstance(result.x, torch.Tensor) and errors(result.x.numpy(), exact).max() < 1e-13
        single = solve_apply(lambda v: dense.float() @ v, 2, B.float())
        assert single.x.dtype == torch.float32
        assert (errors(single.x.double().numpy(), exact) <= single.error).all() and single.error.max() < 1e-4
        with pytest.raises(TypeError, match="only a dense a is differentiated"):
            apply_inverse_pth_root(lambda v: v, 2, B.requires_grad_())

    def test_on_a_double_of_a_gpu(self, monkeypatch):
        import cupy_double

        from matroot.backends.cuda.gpu import gpu

        monkeypatch.setitem(sys.modules, "cupy", cupy_double.MODULE)
        gpu.cache_clear()
        A, root = gallery.spd(20, 50.0, rng=0)
        device = cupy_double.ndarray(A.copy())
        B = columns(20, 2)
        for s in (Fraction(-1, 2), Fraction(1, 3)):
            result = solve_apply(lambda v: device @ v, None, cupy_double.ndarray(B.copy()), s=s, rtol=1e-8)
            assert isinstance(result.x, cupy_double.ndarray)
            assert (errors(result.x.get(), root(s) @ B) <= result.error).all() and result.error.max() < 1e-8
        with pytest.raises(ValueError, match="dense arrays are applied on the CPU"):
            solve_apply(device, 2, cupy_double.ndarray(B.copy()))
        gpu.cache_clear()


class TestDense:
    @pytest.mark.parametrize("dtype", ["f4", "f8", "c16"])
    def test_the_error_is_below_its_bound(self, dtype):
        for cond in (3.0, 1e3, 1e5):
            A, _ = gallery.spd(40, cond, "power_law", batch=(2,), dtype=np.dtype(dtype), rng=0)
            B = columns(40, 3, dtype)
            for s in EXPONENTS:
                result = solve_apply(A, None, B, s=s)
                assert result.x.shape == (2, 40, 3) and result.error.shape == (2, 3)
                assert (result.status == 0).all() and result.certificate == "probes"
                for i in range(2):
                    exact = power(A[i].astype("c16" if dtype == "c16" else "f8"), s, B)
                    assert (errors(result.x[i], exact) <= result.error[i] + of_reference(cond)).all()
                    assert result.error[i].max() <= 4 * np.finfo(dtype).eps + 2000 * EPS + 200 * EPS * cond

    @pytest.mark.parametrize("what", ["values", "vectors"])
    def test_the_error_is_that_of_the_decomposition(self, monkeypatch, what):
        """Damaged eigenvalues and eigenvectors give errors, and the bound tells them."""
        from matroot.backends import cpu_backend

        backend, honest = type(cpu_backend()), type(cpu_backend()).eigh

        def damaged(self, A):
            w, Q = honest(self, A)
            rng = np.random.default_rng(0)
            if what == "vectors":
                return w, Q + 1e-7 * rng.standard_normal(Q.shape)
            return w * (1 + 1e-6 * rng.standard_normal(w.shape)), Q

        A, root = gallery.spd(40, 1e3, rng=0)
        B = columns(40, 2)
        monkeypatch.setattr(backend, "eigh", damaged)
        for s in (Fraction(-1, 2), Fraction(1, 2)):
            result = solve_apply(A, None, B, s=s)
            off = errors(result.x, root(s) @ B)
            assert (off > 1e-8).all() and (off <= result.error).all()

    def test_failures(self):
        A = np.stack([np.eye(3), np.ones((3, 3)), -np.eye(3), np.full((3, 3), np.nan)])
        result = solve_apply(A, 2, np.ones((3, 2)))
        assert result.status[:, 0].tolist() == [0, Status.SINGULAR, Status.NOT_POSITIVE, Status.NONFINITE_INPUT]
        assert np.isnan(result.error[1:]).all() and "8 columns: 2 CONVERGED, 2 NOT_POSITIVE" in result.message

    def test_semidefinite(self):
        x = apply_pth_root(np.ones((4, 4)), 2, np.ones(4))
        assert np.allclose(x, 2)


class TestDerivatives:
    def test_torch(self):
        torch = pytest.importorskip("torch")
        A = torch.from_numpy(gallery.spd(4, 20.0, rng=0)[0]).requires_grad_()
        B = torch.from_numpy(columns(4, 2)).requires_grad_()

        def whole(apply, p):
            return lambda a, b: apply((a + a.mT) / 2, p, b)

        for apply, p in ((apply_inverse_pth_root, 2), (apply_pth_root, 3), (apply_fractional_power, -0.4)):
            assert torch.autograd.gradcheck(whole(apply, p), (A, B))
        assert torch.autograd.gradgradcheck(whole(apply_inverse_pth_root, 2), (A, B))
        with pytest.raises(TypeError, match="solve_apply does not differentiate"):
            solve_apply(A, 2, B)

    def test_jax(self):
        jax = pytest.importorskip("jax")
        A, root = gallery.spd(4, 20.0, rng=0)
        B = columns(4, 2)
        apply = jax.jit(lambda a, b: apply_inverse_pth_root(a, 2, b))
        a, b = jax.numpy.asarray(A), jax.numpy.asarray(B)
        assert np.allclose(apply(a, b), root(-0.5) @ B, rtol=1e-5)
        gradient = jax.grad(lambda b: apply(a, b).sum())(b)
        assert np.allclose(gradient, root(-0.5) @ np.ones((4, 2)), rtol=1e-5)

    @pytest.mark.parametrize("library", ["torch", "jax"])
    def test_arguments_are_those_of_arrays(self, library):
        """Dtypes are joined and arguments checked as without derivatives."""
        module = pytest.importorskip(library)
        A, b = np.diag([1.0, 4.0]).astype("float32"), np.ones((2, 1))
        if library == "torch":
            A, tensor = module.from_numpy(A), module.from_numpy
            recorded = A.clone().requires_grad_()

            def applied(b, function=apply_inverse_pth_root, p=2, **options):
                return function(recorded, p, b, **options).detach().numpy()
        else:
            A, tensor = module.numpy.asarray(A), module.numpy.asarray

            def applied(b, function=apply_inverse_pth_root, p=2, **options):
                return np.asarray(module.jit(lambda a, b: function(a, p, b, **options))(A, b))

        for dtype in ("float16", "float32", "float64", "complex64"):
            expected = np.asarray(apply_inverse_pth_root(A, 2, tensor(b.astype(dtype))))
            found = applied(tensor(b.astype(dtype)))
            assert found.dtype == expected.dtype
            assert np.allclose(found, expected, rtol=1e-6)
        b = tensor(b.astype("float32"))
        for s in (2, 1, 0, -1.5):
            with pytest.raises(ValueError, match="s must be in"):
                applied(b, apply_fractional_power, s)
        for wrong, options, words in (
            (b[:1], {}, "b must be"),
            (b, {"lambda_min": -1}, "lambda_min"),
            (b, {"method": "coupled_newton"}, "method must be one of"),
        ):
            with pytest.raises(ValueError, match=words):
                applied(wrong, **options)

    def test_numbers_of_another_library(self):
        torch = pytest.importorskip("torch")
        for a, b in ((np.eye(2), torch.ones(2)), (torch.eye(2), np.ones(2))):
            one, other = (x.requires_grad_() if isinstance(x, torch.Tensor) else x for x in (a, b))
            with pytest.raises(TypeError, match="one library"):
                apply_inverse_pth_root(one, 2, other)
