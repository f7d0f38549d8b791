"""Checkpoints: the state in files."""
