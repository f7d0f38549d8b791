"""The tuned numbers: written, read, refused when damaged or stale; "auto" follows them."""

import json
import os
from dataclasses import asdict

import numpy as np
import pytest

from matroot import select_method
from matroot.backends import profile
from matroot.backends.profile import Limits
from matroot.cli import tune_cpu as tune
from matroot.cli.command import main


@pytest.fixture
def where(tmp_path, monkeypatch):
    file = tmp_path / "deep" / "profile.json"
    monkeypatch.setenv("MATROOT_PROFILE", str(file))
    profile.limits.cache_clear()
    yield file
    profile.limits.cache_clear()


def test_round_trip(where):
    mine = Limits(tridiagonal_alone=8, tridiagonal_batch=16, cholesky_from=32)
    profile.save(mine, where)
    assert profile.limits() == mine
    assert list(where.parent.iterdir()) == [where]


def test_without_a_profile_the_built_in_numbers_hold(where):
    assert profile.limits() == Limits()


def test_auto_follows_it_and_says_why(where):
    profile.save(Limits(tridiagonal_alone=8, tridiagonal_batch=16, cholesky_from=32), where)
    assert select_method(np.eye(8), 4).name == "tridiagonal"
    assert select_method(np.eye(9), 4).name == "eigen"
    assert select_method(np.zeros((8, 16, 16)), 4).name == "tridiagonal"
    assert select_method(np.zeros((8, 17, 17)), 4).name == "eigen"
    assert select_method(np.eye(31), 1).name == "eigen"
    assert select_method(np.eye(32), 1).name == "minimax"
    assert "n = 32" in repr(select_method(np.eye(32), 1))


@pytest.mark.parametrize(
    "spoil",
    (
        lambda data: data.clear(),
        lambda data: data["limits"].pop("cholesky_from"),
        lambda data: data["limits"].update(cholesky_from="many"),
        lambda data: data["limits"].update(cholesky_from=-1),
        lambda data: data["limits"].update(cholesky_from=True),
        lambda data: data.update(format=0),
        lambda data: data.update(machine=3),
        lambda data: data["machine"].update(cores=4096),
    ),
    ids=("empty", "one missing", "a word", "negative", "a bool", "old format", "no machine", "other machine"),
)
def test_a_spoiled_profile_is_warned_of_once_and_ignored(where, spoil):
    profile.save(Limits(), where)
    data = json.loads(where.read_text())
    spoil(data)
    where.write_text(json.dumps(data))
    with pytest.warns(UserWarning, match="damaged|stale"):
        assert profile.limits() == Limits()
    assert profile.limits() == Limits()  # and not a second time: warnings are errors here


@pytest.mark.parametrize(
    "text", ("", "[1]", "{", "\xff", "[" * 10**5), ids=("nothing", "a list", "cut off", "binary", "nested")
)
def test_what_is_no_profile(where, text):
    where.parent.mkdir(parents=True)
    where.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="damaged"):
        profile.read(where)


def test_a_pipe_is_no_profile_and_is_not_waited_for(where):
    where.parent.mkdir(parents=True)
    os.mkfifo(where)
    with pytest.warns(UserWarning, match="is no file"):
        assert profile.limits() == Limits()


def test_a_folder_is_refused_before_the_measurements(where, monkeypatch, capsys):
    where.mkdir(parents=True)
    monkeypatch.setattr(tune, "measure", None)
    assert main(["tune"]) == 1
    assert capsys.readouterr().err == f"matroot: error: {where} is no file, a file name is wanted\n"


def test_a_failed_write_leaves_the_old_profile(where, monkeypatch):
    profile.save(Limits(), where)
    monkeypatch.setattr("matroot.backends.replacing.os.replace", lambda *a: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        profile.save(Limits(tridiagonal_alone=1), where)
    assert profile.read(where) == Limits()
    assert list(where.parent.iterdir()) == [where]


def test_the_limit_is_the_last_win_before_two_losses():
    assert tune.last_win(iter([(1, 0.5), (2, 1.1), (3, 0.9), (4, 1.2), (5, 1.3), (6, 0.1)]), 0) == 3
    assert tune.last_win(iter([(1, 2.0), (2, 2.0)]), 7) == 7


@pytest.mark.slow
def test_the_command_writes_shows_and_removes(where, monkeypatch, capsys):
    monkeypatch.setattr(tune, "ALONE", (4, 8))
    monkeypatch.setattr(tune, "BATCH", (4, 8))
    monkeypatch.setattr(tune, "WHOLE", (4, 8))
    monkeypatch.setattr(tune, "ROUNDS", 1)
    monkeypatch.setattr(tune, "NUMBERS", 64)
    assert main(["tune"]) == 0
    found = profile.read(where)
    said = capsys.readouterr().out
    assert all(f"{name} {value}" in said for name, value in asdict(found).items())
    assert main(["info"]) == 0
    assert f"tridiagonal_alone {found.tridiagonal_alone}" in capsys.readouterr().out
    assert main(["tune", "--reset"]) == 0
    assert not where.exists()
