"""
Shampoo in numpy
================

A network of one hidden layer learns to read 8 x 8 digits. The gradients are numpy arrays, and the roots are computed
in a thread beside the training: they are used exactly ten steps after they were asked for, so a run can be repeated.
"""

from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import numpy as np

from matroot.demo import network
from matroot_optim import ExecutorEngine, Shampoo

rng = np.random.default_rng(0)
train, test = network.load_digits().split(1437)
params = network.init((64, 128, 10), rng)
losses, residuals = [], []
with ExecutorEngine(lambda: ThreadPoolExecutor(1), lag=10) as engine:
    opt = Shampoo(3e-3, weight_decay=1e-2, engine=engine)
    print(opt.plan(params))
    state = opt.init(params)
    while state.step < 200:
        for batch in train.batches(128, rng):
            loss, grads = network.loss_and_gradients(params, batch)
            state = opt.step(params, grads, state)
            losses.append(loss)
            residuals.append(opt.diagnostics(state).worst_residual)
    print(opt.diagnostics(state))
accuracy = network.accuracy(params, test)
print(f"accuracy on held-out digits: {accuracy:.3f}")

# %%
# The loss, and the worst certified residual of the roots in use.

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
left.semilogy(losses)
left.set(title="training loss", xlabel="step")
right.semilogy(residuals, color="C1")
right.set(title="worst residual of the roots in use", xlabel="step")

# %%
# Every root is certified when it is computed; the curve is the worst of those in use. A root whose residual is above
# ``root_tolerance`` would not be used. :doc:`/guide/optimizer` has the engines and the diagnostics.
