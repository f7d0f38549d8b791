"""Replacing a file: whole or not at all, through links, with its mode, and without leaving anything behind."""

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from matroot.backends import profile
from matroot.backends.cuda import limits as gpu_limits
from matroot.backends.replacing import TEMPORARY, replacing
from matroot.cli import files

posix = pytest.mark.skipif(os.name != "posix", reason="links, modes and signals of POSIX")
#: A process that is in the middle of a save, says so, and waits.
SAVING = """
import sys
from matroot.backends.replacing import replacing
with replacing(sys.argv[1]) as stream:
    stream.write(b"new" * 100000)
    stream.flush()
    print("saving", flush=True)
    sys.stdin.read()
"""
#: Every public way to write a file of matroot, with the name of the file.
WRITERS = {
    "a.npy": lambda path: files.write(path, {"": np.eye(2)}),
    "a.npz": lambda path: files.write(path, {"": np.eye(2)}),
    "a.csv": lambda path: files.write(path, {"": np.eye(2)}),
    "a.mtx": lambda path: files.write(path, {"": np.eye(2)}),
    "profile.json": lambda path: profile.save(profile.Limits(), path),
    "profile-gpu.json": lambda path: gpu_limits.save("a card", gpu_limits.GPULimits(), path),
}


def put(path, data):
    with replacing(path) as stream:
        stream.write(data)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def saving(tmp_path):
    """A process in the middle of a save of the file "a", whose old content is "old"."""
    (tmp_path / "a").write_bytes(b"old")
    with subprocess.Popen(
        [sys.executable, "-c", SAVING, str(tmp_path / "a")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"saving\n"
        yield process
        process.kill()


@posix
@pytest.mark.parametrize("name", WRITERS)
class TestEveryWriter:
    def test_writes_the_target_of_a_link(self, tmp_path, name):
        (tmp_path / "real").mkdir()
        (tmp_path / name).symlink_to(tmp_path / "real" / name)
        WRITERS[name](tmp_path / name)  # the target is new
        first = (tmp_path / "real" / name).read_bytes()
        WRITERS[name](tmp_path / name)  # and now it is there
        assert (tmp_path / name).is_symlink() and (tmp_path / "real" / name).read_bytes() == first
        assert names(tmp_path) == {"real", name} and names(tmp_path / "real") == {name}

    @pytest.mark.parametrize("wanted", (0o600, 0o640, 0o666, 0o755), ids=oct)
    def test_keeps_the_mode(self, tmp_path, name, wanted):
        path = tmp_path / name
        WRITERS[name](path)
        path.chmod(wanted)
        WRITERS[name](path)
        assert mode(path) == wanted

    def test_gives_a_new_file_the_usual_mode(self, tmp_path, name):
        before = os.umask(0o027)
        try:
            WRITERS[name](tmp_path / name)
        finally:
            os.umask(before)
        assert mode(tmp_path / name) == 0o640

    def test_leaves_the_old_file_when_the_disk_is_full(self, tmp_path, name, monkeypatch):
        WRITERS[name](tmp_path / name)
        old = (tmp_path / name).read_bytes()

        def full(handle):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("matroot.backends.replacing.os.fsync", full)
        with pytest.raises(OSError, match=f"{name} cannot be written: No space left") as error:
            WRITERS[name](tmp_path / name)
        assert error.value.errno == errno.ENOSPC
        assert (tmp_path / name).read_bytes() == old and names(tmp_path) == {name}


def test_nobody_else_renames_files():
    package = Path(files.__file__).parents[1]
    texts = {path.name for path in package.rglob("*.py") if "os.replace" in path.read_text()}
    assert texts == {"replacing.py"}


@pytest.mark.parametrize("fault", (ValueError, KeyboardInterrupt, SystemExit))
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, fault):
    put(tmp_path / "a", b"old")
    with pytest.raises(fault), replacing(tmp_path / "a") as stream:
        stream.write(b"new")
        raise fault
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == {"a"}


@posix
def test_a_killed_save_leaves_the_old_file_and_the_next_save_cleans_up(tmp_path, saving):
    saving.send_signal(signal.SIGKILL)
    saving.wait()
    (left,) = names(tmp_path) - {"a"}
    assert TEMPORARY.fullmatch(left) and (tmp_path / "a").read_bytes() == b"old"
    put(tmp_path / "b", b"another file of the folder")
    assert names(tmp_path) == {"a", "b"}


def test_a_save_under_way_is_not_cleaned_up(tmp_path, saving):
    put(tmp_path / "a", b"between")
    assert len(names(tmp_path)) == 2
    saving.communicate()
    assert saving.returncode == 0
    assert (tmp_path / "a").read_bytes() == b"new" * 100000 and names(tmp_path) == {"a"}


def test_threads_that_save_one_file_leave_one_of_their_versions(tmp_path):
    versions = [bytes([k]) * 50_000 for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(25):
            list(pool.map(lambda data: put(tmp_path / "a", data), versions))
            assert (tmp_path / "a").read_bytes() in versions
            assert names(tmp_path) == {"a"}


def test_only_names_of_ours_are_cleaned_up(tmp_path):
    theirs = {".matroot-", ".matroot-0123.tmp", ".matroot-0123456789abcdef.tmp2", "matroot-0123456789abcdef.tmp"}
    for name in theirs:
        (tmp_path / name).touch()
    (tmp_path / ".matroot-0123456789abcdef.tmp").mkdir()  # nor a folder of such a name
    put(tmp_path / "a", b"")
    assert names(tmp_path) == {*theirs, ".matroot-0123456789abcdef.tmp", "a"}


def test_the_longest_name_of_a_file_system(tmp_path):
    put(tmp_path / ("a" * 255), b"new")
    assert names(tmp_path) == {"a" * 255}


@posix
class TestRefusals:
    def test_a_circle_of_links(self, tmp_path):
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        with pytest.raises(OSError, match="a cannot be written: Too many levels of symbolic links"):
            put(tmp_path / "a", b"new")
        assert (tmp_path / "a").is_symlink() and names(tmp_path) == {"a", "b"}

    def test_a_pipe_a_folder_a_missing_folder(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "folder").mkdir()
        for name, says in {"pipe": "no regular file", "folder": "no regular file", "no/a": "No such file"}.items():
            with pytest.raises(OSError, match=f"{name} cannot be written: .*{says}"):
                put(tmp_path / name, b"new")
        assert names(tmp_path) == {"pipe", "folder"} and stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)

    @pytest.mark.parametrize("what", ("file", "folder"))
    def test_what_may_not_be_written_is_not_replaced(self, what):
        """Root may write everything, so root tries as somebody else."""
        code = (
            "import os, sys, stat; from matroot.cli import files; import numpy as np\n"
            "os.chmod(sys.argv[1], 0o555)\n"
            "os.getuid() or os.setuid(65534)\n"
            "for write in (files.check_fits, files.write):\n"
            "    try: write(sys.argv[2], {'': np.eye(2)})\n"
            "    except PermissionError as error: print(error)\n"
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "a.npy")
            os.chmod(folder, 0o777)
            if what == "file":
                path.write_bytes(b"old")
            forbidden = path if what == "file" else folder
            run = [sys.executable, "-c", code, forbidden, path]
            said = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
            assert len(said) == 2 and all("a.npy cannot be written" in line for line in said)
            assert [p.read_bytes() for p in Path(folder).iterdir()] == ([b"old"] if what == "file" else [])
            os.chmod(folder, 0o700)
