"""solve_each: unequal sizes, every kind of array, the caller's order; streams on the double of cupy."""

import dataclasses
import sys

import cupy_double
import numpy as np
import pytest
from conftest import read

import matroot
from matroot import Status, gallery, solve, solve_each
from matroot.backends import streams
from matroot.backends.cuda.gpu import gpu

SHAPES = [(5, 5), (2, 3, 3), (5, 5), (1, 1), (3, 3), (0, 3, 3), (2, 2, 5, 5), (0, 0)]


def matrices():
    return [gallery.spd(s[-1], 1e2, batch=s[:-2], rng=i)[0] if s[-1] > 1 else np.ones(s) for i, s in enumerate(SHAPES)]


def same(ours, theirs, tol):
    assert type(ours) is type(theirs)
    for field in dataclasses.fields(theirs):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name in ("n_products", "certificate"):  # of the stack
            continue
        if hasattr(b, "shape"):
            assert tuple(a.shape) == tuple(b.shape) and a.dtype == b.dtype and type(a) is type(b)
            get = (lambda v: v.get()) if isinstance(b, cupy_double.ndarray) else read
            if field.name in ("x", "status", "lambda_max"):
                assert np.allclose(get(a), get(b), rtol=tol, atol=tol, equal_nan=True)
        else:
            assert a == b


def test_same_as_a_loop(kind):
    arrays = [kind.make(np.rint(8 * a + 8 * np.eye(a.shape[-1])) if "int" in kind.dtype else a) for a in matrices()]
    tol = {"16": 1e-2, "32": 1e-5, "64": 1e-5}.get(kind.dtype[-2:], 1e-10)
    for ours, a in zip(solve_each(arrays, 3, method="eigen"), arrays, strict=True):
        same(ours, solve(a, 3, method="eigen"), tol if kind.dtype != "float64" else 1e-10)


def test_kinds_mixed_options_and_failures():
    torch = pytest.importorskip("torch")
    good, bad = matrices()[0], np.full((5, 5), np.nan)
    arrays = [good, torch.from_numpy(good.copy()), bad, good.astype("float32"), -good]
    found = solve_each(arrays, 2, inverse=False, regularization=1e-3)
    assert [int(r.status) for r in found] == [0, 0, Status.NONFINITE_INPUT, 0, Status.NOT_POSITIVE]
    assert isinstance(found[1].x, torch.Tensor) and found[3].x.dtype == np.float32
    assert np.allclose(found[0].ridge, 1e-3 * np.linalg.eigvalsh(good)[-1])
    assert solve_each([], 2) == []


def test_equal_ones_are_one_call(monkeypatch):
    seen = []
    monkeypatch.setattr(matroot._solve_each, "solve", lambda a, p, **o: (seen.append(a.shape), solve(a, p, **o))[1])
    solve_each(matrices(), 2)
    assert sorted(seen) == [(0, 0), (1, 1), (3, 3, 3), (6, 5, 5)]


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"arrays\[1\] must be \(\.\.\., n, n\), got \(2, 3\)"):
        solve_each([np.eye(2), np.ones((2, 3))], 2)
    with pytest.raises(TypeError, match=r"arrays\[0\] must be an array .*got \[\[1\]\]"):
        solve_each([[[1]]], 2)
    with pytest.raises(TypeError, match="p must be a positive int"):
        solve_each([np.eye(2)], 0.5)


def test_degree_by_name_and_arrays_of_a_generator():
    found = solve_each((k * np.eye(k) for k in (1, 2, 4)), p=2)
    assert [float(one.x[0, 0]) for one in found] == pytest.approx([1, 2**-0.5, 0.5])
    assert solve_each([4 * np.eye(2)], s=0.5)[0].x[0, 0] == pytest.approx(2)


class TestStreams:
    @pytest.fixture(autouse=True)
    def cupy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", cupy_double.MODULE)
        for cached in (gpu, streams._cupy_stream, streams._torch_stream):
            cached.cache_clear()
        cupy_double.NULL.seen.clear()
        yield
        for cached in (gpu, streams._cupy_stream, streams._torch_stream):
            cached.cache_clear()

    def test_same_as_a_loop_and_nothing_waits(self):
        arrays = [cupy_double.ndarray(a) for a in matrices() if a.size]
        with cupy_double.waiting_forbidden():
            found = solve_each(arrays, 2)
        for ours, a in zip(found, arrays, strict=True):
            same(ours, solve(a, 2), 1e-12)
        assert np.isnan(solve_each([arrays[0], -arrays[0], arrays[1]], 2)[1].x.get()).all()

    def test_stacked_on_the_arrays_own_device(self):
        stack = matroot._solve_each._stacked([cupy_double.ndarray(np.eye(2), device=1) for _ in range(2)])
        assert stack.device.id == 1 and cupy_double.Device().id == 0

    def test_fork_and_join(self, monkeypatch):
        """Each side stream waits for the caller's; the caller's waits for what each was given."""
        ran = []
        pieces = [lambda k=k: ran.append((k, cupy_double.get_current_stream())) or k for k in range(6)]
        events = iter(range(100))
        record = cupy_double.Stream.record
        monkeypatch.setattr(cupy_double.Stream, "record", lambda s, e=None: record(s, next(events)))
        assert streams.side_by_side(pieces, cupy_double.ndarray(np.eye(2), device=1)) == [*range(6)]
        sides = [stream for _, stream in ran]
        assert len(set(map(id, sides))) == 4 and sides[0] is sides[4] and cupy_double.NULL not in sides
        begin, *joins = cupy_double.NULL.seen
        assert begin == ("record", 0) and joins == [("wait", k) for k in range(1, 7)]
        assert sides[0].seen == [("wait", 0), ("record", 1), ("wait", 0), ("record", 5)]
        assert cupy_double.get_current_stream() is cupy_double.NULL

    def test_an_error_still_joins(self):
        def broken():
            raise ValueError("this one")

        with pytest.raises(ValueError, match="this one"):
            streams.side_by_side([lambda: 1, broken, lambda: 3], cupy_double.ndarray(np.eye(2)))
        assert [what for what, _ in cupy_double.NULL.seen] == ["record", "wait", "wait"]

    def test_torchs_streams(self, monkeypatch):
        """By a torch of the test's own: order of events, and the stream that is current."""
        seen, current = [], ["caller"]

        class Stream:
            def __init__(self, name):
                self.name = name

            def wait_event(self, event):
                seen.append((self.name, "waits for", event))

            def record_event(self):
                return f"event of {self.name}"

        class Within:
            def __init__(self, stream):
                self.stream = stream

            def __enter__(self):
                current.append(self.stream.name)

            def __exit__(self, *error):
                current.pop()

        made = iter("abcd")
        cuda = type("cuda", (), {"current_stream": lambda d: Stream(current[-1]), "stream": Within})
        cuda.Stream = lambda device: Stream(next(made))
        tensor = type("Tensor", (), {"device": type("device", (), {"type": "cuda"})()})
        monkeypatch.setitem(sys.modules, "torch", type("torch", (), {"cuda": cuda, "Tensor": tensor}))
        assert streams.side_by_side([lambda: current[-1]] * 2, tensor()) == ["a", "b"]
        assert seen == [
            ("a", "waits for", "event of caller"),
            ("b", "waits for", "event of caller"),
            ("caller", "waits for", "event of a"),
            ("caller", "waits for", "event of b"),
        ]
