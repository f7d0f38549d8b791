"""Wrong arguments end fast, in an error that helps."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
from table import problem

import matroot
from matroot import (
    Ridge,
    RootError,
    Status,
    cond_pth_root,
    fractional_power,
    inv_sqrtm,
    inverse_pth_root,
    pth_root,
    select_method,
    solve,
    sqrtm,
)

EYE = np.eye(3)
FUNCTIONS = {
    "inverse_pth_root": lambda a, **k: inverse_pth_root(a, 2, **k),
    "pth_root": lambda a, **k: pth_root(a, 2, **k),
    "fractional_power": lambda a, **k: fractional_power(a, -0.5, **k),
    "sqrtm": sqrtm,
    "inv_sqrtm": inv_sqrtm,
    "solve": lambda a, **k: solve(a, 2, **k),
    "select_method": lambda a: select_method(a, 2),
    "cond_pth_root": lambda a: cond_pth_root(a, 2),
}


@pytest.fixture(params=FUNCTIONS.values(), ids=FUNCTIONS)
def call(request):
    return request.param


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (3,), (0,), (), (0, 3)], ids=str)
def test_not_square(call, shape):
    with pytest.raises(
        ValueError, match=r"a must be \(\.\.\., n, n\), got " + str(shape).replace("(", r"\(").replace(")", r"\)")
    ):
        call(np.zeros(shape))


def test_errors_name_what_was_meant(call):
    """Data in place of its covariance, matrices of two sizes, objects; and no degree at all."""
    with pytest.raises(ValueError, match=r"numpy\.cov\(a, rowvar=False\).*spectral_power"):
        call(np.zeros((5, 3)))
    with pytest.raises(TypeError, match="solve_each"):
        call([np.eye(2), np.eye(3)])
    with pytest.raises(TypeError, match=r"a\.astype\(float\)"):
        call(EYE.astype(object))
    with pytest.raises(TypeError, match="got None; give the degree"):
        solve(EYE)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("ridge", "regularization=1e-6"),
        ("eps", "regularization=1e-6"),
        ("tol", r"PseudoInverse\(rtol"),
        ("dtype", "compute_dtype"),
        ("regularisation", "did you mean 'regularization'"),
        ("what", "the options are .*method, .*rtol"),
    ],
)
@pytest.mark.parametrize("function", ["inverse_pth_root", "pth_root", "sqrtm", "inv_sqrtm", "solve"])
def test_a_keyword_of_another_library_is_told_by_our_name(function, name, advice):
    with pytest.raises(TypeError, match=f"^{function} has no option '{name}'; .*{advice}"):
        FUNCTIONS[function](EYE, **{name: 1e-6})
    with pytest.raises(TypeError, match=r"^sqrtm has no option 'p'; the options are method, "):
        sqrtm(EYE, p=4)
    with pytest.raises(TypeError, match="has no option 'hermitian'; assume_a"):
        inv_sqrtm(EYE, hermitian=True)
    with pytest.raises(TypeError, match="orthogonalizer has no option 'tol'; did you mean 'rtol'"):
        matroot.orthogonalizer(EYE, tol=1e-7)
    with pytest.raises(TypeError, match="stochastic_root has no option 'method'; it has none"):
        matroot.stochastic_root(EYE, 2, method="eigen")


@pytest.mark.parametrize("a", [[[1.0, 0.0], ["x", 1.0]], None, 3.0, "A", object(), {}], ids=lambda a: type(a).__name__)
def test_not_an_array(call, a):
    with pytest.raises(TypeError, match=f"a must be an array .*got {type(a).__name__}"):
        call(a)


class Frame:
    """The part of a data frame that says what its numbers are."""

    def __array__(self, dtype=None, copy=None):
        return np.diag([4.0, 9.0])


class Nullable(Frame):
    """A data frame of pandas' own dtypes."""

    def __array__(self, dtype=None, copy=None):
        return np.diag([4.0, 9.0]).astype(object)

    def to_numpy(self, dtype):
        return np.diag([4.0, 9.0]).astype(dtype)


def test_nested_lists_and_data_frames_become_numpy_arrays():
    for a in ([[4, 0], [0, 9]], ((4.0, 0), (0, 9.0)), Frame()):
        assert np.allclose(matroot.sqrtm(a), np.diag([2.0, 3.0]))
    assert matroot.polar([[3.0, 0], [0, 2]]).rank == 2


def test_what_is_no_array_is_named():
    with pytest.raises(TypeError, match="inhomogeneous"):
        matroot.sqrtm([[1.0], [1.0, 2.0]])
    with pytest.raises(TypeError, match=r"got csr_array; use a\.toarray\(\)"):
        matroot.sqrtm(scipy.sparse.csr_array(np.eye(2)))
    with pytest.raises(TypeError, match=r"LinearOperator; solve_apply takes operators"):
        matroot.sqrtm(scipy.sparse.linalg.aslinearoperator(np.eye(2)))
    with pytest.raises(TypeError, match=r"masked array.*a\.filled"):
        matroot.sqrtm(np.ma.masked_array(np.eye(2), mask=np.eye(2) > 0))
    for stack in ([masked := np.ma.masked_array(np.eye(2), mask=np.eye(2) > 0)], (np.eye(2), masked), list(masked)):
        with pytest.raises(TypeError, match="a part of a is a masked array"):
            matroot.sqrtm(stack)
    with pytest.raises(TypeError, match="b is a masked array"):
        matroot.solve_apply(np.eye(2), 2, masked)
    with pytest.raises(TypeError, match=r"got list of other things than numbers; .*numpy\.array\(a, float\)"):
        matroot.sqrtm([[Fraction(1, 2), 0], [0, 1]])
    with pytest.raises(TypeError, match=r"got Nullable whose columns .* a\.to_numpy\(float\)$"):
        matroot.sqrtm(Nullable())
    with pytest.raises(TypeError, match=r"b must be an array .*got csr_array; use b\.toarray\(\)$"):
        matroot.solve_apply(np.eye(2), 2, scipy.sparse.csr_array(np.eye(2)))


def test_what_stands_in_the_wrong_place_is_named():
    with pytest.raises(TypeError, match="an array; the degree follows the matrix, and vectors follow the degree"):
        matroot.solve_apply(EYE, np.ones(3), 2)
    with pytest.raises(TypeError, match=r"got the class Ridge: write Ridge\(\.\.\.\)"):
        solve(EYE, 2, regularization=Ridge)
    for wrong in (lambda: Ridge(10**400), lambda: solve(EYE, 2, regularization=10**400), lambda: Ridge(retries=True)):
        with pytest.raises(ValueError, match=r"Ridge\((relative|retries)=\.\.\.\) must be"):
            wrong()
    assert Ridge(retries=np.int64(2)).raised() == Ridge(retries=2)
    with pytest.raises(ValueError, match=r"got the class Eigen: write Eigen\(\)"):
        solve(EYE, 2, method=matroot.Eigen)
    for use in (np.asarray, lambda result: result @ EYE, lambda result: np.linalg.norm(EYE - result), inv_sqrtm):
        with pytest.raises(TypeError, match=r"a RootResult is no array; its array is result\.x"):
            use(solve(EYE, 2))


def test_p_is_a_keyword_too_and_any_exponent_has_a_result():
    A = np.diag([16.0, 81.0])
    assert np.array_equal(matroot.inverse_pth_root(A, p=4), matroot.inverse_pth_root(A, 4))
    assert np.array_equal(matroot.fractional_power(A, s=0.75), matroot.solve(A, s=0.75).x)
    assert matroot.solve(A, p=4).exponent == Fraction(-1, 4) and matroot.solve(A, s=1 / np.pi).status == 0
    with pytest.raises(TypeError, match="give p, for a root, or s, for a power"):
        matroot.solve(A, 2, s=2)
    with pytest.raises(TypeError, match="p must be a positive int, got None"):
        matroot.solve(A)


@pytest.mark.parametrize("dtype", ["bool", "object", "U1", "M8[D]", "longdouble", "clongdouble"])
def test_not_numbers_we_compute_with(call, dtype):
    with pytest.raises(TypeError, match="a must be real or complex"):
        call(np.zeros((2, 2), dtype=dtype))


#: Functions of a and another array, by the array that is wrong.
BESIDE = {
    "polar": (matroot.polar, "a"),
    "spectral_power": (lambda a: matroot.spectral_power(a, 0.5), "a"),
    "orthogonalizer": (matroot.orthogonalizer, "a"),
    "frechet_derivative": (lambda a: matroot.frechet_derivative(a, np.eye(2), 2), "a"),
    "its direction": (lambda e: matroot.frechet_derivative(np.eye(2), e, 2), "e"),
    "spectral_derivative": (lambda a: matroot.spectral_derivative(a, np.eye(2), 0.5), "a"),
    "its direction too": (lambda e: matroot.spectral_derivative(np.eye(2), e, 0.5), "e"),
    "stochastic_root": (lambda a: matroot.stochastic_root(a, 2), "a"),
    "solve_apply": (lambda a: matroot.solve_apply(a, 2, np.ones(2)), "a"),
    "its vectors": (lambda b: matroot.solve_apply(np.eye(2), 2, b), "b"),
    "vectors of a function": (lambda b: matroot.solve_apply(lambda v: v, 2, b), "b"),
    "tracker": (lambda a: matroot.RootTracker(2).update(a), "a"),
}


@pytest.mark.parametrize("what", BESIDE)
@pytest.mark.parametrize("dtype", ["object", "U1", "M8[D]", "longdouble", "clongdouble"])
def test_not_numbers_of_other_functions(what, dtype):
    call, name = BESIDE[what]
    with pytest.raises(TypeError, match=f"^{name} must be real"):
        call(np.eye(2).astype(dtype) if dtype != "M8[D]" else np.zeros((2, 2), dtype))


def test_not_symmetric(call):
    a = EYE + 0.25 * np.eye(3, k=1)
    if call is FUNCTIONS["select_method"]:
        return  # looks at no number
    with pytest.raises(ValueError, match=r"not symmetric: .* is 2\.5e-01 .*assume_a='gen'"):
        call(a)


def test_not_hermitian():
    with pytest.raises(ValueError, match=r"not Hermitian: .* is 1\.0e\+00 .*assume_a='gen'"):
        solve(EYE + 0.5j * (np.eye(3, k=1) + np.eye(3, k=-1)), 2)
    with pytest.raises(ValueError, match="not Hermitian"):
        solve((1 + 1j) * EYE, 2)


def test_one_that_is_not_symmetric_in_a_batch():
    a = np.stack([EYE] * 50)
    a[37, 0, 1] = 1e-3
    result = solve(a, 2)
    assert np.flatnonzero(result.status).tolist() == [37] and result.status[37] == Status.NOT_SYMMETRIC
    with pytest.raises(
        RootError, match=r"1 of 50 matrices has no root; the first, a\[37\], is not symmetric .*1\.0e-03"
    ):
        inverse_pth_root(a, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_is_no_asymmetry(dtype):
    """(A^T A) computed carelessly is accepted, and only its symmetric part counts."""
    A, root = problem(20, 10, dtype=dtype, seed=1)
    noise = np.random.default_rng(0).standard_normal(A.shape).astype(dtype) * np.finfo(dtype).eps
    result = solve(A + noise * abs(A), 2)
    assert result.converged
    assert (result.x == result.x.T).all()
    assert np.allclose(result.x, root(-0.5), atol=100 * np.finfo(dtype).eps)


def test_arrays_are_positional_and_options_are_keywords():
    with pytest.raises(TypeError):
        solve(a=EYE, p=2)
    with pytest.raises(TypeError):
        solve(EYE, 2, "eigen")
    with pytest.raises(TypeError):
        inverse_pth_root(EYE, 2, methode="eigen")


def test_inverse_is_a_bool():
    for wrong in ("no", 1, None):
        with pytest.raises(TypeError, match="inverse must be True or False"):
            solve(np.eye(2), 2, inverse=wrong)
