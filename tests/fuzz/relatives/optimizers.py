"""Optimizers of random options on random tensors.

They are finite, without a warning, bit for bit over a save, and follow the curve of numpy in every framework.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import matroot_optim
from matroot import Floor, PseudoInverse, Ridge, Shift, TargetCondition
from matroot_optim import ExecutorEngine, InlineEngine
from matroot_optim.presets import PRESETS, preset_options

from . import curves, lives
from .trial import Fault

Arrays = dict[str, np.ndarray]
KINDS = ("Shampoo", "SOAP", "KLShampoo")
FRAMEWORKS = ("numpy", "in place", "torch", "optax")

#: Values of options, the default aside; None of them is wrong by itself.
VALUES: dict[str, tuple[Any, ...]] = {
    "betas": ((0.0, 0.99), (0.9, 1.0), (0.5, 0.0), (0.95, 0.95), (0.99, 0.9), (0.9, 1e-6), (0.9, 0.0)),
    "momentum": ("none", "heavy_ball", "nesterov"),
    "momentum_of": ("direction",),
    "bias_correction": (False,),
    "weight_decay": (0.01, 0.5),
    "decay": ("l2", "independent"),
    "clip_norm": (1.0, 1e-6),
    "clip_rms": (1.0,),
    "cautious_decay": (True,),
    "cautious_update": (True,),
    "hyperball": (True,),
    "averaging": ("schedule_free", "ema"),
    "averaging_beta": (0.5, 0.98),
    "block_size": (1, 2, 3, 8),
    "block_aspect": (None, 1.0),
    "merge": (None, 1, 6, 100),
    "split": (2, (3, 4), (1, 2, 1), 3),
    "split_dim": (-1, 1),
    "batch_dims": (1, 1, 2),
    "max_preconditioned_dim": (4, 20),
    "preconditioned_dims": ("all", "one_sided", "table", "none"),
    "precondition_vectors": (True,),
    "exponent": (None, "-1/2", "-1/4", -1, "-2/3"),
    "direction": ("spectral",),
    "spectral_exponent": (-0.5, 0.5, 1.0, -1.0),
    "statistics_of": ("whitened",),
    "statistics_every": (2, 3),
    "refresh_every": (1, 2, 3),
    "refresh_growth": (0.0, 1.0, 0.5),
    "schedule": ("interval", "residual"),
    "stale_tolerance": (0.5, 1e-3),
    "ridge": (0.0, 1e-12, 0.1),
    "regularization": (
        Floor(1e-6),
        PseudoInverse(),
        PseudoInverse(1e-3),
        Shift(1e-4),
        TargetCondition(1e4),
        Ridge(1e-5),
    ),
    "basis": ("eigh",),
    "root_tolerance": (0.5, 1e-3),
    "root_method": ("eigen", "coupled_newton", "minimax"),
    "root_dtype": ("float32",),
    "state_dtype": ("bfloat16",),
    "graft": ("rmsprop", "adagrad", "sgd", "sqrt_n", "trust_ratio", "none"),
    "graft_normalize": (True,),
    "graft_per_block": (True,),
    "graft_beta": (0.9,),
    "graft_epsilon": (1e-3,),
    "start_step": (1, 3),
    "mix_steps": (2, 5),
    "groups": (
        {"p0": {"preconditioned_dims": "none"}},
        {"p1": {"betas": (0.8, 0.9), "graft": "rmsprop"}, "*": {"weight_decay": 0.1}},
        {"p[02]": {"block_size": 2, "exponent": "-1/2"}},
    ),
}
SHAPES = (
    (), (0,), (1,), (5,), (70,), (3, 4), (1, 6), (6, 1), (1, 1), (0, 3), (3, 0), (7, 7), (40, 3), (2, 3, 4),
    (4, 3, 2, 2), (1, 1, 1), (12, 5), (2, 0, 3), (33, 34), (7, 12), (6, 8), (3, 6, 4),
)  # fmt: skip


@dataclass
class Training:
    """One optimizer, its parameters and gradients, and the step after which it is saved."""

    kind: str
    framework: str
    options: dict[str, Any]
    params: Arrays
    gradients: list[dict[str, np.ndarray | None]]
    saved: int

    @property
    def name(self) -> str:
        return f"{self.framework} {self.kind}"

    def __str__(self) -> str:
        shapes = " ".join(f"{x.dtype}{[*x.shape]}" for x in self.params.values())
        options = " ".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.name} {shapes} saved={self.saved} of {len(self.gradients)} {options}"

    def details(self) -> str:
        return "\n".join(map(repr, [self.params, *self.gradients]))

    def faults(self) -> list[Fault]:
        run = RUNS[self.framework]
        before = {k: x.tobytes() for k, x in self.params.items()}
        found: list[Fault] = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".* times Adam's")
            try:
                whole = run(self, None)
                parts = run(self, self.saved)
            except RefusedError:
                return []
            except Warning as warning:
                return [("warning", f"{type(warning).__name__}: {warning}")]
            except Exception as error:
                return [("exception", f"{type(error).__name__}: {error}")]
        if {k: x.tobytes() for k, x in self.params.items()} != before:
            found.append(("input written", ""))
        for k, x in whole.items():
            like = self.params[k.removesuffix(" averaged")]
            if x.shape != like.shape or x.dtype != like.dtype:
                found.append(("kind", f"{k} {x.dtype}{x.shape}"))
            if not np.array_equal(x, parts[k], equal_nan=True):
                found.append(("differs after a load", f"{k} by {abs(x - parts[k]).max():.1e}"))
            if not np.isfinite(x).all():
                found.append(("not finite", k))
        return found + curves.faults(self, whole)


class RefusedError(Exception):
    """Options that exclude each other, as a sentence says."""


def draw(rng: np.random.Generator) -> Training | lives.Life:
    kind, framework = str(rng.choice(KINDS)), str(rng.choice(FRAMEWORKS, p=[0.25, 0.25, 0.43, 0.07]))
    options: dict[str, Any] = {}
    for name in rng.choice([*VALUES], int(rng.integers(0, 8)), replace=False):
        values = VALUES[str(name)]
        options[str(name)] = values[rng.integers(len(values))]
    options.setdefault("refresh_every", int(rng.integers(1, 5)))
    if rng.random() < 0.1 and kind == "Shampoo":
        options = {**preset_options(str(rng.choice([*PRESETS]))), **options}
        options.pop("learning_rate")
    if framework == "optax" and options.get("groups"):
        options["groups"] = {"p0": {"preconditioned_dims": "none"}}  # the others have rates
    if framework == "torch":
        options.pop("groups", None)
        if rng.random() < 0.3:
            options.pop("split", None)  # which fits one shape
            return lives.draw(rng, options, kind)
    if rng.random() < 0.2 and framework != "optax":
        lag = int(rng.integers(1, 3))
        threads = ExecutorEngine(one_thread, lag=lag, timeout=60.0)
        options["engine"] = threads if rng.random() < 0.4 else InlineEngine(lag)
    if rng.random() < 0.2 and options.get("hyperball"):
        options.pop("weight_decay", None)
    dtype = "float64" if framework != "optax" and rng.random() < 0.3 else "float32"
    shapes = [SHAPES[rng.integers(len(SHAPES))] for _ in range(int(rng.integers(1, 5)))]
    params = {f"p{i}": np.asarray(rng.standard_normal(shape), dtype) for i, shape in enumerate(shapes)}
    steps = int(rng.integers(3, 11))
    gradients = [{k: gradient(rng, x) for k, x in params.items()} for _ in range(steps)]
    return Training(kind, framework, options, params, gradients, int(rng.integers(0, steps)))


def one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def gradient(rng: np.random.Generator, x: np.ndarray) -> np.ndarray | None:
    """Of any size, zero, of rank one, missing, or not finite."""
    kind = rng.random()
    if kind < 0.04:
        return None
    decades = rng.uniform(-30, 30) if rng.random() < 0.3 else 0.0
    G = np.asarray(rng.standard_normal(x.shape))
    if kind < 0.1:
        G = G * 0
    elif kind < 0.2 and x.ndim == 2:
        G = np.outer(rng.standard_normal(x.shape[0]), rng.standard_normal(x.shape[1]))
    elif kind < 0.25 and x.size:
        G.reshape(-1)[rng.integers(x.size)] = rng.choice([np.nan, np.inf])
    return np.asarray(G * 10**decades, x.dtype)


def made(training: Training, module: Any, *arguments: Any, **more: Any) -> Any:
    """The optimizer; a ValueError of its construction is what the options deserve."""
    try:
        return getattr(module, training.kind)(*arguments, **training.options, **more)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def by_numpy(training: Training, saved: int | None, in_place: bool = False) -> Arrays:
    opt = made(training, matroot_optim, 0.01)
    params = {k: x.copy() for k, x in training.params.items()}
    try:
        state = opt.init(params)
    except ValueError as error:
        raise RefusedError(str(error)) from error
    for step, grads in enumerate(training.gradients):
        if step == saved:
            with tempfile.TemporaryDirectory() as room:
                state.save(Path(room) / "state.npz")
                state = opt.load(Path(room) / "state.npz", params)
        if in_place:
            state = opt.step(params, grads, state)
        else:
            updates, state = opt.update(grads, state, params)
            params = matroot_optim.apply_updates(params, updates)
        str(opt.diagnostics(state))
    return both(params, opt.averaged_parameters(params, state))


def by_torch(training: Training, saved: int | None) -> Arrays:
    import torch

    import matroot_optim.torch

    tensors = {k: torch.tensor(x, requires_grad=True) for k, x in training.params.items()}

    def fresh() -> Any:
        return made(training, matroot_optim.torch, list(tensors.items()), 0.01)

    opt = fresh()
    for step, grads in enumerate(training.gradients):
        if step == saved:
            room = io.BytesIO()
            torch.save(opt.state_dict(), room)
            room.seek(0)
            opt = fresh()
            opt.load_state_dict(torch.load(room, weights_only=True))
        for k, x in tensors.items():
            x.grad = None if grads[k] is None else torch.tensor(grads[k])
        opt.step()
    return both(tensors, dict(zip(tensors, opt.averaged_parameters(), strict=True)))


def by_optax(training: Training, saved: int | None) -> Arrays:
    import jax
    import optax

    import matroot_optim.optax as adapter

    options = {k: v for k, v in training.options.items() if k not in ("engine", "weight_decay")}
    try:
        function = {"Shampoo": adapter.shampoo, "SOAP": adapter.soap, "KLShampoo": adapter.kl_shampoo}[training.kind]
        tx = function(0.01, training.options.get("weight_decay", 0.0), **options)
        params = {k: jax.numpy.asarray(x) for k, x in training.params.items()}
        state = tx.init(params)
    except ValueError as error:
        raise RefusedError(str(error)) from error
    update = jax.jit(tx.update) if training.saved % 2 else tx.update
    for step, grads in enumerate(training.gradients[:4]):
        if step == min(saved if saved is not None else -1, 3):
            leaves = jax.tree.leaves(state)
            state = jax.tree.unflatten(
                jax.tree.structure(tx.init(params)), [jax.numpy.asarray(np.asarray(x)) for x in leaves]
            )
        whole = {k: jax.numpy.zeros_like(params[k]) if g is None else g for k, g in grads.items()}
        updates, state = update(whole, state, params)
        params = optax.apply_updates(params, updates)
    averages = adapter.averaged_parameters(state, params) if training.options.get("averaging") else params
    jax.clear_caches()  # every training has programs of its own
    return both(params, averages)


def both(params: Any, averages: Any) -> Arrays:
    """The parameters, and the averages beside them."""
    found = {k: x.detach().numpy() if hasattr(x, "detach") else np.asarray(x) for k, x in params.items()}
    return found | {f"{k} averaged": np.asarray(x) for k, x in averages.items()}


RUNS: dict[str, Callable[[Training, int | None], Arrays]] = {
    "numpy": by_numpy,
    "in place": lambda training, saved: by_numpy(training, saved, in_place=True),
    "torch": by_torch,
    "optax": by_optax,
}
