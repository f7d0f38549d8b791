"""Shampoo written a second time, densely and plainly in float64: einsum, eigh, loops; nothing of the package."""

from __future__ import annotations

import itertools
import math

import numpy as np


def power(A, s, ridge):
    """A^s of a symmetric matrix with a ridge relative to its largest eigenvalue."""
    w, Q = np.linalg.eigh(A + ridge * np.linalg.eigvalsh(A)[-1] * np.eye(len(A)))
    return np.einsum("ij,j,kj->ik", Q, w**s, Q)


def unfolding_gram(G, axis):
    """G_(i) G_(i)^T by einsum over all other indices."""
    letters = "abcdefg"[: G.ndim]
    other = letters.replace(letters[axis], "z")
    return np.einsum(f"{letters},{other}->{letters[axis]}z", G, G)


def along(P, X, axis):
    """X applied along one dimension."""
    letters = "abcdefg"[: P.ndim]
    return np.einsum(f"z{letters[axis]},{letters}->{letters.replace(letters[axis], 'z')}", X, P)


class Oracle:
    """One tensor. Every element is an `if` on a plain option."""

    def __init__(self, shape, **o):
        self.o = {
            "lr": 0.1, "b1": 0.9, "b2": 0.999, "momentum": "ema", "of": "gradient", "correct": True, "wd": 0.0,
            "decay": "decoupled",
            "block": 10**9, "axes": tuple(range(len(shape))) if len(shape) > 1 else (), "exponent": None,
            "ridge": 1e-6, "every": 1, "graft": "adam", "normalize": False, "per_block": False, "by_row": False,
            "eps": 1e-8, "start": 1, "mix": 0, "clip_rms": None, "graft_beta": None, "statistics": 1,
            "cautious_decay": False, "cautious_update": False, "hyperball": False, **o,
        }  # fmt: skip
        self.t = 0
        self.m = np.zeros(shape)
        self.v = np.zeros(shape)
        self.peak = 0.0
        axes = self.o["axes"]
        cuts = [range(0, n, self.o["block"]) if i in axes else [0] for i, n in enumerate(shape)]
        self.blocks = []
        for origin in itertools.product(*cuts):
            index = tuple(
                slice(a, min(a + self.o["block"], n)) if i in axes else slice(None)
                for i, (a, n) in enumerate(zip(origin, shape, strict=True))
            )
            sizes = np.zeros(shape)[index].shape
            S = {i: np.zeros((sizes[i], sizes[i])) for i in axes}
            self.blocks.append({"index": index, "S": S, "X": {i: np.eye(sizes[i]) for i in axes}})

    def graft_beta(self):
        o = self.o
        if o["graft"] == "adagrad":
            return 1.0
        if o["graft"] in ("rmsprop", "adam"):
            default = o["b2"] if o["b2"] < 1 else 0.999
            return default if o["graft_beta"] is None else o["graft_beta"]
        return o["b2"]

    def averaged(self, D):
        """The momentum of D."""
        b1 = self.o["b1"]
        match self.o["momentum"]:
            case "none":
                return D
            case "ema":
                self.m = b1 * self.m + (1 - b1) * D
                return self.m / (1 - b1**self.t) if self.o["correct"] else self.m
            case "heavy_ball":
                self.m = b1 * self.m + D
                return self.m
            case "nesterov":
                self.m = b1 * self.m + D
                return b1 * self.m + D

    def step(self, G, W):
        """The update of one step."""
        o, self.t = self.o, self.t + 1
        t, b2 = self.t, o["b2"]
        if o["decay"] == "l2":
            G = G + o["wd"] * W
        P = np.zeros_like(G)
        normalized = o["normalize"] and not (o["graft"] == "none" and o["axes"])
        norm = (np.linalg.norm(G) or 1) if normalized else 1
        average = self.averaged(G / norm) if o["of"] == "gradient" else G / norm
        for block in self.blocks:
            g = G[block["index"]]
            D = average[block["index"]]
            for i in o["axes"]:
                if (t - 1) % o["statistics"] == 0:
                    S = unfolding_gram(g, i)
                    block["S"][i] = block["S"][i] + S if b2 == 1 else b2 * block["S"][i] + (1 - b2) * S
                if (t - 1) % o["every"] == 0:
                    entered = (t - 1) // o["statistics"] + 1
                    A = block["S"][i] / (1 - b2**entered if b2 < 1 and o["correct"] else 1)
                    s = o["exponent"] or -1 / (2 * len(o["axes"]))
                    block["X"][i] = power(A, s, o["ridge"])
                D = along(D, block["X"][i], i)
            P[block["index"]] = D
        g = G / norm
        beta = self.graft_beta()
        self.v = self.v + g * g if beta == 1 else beta * self.v + (1 - beta) * g * g
        v = self.v
        if beta < 1 and (o["graft"] == "adam" or (o["graft"] in ("none", "sqrt_n", "trust_ratio") and o["correct"])):
            v = v / (1 - beta**t)
        self.peak = max(np.linalg.norm(G), self.peak * beta**0.5)
        floor = o["eps"] * (1 if normalized else self.peak) / math.sqrt(G.size)
        F = average if o["graft"] == "sgd" else average / (np.sqrt(v) + floor)

        def magnitude(D, F, W):
            norm = np.linalg.norm(D)
            sizes = {"none": norm, "sqrt_n": math.sqrt(D.size), "trust_ratio": np.linalg.norm(W) or norm}
            return D * (sizes.get(o["graft"], np.linalg.norm(F)) / norm) if norm > 0 else D

        first = magnitude(F, F, W) if o["graft"] in ("sqrt_n", "trust_ratio") else F
        if not o["axes"]:
            D = first
        else:
            if o["per_block"]:
                D = np.zeros_like(P)
                for b in self.blocks:
                    D[b["index"]] = magnitude(P[b["index"]], F[b["index"]], W[b["index"]])
            elif o["by_row"]:
                axis = o["axes"][0]
                rows = zip(np.moveaxis(P, 1 - axis, 0), np.moveaxis(F, 1 - axis, 0), strict=True)
                D = np.moveaxis(np.array([magnitude(p, f, p) for p, f in rows]), 0, 1 - axis)
            else:
                D = magnitude(P, F, W)
            w = float(t >= o["start"]) if not o["mix"] else min(1, max(0, (t - o["start"]) / o["mix"]))
            D = w * D + (1 - w) * first
        move = self.averaged(D) if o["of"] == "direction" else D
        if o["cautious_update"]:
            agree = move * G > 0
            move = np.where(agree, move, 0) / max(agree.mean(), 1e-3)
        if o["clip_rms"]:
            move = move / max(1, np.sqrt((move**2).mean()) / o["clip_rms"])
        pinned = o["hyperball"] and o["axes"]
        if pinned:
            move = move * np.linalg.norm(W) / np.linalg.norm(move)
        shrunk = np.where(move * W >= 0, W, 0) if o["cautious_decay"] else W
        if o["decay"] == "decoupled":
            move = move + o["wd"] * shrunk
        move = -o["lr"] * move - (o["wd"] * shrunk if o["decay"] == "independent" else 0)
        return (W + move) * np.linalg.norm(W) / np.linalg.norm(W + move) - W if pinned else move
