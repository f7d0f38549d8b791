"""The demonstration: gradients against differences, checks against theory, and the whole command."""

import numpy as np
import pytest

from matroot import Floor, PseudoInverse, Status
from matroot._status import USABLE
from matroot.demo import network as demo_network
from matroot.demo import roots as demo_roots
from matroot.demo import run as demo
from matroot.demo.network import Digits

EPS = np.finfo(float).eps


@pytest.fixture(scope="module")
def found():
    """The demonstration as it ships; a few seconds."""
    return demo.explore(seed=0)


def test_digits_are_the_uci_ones():
    digits = demo_network.load_digits()
    assert digits.images.shape == (1797, 64) and digits.images.min() == 0 and digits.images.max() == 1
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    first = 16 * digits.images[0].reshape(8, 8)  # a zero
    assert first[0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0] and first[:, 0].sum() == 0


def test_batches_cover_a_pass_without_repeats():
    digits = Digits(np.arange(10.0)[:, None], np.arange(10))
    batches = list(digits.batches(3, np.random.default_rng(0)))
    seen = np.concatenate([b.labels for b in batches])
    assert len(batches) == 3 and len(set(seen)) == 9
    assert all((b.images[:, 0] == b.labels).all() for b in batches)


def test_gradients_against_central_differences():
    rng = np.random.default_rng(0)
    params = demo_network.init((6, 5, 4, 3), rng)
    batch = Digits(rng.standard_normal((7, 6)), rng.integers(0, 3, 7))
    loss, gradients = demo_network.loss_and_gradients(params, batch)
    assert loss > 0
    h = 1e-6
    for layer, gradient in zip(params, gradients, strict=True):
        for key, w in layer.items():
            for index in np.ndindex(w.shape):
                ends = []
                for step in (h, -h):
                    w[index] += step
                    ends.append(demo_network.loss_and_gradients(params, batch)[0])
                    w[index] -= step
                assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(gradient[key][index], abs=1e-8)


def test_kronecker_statistics_are_sums_of_products():
    G = np.random.default_rng(0).standard_normal((5, 3, 4))
    L, R = demo_network.kronecker_statistics(G)
    np.testing.assert_allclose(L, sum(g @ g.T for g in G), rtol=1e-14)
    np.testing.assert_allclose(R, sum(g.T @ g for g in G), rtol=1e-14)
    assert np.array_equal(L, L.T) and np.array_equal(R, R.T)


def test_whitening_checks_can_fail():
    """A promise held against the covariance, not against the library's own word."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 5)) @ np.diag([1, 0.5, 0.1, 0.05, 0])
    good = demo_roots.whiten(X, PseudoInverse())
    assert good.error < 1e-10 and good.variances[-1] < 1e-20
    hasty = demo_roots.whiten(X, PseudoInverse(rtol=0.1))  # drops directions that do vary
    assert hasty.error > 0.9


@pytest.mark.slow
def test_network_learns(found):
    assert "%" in found.network
    share = float(found.network.split("%")[0].rsplit(" ", 1)[1])
    assert share > 90


@pytest.mark.slow
def test_every_method_solves_every_statistic(found):
    methods = {row.method for row in found.rows}
    assert {"eigen", "coupled_newton", "higher_order", "newton_db"} <= methods
    for row in found.rows:
        if row.dtype == "float64":
            assert (row.status == Status.CONVERGED).all()
            assert row.forward_error < 3 * EPS / found.ridge / found.p + 300 * EPS
        else:  # 1e6/4 leaves 6 bits of 24
            assert np.isin(row.status, USABLE).all()
            assert row.forward_error < 3 * np.finfo(np.float32).eps / found.ridge / found.p
        assert row.cond == pytest.approx(1 / found.ridge, rel=0.5)
        assert row.bits_lost == pytest.approx(np.log2(1e6 / 4), abs=1)


@pytest.mark.slow
def test_roots_flatten_the_spectra(found):
    for before, after in zip(found.before, found.after, strict=True):
        n = len(before.matrix)
        middle = n // 4
        assert after.spectrum()[middle] > before.spectrum()[middle]


@pytest.mark.slow
def test_whitened_pixels(found):
    exact, floored = found.whitenings
    assert isinstance(exact.rule, PseudoInverse) and isinstance(floored.rule, Floor)
    w = np.linalg.eigvalsh(np.cov(found.images, rowvar=False))[::-1]
    w = w / w[0]
    kappa = 1 / w[60]  # three pixels never change
    assert abs(w[61]) < 64 * EPS
    assert exact.error < 10 * EPS * kappa
    assert floored.error < 10 * EPS / floored.rule.relative
    np.testing.assert_allclose(exact.variances[:61], 1, atol=10 * EPS * kappa)
    np.testing.assert_allclose(floored.variances[w > floored.rule.relative], 1, atol=1e-11)


@pytest.mark.slow
def test_month(found):
    month = found.month
    np.testing.assert_allclose(np.linalg.matrix_power(month.M, 12), month.P, atol=1e-13)
    assert month.error < 1e-13 and month.row_sum_error < 1e-13 and month.known_error < 1e-13
    # known of this matrix: it has no exact monthly probabilities, but nearly
    assert month.negative > 0 and -1e-3 < month.lowest[0] < 0
    assert month.mended_error < 2e-3


@pytest.mark.slow
def test_command_prints_and_draws(found, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(demo, "explore", lambda seed: found)
    path = tmp_path / "demo.png"
    assert demo.main(["--figure", str(path)]) == 0
    printed = capsys.readouterr()
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 50_000
    for word in ("coupled_newton", "float32", "CONVERGED", "PseudoInverse", "M^12", str(path), "seconds"):
        assert word in printed.out
    assert printed.err == ""


@pytest.mark.slow
def test_without_matplotlib(found, monkeypatch, capsys):
    monkeypatch.setattr(demo, "explore", lambda seed: found)
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert demo.main([]) == 1
    assert "matroot[demo]" in capsys.readouterr().err
    assert demo.main(["--no-figure"]) == 0
