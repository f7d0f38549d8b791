"""Lives of a torch optimizer: what people do to it between steps, and copies that go on to the bit."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from .trial import Fault

#: Ways to replace an optimizer by another with the same state.
SWAPS = ("deepcopy", "pickle", "state_dict", "torch.save", "two state_dicts")
#: Events between steps, which both lives have.
EVENTS = (
    "add group", "freeze", "thaw", "data", "rate", "betas", "decay", "closure", "ask", "averages", "zero_grad",
    "option", "kind", "reorder", "hand",
)  # fmt: skip
SHAPES = ((4, 3), (5,), (), (6, 8), (2, 3, 4), (40, 3), (12, 12), (1, 7))


@dataclass
class Life:
    """One optimizer, its events, and the swaps that a second life has beside them."""

    kind: str
    options: dict[str, Any]
    dtype: str
    seed: int
    events: list[list[str]]
    swaps: list[str | None]

    @property
    def name(self) -> str:
        return f"life of {self.kind}"

    def __str__(self) -> str:
        options = " ".join(f"{k}={v}" for k, v in self.options.items())
        days = "; ".join(
            f"{', '.join(e)}{' | ' + s if s else ''}" for e, s in zip(self.events, self.swaps, strict=True)
        )
        return f"{self.name} {self.dtype} {options} [{days}]"

    def details(self) -> str:
        return str(self)

    def faults(self) -> list[Fault]:
        found: list[Fault] = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".* times Adam's")
            warnings.filterwarnings("ignore", message=".*start afresh.*")
            try:
                plain, copied = self.lived(False), self.lived(True)
            except ValueError as error:
                refused = "must be" in str(error) and "at construction" in getattr(error, "__notes__", ())
                return [] if refused else [("exception", f"ValueError: {error}")]
            except Warning as warning:
                return [("warning", f"{type(warning).__name__}: {warning}")]
            except Exception as error:
                return [("exception", f"{type(error).__name__}: {error}")]
        for day, (a, b) in enumerate(zip(plain, copied, strict=True)):
            for k, (x, y) in enumerate(zip(a, b, strict=True)):
                if not np.isfinite(x).all():
                    return [("not finite", f"day {day} tensor {k}")]
                if not np.array_equal(x, y):
                    return [("differs after a copy", f"day {day} tensor {k} by {abs(x - y).max():.1e}")]
        return found

    def lived(self, swaps: bool) -> list[list[np.ndarray]]:
        """Live it, and return the parameters and averages of every day."""
        import torch

        import matroot_optim.torch

        rng = np.random.default_rng(self.seed)
        dtype = getattr(torch, self.dtype)

        def tensor() -> Any:
            shape = SHAPES[rng.integers(len(SHAPES))]
            return torch.nn.Parameter(torch.tensor(rng.standard_normal(shape), dtype=dtype))

        params = [tensor() for _ in range(int(rng.integers(1, 5)))]

        def fresh(groups: Any) -> Any:
            try:
                return getattr(matroot_optim.torch, self.kind)(groups, lr=0.01, **self.options)
            except ValueError as error:
                error.add_note("at construction")
                raise

        opt, days = fresh([{"params": params}]), []
        for events, swap in zip(self.events, self.swaps, strict=True):
            for event in events:
                k, number = int(rng.integers(len(params))), float(rng.uniform(0.1, 0.95))
                happen(event, opt, params, k, number, tensor)
            if swap is not None and swaps:
                opt, params = swapped(swap, opt, params, fresh)
            for p in params:
                usual = rng.random()
                g = torch.tensor(rng.standard_normal(p.shape) * 10.0 ** rng.integers(-3, 3), dtype=p.dtype)
                if usual < 0.05 and g.numel():
                    g.view(-1)[0] = float("nan")
                p.grad = None if usual > 0.93 or not p.requires_grad else g
            if "closure" in events:
                opt.step(lambda: torch.zeros(()))
            else:
                opt.step()
            averages = opt.averaged_parameters()
            days.append([x.detach().double().numpy().copy() for x in (*params, *averages)])
        return days


def happen(event: str, opt: Any, params: list[Any], k: int, number: float, tensor: Any) -> None:
    """Do to the optimizer or a parameter what people do."""
    import torch

    p, group = params[k], opt.param_groups[k % len(opt.param_groups)]
    match event:
        case "add group":
            new = tensor()
            with suppress(ValueError):  # options that do not fit its shape
                opt.add_param_group({"params": [new], "lr": number / 100, "weight_decay": 0.1})
                params.append(new)
        case "freeze" | "thaw":
            p.requires_grad_(event == "thaw")
        case "data":
            p.data = p.data * number
        case "rate":
            group["lr"] = number / 100
        case "betas":
            group["betas"] = (number, group["betas"][1])
        case "decay":
            group["weight_decay"] = number / 10
        case "ask":
            opt.state_dict(), str(opt.diagnostics()), str(opt.plan()), repr(opt), dict(opt.state)
        case "averages":
            opt.eval()
            opt.train()
        case "zero_grad":
            opt.zero_grad()
        case "option":
            group["clip_rms"] = number
        case "kind":  # of moments and averages
            name, values = (("graft", ("adam", "adagrad")), ("averaging", ("none", "ema", "schedule_free")))[k % 2]
            group[name] = values[int(number * len(values))]
        case "reorder":
            group["params"].reverse()
        case "hand" if p in opt.state and "momentum" in opt.state[p]:
            with torch.no_grad():
                opt.state[p]["momentum"].mul_(number)


def swapped(how: str, opt: Any, params: list[Any], fresh: Any) -> tuple[Any, list[Any]]:
    """Return another optimizer with the state of this one, and its parameters in the same order."""
    import torch

    if how in ("deepcopy", "pickle"):
        both = (opt, params)
        return copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
    new = fresh([{**{k: v for k, v in g.items() if k != "matroot_optim"}} for g in opt.param_groups])
    saved = opt.state_dict()
    if how == "torch.save":
        room = io.BytesIO()
        torch.save(saved, room)
        room.seek(0)
        saved = torch.load(room, weights_only=True)
    new.load_state_dict(saved)
    if how == "two state_dicts":
        newer = fresh([{**{k: v for k, v in g.items() if k != "matroot_optim"}} for g in opt.param_groups])
        newer.load_state_dict(new.state_dict())
        new = newer
    return new, params


def draw(rng: np.random.Generator, options: dict[str, Any], kind: str) -> Life:
    days = int(rng.integers(4, 12))
    events = [[str(e) for e in rng.choice(EVENTS, int(rng.integers(0, 3)))] for _ in range(days)]
    swaps = [str(rng.choice(SWAPS)) if rng.random() < 0.4 else None for _ in range(days)]
    dtype = str(rng.choice(["float32", "float64", "bfloat16"], p=[0.6, 0.25, 0.15]))
    return Life(kind, options, dtype, int(rng.integers(2**31)), events, swaps)
