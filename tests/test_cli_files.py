"""What a user does with many files: look into them, keep going past bad matrices, compare with numpy and SciPy."""

import io
import json
import sys
import time

import numpy as np
import pytest

import matroot
from matroot import gallery
from matroot.cli import by_hand, files, parts
from matroot.cli import command as cli
from matroot.cli import progress as progress_module
from matroot.cli.progress import Progress


@pytest.fixture
def batch(tmp_path):
    """Twelve matrices, of which 3 is indefinite, 5 singular and 7 NaN."""
    A, root = gallery.spd(6, 100.0, batch=(12,), rng=0)
    A[3] *= -1
    A[5, 0] = A[5, :, 0] = 0
    A[7, 1, 1] = np.nan
    path = tmp_path / "a.npy"
    np.save(path, A.reshape(3, 4, 6, 6))
    return path, A, root(-0.5), [3, 5, 7]


class TestKeepGoing:
    def test_the_good_are_written_and_the_bad_are_named(self, batch, tmp_path, capsys):
        path, _, root, bad = batch
        out = tmp_path / "x.npy"
        assert cli.main(["root", str(path), "-p", "2", "--keep-going", "-o", str(out)]) == 3
        X = np.load(out).reshape(12, 6, 6)
        good = np.delete(np.arange(12), bad)
        assert np.allclose(X[good], root[good], rtol=1e-9) and np.isnan(X[bad]).all()
        assert "a.npy: 3 of 12 matrices have no root: 3, 5, 7; OUT has NaN there" in capsys.readouterr().err

    def test_without_it_nothing_is_written_but_the_table(self, batch, tmp_path, capsys):
        path, *_ = batch
        out, table = tmp_path / "x.npy", tmp_path / "s.csv"
        assert cli.main(["root", str(path), "-p", "2", "-o", str(out), "--status-out", str(table)]) == 1
        assert not out.exists() and len(table.read_text().splitlines()) == 13
        assert "have no root: 3, 5, 7; nothing was written" in capsys.readouterr().err

    def test_all_good_is_status_0(self, tmp_path):
        np.save(tmp_path / "a.npy", np.stack([np.eye(3)] * 2))
        assert cli.main(["root", str(tmp_path / "a.npy"), "-p", "2", "--keep-going"]) == 0

    @pytest.mark.parametrize("suffix", (".csv", ".json", ".npz"))
    def test_the_table_has_the_numbers_of_the_result(self, batch, tmp_path, suffix):
        path, A, _, bad = batch
        table = tmp_path / f"s{suffix}"
        assert cli.main(["root", str(path), "-p", "2", "--keep-going", "--status-out", str(table)]) == 3
        if suffix == ".npz":
            with np.load(table) as found:
                columns = {name: found[name].tolist() for name in found.files}
        elif suffix == ".json":
            rows = json.loads(table.read_text())
            columns = {name: [row[name] for row in rows] for name in rows[0]}
        else:
            head, *rows = (line.split(",") for line in table.read_text().splitlines())
            columns = dict(zip(head, zip(*rows, strict=True), strict=True))
        result = matroot.solve(A, 2)
        assert [int(i) for i in columns["index"]] == list(range(12))
        assert [i for i, name in enumerate(columns["status"]) if name not in ("CONVERGED", "ILL_CONDITIONED")] == bad
        for name in ("residual", "cond", "bits_lost"):
            found = np.array([np.nan if x is None else float(x) for x in columns[name]])
            finite = np.isfinite(found)
            assert np.allclose(found[finite], getattr(result, name)[finite], rtol=1e-5), name
            assert finite[[0, 1, 2, 4, 6]].all()

    def test_many_failures_are_counted(self, tmp_path, capsys):
        np.save(tmp_path / "a.npy", np.full((40, 2, 2), np.nan))
        assert cli.main(["root", str(tmp_path / "a.npy"), "-p", "2"]) == 1
        assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 30 more" in capsys.readouterr().err

    def test_a_table_of_another_format_is_refused(self, batch, capsys):
        with pytest.raises(SystemExit):
            cli.main(["root", str(batch[0]), "-p", "2", "--status-out", "s.txt"])
        assert "wanted is one of .csv, .json, .npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "smallest"),
    [
        (["--shift", "0.25"], 1.0),
        (["--ridge", "4", "--absolute"], 1 / 4),
        (["--shift", "2", "--absolute"], 1 / 2),
        (["--cut", "0.01"], 0.0),
        (["--floor", "2", "--absolute"], 1 / 2),
        (["--cut", "1e-3", "--absolute"], 0.0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_rules(tmp_path, option, smallest):
    np.save(tmp_path / "a.npy", np.diag([4.0, 1e-4 if "--cut" in option else 0.0]))
    out = tmp_path / "x.npy"
    assert cli.main(["root", str(tmp_path / "a.npy"), "-p", "1", *option, "-o", str(out)]) == 0
    assert np.load(out)[1, 1] == pytest.approx(smallest, abs=1e-12)


def test_absolute_alone_is_an_error(batch, capsys):
    assert cli.main(["root", str(batch[0]), "-p", "1", "--absolute"]) == 1
    assert "--absolute needs one of" in capsys.readouterr().err


class TestParts:
    def test_parts_are_the_whole(self, monkeypatch):
        A, _ = gallery.spd(5, 100.0, batch=(7, 9), rng=0)
        whole = matroot.solve(A, 3)
        monkeypatch.setattr(parts, "WORK", 1)
        monkeypatch.setattr(parts.os, "cpu_count", lambda: 1)
        found = parts.solve_in_parts(A, 3, "a", method="auto")
        assert found.x.shape == A.shape and found.status.shape == (7, 9)
        assert np.allclose(found.x, whole.x, rtol=1e-13) and np.array_equal(found.status, whole.status)

    def test_wrong_shapes_are_left_to_solve(self):
        with pytest.raises(ValueError, match=r"\(2, 3\)"):
            parts.solve_in_parts(np.ones((2, 3)), 2, "a")


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestProgress:
    @pytest.mark.parametrize("has_tqdm", (False, True), ids=("plain", "tqdm"))
    def test_a_line_after_the_delay_alone(self, monkeypatch, has_tqdm):
        monkeypatch.setattr(progress_module, "EVERY", 0.001)
        if has_tqdm:
            pytest.importorskip("tqdm")
        else:
            monkeypatch.setattr(progress_module, "find_spec", lambda name: None)
        for delay, shown in ((60, False), (0.001, True)):
            monkeypatch.setattr(progress_module, "DELAY", delay)
            monkeypatch.setattr(sys, "stderr", Terminal())
            with Progress(40, "roots of a.npy") as progress:
                progress.step(7)
                end = time.monotonic() + 10
                while shown and "7" not in sys.stderr.getvalue() and time.monotonic() < end:
                    time.sleep(0.001)
            said = sys.stderr.getvalue()
            assert ("roots of a.npy" in said and "40" in said) == shown
            assert not said or said.endswith("\r")

    def test_silent_where_stderr_is_no_terminal(self, monkeypatch, capsys):
        monkeypatch.setattr(progress_module, "DELAY", 0.001)
        with Progress(40, "roots") as progress:
            time.sleep(0.01)
            progress.step()
        assert capsys.readouterr().err == ""


class TestInfo:
    def test_a_batch_on_one_page(self, batch, capsys):
        assert cli.main(["info", str(batch[0])]) == 0
        said = capsys.readouterr().out
        for words in (
            "3 x 4 x 6 x 6 float64",
            "12 of n = 6",
            "1: 7\n",
            "up to 6, in matrices 1: 3",
            "up to 1, in matrices 1: 5",
            "to inf",
        ):
            assert words in said, said
        assert len(said.splitlines()) < 15

    def test_a_general_matrix_has_singular_values(self, tmp_path, capsys):
        files.write(tmp_path / "a.csv", {"": np.array([[2.0, 1.0], [0.0, 3.0]])})
        assert cli.main(["info", str(tmp_path / "a.csv")]) == 0
        said = capsys.readouterr().out
        assert "yes  (--general)" in said and "zero singular values" in said
        assert f"{np.linalg.cond([[2, 1], [0, 3]]):.3g}" in said

    @pytest.mark.parametrize(
        ("a", "says"),
        [
            (np.ones((3, 2)), "no square matrices"),
            (np.ones(3), "no square matrices"),
            (np.array(2.0), "a number float64"),
            (np.ones((0, 3, 3)), "0 of n = 3"),
            (np.full((2, 2), np.inf), "NaN or infinity       yes"),
            (np.zeros((2, 2), int), "zero matrices         yes"),
            (np.array([[1, 1j], [-1j, 1]], np.complex64), "not symmetric         none"),
        ],
        ids=["tall", "vector", "number", "empty", "infinite", "zero", "hermitian"],
    )
    def test_whatever_the_file_holds(self, tmp_path, capsys, a, says):
        np.save(tmp_path / "a.npy", a)
        assert cli.main(["info", str(tmp_path / "a.npy")]) == 0
        assert says in capsys.readouterr().out


class TestByHand:
    def table(self, said):
        return {line.split("  ")[0]: line.split() for line in said.splitlines() if line.strip()}

    @pytest.mark.parametrize("p", (1, 2, 3))
    @pytest.mark.parametrize("options", ([], ["--ridge", "0.5"], ["--shift", "1e-2"]), ids=" ".join)
    def test_numpy_and_scipy_find_the_same_root(self, tmp_path, capsys, p, options):
        np.save(tmp_path / "a.npy", gallery.spd(6, 100.0, batch=(3,), rng=0)[0])
        assert cli.main(["compare", str(tmp_path / "a.npy"), "-p", str(p), *options]) == 0
        rows = self.table(capsys.readouterr().out)
        for name in ("numpy by hand", "scipy by hand"):
            assert float(rows[name][-2]) < 1e-10, rows[name]

    def test_rules_for_single_eigenvalues(self, tmp_path, capsys):
        np.save(tmp_path / "a.npy", np.diag([4.0, 1.0, 0.0]))
        for rule in (["--pseudo-inverse"], ["--floor", "0.5"]):
            assert cli.main(["compare", str(tmp_path / "a.npy"), "-p", "2", *rule]) == 0
            said = capsys.readouterr().out
            assert float(self.table(said)["numpy by hand"][-2]) < 1e-14
            assert "scipy by hand does not apply" in said

    def test_a_general_matrix(self, tmp_path, capsys):
        np.save(tmp_path / "a.npy", gallery.embeddable_transitions(6, rng=0)[0])
        options = ["-p", "12", "--pth-root", "--general"]
        assert cli.main(["compare", str(tmp_path / "a.npy"), *options]) == 0
        rows = self.table(capsys.readouterr().out)
        for name in ("numpy by hand", "scipy by hand"):
            assert float(rows[name][-2]) < 1e-10, rows[name]

    def test_what_takes_too_long_is_left_out(self, batch, monkeypatch, capsys):
        monkeypatch.setattr(by_hand, "PATIENCE", 0.0)
        cli.main(["compare", str(batch[0]), "-p", "3"])
        assert "scipy by hand does not apply: not run: it would take" in capsys.readouterr().out

    def test_accuracy_is_an_option_of_compare(self, tmp_path, capsys):
        np.save(tmp_path / "a.npy", gallery.spd(6, 100.0, rng=0)[0])
        options = ["-p", "2", "--max-iter", "1", "--rtol", "1e-9", "--compute-dtype", "float32"]
        assert cli.main(["compare", str(tmp_path / "a.npy"), *options]) == 0
        said = capsys.readouterr().out
        assert self.table(said)["coupled_newton"][-1] == "MAX_ITER"
        assert "tridiagonal does not apply" in said


@pytest.mark.parametrize("command", [None, "root", "compare", "info", "completion"])
def test_help_has_examples_and_the_exit_status(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*([command] if command else []), "--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and "examples:\n  " in said and "exit status:\n  0  done" in said
    for line in said.partition("examples:\n")[2].splitlines():
        if line.startswith("  matroot "):
            assert line.split()[1] in cli.COMMANDS


def test_files_of_no_dimension_and_of_n_0(tmp_path, capsys):
    for name, A in (("number.npy", np.array(3.0)), ("vector.npy", np.ones(3))):
        np.save(tmp_path / name, A)
        assert cli.main(["root", str(tmp_path / name), "-p", "2", "-o", str(tmp_path / "x.npy")]) == 1
        assert f"{name}: a must be (..., n, n), got {A.shape}" in capsys.readouterr().err
    np.save(tmp_path / "none.npy", np.zeros((2, 0, 0)))
    for command in (["root", "-p", "2", "-o", str(tmp_path / "x.npy")], ["compare", "-p", "2"], ["info"]):
        assert cli.main([command[0], str(tmp_path / "none.npy"), *command[1:]]) == 0
    assert np.load(tmp_path / "x.npy").shape == (2, 0, 0)


def test_closed_stderr(batch, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["info", str(batch[0])]) == 0
    assert "NaN or infinity" in capsys.readouterr().out
