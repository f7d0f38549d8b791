"""Parts of the adapter to optax."""
