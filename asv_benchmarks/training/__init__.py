"""Four workloads on real data, on which optimizers are compared: ``python -m training --help``."""
