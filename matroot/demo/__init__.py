"""``python -m matroot demo``."""
