"""The compiled step of the optax optimizer: equal parameters are compiled once. Nothing is timed."""

from __future__ import annotations

import re

import pytest

jax = pytest.importorskip("jax")
jax.config.update("jax_disable_most_optimizations", True)
pytest.importorskip("optax")

import jax.extend.core  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from matroot_optim.optax import shampoo  # noqa: E402

OF_LAYER = {"w": (8, 8), "up": (8, 32), "down": (32, 8), "bias": (8,), "scale": (8,)}


def traced(layers, **options):
    """Trace one step for layers of equal shapes."""
    params = {f"{name}{k}": jnp.ones(shape) for k in range(layers) for name, shape in OF_LAYER.items()}
    tx = shampoo(1e-2, weight_decay=0.1, **options)
    return jax.jit(tx.update).trace(params, tx.init(params), params)


def equations(jaxpr):
    """Count the equations of a jaxpr, and of all jaxprs in it."""
    inner = (x for equation in jaxpr.eqns for x in jax.extend.core.jaxprs_in_params(equation.params))
    return len(jaxpr.eqns) + sum(map(equations, inner))


def kernels(text):
    """Return the different loops of a compiled program, with other names for the numbers in them."""
    found = set()
    for computation in text.split("\n\n"):
        if computation.lstrip().startswith(("%fused", "%wrapped")):
            names = {}
            plain = re.sub(r", metadata=\{[^}]*\}", "", computation)
            plain = re.sub(r"%[\w.\-]+", lambda m, names=names: names.setdefault(m[0], f"%{len(names)}"), plain)
            found.add(re.sub(r"param_[\d.]+", "param", plain))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("roots", ["callback", "host"])
def test_a_parameter_more_is_few_equations(roots):
    # 2 layers and 12; ldexp is a hundred, so one for every parameter would show.
    few, many = (equations(traced(layers, roots=roots, clip_norm=1.0).jaxpr.jaxpr) for layers in (2, 12))
    assert many <= 2.5 * few
    assert many - few <= 130 * 10 * len(OF_LAYER)


@pytest.mark.slow
def test_equal_parameters_share_their_kernels():
    few, many = (kernels(traced(layers, roots="host").lower().compile().as_text()) for layers in (2, 4))
    assert len(few) > 20
    assert len(many) <= 1.1 * len(few)
