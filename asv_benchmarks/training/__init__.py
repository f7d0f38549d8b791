"""Comparison of optimizers on four workloads with real data: ``python -m training --help``."""
