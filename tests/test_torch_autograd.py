"""Roots that torch differentiates: values as without, derivatives by torch's own checks, batches with failures."""

import weakref
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
from table import EPS, distance

import matroot
from matroot import Floor, PseudoInverse, Ridge, RootError, Status, frechet_derivative
from matroot.autodiff.forms import Power, evaluate
from matroot.methods.tridiagonal_form import room_of
from matroot.pipeline import kernel

torch = pytest.importorskip("torch")

# torch scripts some formulas of its forward mode, which it deprecates itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FUNCTIONS = {
    "inverse cube root": lambda a: matroot.inverse_pth_root(a, 3),
    "square root": matroot.sqrtm,
    "ridge": lambda a: matroot.inv_sqrtm(a, regularization=0.1),
    "floor": lambda a: matroot.solve(a, 2, regularization=Floor(0.4)).x,
    "real exponent": lambda a: matroot.fractional_power(a, 0.3 * np.pi),
    "general": lambda a: matroot.pth_root(a, 3, assume_a="gen"),
}


def tensor(w, dtype=torch.float64, batch=()):
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(*batch, len(w), len(w), dtype=dtype, generator=generator))[0]
    return hermitian((Q * torch.tensor(w, dtype=torch.float64).to(dtype)) @ Q.mH).detach().requires_grad_()


def hermitian(a):
    return (a + a.mH) / 2


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float64) for name in FUNCTIONS),
        *(pytest.param(name, torch.complex128, marks=pytest.mark.slow) for name in ("ridge", "general")),
    ],
)
def test_gradcheck(name, dtype):
    """Also at equal eigenvalues; the check's steps are not symmetric, so that the functions symmetrize."""

    def function(a):
        return FUNCTIONS[name](a if name == "general" else hermitian(a))

    equal = dtype == torch.float64 and name in ("inverse cube root", "floor")
    a = tensor([1.0, 1.0, 2.0] if equal else [0.5, 1.7], dtype)
    if name == "general":
        a = (a.detach() + torch.tensor([[0.0, 0.3], [0.0, 0.0]])).requires_grad_()
    assert torch.autograd.gradcheck(function, (a,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (a,), check_fwd_over_rev=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64])
def test_the_result_is_that_without_a_gradient(dtype):
    least = 0.05 if dtype == torch.bfloat16 else 1e-3  # in bfloat16, 1e-3 is rounding of 0
    a = tensor(np.geomspace(least, 1, 12), torch.complex128 if dtype.is_complex else torch.float64, (3,)).detach()
    a = a.to(dtype)
    for rule in (None, PseudoInverse()):
        plain, recorded = (matroot.solve(v, 4, regularization=rule) for v in (a, a.clone().requires_grad_()))
        for field in fields(plain):
            mine, theirs = getattr(recorded, field.name), getattr(plain, field.name)
            if not isinstance(theirs, torch.Tensor):
                assert mine == theirs, field
            else:
                assert (mine == theirs).all() and mine.dtype == theirs.dtype, field
                assert mine.requires_grad == (field.name == "x")


def test_the_gradient_is_the_derivative():
    """<G, L(E)> = <grad, E>; in the dtype of the input, symmetric, computed in float64."""
    A = tensor(np.geomspace(1e-6, 1, 8)).detach()
    for dtype in (torch.float64, torch.float32):
        a = A.to(dtype).requires_grad_()
        G = torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
        (gradient,) = torch.autograd.grad(matroot.inverse_pth_root(a, 4), a, G)
        expected = frechet_derivative(a.detach().double().numpy(), G.double().numpy(), 4)
        assert gradient.dtype == dtype and (gradient == gradient.mT).all()
        assert distance(gradient.numpy(), expected) <= 4 * EPS[str(dtype)[6:]] + 1e-13


def test_the_default_device_of_torch_changes_nothing():
    a = tensor(np.geomspace(1e-6, 1, 8))
    (expected,) = torch.autograd.grad(matroot.inverse_pth_root(a, 4).sum(), a)
    with torch.device("meta"):  # nothing made there could be read
        (gradient,) = torch.autograd.grad(matroot.inverse_pth_root(a, 4).sum(), a)
    assert (gradient == expected).all()


def test_equal_eigenvalues_where_eigh_gives_nan():
    a = (torch.eye(4) * 2).requires_grad_()
    matroot.inv_sqrtm(a).square().sum().backward()
    assert torch.allclose(a.grad, -torch.eye(4) / 4)


def test_a_failed_matrix_spoils_its_own_gradient_only():
    stack = torch.stack([torch.eye(3), -torch.eye(3), 2 * torch.eye(3), torch.full((3, 3), torch.nan)])
    a = stack.requires_grad_()
    result = matroot.solve(a, 2)
    assert result.status.tolist() == [0, Status.NOT_POSITIVE, 0, Status.NONFINITE_INPUT]
    result.x[::2].square().sum().backward()
    assert torch.isfinite(a.grad[::2]).all() and torch.isnan(a.grad[1::2]).all()
    with pytest.raises(RootError, match="2 of 4"):
        matroot.inv_sqrtm(a)
    short = tensor([1e-4, 1.0])  # the matrix has a root and a derivative, but the iteration has not arrived
    result = matroot.solve(short, 2, method="coupled_newton", max_iter=2)
    assert result.status == Status.MAX_ITER
    assert torch.isnan(torch.autograd.grad(result.x.sum(), short)[0]).all()


def test_transformations_of_functions():
    from torch.func import grad, hessian, jacfwd, jacrev, vmap

    A = tensor([0.5, 1.0, 1.0, 1.7], batch=(3,)).detach()

    def root(a):
        return matroot.inverse_pth_root(hermitian(a), 3)

    def loss(a):
        return root(a).square().sum()

    assert (vmap(root)(A) == root(A)).all()
    assert (vmap(root, in_dims=1)(A.movedim(0, 1)) == root(A)).all()
    assert torch.allclose(vmap(grad(loss))(A)[1], grad(loss)(A[1]))
    assert torch.allclose(jacrev(root)(A[0]), jacfwd(root)(A[0]))
    second = hessian(loss)(A[0])
    for other in (jacrev(jacrev(loss)), jacfwd(jacfwd(loss)), jacrev(jacfwd(loss))):
        assert torch.allclose(other(A[0]), second)
    with pytest.raises(NotImplementedError, match="third"):
        jacrev(hessian(loss))(A[0])
    assert torch.isnan(vmap(matroot.inv_sqrtm)(-A)).all()


def test_the_derivative_is_differentiable():
    a, e = tensor([0.5, 0.5, 1.0]), tensor([1.0, -1.0, 0.5])
    assert torch.autograd.gradcheck(lambda a, e: frechet_derivative(hermitian(a), e, 2, regularization=0.1), (a, e))


def test_through_other_functions():
    a, b = tensor([0.5, 1.0, 2.0]), torch.ones(3, 2, dtype=torch.float64)
    first, second = matroot.solve_each([a, a * 2], 2)
    (first.x.sum() + second.x.sum()).backward()
    assert a.grad is not None
    assert torch.autograd.gradcheck(lambda a: matroot.apply_inverse_pth_root(hermitian(a), 2, b), (a,))
    for shape in ((0, 3, 3), (0, 0), (2, 0, 0)):
        empty = torch.zeros(shape, requires_grad=True)
        for x in (matroot.inv_sqrtm(empty), matroot.polar(empty).u, matroot.frechet_derivative(empty, empty, 2)):
            x.sum().backward()
        assert empty.grad.shape == shape


@pytest.mark.slow
def test_in_a_compiled_graph():
    """One graph, with the values and gradients of plain code, a rule made in the graph, and NaN for a failure."""
    A = tensor([0.5, 1.0, 1.7, 2.0]).detach()

    def loss(a):
        root = matroot.sqrtm(a @ a.mT, regularization=matroot.Ridge(0.1))
        return (root + matroot.fractional_power(a @ a.mT, Fraction(-2, 3))).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    gradients = []
    for function in (loss, compiled):
        a = A.clone().requires_grad_()
        function(a).backward()
        gradients.append(a.grad)
    assert (compiled(A) == loss(A)).all() and torch.equal(*gradients)
    assert torch.isnan(torch.compile(matroot.inv_sqrtm, backend="aot_eager", fullgraph=True)(-A)).all()
    broken = torch.compile(lambda a: matroot.solve(a, 2).x * 2, backend="aot_eager")
    assert (broken(A) == matroot.inv_sqrtm(A) * 2).all()


@pytest.mark.parametrize("rule", [None, 1e-3])
def test_a_large_matrix_is_reduced_once(rule, monkeypatch):
    """The gradient takes the tridiagonal forms of the solve, and has the bits of one that reduces again."""
    n = 130
    random = np.random.default_rng(5)
    G = torch.from_numpy(random.standard_normal((2, n, 2 * n)))
    a, g = hermitian(G @ G.mT), torch.from_numpy(random.standard_normal((2, n, n)))
    a[1] -= 300 * torch.eye(n, dtype=a.dtype)

    def root(a):
        return matroot.solve(a, 2, regularization=rule).x

    ridge = matroot.solve(a, 2, regularization=rule).ridge.numpy()
    power = Power(Fraction(-1, 2), None if rule is None else Ridge(rule), "pos", "float64")
    expected, moved = (
        evaluate(form, power, a.numpy(), (g.numpy(),), ridge)[0][0] for form in ("adjoint", "derivative")
    )
    monkeypatch.setattr("matroot.methods.tridiagonal_derivative.readable", None)  # asked before a reduction
    _, pull = torch.func.vjp(root, a)
    found = pull(g)[0]
    assert torch.isnan(found[1]).all()
    np.testing.assert_array_equal(found[0], expected)
    twice = torch.func.vmap(pull)(torch.stack([g, 2 * g]))[0]
    torch.testing.assert_close(twice[1], 2 * found, rtol=0, atol=0, equal_nan=True)
    _, forward = torch.func.jvp(root, (a[:1],), (g[:1],))
    np.testing.assert_array_equal(forward[0], moved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_in_lanes_is_reduced_once(dtype, monkeypatch):
    random = np.random.default_rng(5)
    G = torch.from_numpy(random.standard_normal((3, 4, 30, 60))).to(dtype)
    a, g = hermitian(G @ G.mT).requires_grad_(), torch.from_numpy(random.standard_normal(a_shape := (3, 4, 30, 30)))
    root = matroot.inv_sqrtm(a)
    monkeypatch.setattr("matroot.methods.tridiagonal_derivative.room", None)  # asked before a reduction
    (found,) = torch.autograd.grad(root, a, g.to(dtype), retain_graph=True)
    power = Power(Fraction(-1, 2), None, "pos", "float64")
    monkeypatch.undo()
    flat = [x.detach().double().reshape(12, 30, 30).numpy() for x in (a, g)]
    expected = evaluate("adjoint", power, flat[0], (flat[1],))[0].reshape(a_shape)
    torch.testing.assert_close(found, torch.from_numpy(expected).to(dtype))


def test_forward_over_reverse_without_torch_func():
    """Gradients carry tangents although gradients are recorded no more."""
    random = np.random.default_rng(2)
    a, e = tensor(np.linspace(1, 3, 5)), torch.from_numpy(random.standard_normal((5, 5)))
    weights = torch.from_numpy(random.standard_normal((5, 5)))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(a.detach().requires_grad_(), e)
        (gradient,) = torch.autograd.grad((weights * matroot.inv_sqrtm(dual)).sum(), dual)
        found = torch.autograd.forward_ad.unpack_dual(gradient).tangent
    (g,) = torch.autograd.grad((weights * matroot.inv_sqrtm(a)).sum(), a, create_graph=True)
    (expected,) = torch.autograd.grad((g * e).sum(), a)
    torch.testing.assert_close(found, expected)


def test_a_backward_pass_frees_what_was_kept(monkeypatch):
    kept = []

    def watched(B, n):
        room = room_of(B, n)
        kept.append(room.base)
        return room

    monkeypatch.setattr(kernel, "room_of", watched)
    a = tensor(np.linspace(1, 2, 70))
    x = matroot.inv_sqrtm(a)
    held = weakref.ref(kept.pop())
    assert held() is not None
    x.sum().backward()
    assert held() is None


def test_the_older_vmap_of_torch():
    """``vectorize`` of torch.autograd.functional, and ``is_grads_batched``."""
    a = tensor([1.0, 1.0, 2.0], batch=(2,))
    functional = torch.autograd.functional

    def root(a):
        return matroot.inv_sqrtm(hermitian(a))

    J = functional.jacobian(root, a)
    for strategy in ("reverse-mode", "forward-mode"):
        torch.testing.assert_close(functional.jacobian(root, a, vectorize=True, strategy=strategy), J)

    def loss(a):
        return root(a).pow(3).sum()

    torch.testing.assert_close(functional.hessian(loss, a, vectorize=True), functional.hessian(loss, a))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3, 3), (2, 0, 0), (2, 0, 3, 3)])
@pytest.mark.parametrize("assume_a", ["pos", "gen"])
def test_gradients_of_nothing(shape, assume_a):
    a = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    found = (matroot.sqrtm(a, assume_a=assume_a), matroot.polar(a).u, matroot.orthogonalizer(a).x)
    for x in found:
        (g,) = torch.autograd.grad(x.sum(), a, create_graph=True)
        g.sum().backward()
        assert g.shape == a.grad.shape == shape


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch.fx on its own constants
def test_linearize():
    """It traces operators; what numpy computes would be a constant."""
    a = tensor([1.0, 1.0, 2.0]).detach()
    e = hermitian(torch.arange(9, dtype=a.dtype).reshape(3, 3))
    _, linear = torch.func.linearize(matroot.inv_sqrtm, a)
    torch.testing.assert_close(linear(e), frechet_derivative(a, e, 2))
