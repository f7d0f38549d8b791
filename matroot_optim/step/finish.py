"""The end of stage 4: from a direction D to the update of the weights W.

With G the gradient, products and comparisons entry by entry:

    cautious     D <- c D / max(mean(c), 0.001), c = [D G > 0]
    clipped      D <- D / max(1, rms(D) / limit)
    hyperball    D <- D ||W|| / ||D||

    decoupled    update = -rate (D + wd W)          cautious: wd W only where D W >= 0
    independent  update = -rate D - wd W

    hyperball    update <- (W + update) ||W|| / ||W + update|| - W

Clipping: Shazeer, Stern, Adafactor, arXiv 1804.04235, section 6. Cautious updates: Liang et al., Cautious Optimizers,
arXiv 2411.16085; decay: Chen et al., Cautious Weight Decay, arXiv 2510.12402. Hyperball: Wen et al., Fantastic
Pretraining Optimizers and Where to Find Them II, 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matroot_optim.arrays import Array, namespace, squared_norm
from matroot_optim.layout.layout import Layout
from matroot_optim.options import Options
from matroot_optim.step.elementwise import agree_all, plus_all, scale_all
from matroot_optim.step.grafting import positive_norm
from matroot_optim.step.inputs import Step
from matroot_optim.step.momentum import Rates, nonzero

#: Smallest fraction of entries that a cautious update is divided by.
FEWEST = 1e-3


def limit(step: Step, live: Sequence[int], moves: dict[int, Array]) -> None:
    """Apply the rules above that need no weights; overwrite the arrays of `moves`."""
    leaves = step.layout.leaves
    careful = [i for i in live if leaves[i].options.cautious_update]
    groups, masks = step.alike(careful), dict[int, Array]()
    for group in groups:
        masks.update(zip(group, agree_all([moves[i] for i in group], [step.g[i] for i in group]), strict=True))
    counts = step.squares("cautious", careful, [masks[i] for i in careful])
    shares = {i: count / leaves[i].size for i, count in zip(careful, counts, strict=True)}
    for group in groups:
        lists = ([of[i] for i in group] for of in (moves, masks, shares))
        moves.update(zip(group, cautious(*lists), strict=True))
    limits = {i: limit for i in live if (limit := leaves[i].options.clip_rms) is not None}
    norm2 = step.squares("clip", list(limits), [moves[i] for i in limits])
    for (i, limit), size2 in zip(limits.items(), norm2, strict=True):
        moves[i] = clip_rms(moves[i], size2, leaves[i].size, limit)


def to_updates(step: Step, groups: Sequence[Sequence[int]], moves: dict[int, Array]) -> None:
    """Apply the other rules, in this order, to leaves in groups that are alike; overwrite the arrays of `moves`."""
    leaves = step.layout.leaves
    on_spheres = [some for group in groups if (some := [i for i in group if leaves[i].pinned])]
    pinned = [i for some in on_spheres for i in some]
    W = {i: step.weights[i] for i in pinned}
    both = step.squares("hyperball", [*pinned, *pinned], [*(moves[i] for i in pinned), *W.values()])
    norm2, goal2 = (dict(zip(pinned, part, strict=True)) for part in (both[: len(pinned)], both[len(pinned) :]))
    for some in on_spheres:
        lists = ([of[i] for i in some] for of in (moves, norm2, goal2))
        moves.update(zip(some, with_norms(*lists), strict=True))
    for group in groups:
        o, rates = leaves[group[0]].options, [step.rates[i] for i in group]
        if rates[0].learning_rate is not None:
            found = with_decay(o, [moves[i] for i in group], [step.weights[i] for i in group], rates)
            moves.update(zip(group, found, strict=True))
    if any(step.rates[i].learning_rate is None for i in pinned):
        return
    for some in on_spheres:
        moves.update(zip(some, plus_all([moves[i] for i in some], [W[i] for i in some]), strict=True))
    norm2 = dict(zip(pinned, step.squares("sphere", pinned, [moves[i] for i in pinned]), strict=True))
    for some in on_spheres:
        new, *norms = ([of[i] for i in some] for of in (moves, norm2, goal2))
        found = plus_all(with_norms(new, *norms), [W[i] for i in some], -1)
        moves.update(zip(some, found, strict=True))


def cautious(steps: Sequence[Array], keep: Sequence[Array], shares: Sequence[Any]) -> list[Array]:
    """Set to zero the entries of steps where `keep` is 0, and scale the others up by the fraction that is kept.

    The arrays of `keep` are overwritten if the library allows.
    """
    xp = namespace(steps[0])
    factors = [1.0 / xp.where(part > FEWEST, part, FEWEST * xp.ones_like(part)) for part in shares]
    return scale_all(scale_all(keep, list(steps)), factors)


def clip_rms(step: Array, norm2: Array, size: int, limit: float) -> Array:
    """Scale a part of a tensor down until the root mean square of the tensor is at most `limit`.

    `norm2` is the squared norm of the tensor, and `size` the number of its elements.
    """
    xp = namespace(step)
    rms = xp.sqrt(norm2 / size)
    excess = rms / limit
    step /= xp.where(excess > 1, excess, xp.ones_like(excess))
    return step


def with_norms(steps: Sequence[Array], norm2: Sequence[Array], goal2: Sequence[Array]) -> list[Array]:
    """Scale arrays of squared norms `norm2` to the squared norms `goal2`; keep those whose goal is zero.

    The arrays are overwritten if the library allows.
    """
    xp = namespace(steps[0])
    pairs = zip(norm2, goal2, strict=True)
    return scale_all(
        steps, [xp.where(goal > 0, xp.sqrt(goal) / positive_norm(own), xp.ones_like(goal)) for own, goal in pairs]
    )


def on_sphere(update: Array, W: Array) -> Array:
    """Return the update that leads to the same direction, with the norm of W."""
    xp, new = namespace(W), W + update
    return with_norms([new], [xp.asarray(squared_norm(new))], [xp.asarray(squared_norm(W))])[0] - W


def with_decay(
    options: Options, steps: Sequence[Array], weights: Sequence[Array | None], rates: Sequence[Rates]
) -> list[Array]:
    """Compute the updates of the weights; overwrite the arrays of `steps` if the library allows."""
    if options.decay == "l2" or not any(nonzero(r.weight_decay) for r in rates):
        return scale_all(steps, [-r.learning_rate for r in rates])
    shrunk = [_decayed(options, x, W, r) for x, W, r in zip(steps, weights, rates, strict=True)]
    if options.decay == "decoupled":
        steps = [_plus(x, w, r.weight_decay) for x, w, r in zip(steps, shrunk, rates, strict=True)]
    moves = scale_all(steps, [-r.learning_rate for r in rates])
    if options.decay == "independent":
        moves = [_plus(x, w, -r.weight_decay) for x, w, r in zip(moves, shrunk, rates, strict=True)]
    return moves


def _decayed(options: Options, step: Array, W: Array | None, rates: Rates) -> Array | None:
    """Return the weights that decay: all, or those whose sign is that of the step."""
    if W is None or not nonzero(rates.weight_decay):
        return None
    return cautious_weights(step, W) if options.cautious_decay else W


def cautious_weights(step: Array, W: Array) -> Array:
    """Return W with zeros where a step against the sign of `step` moves W away from 0."""
    xp = namespace(step)
    return xp.where(step * xp.sign(W) >= 0, W, xp.zeros_like(W))


def _plus(x: Array, W: Array | None, factor: Any) -> Array:
    if W is not None:
        x += factor * W
    return x


def check_weights(layout: Layout, weights: Sequence[Any], rates: Sequence[Rates]) -> None:
    """Raise if weights are missing that the rules need."""
    for leaf, W, rate in zip(layout.leaves, weights, rates, strict=True):
        o = leaf.options
        trust = o.graft == "trust_ratio" and leaf.whole is None
        needed = nonzero(rate.weight_decay) or trust or leaf.pinned or leaf.has_average
        if W is None and needed:
            raise ValueError(
                "params must be given for weight decay, averages, hyperball and the trust-ratio graft, "
                f"got none for {leaf.path!r}"
            )
