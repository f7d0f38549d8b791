"""The processes of one run: the few things an engine asks of them, for torch.distributed, MPI and one process."""
