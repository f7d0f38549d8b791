"""What all tests share: compiled kernels, a hypothesis profile, and the kinds of arrays as a fixture."""

import os
import sys
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
import pytest
import scipy.linalg  # noqa: F401  brings a BLAS of its own, which has to be there to be held
from threadpoolctl import threadpool_limits

os.environ.setdefault("MATROOT_COMPILE", "now")  # here, and in the processes that tests start

hypothesis.settings.register_profile(
    "matroot",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("matroot")


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread():
    """Many small matrices: BLAS's own threads would only wait for each other."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture
def by_kernels(monkeypatch):
    """Fail where a matrix takes the general way, or is decomposed."""
    from matroot import Eigen
    from matroot.pipeline import retries

    def refuse(*args):
        raise AssertionError("a matrix was left by the kernels")

    monkeypatch.setattr(retries, "attempt", refuse)
    monkeypatch.setattr(Eigen, "run", refuse)


@pytest.fixture
def cupy(monkeypatch):
    """Put the double in the place of cupy."""
    import cupy_double

    from matroot.backends.cuda.gpu import gpu

    monkeypatch.setitem(sys.modules, "cupy", cupy_double.MODULE)
    gpu.cache_clear()
    yield cupy_double.MODULE
    gpu.cache_clear()


@dataclass(frozen=True)
class Kind:
    """An array library and one of its dtypes: how to make such an array from numpy and how to read it."""

    library: str
    dtype: str

    def __str__(self):
        return f"{self.library}-{self.dtype}"

    @property
    def complex(self):
        return self.dtype.startswith("complex")

    @property
    def result_dtype(self):
        """Of the root: integers become float64, which jax holds as float32 unless told otherwise."""
        if not self.dtype.startswith(("int", "uint")):
            return self.dtype
        return "float32" if self.library == "jax" else "float64"

    def make(self, values: np.ndarray) -> Any:
        if self.library == "numpy":
            return values.astype(numpy_dtype(self.dtype))
        if self.library == "torch":
            import torch

            return torch.from_numpy(np.array(values)).to(getattr(torch, self.dtype))
        if self.library == "jax":
            import jax.numpy as jnp

            return jnp.asarray(values.astype(numpy_dtype(self.dtype)))
        import array_api_strict as xp

        return xp.asarray(values.astype(self.dtype))

    def is_mine(self, array: Any) -> bool:
        if self.library == "numpy":
            return type(array) is np.ndarray or isinstance(array, np.generic)
        if self.library == "torch":
            import torch

            return isinstance(array, torch.Tensor)
        if self.library == "jax":
            import jax

            return isinstance(array, jax.Array)
        import array_api_strict as xp

        return isinstance(array, type(xp.asarray(0.0)))


def numpy_dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return np.dtype(name)


def dtype_of(array: Any) -> str:
    return str(getattr(array.dtype, "name", None) or array.dtype).rsplit(".", 1)[-1].removeprefix("array_api_strict.")


def read(array: Any) -> np.ndarray:
    """Any array as numpy, half precisions as float64."""
    module = type(array).__module__.split(".")[0]
    if module == "torch":
        import torch

        array = array.detach()
        return (array.double() if array.dtype in (torch.float16, torch.bfloat16) else array).cpu().numpy()
    if module == "array_api_strict":
        return np.from_dlpack(array)
    values = np.asarray(array)
    return values.astype(np.float64) if values.dtype.itemsize == 2 and values.dtype.kind not in "iu" else values


FLOATS = ["float16", "bfloat16", "float32", "float64"]
COMPLEX = ["complex64", "complex128"]
KINDS = [
    *(Kind("numpy", d) for d in [*FLOATS, *COMPLEX, "int8", "uint16", "int64"]),
    *(Kind("torch", d) for d in [*FLOATS, *COMPLEX, "int32", "int64"]),
    *(Kind("jax", d) for d in ["float16", "bfloat16", "float32", "complex64", "int32"]),
    *(Kind("strict", d) for d in ["float32", "float64", *COMPLEX, "int64"]),
]


@pytest.fixture(params=KINDS, ids=str)
def kind(request):
    """Every library and dtype that comes in and goes out."""
    library = {"strict": "array_api_strict"}.get(request.param.library, request.param.library)
    pytest.importorskip(library)
    return request.param
