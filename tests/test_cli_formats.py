"""Formats of the files that the command reads and writes."""

import numpy as np
import pytest
from test_cli import FORMATS, only

from matroot.cli import files

DTYPES = (np.float64, np.float32, np.complex128, np.int64)


class TestFiles:
    @pytest.mark.parametrize("suffix", FORMATS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
    def test_round_trip_is_exact(self, tmp_path, suffix, dtype):
        a = np.random.default_rng(0).standard_normal((4, 4)) * 10
        a = (a + 1j * a.T if dtype is np.complex128 else a).astype(dtype)
        files.write(tmp_path / f"a{suffix}", {"": a})
        assert np.array_equal(only(tmp_path / f"a{suffix}"), a)

    def test_any_name_is_a_name(self, tmp_path):
        arrays = {"file": np.eye(2), "allow_pickle": np.ones((2, 2)), "a/b": np.zeros((2, 2))}
        files.write(tmp_path / "a.npz", arrays)
        found = files.read(tmp_path / "a.npz")
        assert list(found) == list(arrays) and all((found[name] == a).all() for name, a in arrays.items())
        with np.load(tmp_path / "a.npz") as theirs:
            assert (theirs["file"] == np.eye(2)).all()

    @pytest.mark.parametrize("suffix", (".npy", ".npz"))
    def test_a_batch_keeps_its_shape_and_dtype(self, tmp_path, suffix):
        a = np.ones((3, 2, 2), np.float32)
        files.write(tmp_path / f"a{suffix}", {"": a})
        b = only(tmp_path / f"a{suffix}")
        assert b.shape == a.shape and b.dtype == a.dtype

    def test_sparse_symmetric_matrix_market_becomes_dense(self, tmp_path):
        path = tmp_path / "a.mtx"
        path.write_text("%%MatrixMarket matrix coordinate real symmetric\n2 2 3\n1 1 2.0\n2 1 -1.0\n2 2 3.0\n")
        assert np.array_equal(only(path), [[2, -1], [-1, 3]])

    def test_csv_may_have_comments_and_a_byte_order_mark(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_bytes("\ufeff# covariance\n1, 0\n0, 4\n".encode())
        assert np.array_equal(only(path), [[1, 0], [0, 4]])

    @pytest.mark.parametrize(
        "text",
        [
            "9;1;2\n1;9;3\n2;3;9\n",
            "jan,feb,mar\r\n9,1,2\r\n1,9,3\r\n2,3,9\r\n",
            ",jan,feb,mar\njan,9,1,2\nfeb,1,9,3\nmar,2,3,9\n",
            ",0,1,2\n0,9.0,1.0,2.0\n1,1.0,9.0,3.0\n2,2.0,3.0,9.0\n",
            "9\t1\t2\n1\t9\t3\n2\t3\t9",
            "# covariance\n  9 1  2\n1 9 3\n\n 2 3 9\n",
        ],
        ids=["semicolons", "header", "pandas", "pandas-numbered", "tabs", "spaces"],
    )
    def test_text_as_other_programs_write_it(self, tmp_path, text):
        (tmp_path / "a.csv").write_text(text)
        assert np.array_equal(only(tmp_path / "a.csv"), [[9, 1, 2], [1, 9, 3], [2, 3, 9]])

    def test_a_missing_corner_is_no_header(self, tmp_path):
        (tmp_path / "a.csv").write_text(",2,3\n2,9,1\n3,1,9\n")
        with pytest.raises(ValueError, match="line 1, column 1: an empty cell is no number"):
            files.read(tmp_path / "a.csv")

    @pytest.mark.parametrize(
        ("name", "text", "says"),
        [
            ("a.npy", "not numpy", "cannot be read as .npy"),
            ("a.npz", "not a zip", "cannot be read as .npz"),
            ("a.csv", "", "holds no number"),
            ("a.csv", "aa,bb\n1,cc\n", "line 2, column 2: 'cc' is no number"),
            ("a.csv", "1,2\n3\n", "line 2 has 1 numbers, line 1 has 2"),
            ("a.mtx", "hello", "cannot be read as .mtx"),
            ("a.dat", "1 2", "wanted is one of .npy, .npz, .csv, .txt, .mtx"),
        ],
        ids=["npy", "npz", "empty-csv", "word-csv", "ragged-csv", "mtx", "suffix"],
    )
    def test_a_bad_file_is_named_with_the_reason(self, tmp_path, name, text, says):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=says) as error:
            files.read(tmp_path / name)
        assert name in str(error.value)

    def test_objects_are_never_unpickled(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(ValueError, match="cannot be read"):
            files.read(tmp_path / "a.npy")

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(self, tmp_path, monkeypatch):
        path = tmp_path / "a.npy"
        files.write(path, {"": np.eye(2)})
        monkeypatch.setattr(
            "matroot.backends.replacing.os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full"))
        )
        with pytest.raises(OSError, match="disk full"):
            files.write(path, {"": np.zeros((2, 2))})
        monkeypatch.undo()
        assert np.array_equal(only(path), np.eye(2))
        assert [f.name for f in tmp_path.iterdir()] == ["a.npy"]

    def test_one_matrix_formats_refuse_a_batch_and_several_arrays(self, tmp_path):
        with pytest.raises(ValueError, match=r"\(3, 2, 2\)"):
            files.check_fits(tmp_path / "a.csv", {"": np.ones((3, 2, 2))})
        with pytest.raises(ValueError, match="got 2"):
            files.check_fits(tmp_path / "a.npy", {"a": np.eye(2), "b": np.eye(2)})
        with pytest.raises(ValueError, match="no folder"):
            files.check_fits(tmp_path / "nowhere" / "a.npy", {"": np.eye(2)})
