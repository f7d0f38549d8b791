"""The command line: what it says, what it writes, and that a failure leaves no half-written file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import matroot
from matroot import gallery
from matroot.backends.cpu import kernels, mark
from matroot.cli import command as cli
from matroot.cli import files

FORMATS = (".npy", ".npz", ".csv", ".txt", ".mtx")


@pytest.fixture
def spd(tmp_path):
    A, root = gallery.spd(12, 1e4, rng=0)
    path = tmp_path / "a.npy"
    np.save(path, A)
    return path, A, root


def only(path):
    (a,) = files.read(path).values()
    return a


class TestRoot:
    @pytest.mark.parametrize("suffix", FORMATS)
    def test_writes_the_inverse_root(self, spd, tmp_path, suffix, capsys):
        path, _, root = spd
        out = tmp_path / f"x{suffix}"
        assert cli.main(["root", str(path), "-p", "4", "-o", str(out)]) == 0
        assert np.allclose(only(out), root(-0.25), rtol=1e-9, atol=1e-9)
        said = capsys.readouterr().out
        for word in ("CONVERGED", "residual", "cond", "time", "written to", "A^(-1/4)"):
            assert word in said

    def test_pth_root_of_a_chosen_method(self, spd, tmp_path, capsys):
        path, _, root = spd
        out = tmp_path / "x.npy"
        options = ["-p", "3", "--pth-root", "--method", "coupled_newton", "-o", str(out)]
        assert cli.main(["root", str(path), *options]) == 0
        assert np.allclose(np.load(out), root(1 / 3), rtol=1e-9, atol=1e-9)
        assert "CoupledNewton" in capsys.readouterr().out

    def test_ridge_is_relative_to_lambda_max(self, tmp_path):
        np.save(tmp_path / "a.npy", np.diag([4.0, 0.0]))
        out = tmp_path / "x.csv"
        assert cli.main(["root", str(tmp_path / "a.npy"), "-p", "1", "--ridge", "0.25", "-o", str(out)]) == 0
        assert np.allclose(only(out), np.diag([1 / 5, 1.0]))

    @pytest.mark.parametrize(
        ("option", "smallest"),
        [(["--floor", "0.25"], 1.0), (["--pseudo-inverse"], 0.0), (["--target-condition", "2"], 1 / 4)],
        ids=["floor", "pseudo-inverse", "target-condition"],
    )
    def test_regularizations(self, tmp_path, option, smallest):
        np.save(tmp_path / "a.npy", np.diag([4.0, 0.0]))
        out = tmp_path / "x.npy"
        assert cli.main(["root", str(tmp_path / "a.npy"), "-p", "1", *option, "-o", str(out)]) == 0
        assert np.load(out)[1, 1] == pytest.approx(smallest, abs=1e-12)

    def test_general_matrix(self, tmp_path):
        P, root = gallery.embeddable_transitions(6, rng=0)
        np.save(tmp_path / "p.npy", P)
        out = tmp_path / "x.npy"
        options = ["-p", "12", "--pth-root", "--general", "-o", str(out)]
        assert cli.main(["root", str(tmp_path / "p.npy"), *options]) == 0
        assert np.allclose(np.load(out), root(1 / 12), atol=1e-10)

    def test_every_array_of_an_npz_keeps_its_name(self, tmp_path, capsys):
        A, root = gallery.spd(5, 100.0, rng=0)
        np.savez(tmp_path / "a.npz", left=A, right=2 * A)
        out = tmp_path / "x.npz"
        assert cli.main(["root", str(tmp_path / "a.npz"), "-p", "2", "-o", str(out)]) == 0
        X = files.read(out)
        assert list(X) == ["left", "right"]
        assert np.allclose(X["right"], root(-0.5) / np.sqrt(2))
        assert "a.npz[left]" in capsys.readouterr().out
        assert cli.main(["root", str(tmp_path / "a.npz"), "-p", "2", "--key", "left"]) == 0
        assert cli.main(["root", str(tmp_path / "a.npz"), "-p", "2", "--key", "middle"]) == 1
        assert "it has 'left', 'right'" in capsys.readouterr().err

    @pytest.mark.parametrize("old", (False, True), ids=("new", "existing"))
    def test_failure_exits_1_and_writes_nothing(self, tmp_path, capsys, old):
        np.save(tmp_path / "a.npy", np.diag([1.0, -1.0]))
        out = tmp_path / "x.npy"
        if old:
            np.save(out, np.eye(3))
        assert cli.main(["root", str(tmp_path / "a.npy"), "-p", "2", "-o", str(out)]) == 1
        said = capsys.readouterr()
        assert "NOT_POSITIVE" in said.out and "nothing was written" in said.err
        assert {f.name for f in tmp_path.iterdir()} == {"a.npy", *(["x.npy"] if old else [])}
        assert not old or np.array_equal(np.load(out), np.eye(3))

    def test_one_bad_matrix_of_a_batch_is_a_failure(self, tmp_path, capsys):
        np.save(tmp_path / "a.npy", np.stack([np.eye(3), np.full((3, 3), np.nan), np.eye(3)]))
        assert cli.main(["root", str(tmp_path / "a.npy"), "-p", "2"]) == 1
        assert "NONFINITE_INPUT 1" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["root", "missing.npy", "-p", "2"], "no such file"),
            (["root", "a.dat", "-p", "2"], "wanted is one of"),
            (["root", "tall.npy", "-p", "2"], "(3, 2)"),
            (["root", "lopsided.npy", "-p", "2"], "gen"),
            (["root", "good.npy", "-p", "2", "-o", "nowhere/x.npy"], "no folder"),
            (["compare", "missing.npy", "-p", "2"], "no such file"),
        ],
        ids=["missing", "suffix", "tall", "lopsided", "folder", "compare"],
    )
    def test_errors_are_one_helpful_line(self, tmp_path, monkeypatch, capsys, arguments, says):
        monkeypatch.chdir(tmp_path)
        np.save("good.npy", np.eye(2))
        np.save("tall.npy", np.ones((3, 2)))
        np.save("lopsided.npy", np.array([[1.0, 1.0], [0.0, 1.0]]))
        assert cli.main(arguments) == 1
        said = capsys.readouterr().err
        assert said.startswith("matroot: error: ") and says in said and said.count("\n") == 1

    @pytest.mark.parametrize("arguments", ([], ["root"], ["root", "a.npy", "-p", "1.5"], ["info", "--what"]), ids=repr)
    def test_a_wrong_command_line_exits_2(self, arguments, capsys):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 2

    def test_without_arguments_the_help_is_shown(self, capsys):
        with pytest.raises(SystemExit):
            cli.main([])
        assert "examples:" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("diagonal", "options", "advice"),
        (
            ([0.0, 1.0], (), ("--pseudo-inverse", "--ridge EPS, --floor EPS or --shift EPS")),
            ([-1.0, 1.0], (), ("--ridge EPS --absolute above", "--floor EPS, --shift EPS or --pseudo-inverse")),
            ([0.0, 0.0], (), ("--ridge EPS --absolute, --shift EPS --absolute or --pseudo-inverse",)),
            ([1e-6, 1.0], ("--compute-dtype", "float32"), ("--ridge 1e-05 (a ridge)",)),
            ([1e-5, 1.0], ("--method", "coupled_newton", "--max-iter", "1"), ("raise --max-iter", "--method eigen")),
        ),
        ids=("singular", "indefinite", "zero", "ill-conditioned", "max-iter"),
    )
    def test_remedies_are_options(self, diagonal, options, advice, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        np.save("a.npy", np.diag(diagonal))
        cli.main(["root", "a.npy", "-p", "2", *options])
        said = capsys.readouterr().out
        assert all(one in said for one in advice) and "regularization" not in said, said

    def test_says_that_nothing_is_written_without_a_name(self, spd, capsys):
        assert cli.main(["root", str(spd[0]), "-p", "4"]) == 0
        assert "-o OUT" in capsys.readouterr().out

    def test_the_degree_of_a_square_root_is_named(self, capsys):
        with pytest.raises(SystemExit):
            cli.main(["root", "a.npy", "-p", "0.5"])
        assert "2 is for A^(-1/2)" in capsys.readouterr().err


class TestCompare:
    def test_tables_the_methods_that_apply(self, spd, capsys):
        path, *_ = spd
        assert cli.main(["compare", str(path), "-p", "4"]) == 0
        said = capsys.readouterr().out
        rows = {line.split()[0]: line.split() for line in said.splitlines() if line.split()}
        for name in ("eigen", "coupled_newton", "higher_order", "newton_db", "schur_newton"):
            assert rows[name][-1] == "CONVERGED", said
            assert float(rows[name][3]) < 1e-9 and float(rows[name][4]) < 1e-9

    def test_says_who_refuses_an_odd_p(self, spd, capsys):
        path, *_ = spd
        assert cli.main(["compare", str(path), "-p", "3"]) == 0
        assert "newton_db does not apply" in capsys.readouterr().out

    def test_a_general_matrix_is_for_schur_newton_alone(self, tmp_path, capsys):
        np.save(tmp_path / "p.npy", gallery.rating_transitions())
        assert cli.main(["compare", str(tmp_path / "p.npy"), "-p", "12", "--pth-root", "--general"]) == 0
        said = capsys.readouterr().out
        assert "eigen does not apply" in said and "X* by schur_newton" in said

    def test_exits_1_when_no_method_succeeds(self, tmp_path, capsys):
        np.save(tmp_path / "a.npy", np.diag([1.0, -1.0]))
        assert cli.main(["compare", str(tmp_path / "a.npy"), "-p", "2"]) == 1
        assert "NOT_POSITIVE" in capsys.readouterr().out


def test_info_names_versions_engines_and_blas(capsys):
    assert cli.main(["info"]) == 0
    said = capsys.readouterr().out
    for word in (np.__version__, "backend cpu", "backend gpu", "threads", "matroot:"):
        assert word in said


@pytest.mark.slow
def test_warm_up_loads_every_kernel(capsys):
    assert cli.main(["warm-up"]) == 0
    assert capsys.readouterr().out.startswith("kernels are ready after")
    assert mark.complete()
    assert "compiled, in" in kernels.state()
    folder = Path(matroot.__file__).parent / "backends" / "cpu"
    for path in folder.rglob("*.py"):
        if "import compiled" in path.read_text():
            name = ".".join(path.relative_to(folder).with_suffix("").parts)
            assert f"matroot.backends.cpu.{name}" in sys.modules


def test_demo_gets_its_own_arguments(monkeypatch):
    demo = pytest.importorskip("matroot.demo.run")
    seen = []
    monkeypatch.setattr(demo, "main", seen.append)
    assert cli.main(["demo", "--output", "x.png"]) == 0
    assert seen == [["--output", "x.png"]]


def test_python_m_matroot_is_the_command():
    done = subprocess.run([sys.executable, "-m", "matroot", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("matroot ")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".mtx"])
def test_no_room_is_an_error_even_for_the_last_bytes(tmp_path, suffix):
    """A limit on the size of files, met by the last part that is written; for .npy numpy itself does not notice."""
    pytest.importorskip("resource")
    np.save(tmp_path / "a.npy", 4 * np.eye(20))
    out = tmp_path / f"x{suffix}"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from matroot.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    run = subprocess.run(
        [sys.executable, "-B", "-c", code, "root", tmp_path / "a.npy", "-p", "4", "--method", "eigen", "-o", out],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1, run.stderr
    assert "too large" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("-p", "0"),
        ("-p", "x"),
        ("-p", "2", "--method", "foo"),
        ("-p", "2", "--ridge", "-1"),
        ("-p", "2", "--rtol", "nan"),
        ("-p", "2", "--target-condition", "0.5"),
        ("-p", "2", "--compute-dtype", "float16"),
        ("-p", "2", "-o", "out.xyz"),
        ("-p", "2", "--ridge", "1e-3", "--floor", "1e-3"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_status_2(wrong, spd, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["root", str(spd[0]), *wrong])
    assert stop.value.code == 2
    assert "usage: matroot root" in capsys.readouterr().err


def test_sentences_name_the_options_of_the_shell(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.array([[2.0, 1.0], [0.0, 3.0]]))
    assert cli.main(["root", str(tmp_path / "a.npy"), "-p", "2"]) == 1
    assert "--general" in capsys.readouterr().err
    np.save(tmp_path / "b.npy", np.stack([np.eye(2), -np.eye(2)]))
    assert cli.main(["root", str(tmp_path / "b.npy"), "-p", "2"]) == 1
    assert "1 of 2 matrices have no root" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", ".x.tmp")

    monkeypatch.setattr("matroot.backends.replacing.os.open", refuse)
    with pytest.raises(PermissionError, match=r"x\.npy cannot be written: Permission denied"):
        files.write(tmp_path / "x.npy", {"": np.eye(2)})
