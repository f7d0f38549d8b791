"""numba's cache where there is no place for one."""

import numba.core.caching as caching
import pytest

from matroot.backends.cpu.compiled import compiled


def twice(x):
    return 2 * x


def test_without_a_place_for_a_cache(monkeypatch):
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    assert compiled("float64(float64)")(twice)(3.0) == 6.0


def test_other_errors_are_not_hidden(monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("something else")

    monkeypatch.setattr("matroot.backends.cpu.compiled.njit", broken)
    with pytest.raises(RuntimeError, match="something else"):
        compiled()(twice)
