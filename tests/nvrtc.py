"""NVRTC by ctypes: kernels are compiled, and their registers and spills read, without a card and without a toolkit."""

import ctypes
import ctypes.util
import importlib.util
import re
from functools import cache
from pathlib import Path


@cache
def library():
    """libnvrtc of the nvidia-cuda-nvrtc wheel, or the system's; None where there is neither."""
    found = importlib.util.find_spec("nvidia")
    folders = found.submodule_search_locations if found else ()
    for path in sorted((p for f in folders for p in Path(f).glob("**/libnvrtc.so.*")), reverse=True):
        for part in path.parent.glob("libnvrtc-builtins.so*"):  # which some of its builds do not find by themselves
            ctypes.CDLL(str(part))
        return ctypes.CDLL(str(path))
    name = ctypes.util.find_library("nvrtc")
    return ctypes.CDLL(name) if name else None


class Failed(Exception):  # noqa: N818
    """The compiler's log."""


def resources(source, names, architecture):
    """Of every kernel in `names`: (registers, bytes of stack, of spilled stores, of spilled loads)."""
    nvrtc, program = library(), ctypes.c_void_p()
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None))
    try:
        for name in names:
            _check(nvrtc.nvrtcAddNameExpression(program, name.encode()))
        options = [f"--gpu-architecture={architecture}".encode(), b"-std=c++17", b"--ptxas-options=-v"]
        code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = _log(nvrtc, program)
        if code:
            raise Failed(log)
        return {name: _row(log, _lowered(nvrtc, program, name)) for name in names}
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _log(nvrtc, program):
    size = ctypes.c_size_t()
    _check(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    _check(nvrtc.nvrtcGetProgramLog(program, text))
    return text.value.decode()


def _lowered(nvrtc, program, name):
    mangled = ctypes.c_char_p()
    _check(nvrtc.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(mangled)))
    return mangled.value.decode()


def _row(log, mangled):
    part = log.split(f"Compiling entry function '{mangled}'")[1].split("Compiling entry function")[0]
    spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
    registers = re.search(r"Used (\d+) registers", part)
    return (int(registers[1]), *map(int, spills.groups()))


def _check(code):
    assert code == 0, f"NVRTC error {code}"
