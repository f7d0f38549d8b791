"""The step for jax tracing."""
