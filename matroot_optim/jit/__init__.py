"""The step as jax traces it."""
