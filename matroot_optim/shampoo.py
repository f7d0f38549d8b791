"""The optimizer `Shampoo`, which calls the four stages of a step."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any, Self

import numpy as np

from matroot import ConditionTracker, one_blas_thread
from matroot_optim.arrays import Array, cast, dtype_name, is_jax, namespace, norms_of
from matroot_optim.checkpoint.collecting import uncollected
from matroot_optim.diagnostics import Diagnostics, diagnose
from matroot_optim.entries import Pending
from matroot_optim.layout.layout import Layout, make_layout
from matroot_optim.layout.origin import check_origin
from matroot_optim.layout.trees import Tree, flatten
from matroot_optim.names import check_options
from matroot_optim.options import Options
from matroot_optim.plan import Plan, make_plan, warn_if_large
from matroot_optim.presets import preset_options
from matroot_optim.refresh.due import due_jobs, submit
from matroot_optim.refresh.engines import Engine, InlineEngine
from matroot_optim.refresh.install import install_all
from matroot_optim.state import State, fresh
from matroot_optim.step.averaging import average_of
from matroot_optim.step.bases import moving
from matroot_optim.step.betas import in_new_betas
from matroot_optim.step.finish import check_weights
from matroot_optim.step.inputs import Step
from matroot_optim.step.momentum import Rates, numbers_of, with_l2
from matroot_optim.step.narrow import closed, opened
from matroot_optim.step.scaling import exponents, forgetting, in_new_units, scaled
from matroot_optim.step.stages import stacked_gradients, update_statistics, updates
from matroot_optim.step.totals import Totals

Arrays = dict[str, Array]


@dataclass(frozen=True)
class Shampoo(Options):
    r"""Shampoo for any array framework: a pure ``init`` and ``update``, or ``step`` in place.

    For a gradient G (m x n), the statistics L and R are decayed means of G G^T and G^T G, and M is the momentum's
    mean of the gradients. The direction is L^{-1/3} M R^{-1/3}, scaled to the norm of a first-order method's step.
    Roots come from `matroot.solve`, in float64, with a certificate; a root with a bad certificate is not used.

    Parameters
    ----------
    learning_rate : float or callable
        A number, or a function of the step counted from 0. With the default graft, take Adam's.
    algorithm : {"shampoo", "soap"}
        See `SOAP`, which has other defaults.
    betas : (float, float)
        Decay of the momentum, and of the statistics; 1.0 for the second gives a sum, as in AdaGrad. As in Adam, where
        the second is not above the square of the first, a step after gradients that were larger can be very long.
    momentum : {"ema", "heavy_ball", "nesterov", "none"}
    momentum_of : {"gradient", "direction"}
        "gradient" averages the gradients and preconditions the average; "direction" preconditions each gradient and
        averages the directions. With "gradient", a parameter without a root gets the first-order method's own step:
        with the default graft, Adam's.
    bias_correction : bool
        Divide decayed means by 1 - beta^t.
    weight_decay : float
    decay : {"decoupled", "l2", "independent"}
        Add ``-rate wd W`` to the update, ``wd W`` to the gradient, or ``-wd W`` to the update.
    clip_norm : float, optional
        Largest norm of all gradients together.
    clip_rms : float, optional
        Largest root mean square of one tensor's step, before the rate, as in Adafactor.
    cautious_decay : bool
        Decay only weights that the step brings nearer to 0 (Cautious Weight Decay); not for ``decay="l2"``.
    cautious_update : bool
        Move only weights whose step has the sign of minus the gradient; these move by so much more.
    hyperball : bool
        For parameters with roots: hold the norm of the weights, and give the step this norm, so that the rate is the
        angle of the step; take 0.01 to 0.03. Instead of weight decay.
    averaging : {"none", "schedule_free", "ema"}
        Keep an average of the weights, which `averaged_parameters` returns. "schedule_free" replaces the momentum and
        a falling rate: gradients are taken between the average and the weights that the steps move. "ema" only watches.
    averaging_beta : float, optional
        Weight of the average in the parameters under "schedule_free", 0.9 by default; decay of the "ema", 0.999.
    block_size : int
        Cut larger dimensions into blocks and precondition each block by itself; 1 gives diagonal AdaGrad.
    block_aspect : float, optional
        Cut a block further until it is at most this many times as long as wide; None keeps it.
    merge : {"matrix"} or int, optional
        "matrix" reshapes a tensor to the matrix nearest to square that its dimensions can be cut into: a convolution
        to (out, in * kernel) in torch's order, to (kernel * in, out) in that of jax and keras. An int merges
        neighbouring dimensions of tensors of order 3 and more up to this product; None merges nothing.
    split : int or tuple of int, optional
        Number of equal parts, or the sizes of the parts, of a fused weight; each part is a matrix of its own.
    split_dim : int
        Dimension of the merged shape that is split: 0 for (out, in), -1 for (in, out).
    batch_dims : int
        Number of leading dimensions, like experts or heads, whose entries are tensors of their own.
    max_preconditioned_dim : int, optional
        Larger dimensions are not preconditioned.
    preconditioned_dims : {"auto", "all", "one_sided", "table", "none"} or tuple of int
        "auto" selects all dimensions, except those of a table: a matrix with one dimension more than 10 times the
        other, like embeddings and output layers. Of a table only the smaller dimension is preconditioned, and the graft
        gives the norm of every slice along it, every row. A table of 8 to 31 columns and more than 64 rows for each
        has a root for its columns and one norm for all rows; others with a side below 32 are left to the first-order
        step. "table" says that any matrix is one, whose columns, if fewer than 32, have a root; "one_sided" selects
        the smallest dimension with one norm for all, "none" gives the first-order step, and a tuple names dimensions
        of the merged shape.
    precondition_vectors : bool
        Precondition tensors of order 1 too; by default they get the first-order step.
    exponent : float, Fraction, str, or tuple of them, optional
        Exponent of every root; None gives -1/(2r) for r preconditioned dimensions, as in the theory. A tuple has one
        entry for each dimension of the merged shape.
    direction : {"roots", "spectral"}
        "spectral" replaces the roots: the momentum M = U S V^T of a whole matrix gives the direction U S^s V^T, without
        statistics. For s = 0 it is Muon's, exact but for singular values that the dtype does not resolve: in float32
        those below some 1e-5 of the largest fade out.
    spectral_exponent : float
        The s of a spectral direction.
    statistics_of : {"gradient", "whitened"}
        "whitened" is KL-Shampoo: products of the gradient that the roots of the other dimensions have whitened, divided
        by the number of summands. The exponent must be -1/2 or None, which is -1/2 then. With `SOAP` it is KL-SOAP.
    statistics_every : int
        Steps between two gradients that enter the statistics.
    refresh_every : int or callable
        Steps between two roots of one matrix; a function gets the step, counted from 1.
    refresh_growth : float
        Statistics of few gradients change fast, so `refresh_every` is halved until it is at most this fraction of
        the steps done. 0 turns this off.
    schedule : {"staggered", "interval", "residual"}
        "staggered" gives each root its own phase, with phases of equal cost; "interval" renews all roots on one step;
        "residual" is like "staggered", but keeps an old root that still fits the new statistics.
    stale_tolerance : float
        Largest residual, for the new statistics, of an old root that "residual" keeps.
    ridge : float
        Relative to the largest eigenvalue. Each bad root multiplies the ridge of the next try by ten.
    regularization : float, Ridge, Floor, Shift, PseudoInverse or TargetCondition, optional
        Rule of `matroot` for eigenvalues too small to invert, instead of `ridge`; a number is a relative ridge, 0 is no
        rule. Each bad root makes the rule ten times stronger. A `PseudoInverse` without ``rtol`` gets (n + sqrt(t)) eps
        for t gradients in statistics of this eps. Absolute sizes are in units of the squared gradient.
    basis : {"qr", "eigh"}
        Renewal of the eigenbases of `SOAP`.
    root_tolerance : float
        Largest certified residual of a root that is used. A worse root is counted, and the last good root is kept.
    root_method : str
        Method of `matroot.solve`.
    root_dtype : {"float64", "float32"}
        Precision of the roots' arithmetic.
    root_device : {"host", "device"}
        Compute roots in numpy, or on the device of the statistics (on a GPU with cupy, from torch and jax too).
    engine : engine, optional
        `InlineEngine` (the default) or `ExecutorEngine`.
    state_dtype : {"float32", "bfloat16"}
        "bfloat16" keeps momentum, second moment and roots in half the bytes, under SOAP the statistics too. All is
        computed in float32, and rounded so that means stay right. numpy needs the package ml_dtypes.
    graft : {"adam", "rmsprop", "adagrad", "sgd", "sqrt_n", "trust_ratio", "none"}
        Norm of the step: that of a first-order method, sqrt of the number of elements, or that of the weights.
    graft_normalize : bool
        Divide the gradient by its norm before the first-order method and its momentum. Without a graft, only for
        parameters without roots.
    graft_per_block : bool
        Use norms per block instead of per tensor.
    graft_beta : float, optional
        Decay of the graft's second moment; None means ``betas[1]``.
    graft_epsilon : float
        Epsilon in the graft's denominator, relative to the largest recent root mean square of the tensor's gradients.
    start_step : int, optional
        First step, counted from 1, at which Shampoo moves the weights; before this step the graft's method moves
        them. Each parameter counts its own gradients. None: step 0.5 / `refresh_growth`, which is 5 by default, plus
        twice the lag of the engine.
    mix_steps : int
        Steps over which the first-order step then fades out.
    on_nonfinite : {"skip", "raise", "propagate"}
        For a gradient that is not finite: leave the tensor, its statistics and its momentum unchanged and count the
        gradient; raise `FloatingPointError`; or use it.
    groups : callable or dict, optional
        Function of a parameter's path that gives a dict of options for this parameter, or None; or a dict of such dicts
        by patterns: ``{"*.qkv.weight": {"split": 3}}``.

    Notes
    -----
    Anil, Gupta, Koren, Regan, Singer, Scalable Second Order Optimization for Deep Learning, arXiv 2002.09018;
    Gupta, Koren, Singer, Shampoo, ICML 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot_optim import Shampoo, apply_updates
    >>> target = np.arange(12.0).reshape(4, 3)
    >>> opt = Shampoo(0.1)
    >>> params = {"w": np.zeros((4, 3))}
    >>> state = opt.init(params)
    >>> for _ in range(400):
    ...     grads = {"w": params["w"] - target}
    ...     updates, state = opt.update(grads, state, params)
    ...     params = apply_updates(params, updates)
    >>> bool(abs(params["w"] - target).max() < 0.1)
    True
    """

    def __new__(cls, *_: Any, **options: Any) -> Self:
        check_options(options, (field.name for field in fields(cls)))
        return super().__new__(cls)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Return the options of a published optimizer; `changes` override them.

        Parameters
        ----------
        name : {"anil2020", "google", "meta", "anil2026"}
            The paper; Google's optax version; Meta's PyTorch version; the first author's pseudo-inverse roots of 2026.
        **changes
            Options to change, such as learning_rate.

        Examples
        --------
        >>> from matroot_optim import Shampoo
        >>> Shampoo.preset("meta", learning_rate=0.3).graft
        'none'
        """
        return cls(**{**preset_options(name), **changes})

    def init(self, params: Tree) -> State:
        """Return the state before the first step.

        Parameters
        ----------
        params : array, or any nesting of lists, dicts, tuples and dataclasses of arrays
            numpy, cupy, torch or jax; real floating point.

        Returns
        -------
        State

        Warns
        -----
        UserWarning
            The state takes more than three times the memory of Adam's. With the default options it never does.
        """
        leaves, _ = flatten(params)
        layout = make_layout(self, leaves)
        warn_if_large(layout)
        return fresh(self, layout, list(leaves.values()))

    def update(self, grads: Tree, state: State, params: Tree = None) -> tuple[Tree, State]:
        """Compute the updates and the next state; no argument is modified.

        Parameters
        ----------
        grads : tree
            Structure of `params`, with None for a missing gradient, whose parameter does not change.
        state : State
        params : tree, optional
            Needed for weight decay, averages, `hyperball` and the trust-ratio graft.

        Returns
        -------
        updates : tree
            Structure of `grads`, in the dtype of the state; `apply_updates` adds them to the parameters.
        state : State

        Raises
        ------
        ValueError
            Paths or shapes are not those of `init`, `params` is missing, or the state is of other options. Only the
            learning rate, weight decay and momentum of all parameters may be others.
        FloatingPointError
            A gradient is not finite, under ``on_nonfinite="raise"``.
        """
        check_origin(state.layout, self)
        leaves, rebuild = flatten(grads, "grads")
        weights = flatten(params)[0] if params is not None else {}
        g = state.layout.align(leaves, "grads")
        W = state.layout.align(weights, "params")
        moves, state = self.advance(g, state, W, donate=False)
        names = (leaf.path for leaf in state.layout.leaves)
        return rebuild({path: move for path, move in zip(names, moves, strict=True) if path in leaves}), state

    def step(self, params: Tree, grads: Tree, state: State) -> State:
        """Make one step in place: overwrite `params` and the arrays of `state`; keep only the state returned.

        Older states share arrays with `state` and are overwritten too.

        For numpy, cupy and torch. The numbers are those of `update`, with less memory traffic.

        Parameters
        ----------
        params, grads : tree
            As for `update`.
        state : State

        Returns
        -------
        State

        Raises
        ------
        TypeError
            A parameter is a jax array, which cannot be written to.
        """
        check_origin(state.layout, self)
        weights, _ = flatten(params)
        for path, W in weights.items():
            if is_jax(W):
                raise TypeError(f"step writes to the parameters, and {path!r} is a jax array; use update")
        g = state.layout.align(flatten(grads, "grads")[0], "grads")
        W = state.layout.align(weights, "params")
        moves, state = self.advance(g, state, W, donate=True)
        for leaf, move in zip(state.layout.leaves, moves, strict=True):
            if leaf.path in weights:
                add_into(weights[leaf.path], move)
        return state

    def averaged_parameters(self, params: Tree, state: State) -> Tree:
        """Return the averages of the parameters, in new arrays; without `averaging` the parameters themselves.

        Parameters
        ----------
        params : tree
            The current parameters.
        state : State

        Returns
        -------
        tree
            As `params`.

        Examples
        --------
        >>> import numpy as np
        >>> from matroot_optim import Shampoo
        >>> opt = Shampoo(0.1, averaging="ema", averaging_beta=0.9)
        >>> W = np.zeros(2)
        >>> state = opt.init(W)
        >>> for _ in range(2):
        ...     state = opt.step(W, np.ones(2), state)
        >>> W.round(3), opt.averaged_parameters(W, state).round(3)  # 0.9 of the first step, 0.1 of the second
        (array([-0.2, -0.2]), array([-0.11, -0.11]))
        """
        leaves, rebuild = flatten(params)
        state.layout.align(leaves, "params")  # checks paths and shapes
        layout = state.layout
        return rebuild(
            {path: average_of(layout.leaves[layout.index[path]], state.arrays, W) for path, W in leaves.items()}
        )

    @uncollected()
    def load(self, path: str | os.PathLike[str], params: Tree) -> State:
        """Read the state of these parameters from a file that `State.save` wrote.

        The framework, the engine, the schedule and the block size may differ from those at the save. With another
        block size the statistics are re-cut: exact for index ranges that old and new blocks share, split by energy
        for smaller new blocks, zero for products that no old block contained. The roots are then recomputed. Momentum,
        second moments and averages of another kind (sums for means, directions for gradients), or none, begin afresh.

        Parameters
        ----------
        path : path
        params : tree
            As for `init`; the paths and shapes must be those of the file.

        Returns
        -------
        State

        Raises
        ------
        ValueError
            The file is not a checkpoint, is damaged, or has other parameters; the message names the file and the entry.
        """
        from matroot_optim.checkpoint.exchange import restore
        from matroot_optim.checkpoint.files import naming, read

        leaves, _ = flatten(params)
        layout, (names, meta) = make_layout(self, leaves), read(path)
        with naming(path):
            return State(layout, *restore(self, layout, list(leaves.values()), names, meta))

    def plan(self, params: Tree, *, measure: bool = False) -> Plan:
        """Return the treatment, the blocks, the exponent and the cost of every parameter.

        Parameters
        ----------
        params : tree
            As for `init`; only shapes and dtypes are read.
        measure : bool
            Time one root of every order, instead of counting operations.

        Returns
        -------
        Plan
            ``str()`` gives a table with a row for every parameter, ``rows`` the same as data.

        Examples
        --------
        >>> import numpy as np
        >>> from matroot_optim import Shampoo
        >>> print(Shampoo(1e-3).plan({"table": np.zeros((4000, 96)), "up": np.zeros((96, 384)), "bias": np.zeros(384)}))
        parameter  shape      seen as  treatment   blocks          exponent  numbers  MB       Mflop  roots
        table      4000 x 96           by row      1 of 4000 x 96  -1/3      2.04     6.25     147    0.885 Mflop
        up         96 x 384            both sides  2 of 96 x 192   -1/3      5.76     1.7      42.5   15.9 Mflop
        bias       384                 adam                                  2        0.00614  0
        state: 7.96 MB, 1.2 times Adam's
        """
        leaves, _ = flatten(params)
        return make_plan(make_layout(self, leaves), self.interval(self.settled_step), measure=measure)

    def diagnostics(self, state: State, tracker: ConditionTracker | None = None) -> Diagnostics:
        """Return the facts and the age of every root, the graft ratios, and the counts of skipped gradients.

        Parameters
        ----------
        state : State
        tracker : matroot.ConditionTracker, optional
            Gets a record of every root.

        Returns
        -------
        Diagnostics
            ``str()`` gives one line of text, ``to_dict()`` a dict for loggers.
        """
        return diagnose(state, tracker)

    @cached_property
    def running_engine(self) -> Engine:
        """The engine that computes the roots."""
        return self.engine if self.engine is not None else InlineEngine()

    def rates(self, layout: Layout, step: int) -> list[Rates]:
        """Return learning rate, weight decay and momentum of every parameter at a step counted from 0."""

        def of(o: Options) -> Rates:
            return Rates(o.rate(step), float(o.weight_decay), o.betas[0])

        if self.groups is None:  # these may be others than those that the state was made with
            return [of(self)] * len(layout.leaves)
        return [of(leaf.options) for leaf in layout.leaves]

    def advance(
        self,
        g: Sequence[Array | None],
        state: State,
        weights: Sequence[Array | None],
        *,
        donate: bool,
        rates: Sequence[Rates] | None = None,
        totals: Totals | None = None,
    ) -> tuple[list[Array], State]:
        """Make one step on lists in the order of the layout; `update`, `step` and the adapters call this."""
        # A root in another thread limits BLAS to one thread; with one thread here too, the products of the step do
        # not depend on it. The copied context restores numpy's error state after any interruption.
        with one_blas_thread():
            return copy_context().run(self._advance, g, state, weights, donate, rates, totals)

    def _advance(
        self,
        g: Sequence[Array | None],
        state: State,
        weights: Sequence[Array | None],
        donate: bool,
        rates: Sequence[Rates] | None,
        totals: Totals | None,
    ) -> tuple[list[Array], State]:
        layout, t = state.layout, state.step + 1
        arrays = opened(layout, state.arrays, t)
        rates = self.rates(layout, t - 1) if rates is None else rates
        check_weights(layout, weights, rates)
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            arrays.update(in_new_betas(layout, arrays, {"beta1": np.array([rate.beta for rate in rates], float)}))
            clean, active, bad, norms = self._screen(layout, arrays, g, weights, rates, totals)
            accumulate, soap = (t - 1) % self.statistics_every == 0, self.algorithm == "soap"
            moved = moving(layout, active, arrays["accumulated"], self.lag) if soap else active
            _count(arrays, moved, active, bad, accumulate=accumulate)
            now = Step(layout, arrays, clean, list(weights), active, rates, t, donate, totals=totals, norms=norms)
            stacks = stacked_gradients(now)
            if soap:  # whose bases have not seen the gradient of the step
                moves, changed = updates(replace(now, active=moved), stacks)
                arrays.update(changed)
            if accumulate:
                arrays.update(update_statistics(now, stacks))  # stage 1
            pending = self._refresh(state.pending, layout, arrays, t, donate, rates, totals)  # stage 2
            if not soap:
                moves, changed = updates(now, stacks)  # stages 3 and 4
                arrays.update(changed)
        arrays["step"] = np.asarray(t, np.int64)
        return moves, State(layout, closed(arrays), pending)

    def _refresh(
        self,
        pending: Sequence[Pending],
        layout: Layout,
        arrays: Arrays,
        t: int,
        donate: bool,
        rates: Sequence[Rates],
        totals: Totals | None,
    ) -> tuple[Pending, ...]:
        """Submit the jobs that are due and install the batches due by this step (stage 2); update `arrays`."""
        jobs, books = due_jobs(self, layout, arrays, t)
        arrays.update(books)
        engine, waiting = self.running_engine, [*pending]
        for solver, mine in [(engine, jobs)] if totals is None else totals.dealt(engine, jobs):
            waiting += submit(solver, mine, t, arrays["count"], partial(numbers_of, rates))
        install_all(layout, arrays, (batch for batch in waiting if batch.due <= t), arrays if donate else ())
        return tuple(batch for batch in waiting if batch.due > t)

    def _screen(
        self,
        layout: Layout,
        arrays: Arrays,
        g: Sequence[Array | None],
        weights: Sequence[Array | None],
        rates: Any,
        totals: Totals | None,
    ) -> tuple[list[Array], list[bool], list[bool], Any]:
        """Return the gradients with L2 decay and clipping, masks of those that count and those not finite, and norms.

        Gradients that do not count are zero. All is in the units. A step without roots waits for the device only here.
        """
        there = [i for i, x in enumerate(g) if x is not None]
        norms = np.zeros(len(g))
        norms[there] = norms_of([g[i] for i in there])
        norms = norms if totals is None else totals.norms(norms, there)
        bad = (~np.isfinite(norms)).tolist()
        if self.on_nonfinite == "raise" and any(bad):
            names = ", ".join(repr(layout.leaves[i].path) for i, b in enumerate(bad) if b)
            raise FloatingPointError(f"the gradient must be finite, got NaN or infinity in {names}")
        active = [x is not None and (not bad[i] or self.on_nonfinite == "propagate") for i, x in enumerate(g)]
        counted = range(len(g)) if totals is None else totals.firsts
        total = math.hypot(*(norms[i] for i in counted if active[i]))
        scale = self.clip_norm / total if self.clip_norm is not None and total > self.clip_norm else 1.0
        norms *= scale
        clean = []
        for i, leaf in enumerate(layout.leaves):
            x = g[i]
            if x is None or not active[i]:
                clean.append(_zeros(x, arrays, leaf, weights[i]))
                continue
            x = x * scale if scale != 1.0 else x
            clean.append(with_l2(leaf.options, x, weights[i], rates[i]) if leaf.options.decay == "l2" else x)
            if clean[i] is not x:
                norms[i] = norms_of([clean[i]])[0]
        units = _units(layout, arrays, norms, rates)
        clean = [scaled(x, -e) if e else x for x, e in zip(clean, units.tolist(), strict=True)]
        return clean, active, bad, np.ldexp(norms, -units)


def _units(layout: Layout, arrays: Arrays, norms: Any, rates: Sequence[Rates]) -> Any:
    """Return the exponents of the gradients' units from this step on, and convert the state to them."""
    peak = np.fmax(np.where(np.isfinite(norms), norms, 0.0), arrays["peak"] * forgetting(layout, rates))
    units = exponents(peak, arrays["exponent"])
    shift = units - arrays["exponent"]
    if np.count_nonzero(shift):
        arrays.update(in_new_units(layout, arrays, shift.tolist()))
    arrays["peak"], arrays["exponent"] = peak, units
    return units


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """Add updates to parameters, in the parameters' dtype; None leaves a parameter unchanged.

    The sum is computed in the wider of the two dtypes and rounded once.

    Parameters
    ----------
    params, updates : tree
        `updates` may lack paths of `params`.

    Returns
    -------
    tree
        As `params`.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot_optim import apply_updates
    >>> apply_updates([np.ones(2), np.ones(1)], [np.full(2, 0.5), None])
    [array([1.5, 1.5]), array([1.])]
    """
    leaves, rebuild = flatten(params)
    moves, _ = flatten(updates, "updates")
    unknown = sorted(set(moves) - set(leaves))
    if unknown:
        raise ValueError(f"updates must have the paths of params, got {', '.join(map(repr, unknown))}")
    return rebuild({path: _added(W, moves[path]) if path in moves else W for path, W in leaves.items()})


def _added(W: Array, move: Array) -> Array:
    return cast(cast(W, dtype_name(move)) + move, dtype_name(W))


def add_into(W: Array, move: Array) -> None:
    """Add `move` to W in place, in the wider dtype, rounded once."""
    if W.dtype == move.dtype:
        W += move
    else:
        W[...] = _added(W, move)


def _zeros(x: Any, arrays: Arrays, leaf: Any, W: Any) -> Array:
    like = x if x is not None else W
    if like is None:
        like = next((arrays[leaf.name(part)] for part in ("momentum", "moment") if leaf.name(part) in arrays), None)
    if like is None:
        raise ValueError(f"params must be given when the gradient of {leaf.path!r} is missing")
    return namespace(like).zeros_like(like)


def _count(
    arrays: Arrays, moved: Sequence[bool], active: Sequence[bool], bad: Sequence[bool], *, accumulate: bool
) -> None:
    arrays["count"] = arrays["count"] + np.asarray(moved, bool)
    if accumulate:
        arrays["accumulated"] = arrays["accumulated"] + np.asarray(active, bool)
    if any(bad):
        arrays["skipped"] = arrays["skipped"] + np.asarray(bad, bool)
