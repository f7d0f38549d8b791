"""Matrix Market files are read as SciPy reads them."""

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from matroot.cli import files

FIELDS = ("real", "complex", "integer", "pattern")


MARKETS = [
    (sparse, field, symmetry, n)
    for sparse, field in [(False, "real"), (False, "complex"), (False, "integer"), *((True, f) for f in FIELDS)]
    for symmetry in ("general", "symmetric", "skew-symmetric", "hermitian")
    for n in ((0, 1, 5) if sparse else (1, 5))
]


@pytest.mark.parametrize(("sparse", "field", "symmetry", "n"), MARKETS)
def test_matrix_market_is_read_as_scipy_reads_it(tmp_path, sparse, field, symmetry, n):
    rng = np.random.default_rng(0)
    a = rng.integers(-4, 5, (n, n)) + (1j * rng.integers(-4, 5, (n, n)) if field == "complex" else 0)
    mirrored = {"symmetric": a.T, "skew-symmetric": -a.T, "hermitian": a.conj().T}.get(symmetry, a)
    a = (a + mirrored).astype({"complex": complex, "integer": int}.get(field, float))
    path = tmp_path / "a.mtx"
    scipy.io.mmwrite(path, scipy.sparse.coo_array(a) if sparse else a, field=field, symmetry=symmetry)
    theirs = scipy.io.mmread(path)
    theirs = theirs.toarray() if sparse else theirs
    found = files.read(path)[""]
    assert found.dtype == theirs.dtype and np.array_equal(found, theirs)


def test_matrix_market_with_comments_blank_lines_and_duplicates(tmp_path):
    path = tmp_path / "a.mtx"
    path.write_bytes(
        b"%%MATRIXMARKET Matrix Coordinate Real General\r\n% \xe9\r\n\r\n 2 2 3 \r\n1 1 1\r\n1 1 2\n\n2 2 5"
    )
    assert np.array_equal(files.read(path)[""], [[3, 0], [0, 5]])
