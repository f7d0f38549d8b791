"""Files of checkpoints are written whole or not at all."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzz_checkpoints import OPTIONS as MANY
from fuzz_checkpoints import make_state

from matroot_optim import Shampoo
from matroot_optim.checkpoint import files as checkpoint_files
from matroot_optim.checkpoint.exchange import export
from matroot_optim.checkpoint.replacing import replacing
from optim.problems import run, weights
from optim.test_optim_checkpoint import OPTIONS, assert_same_state
from optim.test_optim_damage import SUFFIXES


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    opt = Shampoo(**OPTIONS)
    params, state = run(opt, 3)
    path = tmp_path / "s.npz"
    state.save(path)
    before = path.read_bytes()
    _, later = run(opt, 5)

    def full(file, arrays, text):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(checkpoint_files._WRITERS, ".npz", full)
    with pytest.raises(OSError, match="No space left"):
        later.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["s.npz"]
    assert opt.load(path, params).step == 3


SCRIPT = """
import sys
from matroot_optim import Shampoo
from optim.problems import run
from optim.test_optim_checkpoint import OPTIONS
path = sys.argv[1]
opt = Shampoo(**OPTIONS)
params, state = run(opt, 3)
while True:
    params, state = run(opt, state.step + 1, params=params, state=state, skip=state.step)
    state.save(path)
    print(state.step, flush=True)
"""


@pytest.mark.slow
def test_kill_while_saving(tmp_path):
    path = tmp_path / "s.npz"
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(root), str(root / "tests")))}
    opt, params = Shampoo(**OPTIONS), weights()
    for wait in (0.05, 0.12, 0.2):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], env=env, stdout=subprocess.PIPE)
        with process:
            process.stdout.readline()
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
        state = opt.load(path, params)
        assert state.step >= 4
        want, _ = run(opt, state.step)
        _, state_again = run(opt, state.step)
        assert_same_state(state, state_again)
        assert want


@pytest.mark.skipif(os.name != "posix", reason="limits of a process")
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_system_that_takes_no_more(tmp_path, suffix):
    """The same by the system itself: files may not grow beyond a kilobyte."""
    import resource

    opt = Shampoo(**OPTIONS)
    _, state = run(opt, 3)
    path = tmp_path / f"s{suffix}"
    state.save(path)
    before, limit = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run(opt, 5)[1].save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, old)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_checkpoint_may_be_read_by_whom_the_umask_lets(tmp_path):
    run(Shampoo(**OPTIONS), 1)[1].save(tmp_path / "s.npz")
    (tmp_path / "other").touch()
    assert (tmp_path / "s.npz").stat().st_mode == (tmp_path / "other").stat().st_mode


posix = pytest.mark.skipif(os.name != "posix", reason="links, modes, locks and signals of posix")


@posix
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_link_is_kept_and_so_is_the_mode(tmp_path, suffix):
    opt = Shampoo(**OPTIONS)
    params, state = run(opt, 2)
    target, link = tmp_path / "there" / f"real{suffix}", tmp_path / f"latest{suffix}"
    target.parent.mkdir()
    link.symlink_to(target)
    state.save(link)  # which leads nowhere yet
    target.chmod(0o600)
    _, later = run(opt, 3)
    later.save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert opt.load(target, params).step == opt.load(link, params).step == 3
    assert sorted(os.listdir(tmp_path)) == [link.name, "there"]
    assert os.listdir(target.parent) == [target.name]


@posix
def test_a_new_file_is_as_private_as_the_old_one_from_its_first_byte(tmp_path):
    path = tmp_path / "s"
    path.touch(mode=0o600)
    with replacing(path) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600


KILLED = """
import os, signal, sys
from matroot_optim.checkpoint.replacing import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@posix
def test_what_killed_saves_left_is_removed_and_nothing_else(tmp_path):
    path, other = tmp_path / "s.npz", tmp_path / "s.npz.old"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for target in (path, path, other):
        done = subprocess.run([sys.executable, "-c", KILLED, str(target)], env=env, timeout=120, check=False)
        assert done.returncode == -signal.SIGKILL
    (tmp_path / ".s.npz.mine").touch()
    assert len(os.listdir(tmp_path)) == 3  # the second had removed what the first left
    with replacing(path) as alive:  # the first save removes what is stale, and none after it this one
        alive.write(b"one")
        with replacing(path) as second:
            second.write(b"two")
            assert Path(alive.name).exists()
    assert path.read_bytes() == b"one"
    left = sorted(name for name in os.listdir(tmp_path) if name != "s.npz")
    assert len(left) == 2
    assert left[0] == ".s.npz.mine"
    assert left[1].startswith(".s.npz.old.")  # of another target


class FullDisk(io.RawIOBase):
    """A file that takes so many bytes and no more."""

    def __init__(self, room):
        self.room = room

    def writable(self):
        return True

    def write(self, data):
        if self.room <= 0:
            raise OSError(28, "No space left on device")
        n = min(len(data), self.room)
        self.room -= n
        return n


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_is_full_at_any_byte_is_one_error(suffix):
    """An exception that is printed and ignored would be a warning, and so an error, here."""
    _, state = make_state(MANY[3])
    names, meta = export(state)
    size = io.BytesIO()
    checkpoint_files._WRITERS[suffix](size, names, json.dumps(meta))
    for room in range(0, size.tell(), 499):
        disk = FullDisk(room)
        with pytest.raises(OSError, match="No space left"):
            checkpoint_files._WRITERS[suffix](io.BufferedWriter(disk, 1), names, json.dumps(meta))
        disk.room = 2**40  # what is buffered goes when it is collected
    gc.collect()


def test_a_header_that_no_reader_takes_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "HEADER_LIMIT", 1000)
    _, state = make_state(MANY[0])
    with pytest.raises(ValueError, match=r"must have fewer entries than \d+; save to .npz"):
        state.save(tmp_path / "s.safetensors")
    assert os.listdir(tmp_path) == []
    state.save(tmp_path / "s.npz")
