"""Random calls of the functions beside the roots: ``python -m tests.fuzz --relatives --seconds 120 --seed 0``.

`draws` makes matrices, `reference` knows their powers and derivatives in 120 digits, `trial` is what every call has to
stand (inputs unwritten, alone as in a batch, numpy as torch and jax), and the other files know a function each.
"""
