"""One call, and what every call has to stand, whatever the function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
from table import EPS

from matroot import ConditionWarning, RootError

from ..large import LAYOUTS

Fault = tuple[str, str]
#: Results that are no arrays of the batch.
PLAIN = ("method", "certificate", "exponent", "p", "rtol", "n_iter", "n_products", "n_factorizations")
#: Results that are the same alone and in a batch.
EXACT = ("status", "rank", "mask", "principal")


@dataclass
class Trial:
    """A function and the matrices that it is called with, one tuple of arguments for every member of the batch."""

    name: str
    members: list[tuple[np.ndarray, ...]]
    batch: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: np.dtype[Any]
    call: Callable[..., Any]
    text: str
    #: Faults of the results of one member.
    judge: Callable[[tuple[np.ndarray, ...], dict[str, np.ndarray]], list[Fault]]
    #: Sentences with which the call may end, by type.
    allowed: Callable[[Exception], bool] = lambda error: isinstance(error, RootError)
    layouts: tuple[str, ...] = ("C",)
    #: Libraries beside numpy, and functions that make their arrays.
    others: tuple[str, ...] = ()
    #: Fields that padding may widen.
    ragged: tuple[str, ...] = ()
    #: Whether a member that is not finite has a status, and no exception.
    poison: bool = True

    def arrays(self) -> list[np.ndarray]:
        dtypes = [one.dtype for one in self.members[0]] if self.members else [self.dtype] * len(self.shapes)
        some = []
        for k, (shape, dtype) in enumerate(zip(self.shapes, dtypes, strict=True)):
            stack = np.stack([one[k] for one in self.members]) if self.members else np.zeros((0, *shape), dtype)
            some.append(LAYOUTS[self.layouts[k % len(self.layouts)]](stack.reshape(*self.batch, *shape)))
        return some

    def faults(self) -> list[Fault]:
        return run(self)

    def judged(self, member: tuple[np.ndarray, ...], values: dict[str, np.ndarray]) -> list[Fault]:
        with np.errstate(all="ignore"):  # what is wrong may be of any size
            return self.judge(member, values)

    def details(self) -> str:
        """The arrays and the result."""
        found: list[Fault] = []
        return f"{self.arrays()}\n{called(self, self.arrays(), found)}"

    def __str__(self) -> str:
        shapes = " ".join(f"{self.dtype}{[*self.batch, *shape]}" for shape in self.shapes)
        return f"{self.name} {shapes} {self.text} {'+'.join(self.layouts)} {'+'.join(self.others)}"


def run(trial: Trial) -> list[Fault]:
    """Every fault of a trial, as (class, details)."""
    faults: list[Fault] = []
    arrays = trial.arrays()
    before = [one.tobytes() for one in arrays]
    result = called(trial, arrays, faults)
    if [one.tobytes() for one in arrays] != before:
        faults.append(("input written", ""))
    alone = [called(trial, list(one), faults, alone=True) for one in trial.members] if trial.batch else [result]
    if isinstance(result, Exception):
        if trial.batch and not any(isinstance(one, Exception) for one in alone):
            faults.append(("raises in a batch only", f"{type(result).__name__}: {result}"))
        for one, member in zip(alone, trial.members, strict=True):
            if trial.batch and not isinstance(one, Exception):
                faults += trial.judged(member, one)
        return faults
    values = {name: split(value, trial) for name, value in result.items()}
    for i, member in enumerate(trial.members):
        mine = {name: value[i] for name, value in values.items()}
        if isinstance(alone[i], Exception):
            if not isinstance(alone[i], ValueError):  # of a lone matrix that is not symmetric
                faults.append(("raises alone only", f"[{i}] {alone[i]}"))
        elif trial.batch:
            # Bits may be those of another way, by the size of the batch; both are judged.
            exact = EXACT if "products" not in trial.text else ()  # which are at the edge of what they can serve
            other = differing(mine, alone[i], trial.ragged)
            told = [name for name in other if " by " not in name or name.split()[0] in exact]
            faults += [("differs in a batch", f"[{i}] {name}") for name in told]
            faults += [(kind, f"[{i}] alone: {text}") for kind, text in trial.judged(member, alone[i])]
        faults += [(kind, f"[{i}] {text}") for kind, text in trial.judged(member, mine)]
    faults += poisoned(trial, values)
    for other in trial.others:
        with sixty_four_bits() if other == "jax" else nullcontext():
            found = called(trial, [LIBRARIES[other](one) for one in arrays], faults)
        if isinstance(found, Exception):
            faults.append(("library", f"{other}: {type(found).__name__}: {found}"))
        else:
            faults += [
                ("library", f"{other} {name}")
                for name in differing(result, found, (), 2 * float(EPS[str(trial.dtype)]))
            ]
    return faults


def poisoned(trial: Trial, values: dict[str, np.ndarray]) -> list[Fault]:
    """The other members of a batch keep their bits when one becomes NaN."""
    if len(trial.members) < 2 or not trial.poison:
        return []
    first = tuple(np.full_like(one, np.nan) for one in trial.members[0][:1]) + trial.members[0][1:]
    other = replace(trial, members=[first, *trial.members[1:]])
    faults: list[Fault] = []
    result = called(other, other.arrays(), faults)
    if isinstance(result, Exception):
        return [*faults, ("raises beside NaN", f"{type(result).__name__}: {result}")]
    found = {name: split(value, trial) for name, value in result.items()}
    for i in range(1, len(trial.members)):
        one, two = ({name: value[i] for name, value in some.items()} for some in (values, found))
        faults += [("differs beside NaN", f"[{i}] {name}") for name in differing(one, two, trial.ragged)]
    return faults


def called(
    trial: Trial, arrays: list[Any], faults: list[Fault], alone: bool = False
) -> dict[str, np.ndarray] | Exception:
    """The results as numpy arrays, or the exception."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ConditionWarning)
            result = trial.call(*arrays)
            if is_dataclass(result):
                str(result), result.message
    except Warning as warning:
        faults.append(("warning", f"{type(warning).__name__}: {warning}"))
        return warning
    except Exception as error:
        if not trial.allowed(error) and not (alone and isinstance(error, ValueError) and "symmetric" in str(error)):
            faults.append(("exception", f"{type(error).__name__}: {error}"))
        return error
    if is_dataclass(result):
        named = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in PLAIN}
    else:
        named = result if isinstance(result, dict) else {"x": result}
    kind = type(arrays[0])
    for name, value in named.items():
        if value is not None and type(value) is not kind and not (kind is np.ndarray and isinstance(value, np.generic)):
            faults.append(("kind", f"{name} is {type(value).__name__} for {kind.__name__}"))
    return {name: on_numpy(value) for name, value in named.items() if value is not None}


def split(value: np.ndarray, trial: Trial) -> np.ndarray:
    return value.reshape(len(trial.members), *value.shape[len(trial.batch) :])


def differing(
    one: dict[str, np.ndarray], other: dict[str, np.ndarray], ragged: tuple[str, ...], rounding: float = 0.0
) -> list[str]:
    """Fields whose bits are not the same, or that differ by more than one rounding to a half precision."""
    found = []
    for name in one.keys() & other.keys():
        value = one[name]
        a, b = np.asarray(value), np.asarray(other[name])
        if name in ragged:
            k = min(a.shape[-1], b.shape[-1])
            if np.nan_to_num(wide(a[..., k:])).any() or np.nan_to_num(wide(b[..., k:])).any():
                found.append(f"{name} padding")
            a, b = a[..., :k], b[..., :k]
        if a.shape != b.shape or a.dtype.newbyteorder("=") != b.dtype.newbyteorder("="):
            found.append(f"{name} {a.dtype}{a.shape} {b.dtype}{b.shape}")
        elif not np.array_equal(a := wide(a), b := wide(b), equal_nan=a.dtype.kind != "b"):
            both = ~np.isnan(a) & ~np.isnan(b)
            with np.errstate(all="ignore"):
                size = abs(a * 1.0 - b)[both].max(initial=0) / abs(b[both]).max(initial=0)
            if not size <= rounding or (np.isnan(a) != np.isnan(b)).any():
                found.append(f"{name} by {size:.1e}")
    return found


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) if x.dtype.itemsize == 2 else x


def on_numpy(value: Any) -> np.ndarray:
    if type(value).__module__ == "torch":
        import torch

        value = value.detach().resolve_conj()
        return value.float().numpy().astype(ml_dtypes.bfloat16) if value.dtype is torch.bfloat16 else value.numpy()
    return np.asarray(value)


def to_torch(a: np.ndarray) -> Any:
    import torch

    a = np.array(a.astype(a.dtype.newbyteorder("=")), order="C")
    if a.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(a.astype(np.float32)).bfloat16()
    return torch.from_numpy(a)


def recorded(a: np.ndarray) -> Any:
    return to_torch(a).requires_grad_()


def sixty_four_bits() -> Any:
    import jax

    return jax.enable_x64(True)


def to_jax(a: np.ndarray) -> Any:
    import jax

    return jax.numpy.asarray(a.astype(a.dtype.newbyteorder("=")))


LIBRARIES: dict[str, Callable[[np.ndarray], Any]] = {"torch": to_torch, "recorded": recorded, "jax": to_jax}
