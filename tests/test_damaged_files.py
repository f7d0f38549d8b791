"""Files that are damaged, hostile or no files: one clear sentence each, in bounded memory, and nothing executed."""

import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import fuzz_files
import numpy as np
import pytest

from matroot.cli import command as cli
from matroot.cli import files

HUGE = 2**140
EYE = np.eye(3).tobytes()


def npy(shape, descr="'<f8'", data=EYE, more=""):
    """A .npy file with a header of one's own."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, {more}}}\n".encode()
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + data


def npz(members, method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def patched(data, entry, local, value):
    """An archive with other bytes at a place of its first entry in the table of contents, and of the entry itself."""
    data, start = bytearray(data), data.index(b"PK\1\2")
    data[start + entry : start + entry + len(value)] = value
    if local is not None:
        data[local : local + len(value)] = value
    return bytes(data)


def mtx(size, body="1 1 1\n", kind="coordinate real general"):
    return f"%%MatrixMarket matrix {kind}\n{size}\n{body}".encode()


GOOD = npy("(3, 3)")
DEFLATED = npz([("a.npy", GOOD)], zipfile.ZIP_DEFLATED)
TWICE = npz([("a.npy", GOOD), ("b.npy", GOOD)])
BAD = {
    "huge.npy": (npy(f"({HUGE}, 3)"), "impossible shape"),
    "empty-huge.npy": (npy(f"(0, {HUGE})", data=b""), "impossible shape"),
    "empty-large.npy": (npy(f"(0, {2**62}, {2**62})", data=b""), "cannot be read"),
    "negative.npy": (npy("(-1, 9)"), "impossible shape"),
    "dimensions.npy": (npy(f"({'1, ' * 65})", data=bytes(8)), "impossible shape"),
    "tera.npy": (npy("(1000000, 1000000)"), "more than the 72 bytes"),
    "few.npy": (npy("(3, 4)"), "more than the 72 bytes"),
    "many.npy": (npy("(3, 2)"), "less than the 72 bytes"),
    "open.npy": (npy("(3, 3"), "header is broken"),
    "nested.npy": (npy("(" * 3000), "header is broken"),
    "minus.npy": (npy("-" * 5000 + "1"), "header is broken"),
    "digits.npy": (npy("9" * 5000), "header is broken"),
    "key.npy": (npy("(3, 3)", more="'x': 1"), "header is broken"),
    "long.npy": (npy("(3, 3)", more=" " * 20000), "header is broken"),
    "longer.npy": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "header is broken"),
    "version.npy": (b"\x93NUMPY\x09" + GOOD[7:], "format 9.0 is unknown"),
    "objects.npy": (npy("(3, 3)", "'|O'"), "holds object"),
    "text.npy": (npy("(3, 3)", "'<U2'"), "holds <U2"),
    "nothing.npy": (npy(f"(3, {2**60})", "'|S0'", b""), "holds |S0"),
    "dates.npy": (npy("(3, 3)", "'<M8[s]'"), "holds datetime64"),
    "spans.npy": (npy("(3, 3)", "'<m8[s]'"), "holds timedelta64"),
    "raw.npy": (npy("(3, 3)", "'|V8'"), "holds |V8"),
    "record.npy": (npy("(3, 3)", "[('a', '<f8')]"), "numbers are wanted"),
    "sub.npy": (npy("(3,)", "'(3,)<f8'"), "numbers are wanted"),
    "none.npy": (b"", "cannot be read"),
    "none.npz": (b"", "cannot be read"),
    "no-arrays.npz": (npz([]), "holds no array"),
    "encrypted.npz": (patched(npz([("a.npy", GOOD)]), 8, 6, b"\1"), "array 'a': it is encrypted"),
    "bzip2.npz": (npz([("a.npy", GOOD)], zipfile.ZIP_BZIP2), "array 'a': it is compressed by method 12"),
    "imploded.npz": (patched(npz([("a.npy", GOOD)]), 10, 8, b"\6"), "array 'a': it is compressed by method 6"),
    "version.npz": (patched(npz([("a.npy", GOOD)]), 6, 4, b"\xff"), "cannot be read"),
    "flipped.npz": (npz([("a.npy", GOOD)]).replace(EYE, EYE[::-1]), "array 'a': Bad CRC-32"),
    "deflated.npz": (DEFLATED[:35] + b"\xff" * 8 + DEFLATED[43:], "array 'a': Error -3 while decompressing"),
    "readme.npz": (npz([("README.txt", b"hello")]), "array 'README.txt': its header is broken"),
    "twins.npz": (TWICE.replace(b"b.npy", b"a.npy"), "two arrays of one name"),
    "swallowed.npz": (patched(TWICE, 32, None, (51).to_bytes(2, "little")), "announces 2 arrays and has 1"),
    "longer.npz": (TWICE + b"more", "goes on after its end"),
    "lying.npz": (
        patched(npz([("a.npy", npy(f"({2**27}, 3)"))]), 24, 22, (2**31).to_bytes(4, "little")),
        "announces 2147483648 bytes",
    ),
    "bomb.npz": (
        patched(npz([("a.npy", npy(f"({2**26}, 3)"))], zipfile.ZIP_DEFLATED), 24, 22, (2**31).to_bytes(4, "little")),
        "announces 2147483648 bytes",
    ),
    "overlapping.npz": (patched(TWICE, 20, 18, (2**20).to_bytes(4, "little")), "overlap"),
    "none.mtx": (b"", "first line"),
    "kind.mtx": (mtx("2 2 1", kind="coordinate real antisymmetric"), "no kind of matrix"),
    "pattern.mtx": (mtx("1 1", "1\n", "array pattern general"), "cannot be a pattern"),
    "no-size.mtx": (b"%%MatrixMarket matrix array real general\n% only a comment\n", "two sizes"),
    "sizes.mtx": (mtx("2 2"), "three sizes"),
    "negative.mtx": (mtx("-2 -2 1"), "three sizes"),
    "huge.mtx": (mtx(f"{HUGE} {HUGE} 1"), "too empty for a dense array"),
    "digits.mtx": (mtx("9" * 5000 + " 1 1"), "cannot be read"),
    "empty.mtx": (mtx("1000000 1000000 1"), "too empty for a dense array"),
    "entries.mtx": (mtx("3 3 100000000000"), "announces 100000000000 entries and holds 1"),
    "array.mtx": (mtx("1000000 1000000", "1\n", "array real general"), "announces 1000000000000 entries and holds 1"),
    "more.mtx": (mtx("2 2 1", "1 1 1\n2 2 1\n"), "announces 1 entries and holds 2"),
    "index.mtx": (mtx("2 2 1", "1 3 1\n"), "an index is outside of 2 x 2"),
    "zero.mtx": (mtx("2 2 1", "0 1 1\n"), "an index is outside of 2 x 2"),
    "half.mtx": (mtx("2 2 1", "1.5 1 1\n"), "an index is outside of 2 x 2"),
    "nan.mtx": (mtx("2 2 1", "nan 1 1\n"), "an index is outside of 2 x 2"),
    "far.mtx": (mtx("2 2 1", f"{HUGE} 1 1\n"), "an index is outside of 2 x 2"),
    "columns.mtx": (mtx("2 2 1", "1 1\n"), "2 numbers, 3 are wanted"),
    "ragged.mtx": (mtx("2 2 2", "1 1 1\n2 2\n"), "cannot be read"),
    "integer.mtx": (mtx("1 1 1", f"1 1 {HUGE}\n", "coordinate integer general"), "cannot be read"),
    "fraction.mtx": (mtx("1 1 1", "1 1 1.5\n", "coordinate integer general"), "cannot be read"),
    "word.mtx": (mtx("1 1 1", "1 1 one\n"), "could not convert string 'one'"),
    "tall.mtx": (mtx("2 3 1", kind="coordinate real symmetric"), "2 x 3 is not symmetric"),
    "both.mtx": (mtx("2 2 2", "1 2 1\n2 1 1\n", "coordinate real symmetric"), "on both sides of the diagonal"),
    "gap.mtx": (mtx("2 2", f"1\n2 {' ' * 200} 3\n4\n", "array real symmetric"), "cannot be read"),
    "none.csv": (b"", "holds no number"),
    "header.csv": (b"jan,feb\n\n", "no number: line 1, column 1: 'jan'"),
    "labels.csv": (b"name,jan\njan,1\n", "line 2, column 1: 'jan' is no number"),
    "half.csv": (b"1,x\nx,1\n", "line 1, column 2: 'x' is no number"),
    "corner.csv": (b",2\n2,4\n", "line 1, column 1: an empty cell is no number"),
    "decimal.csv": (b"# a\n1;0\n0;1,5\n", "line 3, column 2: '1,5' has a decimal comma; write 1.5"),
    "decimal.txt": (b"1,5 0\n0 1,5\n", "'1,5' has a decimal comma; write 1.5"),
    "comma.csv": (b"1,0,\n0,1,\n", "separated by ','"),
    "ragged.csv": (b"1,0\n0\n", "line 2 has 1 numbers, line 1 has 2"),
    "zeros.csv": (bytes(1000), "cannot be read"),
    "utf16.csv": ("1,0\n0,1\n".encode("utf-16"), "codec can't decode"),
    "escape.csv": (b"\x1b[2J,1\n", r"line 1, column 1: '\\x1b\[2J' is no number"),
    "wide.csv": (b"x" * 10**6, "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_clear_line(tmp_path, capsys, name):
    data, says = BAD[name]
    path = tmp_path / name
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"{name} cannot be read as {path.suffix}: .*{says}|{says}") as error:
            files.read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fuzz_files.clear(str(error.value), path)
    assert peak < (1 << 22) + 20 * len(data)
    for command in ("root", "compare"):
        assert cli.main([command, str(path), "-p", "2"]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err == f"matroot: error: {error.value}\n"


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", (".npy", ".npz"))
def test_pickles_are_never_executed(tmp_path, suffix):
    path, sign = tmp_path / f"a{suffix}", tmp_path / "executed"
    a = np.array([Canary(sign)], dtype=object)
    np.save(path, a, allow_pickle=True) if suffix == ".npy" else np.savez(path, a=a)
    with pytest.raises(ValueError, match="holds object"):
        files.read(path)
    path.write_bytes(path.read_bytes().replace(b"|O", b"|V"))
    with pytest.raises(ValueError, match="cannot be read"):
        files.read(path)
    assert not sign.exists()


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")
def test_what_is_no_file_is_not_waited_for(tmp_path, capsys):
    np.save(tmp_path / "good.npy", np.eye(2))
    for suffix in (".npy", ".npz", ".csv", ".mtx"):
        (tmp_path / f"folder{suffix}").mkdir()
        os.mkfifo(tmp_path / f"pipe{suffix}")
        (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
        (tmp_path / f"broken{suffix}").symlink_to(tmp_path / "nowhere")
        (tmp_path / f"circle{suffix}").symlink_to(tmp_path / f"circle{suffix}")
        for name, says in {
            "folder": "is a folder, a file is wanted",
            "pipe": "is a pipe or a device, a file is wanted",
            "zero": "is a pipe or a device, a file is wanted",
            "broken": "no such file",
            "circle": "no such file",
        }.items():
            assert cli.main(["root", str(tmp_path / f"{name}{suffix}"), "-p", "2"]) == 1
            err = capsys.readouterr().err
            assert err.startswith("matroot: error: ") and err.count("\n") == 1
            assert says in err and f"{name}{suffix}" in err
        for name in ("folder", "pipe", "zero"):
            out = tmp_path / f"{name}{suffix}"
            assert cli.main(["root", str(tmp_path / "good.npy"), "-p", "2", "-o", str(out)]) == 1
            out, err = capsys.readouterr()
            assert out == "" and "a file name is wanted" in err  # before the work


def test_an_odd_name_does_not_move_the_cursor(tmp_path, capsys):
    path = tmp_path / "a\n\x1b[2Jb.npy"
    path.write_bytes(npy("(3, 4)"))
    assert cli.main(["root", str(path), "-p", "2"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and r"a\n\x1b[2Jb.npy" in err
    np.savez(tmp_path / "a.npz", **{"\x1b[2J": np.eye(2)})
    assert cli.main(["root", str(tmp_path / "a.npz"), "-p", "2"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_what_the_library_refuses_names_file_and_array(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", good=np.eye(2), tall=np.ones((3, 2)))
    for command in ("root", "compare"):
        assert cli.main([command, str(tmp_path / "a.npz"), "-p", "2"]) == 1
        assert "a.npz[tall]: " in capsys.readouterr().err


def test_the_one_array_wanted_does_not_need_the_others(tmp_path):
    np.savez(tmp_path / "a.npz", names=np.array(["x", "y"]), a=np.eye(2))
    assert list(files.read(tmp_path / "a.npz", "a")) == ["a"]
    with pytest.raises(ValueError, match="array 'names': it holds <U1"):
        files.read(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a\.npz has no array 'b'; it has 'names', 'a'"):
        files.read(tmp_path / "a.npz", "b")


def test_a_comment_does_not_make_numbers_complex(tmp_path):
    (tmp_path / "a.csv").write_text("# june\n1,0 # july\r\n0,1\r\n")
    found = files.read(tmp_path / "a.csv")[""]
    assert found.dtype == float and np.array_equal(found, np.eye(2))


@pytest.mark.parametrize("suffix", (".npy", ".npz"))
@pytest.mark.parametrize("dtype", fuzz_files.DTYPES)
@pytest.mark.parametrize("order", "CF")
def test_byte_and_memory_orders(tmp_path, suffix, dtype, order):
    a = np.asarray(np.arange(18).reshape(3, 2, 3) % 7, dtype, order)
    path = tmp_path / f"a{suffix}"
    np.save(path, a) if suffix == ".npy" else np.savez_compressed(path, a)
    (found,) = files.read(path).values()
    assert found.dtype == a.dtype and np.array_equal(found, a)


@pytest.mark.parametrize("suffix", (".npy", ".npz", ".csv", ".mtx"))
def test_output_over_the_input(tmp_path, suffix):
    path, link = tmp_path / f"a{suffix}", tmp_path / f"link{suffix}"
    files.write(path, {"": 4 * np.eye(3)})
    link.symlink_to(path)
    assert cli.main(["root", str(path), "-p", "2", "--method", "eigen", "-o", str(link)]) == 0
    assert link.is_symlink()
    (found,) = files.read(path).values()
    assert np.allclose(found, np.eye(3) / 2, rtol=1e-14)


@pytest.mark.slow
def test_two_hundred_damaged_files(tmp_path):
    """A short run of ``python -m tests.fuzz_files``."""
    report = fuzz_files.fuzz(tmp_path, seed=0, count=200, sample=4)
    assert report.faults == [], str(report)
    assert report.read.keys() == {"refused", "right", "changed"} and report.read.total() == 200
    assert report.processes == 4 and report.statuses.keys() == {0, 1}


def test_the_fuzzer_sees_faults(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "read", lambda path: {"": np.eye(2)})
    assert fuzz_files.main(["--count", "20", "--sample", "0", "--keep", str(tmp_path)]) == 1
    assert "silently wrong" in capsys.readouterr().out and list(Path(tmp_path).iterdir())
