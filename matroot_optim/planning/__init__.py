"""Plans for many ranks, from shapes alone: the command ``python -m matroot_optim plan``."""
