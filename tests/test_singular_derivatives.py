"""Derivatives of polar factors and powers of singular values: against 60 digits, in torch and in jax."""

from fractions import Fraction
from itertools import permutations

import mpmath
import numpy as np
import pytest
from table import EPS

import matroot
from matroot import RootError, polar, spectral_derivative, spectral_power
from matroot.autodiff.forms import Power, evaluate
from matroot.gallery.symmetric import orthogonal

SPECTRA = {"spread": (3.0, 2.0, 0.5), "equal": (1.0, 1.0, 1.0), "close": (1.0, 1 - 1e-9, 0.3), "ill": (1.0, 1e-2, 1e-4)}
POWERS = (0, Fraction(1, 2), Fraction(-2, 3), -1, Fraction(3, 2), 2)


def matrices(m, n, sigma, dtype="float64", rng=0):
    """A matrix with these singular values, and two directions."""
    rng = np.random.default_rng(rng)
    field = complex if np.dtype(dtype).kind == "c" else float
    U, V = (orthogonal(size, dtype=field, rng=rng)[:, : len(sigma)] for size in (m, n))
    directions = rng.standard_normal((2, m, n))
    return (U * np.array(sigma)) @ V.conj().T, *(directions + 1j * directions[::-1] if field is complex else directions)


def differences(A, E, H, s):
    """The derivative in E, and the second one in E and H, by differences in 60 digits."""
    with mpmath.workdps(60):
        A, E, H = (mpmath.matrix(M.tolist()) for M in (A, E, H))
        complex_ = any(isinstance(x, mpmath.mpc) for x in A)
        exponent, t = mpmath.mpf(Fraction(s).numerator) / Fraction(s).denominator, mpmath.mpf(10) ** -15

        def power(M):
            U, S, V = (mpmath.svd_c if complex_ else mpmath.svd_r)(M)
            return U * mpmath.diag([x**exponent for x in S]) * V

        E, H = t * E, t * H
        first = (power(A + E) - power(A - E)) / (2 * t)
        second = (power(A + E + H) - power(A + E - H) - power(A - E + H) + power(A - E - H)) / (4 * t**2)
        return [np.array(X.tolist(), complex if complex_ else float) for X in (first, second)]


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("m", "n", "dtype"), [(4, 3, "float64"), (3, 4, "complex128"), (3, 3, "float64")])
def test_against_60_digits(m, n, dtype, spectrum):
    sigma = SPECTRA[spectrum]
    bar = 40 * EPS["float64"] * (1 + max(sigma) / min(sigma))
    A, E, H = matrices(m, n, sigma, dtype)
    for s in POWERS if spectrum != "ill" else POWERS[:2]:
        power = Power(Fraction(s), None, "any", dtype)
        found = spectral_derivative(A, E, s), evaluate("second", power, A[None], (E[None], H[None]))[0][0]
        for X, exact in zip(found, differences(A, E, H, s), strict=True):
            assert np.linalg.norm(X - exact) <= bar * np.linalg.norm(exact)


def test_the_identity_and_the_inverse():
    """s = 1 is A itself, and s = -1 the transposed inverse."""
    A, E, H = matrices(4, 4, (2.0, 1.0, 1.0, 0.5))
    power = Power(Fraction(1), None, "any", "float64")
    assert np.allclose(spectral_derivative(A, E, 1), E, rtol=0, atol=1e-14)
    assert np.allclose(evaluate("second", power, A[None], (E[None], H[None]))[0], 0, atol=1e-13)
    inverse = np.linalg.inv(A)
    assert np.allclose(spectral_derivative(A, E, -1), -(inverse @ E @ inverse).T, rtol=0, atol=1e-13)


def test_second_derivatives_without_full_rank():
    """s = 3 is A A^H A. At 0 the derivative of x^s, odd, has no derivative for 1 < s <= 2."""
    A, E, H = matrices(4, 3, (2.0, 1.0, 0.0))
    exact = sum(X @ Y.T @ Z for X, Y, Z in permutations((A, E, H)))
    powers = {s: Power(Fraction(s), None, "any", "float64") for s in (1, 1.5, 2, 3)}
    second = {s: evaluate("second", power, A[None], (E[None], H[None])) for s, power in powers.items()}
    assert np.allclose(second[3][0], exact, rtol=0, atol=1e-12)
    assert np.allclose(second[1][0], 0, rtol=0, atol=1e-13)
    for s in (1.5, 2):
        assert second[s][1].all() and np.isnan(second[s][0]).all()


def test_scales_batches_and_dtypes():
    A, E, _ = matrices(5, 3, (3.0, 2.0, 1.0))
    L = spectral_derivative(A, E, 0)
    batch = np.array([A, 2.0**-900 * A, 2.0**900 * A])
    found = spectral_derivative(batch, E, 0)
    assert np.array_equal(found[0], L)
    assert np.array_equal(found[1] * 2.0**-900, L)
    assert np.array_equal(found[2] * 2.0**900, L)
    single = spectral_derivative(A.astype("f4"), E.astype("f4"), 0)
    assert single.dtype == np.float32
    assert np.allclose(single, L, atol=1e-5)
    assert spectral_derivative(np.zeros((0, 5, 3)), E, 0).shape == (0, 5, 3)
    assert spectral_derivative(np.zeros((2, 5, 0)), np.zeros((5, 0)), 0).shape == (2, 5, 0)
    assert spectral_derivative(np.zeros((3, 2)), np.ones((3, 2)), 2).any() == 0


def test_single_precision_in_and_out_is_double_precision_within():
    for smallest in (3e-4, 1e-5):  # by the Gram matrix, and by the decomposition
        A, E, _ = (M.astype("f4") for M in matrices(5, 3, (1.0, 0.1, smallest)))
        for s in (0, 0.5):
            exact = spectral_derivative(A.astype(float), E.astype(float), s)
            assert np.linalg.norm(spectral_derivative(A, E, s) - exact) <= 2e-7 * np.linalg.norm(exact)


def test_a_matrix_without_derivative():
    A, E, _ = matrices(5, 3, (3.0, 2.0, 0.0))
    for s in (0, 0.5, -1):
        with pytest.raises(RootError, match="1 of 1 matrices have no such power, or no derivative"):
            spectral_derivative(A, E, s)
    assert np.isfinite(spectral_derivative(A, E, 1)).all()
    A[0, 0] = np.nan
    with pytest.raises(RootError, match="NaN"):
        spectral_derivative(A, E, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((np.eye(3), np.eye(2), 0), ValueError, "like a"),
        ((np.ones((2, 3, 2)), np.ones((3, 3, 2)), 0), ValueError, "broadcast"),
        ((np.eye(3), np.eye(3), -2), ValueError, "s must be at least -1"),
        ((np.eye(3), np.eye(3), "2"), TypeError, "s must be an int"),
        ((np.ones(3), np.ones(3), 0), ValueError, "like a"),
    ],
)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        spectral_derivative(*arguments)


class TestTorch:
    """As `test_torch_autograd`, for rectangular matrices."""

    torch = pytest.importorskip("torch")
    pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

    FUNCTIONS = {  # noqa: RUF012
        "u": lambda a: polar(a).u,
        "h": lambda a: polar(a).h,
        "square root": lambda a: spectral_power(a, 0.5).x,
        "pseudo-inverse": lambda a: spectral_power(a, -1).x,
    }

    def tensor(self, m, n, sigma=(2.0, 1.0, 1.0), dtype="float64"):
        k = min(m, n)
        return self.torch.tensor(matrices(m, n, sigma[:k], dtype)[0], requires_grad=True)

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_autocast_changes_nothing(self, name):
        """The gradient of h had the precision of bfloat16."""
        found = []
        for enabled in (False, True):
            a = self.tensor(3, 2).detach().float().requires_grad_()
            with self.torch.autocast("cpu", dtype=self.torch.bfloat16, enabled=enabled):
                x = self.FUNCTIONS[name](a)
            found.append(self.torch.autograd.grad((x**2).sum() + x[0, 0], a)[0])
        assert found[0].equal(found[1])

    @pytest.mark.parametrize(
        ("name", "m", "n", "dtype"),
        [
            ("u", 3, 2, "float64"),
            ("h", 2, 3, "float64"),
            ("square root", 3, 3, "float64"),
            *(pytest.param(name, 3, 2, "complex128", marks=pytest.mark.slow) for name in ("u", "h", "pseudo-inverse")),
        ],
    )
    def test_gradcheck(self, name, m, n, dtype):
        a = self.tensor(m, n, (2.0, 1.0, 1.0) if name == "square root" else (2.0, 1.0), dtype)
        autograd, function = self.torch.autograd, self.FUNCTIONS[name]
        assert autograd.gradcheck(function, (a,), check_forward_ad=True)
        assert autograd.gradgradcheck(function, (a,), check_fwd_over_rev=True)

    @pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "complex64"])
    def test_values_are_those_without_a_gradient(self, dtype):
        torch = self.torch
        a = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
        for of in (lambda a: polar(a).u, lambda a: polar(a).h, lambda a: spectral_power(a, 0.5).x):
            x = of(a.clone().requires_grad_())
            assert x.requires_grad
            assert x.dtype == a.dtype
            assert torch.equal(x.detach(), of(a))

    def test_the_gradient_is_the_derivative(self):
        torch = self.torch
        a = self.tensor(5, 3, (3.0, 1.0, 0.2))
        g = torch.ones(5, 3, dtype=a.dtype)
        (spectral_power(a, 0.5).x * g).sum().backward()
        assert torch.allclose(a.grad, spectral_derivative(a.detach(), g, 0.5), rtol=1e-13)

    def test_equal_singular_values_where_svd_gives_nan(self):
        torch = self.torch
        a = torch.eye(3, 2, dtype=torch.float64, requires_grad=True)
        U, S, Vh = torch.linalg.svd(a, full_matrices=False)
        assert torch.autograd.grad((U @ torch.diag(S**0.5) @ Vh).sum(), a)[0].isnan().any()
        g = torch.autograd.grad(spectral_power(a, 0.5).x.sum(), a)[0]
        assert torch.allclose(g, torch.tensor([[0.5, 0.5], [0.5, 0.5], [1.0, 1.0]], dtype=a.dtype), rtol=1e-14)

    def test_a_matrix_without_full_rank_spoils_its_own_gradient_only(self):
        torch = self.torch
        a = torch.stack([self.tensor(4, 3).detach(), torch.ones(4, 3, dtype=torch.float64)]).requires_grad_()
        result = polar(a)
        assert result.rank.tolist() == [3, 1]
        (result.u.sum() + result.h.sum()).backward()
        assert a.grad[0].isfinite().all()
        assert a.grad[1].isnan().all()
        cut = self.tensor(4, 3, (2.0, 1.0, 0.1))
        polar(cut, rtol=0.2).u.sum().backward()
        assert cut.grad.isnan().all()
        alone = a.detach()[1].requires_grad_()
        spectral_power(alone, 2).x.sum().backward()
        assert alone.grad.isfinite().all()

    def test_transformations_of_functions(self):
        torch, func = self.torch, self.torch.func
        a = torch.stack([self.tensor(4, 3).detach(), self.tensor(4, 3, (3.0, 2.0, 1.0)).detach()])

        def loss(a):
            return (polar(a).h ** 2).sum() + polar(a).u[0].sum() + spectral_power(a, 0.5).x.sin().sum()

        assert torch.equal(func.vmap(lambda a: polar(a).u)(a), polar(a).u)
        each = torch.stack([func.grad(loss)(x) for x in a])
        assert torch.allclose(func.vmap(func.grad(loss))(a), each, rtol=1e-13)
        second = func.hessian(loss)(a[1])
        assert torch.allclose(second, second.permute(2, 3, 0, 1), atol=1e-12)
        assert torch.allclose(func.jacfwd(func.grad(loss))(a[1]), second, atol=1e-12)

    @pytest.mark.slow
    def test_between_compiled_graphs(self):
        torch = self.torch
        a = self.tensor(4, 3)
        torch.compile(lambda a: 2 * polar(a).u, backend="eager")(a).sum().backward()
        ones = torch.ones(4, 3, dtype=a.dtype)
        assert torch.allclose(a.grad, 2 * spectral_derivative(a.detach(), ones, 0), atol=1e-14)


class TestJax:
    """As `test_jax_tracing`, for rectangular matrices."""

    jax = pytest.importorskip("jax")

    def array(self, *shape):
        return self.jax.numpy.asarray(np.random.default_rng(0).standard_normal(shape))

    def test_the_traced_result_is_the_result(self):
        jax, a = self.jax, self.array(2, 4, 3)
        for function in (polar, lambda a: spectral_power(a, Fraction(1, 2))):
            traced, eager = jax.jit(function)(a), function(a)
            assert type(traced) is type(eager)
            assert len(jax.tree_util.tree_leaves(traced)) >= 5
            for name in ("u", "h", "x", "status", "rank", "residual", "cond"):
                if hasattr(eager, name):
                    assert np.array_equal(getattr(traced, name), getattr(eager, name))
            assert "2 CONVERGED" in traced.message
        assert np.array_equal(jax.vmap(lambda a: polar(a).u)(a), polar(a).u)

    def test_the_derivative_is_that_of_numpy(self):
        a, e = np.random.default_rng(0).standard_normal((2, 3, 2))
        with self.jax.enable_x64(True):
            _, L = self.jax.jit(lambda a, e: self.jax.jvp(lambda a: polar(a).u, (a,), (e,)))(a, e)
            assert np.array_equal(L, spectral_derivative(a, e, 0))
            traced = self.jax.jit(lambda a, e: spectral_derivative(a, e, 0))(a, e)
            assert np.array_equal(L, traced)

    def test_agrees_with_torch(self):
        torch = pytest.importorskip("torch")

        def loss(a):
            return abs(spectral_power(a, -0.5).x).sum() + abs(polar(a).h).sum()

        with self.jax.enable_x64(True):
            a = self.array(3, 4) + 1j * self.array(4, 3).T
            t = torch.tensor(np.asarray(a), requires_grad=True)
            loss(t).backward()
            assert np.allclose(self.jax.grad(loss)(a).conj(), t.grad.numpy(), rtol=1e-12)
            second = torch.func.hessian(loss)(torch.tensor(np.asarray(a.real))).numpy()
            assert np.allclose(self.jax.jit(self.jax.hessian(loss))(a.real), second, rtol=1e-10, atol=1e-10)

    def test_without_full_rank(self):
        jnp = self.jax.numpy
        a = jnp.ones((3, 2))
        for matrix, rtol in ((a, None), (jnp.diag(jnp.array([2.0, 1.0, 0.1])), 0.2)):
            assert jnp.isnan(self.jax.grad(lambda a, rtol=rtol: polar(a, rtol=rtol).u.sum())(matrix)).all()
        result = self.jax.jit(polar)(a)
        assert int(result.rank) == 1
        assert matroot.Status(int(result.status)) == matroot.Status.ILL_CONDITIONED
        assert self.jax.jit(lambda a: polar(a).u)(jnp.eye(3, dtype=int)).dtype == jnp.float32
