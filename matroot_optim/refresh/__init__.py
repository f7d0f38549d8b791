"""The schedule of the roots, and the engines that compute them."""
