"""Every kernel compiled for every architecture, without a card: registers printed, not a byte spilled."""

import re

import nvrtc
import pytest
from cuda_double import NAMES, SOURCES

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")


@pytest.mark.slow
@pytest.mark.parametrize("file", NAMES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_without_spills(architecture, file, capsys):
    """As cupy compiles it: by NVRTC, header-free, with the names that are asked for."""
    if nvrtc.library() is None:
        pytest.skip("no NVRTC: python -m pip install nvidia-cuda-nvrtc")
    found = nvrtc.resources(SOURCES[file].read_text(), NAMES[file], architecture)
    with capsys.disabled():
        print(f"\n{file} for {architecture}, registers: {', '.join(f'{name} {r}' for name, (r, *_) in found.items())}")
    assert all(spilled == [0, 0, 0] for _, *spilled in found.values())
    threads = {"coupled": 256, "combine": 256, "mirror": 256, "ritz": 512}
    assert all(registers * threads[name.split("<")[0]] <= 65536 for name, (registers, *_) in found.items())


def test_a_spill_and_an_error_are_seen():
    if nvrtc.library() is None:
        pytest.skip("no NVRTC")
    hungry = """template <typename T> __global__ void __launch_bounds__(1024) hungry(T* a) {
        T x[96];
        for (int i = 0; i < 96; ++i) x[i] = a[i * 1024 + threadIdx.x];
        for (int k = 0; k < 9; ++k) for (int i = 0; i < 96; ++i) x[i] = x[i] * x[(i + 7) % 96] + x[(i * 5) % 96];
        for (int i = 0; i < 96; ++i) a[i * 1024 + threadIdx.x] = x[i]; }"""
    (row,) = nvrtc.resources(hungry, ["hungry<double>"], "sm_90").values()
    assert any(row[1:])
    with pytest.raises(nvrtc.Failed, match="no_such_name"):
        nvrtc.resources("__global__ void f() { no_such_name(); }", ["f"], "sm_90")


def test_the_double_knows_the_shapes_of_the_kernels():
    """Names in the sources are those that are compiled and launched."""
    for file, names in NAMES.items():
        found = re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(", SOURCES[file].read_text())
        assert set(found) == {name.split("<")[0] for name in names}
