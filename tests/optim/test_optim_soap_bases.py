"""SOAP's bases: certified, refined and refused."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import SOAP
from matroot_optim.refresh.bases import new_bases
from optim.test_optim_soap import gradients, run


@pytest.mark.parametrize("task", ["eigh", "qr"])
@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_bases_are_certified(task, library):
    rng = np.random.default_rng(0)
    n = 12
    A = np.stack([B @ B.T for B in rng.standard_normal((3, n, 4))])  # singular
    Q = np.linalg.qr(rng.standard_normal((3, n, n)))[0]
    A[1] = np.nan
    give = {"numpy": np.asarray, "torch": lambda x: pytest.importorskip("torch").from_numpy(x)}
    to = give.get(library) or pytest.importorskip("jax.numpy").asarray
    found, facts = new_bases(to(A.astype(np.float32)), to(Q.astype(np.float32)), task, "float32")
    found = np.asarray(found, np.float64)
    facts = {name: np.asarray(x) for name, x in facts.items()}
    assert facts["residual"][1] == np.inf
    assert facts["status"].tolist() == [0, 7, 0]
    for k in (0, 2):
        own = np.linalg.norm(found[k].T @ found[k] - np.eye(n)) / np.sqrt(n)
        assert own <= facts["residual"][k] + 1e-7 < 1e-5
        if task == "eigh":
            D = found[k].T @ A[k] @ found[k]
            assert np.linalg.norm(D - np.diag(np.diag(D))) < 1e-5 * np.linalg.norm(D)
            np.testing.assert_allclose(facts["lambda_max"][k], np.linalg.norm(A[k], 2), rtol=1e-5)


@pytest.mark.parametrize("task", ["eigh", "qr"])
def test_a_decomposition_that_fails_is_refused(monkeypatch, task):
    def fail(*_):
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    where = {"eigh": "numpy.linalg.eigh", "qr": "scipy.linalg.get_lapack_funcs"}
    monkeypatch.setattr(where[task], fail)
    opt, W = SOAP(0.1, basis=task, refresh_every=1), np.zeros((4, 5))
    state = opt.init(W)
    for g in gradients((4, 5), 4):
        u, state = opt.update(g, state, W)
        assert np.isfinite(u).all()
    assert int(state["block0/axis0/skipped"]) == (4 if task == "eigh" else 3)


def test_refined_columns_continue_the_old_ones():
    """Even if their eigenvalues have changed places."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    for w in ([5.0, 4, 3, 2, 1], [1.0, 2, 3, 5, 4]):
        new, _ = new_bases((Q * w @ Q.T)[None], Q[None], "qr", "float64")
        np.testing.assert_allclose(abs(Q.T @ new[0]), np.eye(5), atol=1e-12)


def test_gradients_of_rank_3_in_64_dimensions():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((64, 3)), rng.standard_normal((3, 64))
    G = [(left @ rng.standard_normal((3, 3)) @ right).astype(np.float32) for _ in range(30)]
    found, state = run(SOAP(0.1), G)
    assert all(np.isfinite(u).all() for u in found)
    assert max(abs(u).max() for u in found) < 3
    d = SOAP(0.1).diagnostics(state)
    assert d.worst_residual < 1e-5
    assert not d.roots["skipped"].any()


def test_any_scale_gives_the_same_steps():
    G = gradients((6, 5), 8, dtype=np.float32)
    plain, _ = run(SOAP(0.1), G)
    for power in (-90, 70):
        for u, v in zip(plain, run(SOAP(0.1), [g * np.float32(2.0**power) for g in G])[0], strict=True):
            np.testing.assert_allclose(v, u, rtol=1e-4, atol=1e-6)
