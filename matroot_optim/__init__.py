"""matroot_optim: Shampoo and its kin for any array framework, on matroot's certified roots."""

from matroot import use_kernels
from matroot_optim.diagnostics import Diagnostics
from matroot_optim.kl_shampoo import KLShampoo
from matroot_optim.options import Options
from matroot_optim.ranks.base import RankError
from matroot_optim.ranks.engine import RankEngine
from matroot_optim.refresh.engines import ExecutorEngine, InlineEngine
from matroot_optim.refresh.jobs import RootAnswer, RootBatch, RootJob
from matroot_optim.refresh.warm import WarmEngine
from matroot_optim.shampoo import Shampoo, apply_updates
from matroot_optim.soap import SOAP
from matroot_optim.state import State

__all__ = [
    "SOAP",
    "Diagnostics",
    "ExecutorEngine",
    "InlineEngine",
    "KLShampoo",
    "Options",
    "RankEngine",
    "RankError",
    "RootAnswer",
    "RootBatch",
    "RootJob",
    "Shampoo",
    "State",
    "WarmEngine",
    "apply_updates",
]

use_kernels()  # the roots of a run depend neither on what is compiled already nor on the engine
del use_kernels
