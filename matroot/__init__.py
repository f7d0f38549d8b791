"""Matrix p-th roots, A^(1/p) and A^(-1/p), of one matrix or a batch, that say how good they are.

>>> import numpy as np, matroot
>>> A = np.array([[5.0, 4.0], [4.0, 5.0]])
>>> X = matroot.inverse_pth_root(A, 4)               # or pth_root, sqrtm, inv_sqrtm, fractional_power
>>> result = matroot.solve(A, 4)                     # X in result.x, with its residual, condition number and status

`solve_apply` multiplies a root and vectors, of sparse matrices too; `polar` and `spectral_power` are for rectangular
matrices, `stochastic_root` for transition matrices. A rule for singular matrices is `Ridge`, `Floor`, `Shift`,
`PseudoInverse` or `TargetCondition`. The command ``matroot`` works on files.
"""

# Modules are imported when their names are first used; `__init__.pyi` tells type checkers the same names.

from matroot.backends.loading import deferred

__version__ = "0.1.0"

#: The modules of the public names.
_HOMES = {
    "matroot._apply": "apply_fractional_power apply_inverse_pth_root apply_pth_root solve_apply",
    "matroot._condition_tracker": "ConditionTracker",
    "matroot._rectangular": "orthogonalizer polar spectral_power",
    "matroot._regularization": "Floor PseudoInverse Ridge Shift TargetCondition",
    "matroot._result": "RootResult",
    "matroot._root_tracker": "RootTracker",
    "matroot._roots": "cond_pth_root fractional_power inv_sqrtm inverse_pth_root pth_root select_method sqrtm",
    "matroot._solve": "solve",
    "matroot._solve_each": "solve_each solve_in_two",
    "matroot._status": "ConditionWarning RootError Status",
    "matroot._stochastic": "StochasticResult stochastic_root",
    "matroot.applied.result": "ApplyResult",
    "matroot.autodiff.frechet": "frechet_derivative spectral_derivative",
    "matroot.backends.cpu.blas": "one_blas_thread",
    "matroot.backends.cpu.kernels": "use_kernels",
    "matroot.methods.coupled_newton": "CoupledNewton HigherOrder",
    "matroot.methods.eigen": "Eigen",
    "matroot.methods.minimax": "Minimax",
    "matroot.methods.newton_db": "NewtonDB",
    "matroot.methods.schur_newton": "SchurNewton",
    "matroot.methods.tridiagonal": "Tridiagonal",
    "matroot.rectangular.result": "OrthogonalizerResult PolarResult SpectralResult",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted([*_HOME, "gallery"])


def __getattr__(name: str) -> object:
    if name == "gallery":
        return deferred("matroot.gallery")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(deferred(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
