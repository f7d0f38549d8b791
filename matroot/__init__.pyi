from matroot import gallery as gallery
from matroot._apply import apply_fractional_power, apply_inverse_pth_root, apply_pth_root, solve_apply
from matroot._condition_tracker import ConditionTracker
from matroot._rectangular import orthogonalizer, polar, spectral_power
from matroot._regularization import Floor, PseudoInverse, Ridge, Shift, TargetCondition
from matroot._result import RootResult
from matroot._root_tracker import RootTracker
from matroot._roots import (
    cond_pth_root,
    fractional_power,
    inv_sqrtm,
    inverse_pth_root,
    pth_root,
    select_method,
    sqrtm,
)
from matroot._solve import solve
from matroot._solve_each import solve_each, solve_in_two
from matroot._status import ConditionWarning, RootError, Status
from matroot._stochastic import StochasticResult, stochastic_root
from matroot.applied.result import ApplyResult
from matroot.autodiff.frechet import frechet_derivative, spectral_derivative
from matroot.backends.cpu.blas import one_blas_thread
from matroot.backends.cpu.kernels import use_kernels
from matroot.methods.coupled_newton import CoupledNewton, HigherOrder
from matroot.methods.eigen import Eigen
from matroot.methods.minimax import Minimax
from matroot.methods.newton_db import NewtonDB
from matroot.methods.schur_newton import SchurNewton
from matroot.methods.tridiagonal import Tridiagonal
from matroot.rectangular.result import OrthogonalizerResult, PolarResult, SpectralResult

__version__: str

__all__ = [
    "ApplyResult",
    "ConditionTracker",
    "ConditionWarning",
    "CoupledNewton",
    "Eigen",
    "Floor",
    "HigherOrder",
    "Minimax",
    "NewtonDB",
    "OrthogonalizerResult",
    "PolarResult",
    "PseudoInverse",
    "Ridge",
    "RootError",
    "RootResult",
    "RootTracker",
    "SchurNewton",
    "Shift",
    "SpectralResult",
    "Status",
    "StochasticResult",
    "TargetCondition",
    "Tridiagonal",
    "apply_fractional_power",
    "apply_inverse_pth_root",
    "apply_pth_root",
    "cond_pth_root",
    "fractional_power",
    "frechet_derivative",
    "gallery",
    "inv_sqrtm",
    "inverse_pth_root",
    "one_blas_thread",
    "orthogonalizer",
    "polar",
    "pth_root",
    "select_method",
    "solve",
    "solve_apply",
    "solve_each",
    "solve_in_two",
    "spectral_derivative",
    "spectral_power",
    "sqrtm",
    "stochastic_root",
    "use_kernels",
]
