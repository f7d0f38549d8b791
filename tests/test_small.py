"""Eight small matrices side by side: whole roots, and lanes that know nothing of each other."""

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from table import EPS, distance, problem

from matroot import Ridge, Shift, Status, gallery, solve
from matroot._solve import solve_power
from matroot.backends.cpu.tridiagonal import kernel
from matroot.methods.conditioning import PROBES
from matroot.methods.tridiagonal import Tridiagonal, small_roots, tasks
from matroot.methods.tridiagonal_report import probes

SIZES = (1, 2, 3, 4, 7, 8, 9, 13, 16, 17, 33, 70)
EPS64 = EPS["float64"]


# The stages, for Python: they are compiled into kernels alone.


def eight(n, cond=1e4, spectrum="geometric", seed=0):
    return gallery.spd(n, cond if n > 1 else 1.0, spectrum, batch=(8,), rng=seed)


# Whole roots


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("s", [Fraction(*f) for f in ((-1, 1), (-1, 4), (-2, 3), (1, 2), (5, 7), (1, 1))], ids=str)
def test_roots_of_known_spectra(s, n):
    """A group and a half, every size around the edges of blocks."""
    for cond in (1e1, 1e6):
        A, root = problem(n, cond if n > 1 else 1.0, batch=(12,), seed=n)
        X = np.empty_like(A)
        report = small_roots(A, X, s)
        conditioning = -s * cond if s < 0 else cond ** (1 - s)
        assert distance(X, root(s)) <= (5 * float(conditioning) + 20 * n**0.5) * EPS64
        if s.numerator >= -1:  # the certificate of other powers is not the kernel's
            assert (report.residual <= 20 * (s.denominator + n**0.5) * (cond if s < 0 else 1) * EPS64).all()
        assert (X == X.swapaxes(1, 2)).all()
        assert (report.served == 1).all()
        assert np.allclose(report.cond, cond if n > 1 else 1.0, rtol=1e-6)


def test_lanes_know_nothing_of_each_other():
    """One matrix gets the same bits alone, in any lane, beside any neighbour, good or bad."""
    for n in (3, 12):
        A = np.concatenate([eight(n, cond, seed=3)[0] for cond in (1e1, 1e12, 1e4)])
        A[5] *= 1e200
        A[7], A[12] = np.nan, 0
        A[14] = -A[14]
        A[17, 0, 0] = np.inf
        for p, inverse in ((4, True), (3, False)):
            result = solve(A, p, inverse=inverse, method="tridiagonal")
            order = np.random.default_rng(0).permutation(len(A))
            shuffled = solve(A[order], p, inverse=inverse, method="tridiagonal")
            for i in range(len(A)):
                alone = solve(A[i], p, inverse=inverse, method="tridiagonal")
                at = int(np.flatnonzero(order == i)[0])
                for name in ("x", "status", "residual", "cond", "lambda_min", "lambda_max"):
                    whole = getattr(result, name)[i]
                    assert np.array_equal(whole, getattr(alone, name), equal_nan=True), (name, i)
                    assert np.array_equal(whole, getattr(shuffled, name)[at], equal_nan=True), (name, i)
            good = [i for i in range(len(A)) if i not in (7, 12, 14, 17)]
            assert result.converged[good].all()
            assert result.status[7] == result.status[17] == Status.NONFINITE_INPUT
            assert result.status[14] == Status.NOT_POSITIVE
            assert result.status[12] == (Status.SINGULAR if inverse else Status.CONVERGED)


def test_the_error_is_as_small_as_promised():
    """Two clusters show every error of the reduction; reflectors known to working precision alone add a quarter."""
    A, root = problem(64, 1e4, "two_cluster", batch=(48,), seed=5)
    X = np.empty_like(A)
    small_roots(A, X, Fraction(-1, 2))
    error = np.linalg.norm(X - root(-0.5), 2, axis=(1, 2)) / np.linalg.norm(root(-0.5), 2, axis=(1, 2))
    assert np.median(error) <= 4 * 1e4 / 2 * EPS64
    assert error.max() <= 6 * 1e4 / 2 * EPS64


@pytest.mark.parametrize("n", (1, 2, 9))
def test_one_eigenvalue(n):
    """What depends on no condition number at all: the sum of poles errs by its own rounding."""
    c = np.geomspace(0.5, 1, 99)
    for b in range(1, 9):
        for a in (*range(-b, 0), *range(1, b + 1)):
            X = np.empty((len(c), n, n))
            small_roots(c[:, None, None] * np.eye(n), X, Fraction(a, b))
            assert (X == X * np.eye(n)).all()
            assert abs(np.diagonal(X, 0, 1, 2) * c[:, None] ** (-a / b) - 1).max() <= 8 * EPS64


def test_at_the_ends_of_the_range():
    """Subnormal and huge matrices beside others; a root beyond the largest number is a failure, as in every method."""
    for n in (2, 9):
        A, _ = eight(n, 10.0)
        A[0] = np.eye(n) * 2.0**-1030
        A[2] = np.eye(n) * 5e-324
        A[3] = np.ldexp(A[3], 1020)
        A[5] = np.ldexp(A[5], -1015)
        for s in (Fraction(-1), Fraction(-1, 2), Fraction(1, 3), Fraction(1)):
            mine, reference = (solve_power(A, s, method=m) for m in ("tridiagonal", "eigen"))
            assert (mine.status == reference.status).all()
            lost = [0, 2] if s == -1 else []
            assert np.flatnonzero(mine.status == Status.DIVERGED).tolist() == lost
            assert np.isnan(mine.x[lost]).all()
            size = abs(reference.x).max((1, 2))[:, None, None]
            ok = reference.converged
            assert (abs(mine.x - reference.x) <= 30 * EPS64 * size + 1e-323)[ok].all()
            assert (mine.residual[ok] <= 1e-13).all()
    small = np.stack([np.eye(3), 1e-39 * np.eye(3)]).astype("float32")
    assert solve(small, 1, method="tridiagonal").status.tolist() == [Status.CONVERGED, Status.DIVERGED]


def test_threads_change_nothing(monkeypatch):
    A, _ = eight(24)
    A = np.concatenate([A * (k + 1) for k in range(40)])[:317]
    monkeypatch.setenv("MATROOT_NUM_THREADS", "1")
    alone = solve(A, 4, method="tridiagonal")
    monkeypatch.setenv("MATROOT_NUM_THREADS", "3")
    together = solve(A, 4, method="tridiagonal")
    assert (alone.x == together.x).all()
    assert (alone.residual == together.residual).all()


def test_tasks_cover_the_batch():
    for B, n, cores, copied in [(1, 4, 2, False), (7, 64, 2, True), (1000, 16, 3, False), (99, 128, 4, True)]:
        parts = tasks(B, n, cores, copied)
        assert [i for part in parts for i in range(*part.indices(B))] == list(range(B))
        assert all(part.start % 8 == 0 for part in parts)
    assert len(tasks(8, 4, 2, False)) == 1  # nobody is woken for ten microseconds


@pytest.mark.parametrize("dtype", ["float32", "int16", "float64"])
def test_layouts_and_dtypes(dtype):
    A = np.round(1000 * gallery.spd(9, 1e2, batch=(4, 3), rng=1)[0] + 500 * np.eye(9)).astype(dtype)
    expected = solve(A.astype(float), 2, method="tridiagonal").x
    shifted = np.frombuffer(b" " + A.tobytes(), A.dtype, A.size, 1).reshape(A.shape)
    assert not shifted.flags.aligned
    swapped = A.astype(A.dtype.newbyteorder())
    for a in (A, np.asfortranarray(A), np.repeat(A, 2, axis=1)[:, ::2], A[::-1][::-1], shifted, swapped):
        before = a.copy()
        a.flags.writeable = False
        result = solve(a, 2, method="tridiagonal")
        assert (a == before).all()
        name = "float32" if dtype == "float32" else "float64"
        assert result.x.dtype == (a.dtype if a.dtype.kind == "f" else name)  # the order of bytes is that of a
        assert (result.x == expected.astype(result.x.dtype)).all() or dtype == "float32"
        assert distance(result.x, expected) <= 2 * EPS[name]
        assert result.compute_dtype == "float64"


def test_float32_is_rounded_before_it_is_judged():
    A, _ = problem(20, 1e3, batch=(3,), dtype="float32", seed=1)
    result = solve(A, 2, method="tridiagonal")
    X = result.x.astype(float)
    truth = np.linalg.norm(X @ X @ A - np.eye(20), axis=(1, 2)) / 20**0.5
    assert (truth > 1e-7).all()
    assert np.allclose(result.residual, truth, rtol=0.5)
    assert result.certificate == "probes"
    assert np.allclose(np.linalg.norm(probes(20), axis=1), PROBES**0.5, rtol=1e-14)
    assert (probes(PROBES) == np.eye(8)).all()
    assert (probes(3, True) == np.eye(6, 8) * (np.arange(8) < 3)).all()


def test_ridge_and_other_rules():
    A, _ = eight(10, 1e8)
    A = np.concatenate([A, 0 * A[:1]])
    for rule in (1e-3, Ridge(relative=1e-2, absolute=1e-2), Shift(relative=1e-3)):
        mine, reference = (solve(A, 4, method=m, regularization=rule) for m in ("tridiagonal", "eigen"))
        assert (mine.status == reference.status).all()
        assert np.allclose(mine.ridge, reference.ridge, rtol=1e-9)
        assert np.allclose(mine.lambda_max, reference.lambda_max, rtol=1e-9)
        ok = reference.converged
        assert distance(mine.x[ok], reference.x[ok]) <= 1e-11
        assert np.allclose(mine.cond[ok], reference.cond[ok], rtol=1e-9)


def test_retries_reach_the_lanes():
    A, _ = eight(6, 1e3)
    A[2] = np.diag([1.0, 1, 1, 1, 1, -1e-5])
    result = solve(A, 2, method="tridiagonal", regularization=Ridge(relative=1e-6, retries=3))
    assert result.converged.all()
    assert np.isclose(result.ridge[2], 1e-4)
    assert np.allclose(np.delete(result.ridge, 2), 1e-6)


def test_beyond_the_last_class_eigen_takes_over():
    A, _ = eight(5, 1e2)
    A[3] = np.diag([1, 1, 1, 1, 1e-15])
    A[6] = np.diag([1, 1, 1, 1, 0.0])
    result, reference = solve(A, 2, method="tridiagonal"), solve(A, 2, method="eigen")
    assert (result.status == reference.status).all()
    assert (result.status[[3, 6]] == [Status.ILL_CONDITIONED, Status.SINGULAR]).all()
    assert np.isclose(result.cond[3], 1e15)
    assert (result.x[3] == reference.x[3]).all()


def test_the_kernel_and_the_ways_around_it_agree():
    """Half precisions and rules that need a spectrum go through `attempt`."""
    A, _ = gallery.spd(9, 1e3, batch=(3,), rng=2)
    half = A.astype(np.float16)
    assert distance(*(solve(half, 2, method=m).x.astype(float) for m in ("tridiagonal", "eigen"))) <= 2 * EPS["float16"]
    Z, _ = gallery.spd(9, 1e3, batch=(3,), dtype="complex128", rng=2)
    shifted = (solve(Z, 2, method=m, regularization=Shift(relative=1e-2)).x for m in ("tridiagonal", "eigen"))
    assert distance(*shifted) <= 1e-13


def test_asymmetry_is_refused_and_rounding_mended():
    A, _ = eight(6)
    B = A.copy()
    B[4, 0, 1] += 1e-3
    with pytest.raises(ValueError, match=r"not symmetric: max\|A - A\^H\| is .*gen"):
        solve(B[4], 2, method="tridiagonal")
    B = A.copy()
    B[4, 0, 1] += 1e-12
    mean = (B + B.swapaxes(1, 2)) / 2
    assert (solve(B, 2, method="tridiagonal").x == solve(mean, 2, method="tridiagonal").x).all()


def test_refusals():
    for s in (Fraction(-3, 2), Fraction(17), Fraction(0), 0.3, -0.3):
        with pytest.raises(ValueError, match="tridiagonal serves exponents"):
            solve_power(np.eye(3), s, method="tridiagonal")
    with pytest.raises(ValueError, match="gen"):
        solve(np.eye(3), 2, method="tridiagonal", assume_a="gen")
    assert solve(np.empty((0, 4, 4)), 2, method=Tridiagonal()).x.shape == (0, 4, 4)
    assert solve(np.empty((2, 0, 0)), 2, method=Tridiagonal()).x.shape == (2, 0, 0)


def test_the_cache_on_disk_knows_every_source(tmp_path, monkeypatch):
    """numba looks at one file, and at what a function closes over: the kernel does so over a digest of them all."""
    digest = kernel.digest()
    assert digest in [cell.cell_contents for cell in kernel.roots.py_func.__closure__]
    folder = Path(kernel.__file__).parent
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(kernel, "__file__", str(tmp_path / "copy" / "kernel.py"))
    assert kernel.digest() == digest
    for name in ("kernel", "lanes", "layout", "memory", "reduction", "stage"):
        source = tmp_path / "copy" / f"{name}.py"
        source.write_text(source.read_text() + "# changed\n")
        before, digest = digest, kernel.digest()
        assert digest != before


def test_everything_is_compiled_once():
    A, _ = eight(3)
    A.flags.writeable = False
    for s in (Fraction(-1, 2), Fraction(1, 3), Fraction(1)):
        for a in (A, A.astype("float32"), A + 0j):
            solve_power(a, s, method="tridiagonal", regularization=1e-6)
    assert len(kernel.roots.signatures) == 1


@pytest.mark.parametrize("s", [Fraction(-2, 3), Fraction(-1, 2), Fraction(1, 3)], ids=str)
def test_a_part_of_a_batch_has_its_bits(s):
    A = gallery.spd(48, 1e3, batch=(15,), rng=0)[0]
    for method, parts in ((Tridiagonal(), (1, 7, 13)), (Tridiagonal(True), (1, 14)), (Tridiagonal(False), (1, 14))):
        whole = solve(A, s=s, method=method).x
        assert all((solve(A[k:], s=s, method=method).x == whole[k:]).all() for k in parts)
