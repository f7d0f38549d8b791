"""SOAP against its rule written once more, and against the published implementation."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import SOAP
from optim.oracle import unfolding_gram
from optim.test_optim_soap import BASE, gradients, run


class Dense:
    """One tensor, by Kronecker products: the basis of the whole tensor is one matrix, the second moment a vector."""

    def __init__(
        self, shape, lr=0.1, betas=(0.95, 0.95), every=3, axes=None, basis="qr", beta_v=None, eps=0.0, kl=False
    ):
        self.kl = kl
        self.shape, self.lr, self.b, self.every, self.basis, self.eps = shape, lr, betas, every, basis, eps
        self.axes = range(len(shape)) if axes is None else axes
        self.beta_v = betas[1] if beta_v is None else beta_v
        self.S = {i: np.zeros((shape[i], shape[i])) for i in self.axes}
        self.Q = {}
        self.m, self.v = np.zeros(np.prod(shape)), np.zeros(np.prod(shape))
        self.t = self.moves = 0
        self.peak = 0.0

    def whole(self, Q):
        """All bases as one orthogonal matrix."""
        found = np.eye(1)
        for i, n in enumerate(self.shape):
            found = np.kron(found, Q.get(i, np.eye(n)))
        return found

    def step(self, G):
        move = np.zeros(self.shape)
        self.peak = max(np.linalg.norm(G), self.peak * self.beta_v**0.5)
        if self.t > 0:
            self.moves += 1
            K, (b1, _), bv = self.whole(self.Q), self.b, self.beta_v
            self.m = b1 * self.m + (1 - b1) * G.ravel()
            self.v = bv * self.v + (1 - bv) * (K.T @ G.ravel()) ** 2
            mean, square = self.m / (1 - b1**self.moves), self.v / (1 - bv**self.moves)
            floor = self.eps * self.peak / np.sqrt(G.size)
            move = (-self.lr * K @ ((K.T @ mean) / (np.sqrt(square) + floor))).reshape(self.shape)
        products = {i: self.product(G, i) for i in self.axes}
        for i in self.axes:
            self.S[i] = self.b[1] * self.S[i] + (1 - self.b[1]) * products[i]
        if self.t % self.every == 0:
            self.renew()
        self.t += 1
        return move

    def product(self, G, axis):
        if not self.kl:
            return unfolding_gram(G, axis)
        U = G
        for i in self.axes:
            if i != axis and self.Q:
                w = np.diag(self.Q[i].T @ self.S[i] @ self.Q[i]) / (1 - self.b[1] ** self.t)
                X = (self.Q[i] / np.maximum(w, 1e-6 * w.max())) @ self.Q[i].T
                U = np.moveaxis(np.tensordot(np.linalg.cholesky(X).T, U, (1, i)), 0, i)
        P = unfolding_gram(U, axis) / (G.size // G.shape[axis])
        if not self.Q:  # a share of the gradient's size, and a multiple of I
            P *= (G**2).mean() ** (1 / len(self.axes) - 1)
            P += np.trace(P) / len(P) * np.eye(len(P))
        return P

    def renew(self):
        old, order = dict(self.Q), {}
        for i in self.axes:
            A = self.S[i]
            if i not in old or self.basis == "eigh":
                self.Q[i] = np.linalg.eigh(A)[1][:, ::-1]
                continue
            order[i] = np.argsort([-q @ A @ q for q in old[i].T])  # as published: columns and v are reordered
            self.Q[i] = np.linalg.qr(A @ old[i][:, order[i]])[0]
        v = self.v.reshape(self.shape)
        for i, places in order.items():
            v = np.take(v, places, axis=i)
        self.v = v.ravel()
        if old and self.basis == "eigh":
            T = self.whole(self.Q).T @ self.whole(old)
            self.v = np.diag(T @ np.diag(self.v) @ T.T).copy()


CASES = {
    "as published": ({}, {}),
    "decomposed": ({"basis": "eigh"}, {"basis": "eigh"}),
    "every step": ({"refresh_every": 1}, {"every": 1}),
    "other betas": ({"betas": (0.9, 0.8), "graft_beta": 0.7}, {"betas": (0.9, 0.8), "beta_v": 0.7}),
    "kl": ({"statistics_of": "whitened"}, {"kl": True}),
    "kl, decomposed": ({"statistics_of": "whitened", "basis": "eigh"}, {"kl": True, "basis": "eigh"}),
    "one side": ({"preconditioned_dims": (1,)}, {"axes": (1,)}),
    "epsilon": ({"graft_epsilon": 1e-2}, {"eps": 1e-2}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", [(6, 6), (3, 4, 5)])
def test_matches_the_dense_oracle(case, shape):
    options, plain = CASES[case]
    if len(shape) == 3:  # the first gradient has full rank in every dimension
        options = {"preconditioned_dims": "all", **options}
    G = gradients(shape, 14)
    oracle = Dense(shape, **plain)
    found, _ = run(SOAP(0.1, **{**BASE, "graft_epsilon": 0.0, **options}), G)
    for t, (u, g) in enumerate(zip(found, G, strict=True)):
        np.testing.assert_allclose(u, oracle.step(g), rtol=1e-7, atol=1e-9, err_msg=str(t))


@pytest.mark.parametrize("every", [1, 3, 10])
def test_matches_the_published_implementation(every):
    """pytorch_optimizer's, whose QR is in float32."""
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("pytorch_optimizer")
    rng = np.random.default_rng(0)
    G = [rng.standard_normal((8, 8)) for _ in range(32)]
    options = {"betas": (0.95, 0.9), "weight_decay": 0.0}
    p = torch.nn.Parameter(torch.zeros(8, 8, dtype=torch.float64))
    other = peer.SOAP([p], lr=0.1, eps=0.0, precondition_frequency=every, **options)
    opt, W = SOAP(0.1, graft_epsilon=0.0, **{**BASE, "refresh_every": every, **options}), np.zeros((8, 8))
    state = opt.init(W)
    for g in G:
        p.grad = torch.from_numpy(g.copy())
        other.step()
        state = opt.step(W, g, state)
        np.testing.assert_allclose(W, p.detach().numpy(), rtol=1e-4, atol=1e-5)
