"""Roots of arrays in parts on several CPU devices of one process, under jax.jit."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("jax", minversion="0.8")

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, matroot
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

mesh = Mesh(np.array(jax.devices()), ("d",))
n, rng = 600, np.random.default_rng(0)  # more than a megabyte, which pure_callback would wait for
X = rng.standard_normal((n, 2 * n), np.float32)
whole = jnp.asarray(X @ X.T / (2 * n))

def both(f, x, spec):
    given = jax.device_put(x, NamedSharding(mesh, spec))
    for got, want in zip(jax.tree.leaves(jax.jit(f)(given)), jax.tree.leaves(f(x)), strict=True):
        want = np.asarray(want)
        np.testing.assert_allclose(np.asarray(got + 0), want, 0, 1e-4 * abs(want).max())

root = matroot.inv_sqrtm
both(root, whole, P("d"))
both(lambda a: matroot.solve(a, 2).cond, whole, P("d"))
both(jax.grad(lambda a: root(a).sum()), whole, P(None, "d"))
both(lambda a: jax.jvp(root, (a,), (a,)), whole, P("d"))
both(lambda a: matroot.polar(a).u, whole, P("d"))
both(lambda a: matroot.spectral_power(a, 0.5), whole, P("d"))
both(lambda a: matroot.orthogonalizer(a).kept_least, whole, P("d"))
both(jax.vmap(root), jnp.stack([whole, whole + jnp.eye(n), whole, whole]), P("d"))
print("done")
"""


def test_parts_on_four_devices():
    flags = "--xla_force_host_platform_device_count=4"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=240, env=environment)
    assert run.stdout.strip() == "done", run.stderr[-2000:]
