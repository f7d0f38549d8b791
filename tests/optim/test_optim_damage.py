"""Checkpoints that are damaged, old, or from the future; saves that are killed, or find no room."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fuzz_checkpoints import OPTIONS, bits, fuzz, make_state, parameters

from matroot_optim import InlineEngine, Shampoo
from matroot_optim.checkpoint import files as checkpoint_files
from matroot_optim.checkpoint.exchange import export, restore
from matroot_optim.checkpoint.files import read, write
from matroot_optim.entries import UNITS
from matroot_optim.layout.layout import make_layout
from matroot_optim.layout.trees import flatten
from matroot_optim.state import State
from matroot_optim.step.betas import BETAS

SUFFIXES = (".npz", ".safetensors")
DATA = Path(__file__).parent / "data"


def raw(path, names, meta):
    """A file without checksums, as the first format had none."""
    with open(path, "wb") as file:
        checkpoint_files._WRITERS[Path(path).suffix](file, names, json.dumps(meta))


@pytest.mark.slow
def test_damaged_checkpoints_are_refused_by_name_or_load_to_the_same_bits():
    counts, faults = fuzz(seed=0, count=330)
    assert faults == []
    assert sum(counts.values()) > 300
    assert {road for road, _, _ in counts} == {".npz", ".safetensors", "torch"}


# Formats.


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_format_1_are_read(suffix):
    """They were made by these steps, on another machine perhaps."""
    rng = np.random.default_rng(7)
    params = {"w": rng.standard_normal((4, 6)).astype(np.float32), "b": rng.standard_normal(3)}
    then = {"momentum_of": "direction", "exponent": None, "block_aspect": None, "refresh_growth": 0.0}
    opt = Shampoo(0.05, refresh_every=3, block_size=4, ridge=1e-4, engine=InlineEngine(2), **then)
    want = opt.init(params)
    for _ in range(5):
        _, want = opt.update({k: rng.standard_normal(x.shape).astype(x.dtype) for k, x in params.items()}, want)
    state = opt.load(DATA / f"format1{suffix}", params)
    assert read(DATA / f"format1{suffix}")[1]["format"] == 1
    assert len(state.pending) == 3
    names, _ = read(DATA / f"format1{suffix}")
    for name in want:
        if name.endswith(tuple(UNITS)):
            assert state[name] == 0  # it had none
            continue
        if name.endswith(tuple(BETAS)):
            assert state[name] == want[name]  # nor these, which count as the same
            continue
        np.testing.assert_array_equal(state[name], names[name], err_msg=name)
        if want.of_root(name) or name.endswith("/momentum"):  # of roots that come at other steps now
            continue
        # Five steps of float32, and roots of a condition number that the ridge keeps below 1e4.
        np.testing.assert_allclose(state[name], want[name], rtol=1e-2, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_format_2_are_read(tmp_path, suffix):
    """They lack the decays, which count as those of the options."""
    opt, state = make_state(OPTIONS[0])
    names, meta = export(state)
    path = tmp_path / f"s{suffix}"
    write(path, {k: x for k, x in names.items() if not k.endswith(tuple(BETAS))}, {**meta, "format": 2})
    assert bits(opt.load(path, parameters())) == bits(state)
    write(path, names, {**meta, "format": 2})
    with pytest.raises(ValueError, match=r"no entry but those of its parameters, got '0/0/beta1'"):
        opt.load(path, parameters())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_newer_format_is_named(tmp_path, suffix):
    opt, state = make_state(OPTIONS[0])
    names, meta = export(state)
    path = tmp_path / f"s{suffix}"
    write(path, names, {**meta, "format": 4})
    with pytest.raises(ValueError, match=r"s\.\w+ must be .* format 1 to 3, got format 4 of a newer matroot_optim"):
        opt.load(path, parameters())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cannot_lose_its_checksums_by_calling_itself_old(tmp_path, suffix):
    """One flipped bit makes a 1 of the 3, another a 2."""
    opt, state = make_state(OPTIONS[0])
    names, meta = export(state)
    path = tmp_path / f"s{suffix}"
    write(path, names, meta)
    data = path.read_bytes()
    escaped = b'"format": 3' if suffix == ".npz" else b'\\"format\\": 3'
    assert data.count(escaped) == 1
    for older in (b"1", b"2"):
        path.write_bytes(data.replace(escaped, escaped[:-1] + older))
        with pytest.raises(ValueError, match=r"s\.(npz|safetensors) must "):
            opt.load(path, parameters())
    raw(path, names, {**meta, "format": 1})
    with pytest.raises(ValueError, match=r"format, leaves, roots in its metadata"):
        opt.load(path, parameters())
    raw(path, names, meta)
    with pytest.raises(ValueError, match="metadata whose checksum is another"):
        opt.load(path, parameters())


# Damage.


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flipped_bit_of_every_array_is_named(tmp_path, suffix):
    opt, state = make_state(OPTIONS[0])
    path = tmp_path / f"s{suffix}"
    state.save(path)
    data, (names, _) = path.read_bytes(), read(path)
    tried = 0
    for name, x in names.items():
        if x.nbytes >= 32 and data.count(x.tobytes()) == 1:  # else the place is not known
            damaged = bytearray(data)
            damaged[data.index(x.tobytes()) + x.nbytes // 2] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=rf"s{suffix} must be a checkpoint written by save, got .*'?{name}"):
                opt.load(path, parameters())
            tried += 1
    assert tried > 10


def test_the_checksum_is_of_the_name_the_shape_and_the_dtype_too():
    x = np.arange(6.0)
    sums = {
        checkpoint_files._checksum(name, y)
        for name in ("a", "b")
        for y in (x, x.reshape(2, 3), x.reshape(3, 2), x.view(np.int64), x[::-1])
    }
    assert len(sums) == 10
    swapped = x.astype(x.dtype.newbyteorder())
    assert checkpoint_files._checksum("a", swapped) == checkpoint_files._checksum("a", x)


def test_a_tiny_file_that_announces_giant_arrays(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**10)})
    path = tmp_path / "s.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(80))
    with pytest.raises(ValueError, match=r"an entry 'a\.npy' of 80 bytes for shape \(1099511627776, 1024\)"):
        read(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(10**8))
    with pytest.raises(ValueError, match="compressed or larger than the file"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"")
        archive.infolist()[0].compress_size = 2**31  # in the directory; the bytes are not there
    with pytest.raises(ValueError, match="compressed or larger than the file"):
        read(path)


def test_what_is_no_file_is_refused(tmp_path):
    opt, state = make_state(OPTIONS[0])
    for act in (lambda: opt.load(tmp_path, parameters()), lambda: state.save(tmp_path)):
        with pytest.raises(ValueError, match=tmp_path.name):
            act()
    assert os.listdir(tmp_path) == []


def test_a_cutting_of_too_many_blocks_is_not_made():
    """Block size 1 would be 10^10 blocks."""
    opt = Shampoo(0.1, max_preconditioned_dim=None)
    params = {"w": np.broadcast_to(np.float32(0), (100_000, 100_000))}
    layout = make_layout(Shampoo(0.1, max_preconditioned_dim=None, block_size=100_000), params)
    leaf = {"shape": [100_000] * 2, "merged": [100_000] * 2, "axes": [0, 1], "parts": []}
    meta = {"format": 3, "roots": False, "jobs": 0, "leaves": {"w": {**leaf, "blocks": [[[0, 0], [1, 1]]]}}}
    with pytest.raises(ValueError, match="the blocks of a cutting for 'w'"):
        restore(opt, layout, list(params.values()), {}, meta)


def test_values_that_are_not_finite_are_for_propagate_alone(tmp_path):
    params = {"a": np.ones((3, 2)), "b": np.ones(3)}
    opt = Shampoo(0.1, on_nonfinite="propagate", start_step=1)
    state = opt.init(params)
    _, state = opt.update({"a": np.ones((3, 2)), "b": np.array([1.0, np.nan, 1.0])}, state, params)
    state.save(tmp_path / "s.npz")
    assert bits(opt.load(tmp_path / "s.npz", params)) == bits(state)
    with pytest.raises(
        ValueError, match=r"s\.npz: the checkpoint must have numbers that are finite in 'b/mom\w+', got nan"
    ):
        Shampoo(0.1, start_step=1).load(tmp_path / "s.npz", params)


def test_numbers_that_do_not_fit_the_dtype_are_named(tmp_path):
    params = {"b": np.ones(3)}
    opt = Shampoo(0.1, graft="sgd", momentum_of="direction")
    _, state = opt.update({"b": np.full(3, 1e100)}, opt.init(params), params)
    state.save(tmp_path / "s.npz")
    with pytest.raises(ValueError, match="finite in 'b/mom"):
        opt.load(tmp_path / "s.npz", {"b": np.ones(3, np.float32)})


def test_optax_names_the_file_and_the_entry(tmp_path):
    jnp = pytest.importorskip("jax.numpy")
    from matroot_optim.optax import load, shampoo

    opt = Shampoo(0.1)
    params = {"a": np.ones((3, 2), np.float32)}
    _, state = opt.update(params, opt.init(params), params)
    names, meta = export(state)
    names["a/moment"] = -names["a/moment"]
    write(tmp_path / "s.npz", names, meta)
    tx = shampoo(0.1)
    there = {"a": jnp.ones((3, 2))}
    with pytest.raises(ValueError, match=r"s\.npz: the checkpoint must have no number below 0 in 'a/moment'"):
        load(tmp_path / "s.npz", tx.init(there), there)


# Saves.


def test_files_are_those_of_safetensors_and_of_numpy(tmp_path):
    from safetensors.numpy import load_file

    _, state = make_state(OPTIONS[0])
    for suffix, reader in ((".safetensors", load_file), (".npz", np.load)):
        state.save(tmp_path / f"s{suffix}")
        found = dict(reader(tmp_path / f"s{suffix}"))
        found.pop(checkpoint_files.META, None)
        want, _ = export(state)
        assert found.keys() == want.keys()
        assert all(np.array_equal(found[name], want[name]) for name in want)


def test_a_layout_as_a_user_sees_it():
    """The entries that are checked are those that a state lists."""
    opt, state = make_state({})
    names, meta = export(state)
    assert names.keys() == set(state)
    leaves, _ = flatten(parameters())
    layout = make_layout(opt, leaves)
    again = State(layout, *restore(opt, layout, list(leaves.values()), names, meta))
    assert bits(again) == bits(state)


STRANGE = (
    "",
    "/",
    "momentum",
    "/momentum",
    "/0/0/momentum",
    "0/0",
    "0/0/",
    "0/0/step",
    "step/",
    "step/root",
    "9/9/count",
)
STRANGE += ("block9/axis0/root", "/block0/axis0/root", "0/0/block0/axis0/", "0/0/block0/axis0/root/root", "0/0/block0")


@pytest.mark.parametrize("params", [parameters(), np.ones((4, 3))], ids=["of a tree", "of one array"])
@pytest.mark.parametrize("name", STRANGE)
def test_a_name_of_no_entry_is_refused_whatever_it_looks_like(params, name):
    opt = Shampoo(0.1)
    leaves, _ = flatten(params)
    state = opt.init(params)
    names, meta = export(state)
    if name in names:
        del names[name]
        wrong = f"must have the entry '{name}'"
    else:
        names[name] = np.zeros(3)
        wrong = f"of its parameters, got '{name}'"
    with pytest.raises(ValueError, match=wrong):
        restore(opt, state.layout, list(leaves.values()), names, meta)
