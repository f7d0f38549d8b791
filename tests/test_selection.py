"""What "auto" takes, why, and what it says; what is refused, and with which sentence."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from matroot import (
    CoupledNewton,
    Eigen,
    Floor,
    HigherOrder,
    Minimax,
    NewtonDB,
    PseudoInverse,
    Ridge,
    SchurNewton,
    Shift,
    TargetCondition,
    fractional_power,
    gallery,
    inverse_pth_root,
    select_method,
    solve,
    sqrtm,
)
from matroot import _selection as selection
from matroot.backends import profile
from matroot.backends.cpu.cpu import CPU
from matroot.backends.profile import Limits
from matroot.cli.command import main
from matroot.methods.base import Problem
from matroot.methods.tridiagonal_cut import LARGEST

ALONE, BATCH, CHOLESKY = 100, 300, 150


@pytest.fixture(autouse=True)
def where(tmp_path, monkeypatch):
    """A profile of its own, so that no test depends on the tuned numbers."""
    file = tmp_path / "profile.json"
    monkeypatch.setenv("MATROOT_PROFILE", str(file))
    profile.save(Limits(tridiagonal_alone=ALONE, tridiagonal_batch=BATCH, cholesky_from=CHOLESKY), file)
    profile.limits.cache_clear()
    yield file
    profile.limits.cache_clear()


def chosen(n, p, batch=(), dtype="float64", **options):
    return select_method(np.empty((*batch, n, n), dtype), p, **options).name


# (n, batch, p, options): the method. Nothing is computed, so n may be anything.
TABLE = [
    (1, (), 4, {}, "eigen"),
    (1, (50,), 2, {}, "eigen"),
    (2, (), 4, {}, "tridiagonal"),
    (ALONE, (), 4, {}, "tridiagonal"),
    (ALONE + 1, (), 4, {}, "eigen"),
    (ALONE + 1, (3,), 4, {}, "eigen"),
    (ALONE + 1, (4,), 4, {}, "tridiagonal"),
    (BATCH, (2, 2), 3, {}, "tridiagonal"),
    (BATCH + 1, (1000,), 3, {}, "eigen"),
    (0, (), 2, {}, "eigen"),
    (8, (0,), 2, {}, "tridiagonal"),
    # the inverse
    (CHOLESKY - 1, (), 1, {}, "eigen"),
    (CHOLESKY, (), 1, {}, "minimax"),
    (CHOLESKY, (64,), 1, {}, "tridiagonal"),
    (2 * CHOLESKY, (64,), 1, {}, "minimax"),
    (CHOLESKY, (), 1, {"inverse": False}, "eigen"),
    (CHOLESKY, (), 1, {"regularization": 1e-6}, "minimax"),
    (CHOLESKY, (), 1, {"regularization": Floor(1e-3)}, "eigen"),
    (20, (), 1, {}, "tridiagonal"),
    # roots and precisions
    (20, (), 2, {"inverse": False}, "tridiagonal"),
    (20, (), 4, {"rtol": 1e-3}, "tridiagonal"),
    (20, (), 4, {"compute_dtype": "float32"}, "eigen"),
    (20, (9,), 4, {"compute_dtype": "float32"}, "eigen"),
    (20, (), 4, {"compute_dtype": "float64"}, "tridiagonal"),
    # regularizations: those that move the whole spectrum, and those that change single eigenvalues
    (20, (), 4, {"regularization": 1e-6}, "tridiagonal"),
    (20, (), 4, {"regularization": Ridge(absolute=1e-6, retries=3)}, "tridiagonal"),
    (20, (), 4, {"regularization": Shift(1e-6)}, "tridiagonal"),
    (20, (), 4, {"regularization": TargetCondition(1e6)}, "tridiagonal"),
    (20, (), 4, {"regularization": Floor(1e-6)}, "tridiagonal"),
    (20, (9,), 4, {"regularization": PseudoInverse()}, "tridiagonal"),
    (20, (9,), 4, {"regularization": PseudoInverse(), "compute_dtype": "float32"}, "eigen"),
    (ALONE, (), 4, {"regularization": Floor(1e-6)}, "tridiagonal"),
    (LARGEST, (8,), 4, {"regularization": Floor(1e-6)}, "tridiagonal"),
    (LARGEST + 1, (8,), 4, {"regularization": Floor(1e-6)}, "tridiagonal"),
    (ALONE, (), 4, {"regularization": Floor(1e-6), "rtol": 1e-3}, "eigen"),
    (LARGEST, (8,), 4, {"regularization": Floor(1e-6), "rtol": 1e-3}, "tridiagonal"),
    # general matrices
    (20, (), 4, {"assume_a": "gen"}, "schur_newton"),
    (20, (9,), 1, {"assume_a": "gen", "regularization": 1e-6}, "schur_newton"),
    (500, (), 1, {"assume_a": "gen"}, "schur_newton"),
]


@pytest.mark.parametrize(("n", "batch", "p", "options", "method"), TABLE)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_what_auto_takes(n, batch, p, options, method, dtype):
    assert chosen(n, p, batch, dtype, **options) == method


@pytest.mark.parametrize("p", (2, 3, 4, 7, 8, 64))
def test_the_degree_does_not_matter(p):
    for n, name in ((ALONE, "tridiagonal"), (ALONE + 1, "eigen")):
        assert chosen(n, p) == chosen(n, p, inverse=False) == name


@pytest.mark.parametrize("dtype", ("float16", "int64", "uint8", "bool"))
def test_what_is_no_float(dtype):
    if dtype == "bool":
        with pytest.raises(TypeError, match="real or complex"):
            chosen(20, 4, dtype=dtype)
    else:
        assert chosen(20, 4, dtype=dtype) == "tridiagonal"


@pytest.mark.parametrize("dtype", ("complex64", "complex128"))
def test_complex(dtype):
    assert chosen(8, 4, dtype=dtype) == "tridiagonal"
    assert chosen(ALONE + 1, 4, dtype=dtype) == "eigen"
    assert chosen(CHOLESKY, 1, dtype=dtype) == "minimax"
    assert chosen(8, 4, dtype=dtype, assume_a="gen") == "schur_newton"


EXPONENTS = [
    (Fraction(-1, 2), "tridiagonal"),
    (Fraction(-3, 4), "tridiagonal"),
    (Fraction(2, 3), "tridiagonal"),
    (0.5, "tridiagonal"),  # a float that is a ratio of small integers
    (-(2**0.5), "eigen"),
    (-np.pi / 4, "eigen"),
    (Fraction(-3, 2), "eigen"),
    (Fraction(5, 2), "tridiagonal"),
    (0, "eigen"),
    (-2, "eigen"),
    (3, "tridiagonal"),
    (17, "eigen"),
]


@pytest.mark.parametrize(("s", "method"), EXPONENTS)
def test_exponents(s, method, monkeypatch):
    """`fractional_power` has no select_method of its own: what it takes is seen on the way."""
    taken = []
    monkeypatch.setattr(selection, "automatic", lambda *a: taken.append(automatic(*a)) or taken[-1])
    A, root = gallery.spd(6, 1e2, rng=0)
    assert np.allclose(fractional_power(A, s), root(float(s)))
    assert [m.name for m in taken] == [method]


automatic = selection.automatic


def test_it_looks_at_no_number():
    for n in (8, 2 * BATCH):
        A = np.full((n, n), np.nan)
        assert select_method(A, 4).name == solve(A, 4).method.name
        assert np.isnan(A).all()


@pytest.mark.parametrize(
    ("n", "batch", "p", "options"),
    [case[:4] for case in TABLE if case[0] > 0 and 0 not in case[1] and case[3].get("assume_a") != "gen"],
)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_solve_takes_what_was_announced_at_the_price_announced(n, batch, p, options, dtype):
    batch = batch if n < ALONE else batch[:1] and (4,)
    n = min(n, ALONE + 1) if n not in (CHOLESKY, CHOLESKY - 1) else n
    A, _ = gallery.spd(n, 10 if n > 1 else 1, batch=batch, rng=0, dtype=dtype)
    announced = select_method(A, p, **options)
    result = solve(A, p, **options)
    assert result.method == announced and result.method.reason == announced.reason
    assert (result.status == 0).all()
    products = 1 if "1 product" in announced.reason else 2 if "2 products" in announced.reason else 5
    assert f"{products} product" in announced.reason
    assert result.n_products == products or ("at most" in announced.reason and result.n_products < products)


def test_every_choice_says_why():
    shown = {
        (8, 4): f"Tridiagonal(lanes=None)  # 1 of n = 8 on the CPU, up to {ALONE}: no eigenvectors needed, 2 products",
        (600, 4): "Eigen(refine=None)  # n = 600 on the CPU: exact, and certain for every spectrum; "
        "a decomposition and 1 product",
        (CHOLESKY, 1): f"Minimax(accurate=False)  # n = {CHOLESKY}, p = 1 on the CPU: "
        "the inverse from a Cholesky factorization, 1 product",
    }
    for (n, p), text in shown.items():
        assert repr(select_method(np.eye(n), p)) == text
    batch = select_method(np.empty((5, 150, 150)), 4)
    assert f"5 of n = 150 on the CPU, up to {BATCH}: eight of them side by side" in repr(batch)
    assert "Floor changes single eigenvalues" in repr(
        select_method(np.eye(99), 4, regularization=Floor(1e-3), rtol=1e-3)
    )
    assert "general matrices" in repr(select_method(np.eye(8), 4, assume_a="gen"))
    assert "#" not in repr(solve(np.eye(8), 4, method="eigen").method)  # asked for: nothing to explain


def test_the_reason_is_no_part_of_the_method():
    assert replace(Eigen(), reason="any") == Eigen()
    assert hash(replace(Eigen(), reason="any")) == hash(Eigen())


REFUSED = [
    ("nonsense", {}, r"one of \['auto', 'eigen', .*or a method object, got 'nonsense'"),
    (None, {}, "got None"),
    ("EIGEN", {}, "got 'EIGEN'"),
    ("newton_db", {"p": 3}, "3"),
    ("eigen", {"assume_a": "gen"}, "eigen does not serve assume_a='gen'; use method='schur_newton' or 'auto'"),
    ("minimax", {"assume_a": "gen"}, "use method='schur_newton'"),
    ("tridiagonal", {"assume_a": "gen"}, "use method='schur_newton'"),
    (
        "coupled_newton",
        {"regularization": Floor(1e-3)},
        "Floor changes single eigenvalues, which coupled_newton has not; use 'eigen' or Ridge",
    ),
    ("tridiagonal", {"compute_dtype": "float32"}, "tridiagonal computes in float64 only"),
]


@pytest.mark.parametrize(("method", "options", "sentence"), REFUSED)
def test_refusals(method, options, sentence):
    options = {"p": 2, "method": method, **options}
    p = options.pop("p")
    with pytest.raises(ValueError, match=sentence):
        solve(np.eye(3), p, **options)


@pytest.mark.parametrize("method", (CoupledNewton(), HigherOrder(order=3), Minimax(), NewtonDB()))
def test_irrational_exponents_are_refused_by_what_cannot(method):
    with pytest.raises(ValueError, match=r"not a ratio of integers.*use method='eigen'"):
        fractional_power(np.eye(3), -(2**0.5), method=method)


def test_general_matrices_have_no_eigenvalues_to_floor():
    with pytest.raises(ValueError, match="real eigenvalues"):
        select_method(np.eye(3), 2, assume_a="gen", regularization=Floor(1e-3))


def test_names_are_those_of_the_methods():
    assert selection.names() == ["auto", *selection.METHODS]
    A = np.diag([1.0, 4.0])
    for name in selection.METHODS:
        method = selection.named(name)
        assert method.name == name
        if "pos" in method.serves:
            assert np.allclose(inverse_pth_root(A, 2, method=name), inverse_pth_root(A, 2, method=method))


def test_choose_for_every_served_problem():
    """A method that auto takes refuses nothing that auto gives it."""
    for s in (Fraction(-1, 4), Fraction(1, 2), Fraction(-5, 2), Fraction(0), 0.123456):
        for rule in (None, Ridge(relative=1e-6), Floor(1e-6)):
            for n in (1, 8, ALONE, CHOLESKY, 1000):
                for batch in (1, 4, 100):
                    for is_complex in (False, True):
                        found = selection.choose(
                            "auto", selection.Case(Problem(s=s), rule, n, CPU(), batch, is_complex)
                        )
                        assert found.reason and found.refuses(Problem(s=s), n) is None


def test_tuned_limits_change_the_choice(where):
    assert chosen(50, 4) == "tridiagonal" and chosen(CHOLESKY, 1) == "minimax"
    profile.save(Limits(tridiagonal_alone=0, tridiagonal_batch=0, cholesky_from=10**6), where)
    profile.limits.cache_clear()
    assert chosen(50, 4) == chosen(50, 4, (9,)) == chosen(CHOLESKY, 1) == "eigen"
    assert solve(np.eye(4), 4).method == Eigen()


@pytest.mark.parametrize("spoil", ("not JSON", '{"format": 1}', "stale"))
def test_a_bad_profile_costs_one_warning_and_nothing_else(where, spoil):
    if spoil == "stale":
        data = json.loads(where.read_text())
        data["machine"]["cores"] += 1
        spoil = json.dumps(data)
    where.write_text(spoil)
    profile.limits.cache_clear()
    with pytest.warns(UserWarning, match="matroot tune") as caught:
        found = [chosen(50, 4), chosen(5000, 4), solve(np.eye(3), 2).method.name, sqrtm(np.eye(2)).shape]
    assert len(caught) == 1
    assert found == ["tridiagonal", "eigen", "tridiagonal", (2, 2)]


@pytest.mark.slow
def test_what_tune_writes_auto_takes_and_info_shows(where, monkeypatch, capsys):
    where.unlink()
    profile.limits.cache_clear()
    mine = Limits(tridiagonal_alone=7, tridiagonal_batch=9, cholesky_from=11)
    monkeypatch.setattr("matroot.cli.tune_cpu.measure", lambda say: mine)
    assert main(["tune"]) == 0
    assert profile.read(where) == mine
    profile.limits.cache_clear()
    assert [chosen(n, 4) for n in (7, 8)] == ["tridiagonal", "eigen"]
    assert [chosen(n, 1) for n in (10, 11)] == ["eigen", "minimax"]
    capsys.readouterr()
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert "tridiagonal_alone 7, tridiagonal_batch 9, cholesky_from 11" in shown and str(where) in shown


def test_schur_newton_serves_general_matrices_alone():
    assert SchurNewton.serves >= {"gen"}
    others = [selection.named(name) for name in selection.METHODS if name != "schur_newton"]
    assert not any("gen" in method.serves for method in others)


def test_select_method_has_the_options_of_solve():
    A = np.eye(5)
    assert select_method(A, 4, method="minimax", max_iter=3).name == "minimax"
    with pytest.raises(ValueError, match="newton_db"):
        select_method(A, 3, method="newton_db")
