"""``python -m matroot_optim demo``."""
