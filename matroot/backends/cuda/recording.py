"""cuBLAS calls that CUDA graphs can record; cupy refuses every call of cuBLAS on a stream that is being captured."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_longlong, c_size_t, c_void_p
from typing import Any

from matroot.backends.cuda.libraries import caller

Array = Any

#: Bytes of work space for each stream, as NVIDIA's guide recommends for Hopper; other cards need less.
WORK_SPACE = 32 << 20
_matrix = (c_void_p, c_int, c_int, c_longlong)  # address, type, leading dimension, stride
SIGNATURES = {
    "cublasCreate_v2": (ctypes.POINTER(c_void_p),),
    "cublasSetStream_v2": (c_void_p, c_void_p),
    "cublasSetWorkspace_v2": (c_void_p, c_void_p, c_size_t),
    "cublasGemmStridedBatchedEx": (
        c_void_p,
        *(c_int,) * 5,
        *(c_void_p, *_matrix, *_matrix),
        *(c_void_p, *_matrix),
        *(c_int,) * 3,
    ),
}


class Recording:
    """A separate cuBLAS handle of the library that cupy has loaded; for one thread at a time."""

    def __init__(self, cupy: Any) -> None:
        self.xp = cupy
        self._call = caller(cupy.cuda.cublas, SIGNATURES)
        self._handle = c_void_p()
        self._spaces: dict[int, Array] = {}
        self._call("cublasCreate_v2", ctypes.byref(self._handle))

    def use(self, stream: Any, for_stream: Any) -> None:
        """Send the following calls to `stream`, with the work space shared by all graphs that run on `for_stream`."""
        space = self._spaces.get(for_stream.ptr)
        if space is None:
            space = self._spaces[for_stream.ptr] = self.xp.empty(WORK_SPACE, self.xp.int8)
        self._call("cublasSetStream_v2", self._handle, stream.ptr)  # resets the work space
        self._call("cublasSetWorkspace_v2", self._handle, space.data.ptr, WORK_SPACE)

    def gemm(self, *arguments: int) -> None:
        """Call ``cublasGemmStridedBatchedEx`` without the handle; the two scalar factors are read on the host."""
        self._call("cublasGemmStridedBatchedEx", self._handle, *arguments)
