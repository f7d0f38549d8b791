"""Presets against the published update rules, written here once more in plain numpy, for one matrix and one vector."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import Shampoo

SHAPES = {"w": (7, 5), "b": (4,)}


def gradients(steps):
    rng = np.random.default_rng(0)
    mean = {k: rng.standard_normal(shape) for k, shape in SHAPES.items()}
    return [{k: m + 0.5 * rng.standard_normal(m.shape) for k, m in mean.items()} for _ in range(steps)]


def root(A, p, ridge):
    """A^(-1/p) with this much added to the diagonal."""
    w, Q = np.linalg.eigh(A + ridge * np.eye(len(A)))
    return (Q * w ** (-1.0 / p)) @ Q.T


class Statistics:
    """One for each dimension, and the gradient preconditioned by all."""

    def __init__(self, shape):
        self.A = [np.zeros((n, n)) for n in shape]

    def add(self, G, keep, new):
        for i, A in enumerate(self.A):
            unfolded = np.moveaxis(G, i, 0).reshape(len(A), -1)
            A *= keep
            A += new * unfolded @ unfolded.T

    def roots(self, ridge):
        return [root(A, 2 * len(self.A), ridge(A)) for A in self.A]


def times(G, roots):
    for i, X in enumerate(roots):
        G = np.moveaxis(np.tensordot(X, G, axes=(1, i)), 0, i)
    return G


def relative(A):
    return 1e-6 * np.linalg.eigvalsh(A)[-1]


def google(shape, rate):
    """google-research, scalable_shampoo/optax: `step` counts from 0, SGD graft, Nesterov, start at 5."""
    S, b = Statistics(shape), 0.9
    m = {"shampoo": np.zeros(shape), "graft": np.zeros(shape)}
    for step in range(10**9):
        G = yield
        S.add(G, 0.999, 0.001)
        P = times(G, S.roots(relative))
        moves = {"graft": G, "shampoo": P * (np.linalg.norm(G) / np.linalg.norm(P))}
        for k, D in moves.items():
            m[k] = b * m[k] + D
        k = "shampoo" if step >= 5 else "graft"
        yield -rate * (moves[k] + b * m[k])


def meta(shape, rate):
    """facebookresearch, distributed_shampoo: the corrected EMA of the gradients is preconditioned, no graft."""
    S, m, b = Statistics(shape), np.zeros(shape), 0.9
    for step in range(1, 10**9):
        G = yield
        S.add(G, 1.0, 1.0)
        m = b * m + (1 - b) * G
        yield -rate * times(m / (1 - b**step), S.roots(lambda A: 1e-12 * np.linalg.eigvalsh(A)[-1]))


def anil2020(shape, rate, every=20):
    """The paper's first algorithm: averages of the AdaGrad step and of the preconditioned gradient, then the graft."""
    S, b = Statistics(shape), 0.9
    D, M, P = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    roots = None
    for step in range(1, 10**9):
        G = yield
        S.add(G, 1.0, 1.0)
        D += G * G
        M = b * M + (1 - b) * G / np.sqrt(D)
        if step % every == 0:
            roots = S.roots(relative)
        if roots is not None and len(shape) > 1:
            P = b * P + (1 - b) * times(G, roots)
            yield -rate * P * (np.linalg.norm(M) / np.linalg.norm(P))
        else:
            yield -rate * M


def pseudo_inverse_root(A, p):
    w, Q = np.linalg.eigh(A)
    kept = w > 1e-12 * w[-1]
    return (Q[:, kept] * w[kept] ** (-1.0 / p)) @ Q[:, kept].T


def anil2026(shape, rate):
    """facebookresearch/optimizers, issue 265: pseudo-inverse roots of means at every step, with the norm of Adam's."""
    S, b = Statistics(shape), 0.9
    m, v = np.zeros(shape), np.zeros(shape)
    for step in range(1, 10**9):
        G = yield
        S.add(G, b, 1 - b)
        m, v = b * m + (1 - b) * G, b * v + (1 - b) * G * G
        first = m / np.sqrt(v) / np.sqrt(1 - b**step)
        P = times(m, [pseudo_inverse_root(A, 2 * len(shape)) for A in S.A])
        yield -rate * (first if len(shape) == 1 else P * (np.linalg.norm(first) / np.linalg.norm(P)))


def run(opt, rule, steps):
    """Updates of the preset and of the rule at every step."""
    state, pairs = opt.init({k: np.zeros(shape) for k, shape in SHAPES.items()}), []
    rules = {k: rule(shape, 0.1) for k, shape in SHAPES.items()}
    for G in gradients(steps):
        moves, state = opt.update(G, state)
        for k in SHAPES:
            next(rules[k])
        pairs.append({k: (moves[k], rules[k].send(G[k])) for k in SHAPES})
    return pairs


@pytest.mark.parametrize("name", ["google", "meta"])
def test_steps_are_the_published_ones(name):
    """But Google's first momentum, which has one buffer for the graft and one for Shampoo: equal where both are one."""
    opt = Shampoo.preset(name, learning_rate=0.1)
    first = 120 if name == "google" else 0  # its other buffer is forgotten by 0.9 a step
    for step, pair in enumerate(run(opt, {"google": google, "meta": meta}[name], 150)):
        for got, want in pair.values():
            if step < 5 or step >= first:
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6, err_msg=str(step))


def test_pseudo_inverse_roots_are_those_of_2026():
    """From the first gradient on, whose statistics have rank 5 of 7."""
    opt = Shampoo.preset("anil2026", learning_rate=0.1, weight_decay=0.0)
    for step, pair in enumerate(run(opt, anil2026, 40)):
        for got, want in pair.values():
            np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9, err_msg=str(step))
    assert Shampoo.preset("anil2026").weight_decay == 0.1


def test_shampoo_starts_where_google_does():
    """At its step 5, counted from 0: the sixth."""
    opt, G = Shampoo.preset("google", learning_rate=0.1, betas=(0.0, 0.999)), gradients(6)
    state = opt.init(G[0])
    for step, g in enumerate(G):
        moves, state = opt.update(g, state)
        alike = [np.allclose(moves[k], -0.1 * g[k]) for k in SHAPES]
        assert alike == [step < 5, step < 5]


def test_steps_are_nearly_those_of_the_paper():
    """Exactly those of its AdaGrad; with roots, our average is of grafted directions, and its graft is of averages."""
    opt = Shampoo.preset("anil2020", learning_rate=0.1, refresh_every=20, schedule="interval", start_step=20)
    for step, pair in enumerate(run(opt, anil2020, 120)):
        for k, (got, want) in pair.items():
            if step < 19 or k == "b":
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-8)
            elif step >= 45:  # its average of preconditioned gradients starts with the roots
                size = np.linalg.norm(want)
                assert np.vdot(got, want) >= 0.998 * size * np.linalg.norm(got)
                assert 0.95 < np.linalg.norm(got) / size < 1.1


@pytest.mark.parametrize("graft", [False, True])
def test_meta_is_the_program_itself(graft):
    """facebookresearch/optimizers, which is in no package index: the test runs where a checkout is on the path."""
    meta = pytest.importorskip("distributed_shampoo")
    import torch

    from matroot_optim.torch import Shampoo as TorchShampoo

    generator, dtype = torch.Generator().manual_seed(1), torch.float64
    mixer = torch.eye(40, dtype=dtype) + 0.1 * torch.randn(40, 40, generator=generator, dtype=dtype)
    first = torch.randn(40, 32, generator=generator, dtype=dtype)  # above 1024: it makes vectors of smaller matrices
    ours, theirs = (torch.nn.Parameter(first.clone()) for _ in range(2))
    # Its bias correction is in float32, where 1 - 2^-t is exact; so is the rate.
    common = {"lr": 2.0**-7, "betas": (0.5, 0.5)}
    config = meta.RootInvShampooPreconditionerConfig(factor_matrix_dtype=dtype, inv_factor_matrix_dtype=dtype)
    adam = meta.AdamPreconditionerConfig(beta2=0.5, epsilon=1e-30) if graft else None
    program = meta.DistributedShampoo([theirs], preconditioner_config=config, grafting_config=adam, **common)
    preset = TorchShampoo.preset("meta", [ours], **common, graft_epsilon=1e-30, **({"graft": "adam"} if graft else {}))
    for _ in range(20):
        ours.grad = mixer @ torch.randn(40, 32, generator=generator, dtype=dtype)
        theirs.grad = ours.grad.clone()
        preset.step()
        program.step()
        assert (ours - theirs).abs().max() < 4e-9 * (ours - first).abs().max()


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")
def test_google_is_the_program_itself():
    """google-research/precondition, where a checkout is on the path; but for its second buffer, as above."""
    program = pytest.importorskip("precondition.distributed_shampoo")
    import jax

    rng, shapes = np.random.default_rng(0), {"w": (12, 10), "b": (7,)}
    means = {k: rng.standard_normal(shape).astype(np.float32) for k, shape in shapes.items()}
    theirs, ours = (
        program.distributed_shampoo(0.1, 128, best_effort_shape_interpretation=False),
        Shampoo.preset("google"),
    )
    theirs_state, ours_state, update = theirs.init(means), ours.init(means), jax.jit(theirs.update)
    for step in range(150):
        G = {k: (m + 0.5 * rng.standard_normal(m.shape)).astype(np.float32) for k, m in means.items()}
        want, theirs_state = update(G, theirs_state, means)
        got, ours_state = ours.update(G, ours_state, means)
        for k in shapes if step < 5 or step >= 140 else ():
            np.testing.assert_allclose(got[k], want[k], rtol=1e-4, atol=3e-5 * abs(got[k]).max(), err_msg=str(step))
