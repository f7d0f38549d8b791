"""The parts of `matroot_optim.torch`."""
