"""Derivatives of roots and powers, of first and second order, for numpy, cupy, torch and jax."""
