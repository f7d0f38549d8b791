"""Shampoo as an `optax.GradientTransformation`: an adapter of jax trees and states to the core."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from matroot import ConditionTracker
from matroot_optim._optax.averages import averages, schedule_free, with_ema
from matroot_optim._optax.groups import OF_WEIGHTS, check_groups
from matroot_optim._optax.promotion import usual_promotion
from matroot_optim._optax.serialization import serializable
from matroot_optim._optax.weights import (
    add_cautious_decay,
    as_optimizer,
    keep_norms,
    steady,
)
from matroot_optim.checkpoint.files import naming, read
from matroot_optim.diagnostics import Diagnostics, diagnose, joined
from matroot_optim.jit.shards import placed, shards_of
from matroot_optim.jit.start import Plan as Static
from matroot_optim.jit.start import check_state, initial, kind_on_host, layout_of, restored
from matroot_optim.jit.step import advance
from matroot_optim.jit.trees import flatten
from matroot_optim.jit.turns import marks
from matroot_optim.kl_shampoo import KLShampoo
from matroot_optim.names import check_options
from matroot_optim.options import Options
from matroot_optim.plan import Plan, Row, make_plan, warn_if_large
from matroot_optim.presets import preset_options
from matroot_optim.refresh.due import due_jobs, submit
from matroot_optim.refresh.install import install_all
from matroot_optim.rules import relative_ridge
from matroot_optim.shampoo import Shampoo
from matroot_optim.soap import SOAP
from matroot_optim.state import State
from matroot_optim.step.narrow import closed, opened

ROOTS = ("callback", "graph", "host")


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["plan"])
@dataclass(frozen=True)
class ShampooState:
    """State of `scale_by_shampoo`: the core's arrays by name, and the static plan."""

    arrays: dict[str, Any]
    plan: Static

    @property
    def core(self) -> State:
        """The same state as `matroot_optim.State`, with the counters on the host; needs concrete arrays."""
        kinds = {name: kind_on_host(name) for name in self.arrays}
        mine = {name: x for name, x in self.arrays.items() if kinds[name]}
        host = {name: np.array(x).astype(kinds[name]) for name, x in jax.device_get(mine).items()}  # one wait for all
        if self.plan.roots != "host":  # a compiled step needs no marks
            host.update(marks(self.plan.options, self.plan.layout, int(host["step"])))
        return State(self.plan.layout, {**self.arrays, **host})


def scale_by_shampoo(*, roots: str = "callback", **options: Any) -> optax.GradientTransformation:
    """Scale gradients to Shampoo's direction, momentum included; chain with a learning rate.

    Works under ``jax.jit``, and composes with ``optax.chain``, ``masked`` and ``inject_hyperparams``. Under
    ``jax.vmap`` the members of an ensemble share a step count as long as theirs are equal.

    Parameters may be sharded: ``init``, not under jit, reads the mesh from them. See the guide, "Many ranks".

    Parameters
    ----------
    roots : {"callback", "graph", "host"}
        Place of the roots' computation. "callback": in numpy through ``jax.pure_callback``, in float64 even if jax
        runs without float64. "graph": traced, a fixed minimax schedule in float32. "host": outside the update; call
        `refresh_roots` on the state between steps.
    **options
        Options of `matroot_optim.Shampoo`, except learning_rate, weight_decay and engine. `refresh_every` is an int.

    Returns
    -------
    optax.GradientTransformation

    Raises
    ------
    ValueError
        An option is wrong, or not possible under jit.
    """
    return _transformation(_config(Shampoo, options, roots, whole=False), roots)


def scale_by_soap(*, roots: str = "callback", **options: Any) -> optax.GradientTransformation:
    """Scale gradients to SOAP's direction, momentum included; chain with a learning rate.

    Parameters
    ----------
    roots : {"callback", "graph", "host"}
        Place of the bases' computation, as in `scale_by_shampoo`; "graph" has the precision of the statistics.
    **options
        Options of `matroot_optim.SOAP`, except learning_rate, weight_decay and engine.

    Returns
    -------
    optax.GradientTransformation

    Raises
    ------
    ValueError
        An option is wrong, or not possible under jit.
    """
    return _transformation(_config(SOAP, options, roots, whole=False), roots)


def scale_by_kl_shampoo(*, roots: str = "callback", **options: Any) -> optax.GradientTransformation:
    """Scale gradients to KL-Shampoo's direction, momentum included; chain with a learning rate.

    Parameters
    ----------
    roots : {"callback", "graph", "host"}
        As in `scale_by_shampoo`. With "host", roots that the first steps want are there from the second step on.
    **options
        Options of `matroot_optim.KLShampoo`, except learning_rate, weight_decay and engine.

    Returns
    -------
    optax.GradientTransformation

    Raises
    ------
    ValueError
        An option is wrong, or not possible under jit.
    """
    return _transformation(_config(KLShampoo, options, roots, whole=False), roots)


def _config(kind: type[Shampoo], options: dict[str, Any], roots: str, *, whole: bool) -> Shampoo:
    """Return the options of a transformation, checked; `whole` if it applies the rate."""
    options = {**options.pop("options", {}), **options}  # inject_hyperparams passes keywords on as one dict
    check_options(options, (field.name for field in fields(kind) if field.name != "learning_rate"))
    config = kind(1.0, **options)
    if roots not in ROOTS:
        raise ValueError(f"roots must be one of {', '.join(map(repr, ROOTS))}, got {roots!r}")
    _check(config, roots)
    for name in OF_WEIGHTS:
        if not whole and getattr(config, name) not in (False, "none"):
            raise ValueError(f"{name} must be given to shampoo or soap, which apply the rate and the decay")
    return config


def _transformation(config: Shampoo, roots: str) -> optax.GradientTransformation:
    @usual_promotion()
    def init(params: Any) -> ShampooState:
        serializable(ShampooState)
        leaves, _ = flatten(params)
        check_groups(config, leaves)
        static = Static(config, layout_of(config, leaves), roots, shards_of(list(leaves.values())))
        warn_if_large(static.layout)
        return ShampooState(initial(static, list(leaves.values())), static)

    @usual_promotion()
    def update(updates: Any, state: ShampooState, params: Any = None) -> tuple[Any, ShampooState]:
        check_state(state.plan, config, roots)
        leaves, rebuild = flatten(updates, "updates")
        weights = flatten(params)[0] if params is not None else {}
        layout = state.plan.layout
        g, W = layout.align(leaves, "updates"), layout.align(weights, "params")
        g = [x if x is None else jax.numpy.asarray(x) for x in g]  # numpy's arithmetic would warn of large gradients
        moves, arrays = advance(state.plan, state.arrays, g, W)
        moved = {
            leaf.path: move.astype(leaves[leaf.path].dtype)
            for leaf, move in zip(layout.leaves, moves, strict=True)
            if leaf.path in leaves
        }
        return rebuild(moved), ShampooState(arrays, state.plan)

    return optax.GradientTransformation(init, update)


def shampoo(
    learning_rate: Any, weight_decay: Any = 0.0, *, mask: Any = None, roots: str = "callback", **options: Any
) -> optax.GradientTransformation:
    """Chain `scale_by_shampoo` with weight decay and a learning rate.

    Parameters
    ----------
    learning_rate : float, array or schedule
        With the default graft, take Adam's. May be injected by ``optax.inject_hyperparams``.
    weight_decay : float or array
        Decoupled, unless the option `decay` is "independent" or "l2". May be injected, except with "l2".
    mask : tree of bool, or function of the parameters that gives one, optional
        As in `optax.adamw`: False turns weight decay off. For ``inject_hyperparams``, list a function in
        ``static_args``.
    roots : {"callback", "graph", "host"}
        See `scale_by_shampoo`.
    **options
        Options of `matroot_optim.Shampoo`. ``inject_hyperparams`` takes them too; they stay static, and are not to be
        listed in its ``static_args``.

    Returns
    -------
    optax.GradientTransformation

    Examples
    --------
    >>> import jax, jax.numpy as jnp, optax
    >>> from matroot_optim.optax import shampoo
    >>> tx = shampoo(1e-2)
    >>> params = {"w": jnp.ones((3, 2))}
    >>> state = tx.init(params)
    >>> grads = jax.grad(lambda p: (p["w"] ** 2).sum())(params)
    >>> updates, state = jax.jit(tx.update)(grads, state, params)
    >>> params = optax.apply_updates(params, updates)
    """
    return _chained(Shampoo, options, learning_rate, weight_decay, mask, roots)


def preset(
    name: str,
    learning_rate: Any = None,
    weight_decay: Any = None,
    *,
    mask: Any = None,
    roots: str = "callback",
    **changes: Any,
) -> optax.GradientTransformation:
    """Chain `shampoo` with the options of a published optimizer; see `matroot_optim.Shampoo.preset`.

    Parameters
    ----------
    name : {"anil2020", "google", "meta", "anil2026"}
    learning_rate, weight_decay
        As for `shampoo`; None for those of the preset.
    mask, roots
        As for `shampoo`.
    **changes
        Options to change.

    Returns
    -------
    optax.GradientTransformation

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from matroot_optim.optax import preset
    >>> tx = preset("google", learning_rate=0.05)
    >>> state = tx.init({"w": jnp.ones((3, 2))})
    """
    changes = {**changes.pop("changes", {}), **changes}  # inject_hyperparams passes keywords on as one dict
    given = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    options = {**preset_options(name), **{k: v for k, v in given.items() if v is not None}, **changes}
    return shampoo(options.pop("learning_rate"), mask=mask, roots=roots, **options)


def soap(
    learning_rate: Any, weight_decay: Any = 0.0, *, mask: Any = None, roots: str = "callback", **options: Any
) -> optax.GradientTransformation:
    """Chain `scale_by_soap` with weight decay and a learning rate.

    Parameters
    ----------
    learning_rate : float, array or schedule
        Take Adam's, or twice that.
    weight_decay, mask, roots
        As for `shampoo`.
    **options
        Options of `matroot_optim.SOAP`.

    Returns
    -------
    optax.GradientTransformation

    Examples
    --------
    >>> import jax, jax.numpy as jnp, optax
    >>> from matroot_optim.optax import soap
    >>> tx = soap(1e-2)
    >>> params = {"w": jnp.ones((3, 2))}
    >>> state = tx.init(params)
    >>> grads = jax.grad(lambda p: (p["w"] ** 2).sum())(params)
    >>> updates, state = jax.jit(tx.update)(grads, state, params)
    """
    return _chained(SOAP, options, learning_rate, weight_decay, mask, roots)


def kl_shampoo(
    learning_rate: Any, weight_decay: Any = 0.0, *, mask: Any = None, roots: str = "callback", **options: Any
) -> optax.GradientTransformation:
    """Chain `scale_by_kl_shampoo` with weight decay and a learning rate.

    Parameters
    ----------
    learning_rate, weight_decay, mask, roots
        As for `shampoo`.
    **options
        Options of `matroot_optim.KLShampoo`.

    Returns
    -------
    optax.GradientTransformation
    """
    return _chained(KLShampoo, options, learning_rate, weight_decay, mask, roots)


def _chained(
    kind: type[Shampoo], options: dict[str, Any], learning_rate: Any, weight_decay: Any, mask: Any, roots: str
) -> optax.GradientTransformation:
    config = _config(kind, options, roots, whole=True)
    free = config.averaging == "schedule_free"
    inner = replace(config, averaging="none", momentum="none" if free else config.momentum)
    if learning_rate is None or isinstance(learning_rate, list | tuple | dict | str):
        raise TypeError(f"learning_rate must be a number, array or schedule, got {type(learning_rate).__name__}")
    given = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    numbers: dict[str, Any] = {name: x for name, x in given.items() if isinstance(x, int | float)}
    replace(config, **numbers)  # checks them
    if callable(learning_rate):
        rate = optax.scale_by_schedule(lambda count: -learning_rate(count))
    else:
        rate = optax.scale(-learning_rate)
    steps = _with_decay(inner, roots, weight_decay, mask, rate)
    steps += [keep_norms(config)] * config.hyperball
    chained = steady(*steps)
    if config.averaging == "ema":
        chained = with_ema(chained, config.beta_of_average)
    if free:
        chained = schedule_free(chained, learning_rate, config.beta_of_average)
    # Otherwise optax's transformations would complain after the direction is computed.
    return as_optimizer(chained, of_weights=config.decay != "l2" or config.hyperball or config.averaging != "none")


def _with_decay(
    config: Shampoo, roots: str, weight_decay: Any, mask: Any, rate: optax.GradientTransformation
) -> list[optax.GradientTransformation]:
    """Return the transformations of the direction, the decay and the rate, in the order that the decay needs."""
    if config.decay == "l2":  # inside, after the clipping of the gradient
        if mask is not None or isinstance(weight_decay, bool) or not isinstance(weight_decay, float | int):
            raise ValueError(
                "with decay 'l2', weight_decay must be a number and mask None; for others chain "
                "optax.add_decayed_weights(weight_decay, mask) before the optimizer"
            )
        return [_transformation(replace(config, weight_decay=float(weight_decay)), roots), rate]
    direction = _transformation(config, roots)
    if config.decay == "decoupled":
        decay = add_cautious_decay if config.cautious_decay else optax.add_decayed_weights
        return [direction, decay(weight_decay, mask), rate]
    if config.cautious_decay:
        raise ValueError("decay must be 'decoupled' with cautious_decay under optax, got 'independent'")
    return [direction, rate, optax.add_decayed_weights(-weight_decay, mask)]


def _check(config: Options, roots: str) -> None:
    """Raise if an option is not possible inside a compiled step."""
    host, engine, rule = roots == "host", config.engine, relative_ridge(config.rule)
    rules = {
        "refresh_every": (host or not callable(config.refresh_every), "an int under jit"),
        "schedule": (host or config.schedule != "residual", "'staggered' or 'interval' under jit"),
        "on_nonfinite": (config.on_nonfinite != "raise", "'skip' or 'propagate' under jit"),
        "engine": (engine is None or (host and engine.lag == 0), "None under jit, and of lag 0 with roots='host'"),
        "regularization": (
            rule is not None or roots != "graph",
            "a number, or a Ridge without an absolute size, with roots='graph'",
        ),
        "root_device": (
            host or config.root_device != "device",
            "'host' with roots='callback' or 'graph', which say themselves where roots are computed",
        ),
        "weight_decay": (
            config.weight_decay == 0 or config.decay == "l2",
            "given to shampoo, or chained as optax.add_decayed_weights, unless decay is 'l2'",
        ),
    }
    for name, (good, allowed) in rules.items():
        if not good:
            raise ValueError(f"{name} must be {allowed}, got {getattr(config, name)!r}")


def _map_states(change: Callable[[ShampooState], Any], opt_state: Any) -> Any:
    def is_state(node: Any) -> bool:
        return isinstance(node, ShampooState)

    return jax.tree.map(lambda x: change(x) if is_state(x) else x, opt_state, is_leaf=is_state)


@usual_promotion()
def refresh_roots(opt_state: Any) -> Any:
    """Renew the roots that are due at the next step, on the host, and return the optimizer state with them.

    For ``roots="host"``, outside jit, after every update. Without due roots, the cost is that of reading the counters.

    Parameters
    ----------
    opt_state : tree
        Any optax state that holds a `ShampooState`: of a chain, masked, injected.

    Returns
    -------
    tree
        As `opt_state`.
    """

    def change(state: ShampooState) -> ShampooState:
        options, core = state.plan.options, state.core
        arrays = opened(core.layout, core.arrays, core.step)
        engine = options.running_engine  # type: ignore[attr-defined]
        # SOAP renews its bases at the end of a step; roots of two steps have begun there.
        turns = [(0, None)] if options.algorithm == "soap" else [(0, 1), (1, 0)]
        for later, wait in turns:
            jobs, books = due_jobs(options, core.layout, arrays, core.step + later, wait)
            arrays.update(books)
            install_all(core.layout, arrays, submit(engine, jobs, core.step))
        kept = closed(arrays)
        same = {name for name, x in kept.items() if x is core.arrays.get(name)}
        changed = {name: placed(x, state.arrays[name]) for name, x in kept.items() if name not in same}
        return ShampooState({**state.arrays, **changed}, state.plan)

    return _map_states(change, opt_state)


@usual_promotion()
def load(path: str | os.PathLike[str], opt_state: Any, params: Any) -> Any:
    """Load the Shampoo part of an optimizer state from a file that `State.save` wrote, in any framework.

    ``opt_state[0].core.save(path)`` writes such a file. Other states of a chain (a schedule's count) are unchanged.
    With another block size, or a file without roots, each root is computed at its next turn, within an interval.

    Parameters
    ----------
    path : str or path-like
    opt_state : tree
        Result of ``tx.init(params)``; it may have another block size than the file.
    params : tree
        As for ``tx.init``.

    Returns
    -------
    tree
        As `opt_state`.

    Raises
    ------
    ValueError
        The file is not a checkpoint, is damaged, or has other parameters.
    """
    flatten(params)
    names, meta = read(path)

    def change(state: ShampooState) -> ShampooState:
        with naming(path):
            arrays = restored(state.plan, names, meta)
        found = {name: placed(x, state.arrays[name]) for name, x in arrays.items()}
        return ShampooState({**state.arrays, **found}, state.plan)

    return _map_states(change, opt_state)


def plan(tx: optax.GradientTransformation, params: Any, *, measure: bool = False) -> Plan:
    """Return the treatment and the cost of every parameter; see `matroot_optim.Shampoo.plan`.

    Parameters
    ----------
    tx : optax.GradientTransformation
        Any transformation that holds `shampoo` or `scale_by_shampoo`: chained, masked, one of several. Parameters of
        other transformations are not in the plan.
    params : tree
        As for ``tx.init``, or with `jax.ShapeDtypeStruct` as leaves. Without `measure`, nothing is computed or
        allocated.
    measure : bool
        Time one root of every order, instead of counting operations.

    Returns
    -------
    Plan
        ``str()`` gives a table with a row for every parameter, ``rows`` the same as data.

    Raises
    ------
    ValueError
        `tx` does not hold Shampoo.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from matroot_optim.optax import plan, shampoo
    >>> print(plan(shampoo(1e-3), {"up": jnp.zeros((96, 384)), "bias": jnp.zeros(384)}))
    parameter  shape     seen as  treatment   blocks         exponent  numbers  MB       Mflop  roots
    bias       384                adam                                 2        0.00307  0
    up         96 x 384           both sides  2 of 96 x 192  -1/3      5.76     0.849    42.5   15.9 Mflop
    state: 0.852 MB, 2.9 times Adam's
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the plan shows the size too
        opt_state = jax.eval_shape(tx.init, params)
    rows: list[Row] = []
    for state in _states(opt_state, "tx"):
        options, layout = state.plan.options, state.plan.layout
        rows += make_plan(layout, options.interval(options.settled_step), measure=measure).rows
    return Plan(tuple(rows))


def _states(opt_state: Any, what: str) -> list[ShampooState]:
    """Return every `ShampooState` in an optax state; ValueError if it holds none."""
    found: list[ShampooState] = []
    _map_states(found.append, opt_state)
    if not found:
        raise ValueError(f"{what} must hold a ShampooState, got {type(opt_state).__name__} without one")
    return found


def diagnostics(opt_state: Any, tracker: ConditionTracker | None = None) -> Diagnostics:
    """Return the diagnostics of every root; see `matroot_optim.Shampoo.diagnostics`.

    Parameters
    ----------
    opt_state : tree
        Any optax state that holds a `ShampooState`, or several: the diagnostics are of all their roots.
    tracker : matroot.ConditionTracker, optional
        Gets a record of every root.

    Returns
    -------
    Diagnostics

    Raises
    ------
    ValueError
        The state holds none.
    """
    return joined([diagnose(state.core, tracker) for state in _states(opt_state, "opt_state")])


@usual_promotion()
def averaged_parameters(opt_state: Any, params: Any) -> Any:
    """Return the averages of the parameters, of ``shampoo(averaging=...)`` and ``soap(averaging=...)``.

    Parameters
    ----------
    opt_state : tree
        Any optax state that holds one of schedule-free, also of `optax.contrib.schedule_free`, or of an EMA.
    params : tree
        The current parameters, as for ``tx.update``.

    Returns
    -------
    tree
        As `params`.

    Raises
    ------
    ValueError
        The state holds no average.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from matroot_optim.optax import averaged_parameters, shampoo
    >>> tx = shampoo(0.1, averaging="ema", averaging_beta=0.9)
    >>> W = jnp.zeros(2)
    >>> state = tx.init(W)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.ones(2), state, W)
    ...     W = optax.apply_updates(W, updates)
    >>> W.tolist(), averaged_parameters(state, W).tolist()
    ([-0.2, -0.2], [-0.11, -0.11])
    """
    found = averages(opt_state, params)
    if found is None:
        raise ValueError(
            f"opt_state must hold an average of the parameters, got {type(opt_state).__name__} without one"
        )
    return found
