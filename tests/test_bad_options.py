"""Degrees, exponents, options, rules and methods that are refused."""

import numpy as np
import pytest
from test_bad_arguments import EYE

from matroot import (
    Floor,
    HigherOrder,
    PseudoInverse,
    Ridge,
    Shift,
    TargetCondition,
    cond_pth_root,
    fractional_power,
    inverse_pth_root,
    pth_root,
    select_method,
    solve,
)

NO_DEGREES = {
    ValueError: [0, -2],
    TypeError: [1.5, 2.0, True, np.True_, "2", None, np.float64(2), [2]],
}


@pytest.mark.parametrize(("p", "error"), [(p, e) for e, ps in NO_DEGREES.items() for p in ps], ids=repr)
@pytest.mark.parametrize("function", [solve, inverse_pth_root, pth_root, cond_pth_root, select_method])
def test_wrong_degree(function, p, error):
    with pytest.raises(error, match="p must be a positive int, got"):
        function(EYE, p)


@pytest.mark.parametrize("p", [np.int8(3), np.uint64(3), np.array(3)], ids=repr)
def test_any_integer_is_a_degree(p):
    assert (inverse_pth_root(8 * EYE, p) == inverse_pth_root(8 * EYE, 3)).all()


NO_EXPONENTS = {TypeError: [True, "1/2", None, 1j], ValueError: [np.nan, np.inf, -np.inf]}


@pytest.mark.parametrize(("s", "error"), [(s, e) for e, ss in NO_EXPONENTS.items() for s in ss], ids=repr)
def test_wrong_exponent(s, error):
    with pytest.raises(error, match="s must be"):
        fractional_power(EYE, s)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "eigne"}, ValueError, "method must be one of .*'eigen'"),
        ({"method": 3}, ValueError, "method must be one of"),
        ({"method": None}, ValueError, "method must be one of"),
        ({"assume_a": "spd"}, ValueError, "'pos' or 'gen'"),
        ({"assume_a": None}, ValueError, "'pos' or 'gen'"),
        ({"rtol": 0.0}, ValueError, r"rtol must be None or a number in \(0, 1\)"),
        ({"rtol": -1e-3}, ValueError, "rtol must be"),
        ({"rtol": 1.0}, ValueError, "rtol must be"),
        ({"rtol": np.nan}, ValueError, "rtol must be"),
        ({"rtol": "small"}, ValueError, "rtol must be"),
        ({"max_iter": 0}, ValueError, "max_iter must be None or an int >= 1"),
        ({"max_iter": 2.5}, ValueError, "max_iter must be"),
        ({"max_iter": True}, ValueError, "max_iter must be"),
        ({"regularization": -1e-3}, ValueError, "finite number >= 0"),
        ({"regularization": np.nan}, ValueError, "finite number >= 0"),
        ({"regularization": "ridge"}, TypeError, "regularization must be None, a number"),
        ({"regularization": True}, TypeError, "regularization must be"),
        ({"regularization": Ridge}, TypeError, "regularization must be"),
        ({"compute_dtype": "float16"}, ValueError, "'float32' or 'float64'"),
        ({"compute_dtype": "nonsense"}, ValueError, "'float32' or 'float64'"),
        ({"compute_dtype": int}, ValueError, "'float32' or 'float64'"),
        ({"compute_dtype": 7}, ValueError, "'float32' or 'float64'"),
        ({"method": "eigen", "assume_a": "gen"}, ValueError, "schur_newton"),
        ({"method": "minimax", "assume_a": "gen"}, ValueError, "schur_newton"),
        ({"method": "newton_db", "regularization": Floor(1e-3)}, ValueError, "'eigen' or Ridge"),
        ({"method": "coupled_newton", "regularization": PseudoInverse()}, ValueError, "'eigen' or Ridge"),
        ({"assume_a": "gen", "regularization": Shift(absolute=1.0)}, ValueError, "use Ridge"),
    ],
    ids=str,
)
def test_wrong_options(options, error, words):
    for function in (solve, inverse_pth_root, pth_root):
        with pytest.raises(error, match=words):
            function(EYE, 2, **options)


def test_newton_db_says_which_degrees_it_takes():
    with pytest.raises(ValueError, match="2, 4, 8"):
        solve(EYE, 3, method="newton_db")
    with pytest.raises(ValueError, match="method='eigen'"):
        fractional_power(EYE, np.pi, method="coupled_newton")


WRONG = [
    (Ridge, {"relative": -1.0}),
    (Ridge, {"relative": "x"}),
    (Ridge, {"absolute": np.inf}),
    (Ridge, {"retries": -1}),
    (Ridge, {"retries": 1.5}),
    (Ridge, {"retries": True}),
    (Floor, {"relative": -1.0}),
    (Floor, {"relative": None}),
    (Shift, {"relative": np.nan}),
    (Shift, {"absolute": -1.0}),
    (PseudoInverse, {"rtol": -1.0}),
    (TargetCondition, {"kappa": 1.0}),
    (TargetCondition, {"kappa": np.inf}),
    (TargetCondition, {"kappa": "x"}),
    (HigherOrder, {"order": 1}),
    (HigherOrder, {"order": 17}),
    (HigherOrder, {"order": 2.0}),
    (HigherOrder, {"order": True}),
]


@pytest.mark.parametrize(("make", "options"), WRONG, ids=lambda v: getattr(v, "__name__", str(v)))
def test_wrong_rules_and_methods(make, options):
    (name,) = options
    with pytest.raises(ValueError, match=rf"{make.__name__}\({name}=...\) must be"):
        make(**options)
