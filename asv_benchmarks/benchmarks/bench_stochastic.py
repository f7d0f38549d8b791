"""Stochastic roots of published rating transitions: time, and the distance beside that of the usual repairs."""

import numpy as np

import matroot
from matroot import gallery

from .common import core, unit


@core([12])
class Ratings:
    params = [2, 12, 365]
    param_names = ("p",)

    def setup(self, p):
        self.P = gallery.rating_transitions()
        matroot.stochastic_root(self.P, p)

    def time_stochastic_root(self, p):
        matroot.stochastic_root(self.P, p)

    @unit("||X^p - P||_F / that of the root with negative entries set to 0 and rows divided by their sums")
    def track_distance(self, p):
        usual = np.maximum(matroot.pth_root(self.P, p, assume_a="gen"), 0)
        usual /= usual.sum(1, keepdims=True)
        gap = np.linalg.norm(np.linalg.matrix_power(usual, p) - self.P)
        return float(matroot.stochastic_root(self.P, p).distance) / gap
