"""The demonstration's findings as text."""

import numpy as np

from matroot._condition_tracker import table
from matroot.cli.compare import worst_status
from matroot.demo.roots import Findings, HandRow, MethodRow, Monthly, Statistic, Whitening
from matroot.gallery import RATINGS

EPS = float(np.finfo(float).eps)


def report(found: Findings) -> str:
    """Return the whole text."""
    parts = [
        found.network,
        statistics(found.before),
        methods(found.rows, found.others, found.p, found.ridge),
        whitening(found.whitenings),
        monthly(found.month),
    ]
    return "\n\n".join(parts)


def statistics(before: list[Statistic]) -> str:
    """Describe size and conditioning of the Kronecker factors."""
    rows: list[tuple[str, ...]] = [("statistic", "n", "trace", "smallest / largest", "zero eigenvalues")]
    for S in before:
        w = S.spectrum()
        zeros = int((w < len(w) * EPS).sum())
        rows.append((S.name, str(len(w)), f"{np.trace(S.matrix):.1e}", f"{max(w[-1], 0):.0e}", str(zeros)))
    return f"The {len(before)} Kronecker statistics of its layers\n" + table(rows)


def methods(found: list[MethodRow], others: list[HandRow], p: int, ridge: float) -> str:
    """Describe the roots, one line per method and precision."""
    rows: list[tuple[str, ...]] = [
        ("method", "seconds", "products", "residual", "forward error", "cond", "bits lost", "status")
    ]
    for row in found:
        rows.append(
            (
                row.method if row.dtype == "float64" else f"{row.method} in {row.dtype}",
                f"{row.seconds:.3f}",
                str(row.products),
                f"{row.residual:.1e}",
                f"{row.forward_error:.1e}",
                f"{row.cond:.1e}",
                f"{row.bits_lost:.0f}",
                worst_status(row.status),
            )
        )
    for other in others:
        rows.append((other.name, f"{other.seconds:.3f}", "-", "-", f"{other.forward_error:.1e}", "-", "-", "-"))
    return (
        f"Their inverse {p}th roots, with a ridge of {ridge:.0e} of the largest eigenvalue\n"
        + table(rows)
        + "\nseconds are for all, products for one of the largest, the rest is of the worst;"
        + f"\nresidual ||X^{p} A - I||_F / sqrt(n); forward error against eigen in float64"
    )


def whitening(found: list[Whitening]) -> str:
    """Compare the covariance of the whitened pixels with the exact covariance."""
    rows: list[tuple[str, ...]] = [
        ("rule", "variances of 1", "below 1", "of 0", "error", "the whitened covariance should be")
    ]
    for w in found:
        v = w.variances
        ones = int((v > 1 - w.error - EPS * len(v)).sum())
        zeros = int((v < w.error + EPS * len(v)).sum())
        counts = (str(ones), str(len(v) - ones - zeros), str(zeros))
        rows.append((repr(w.rule), *counts, f"{w.error:.1e}", w.promise))
    return "Whitening the pixels with C^(-1/2); C is singular, for some pixels never change\n" + table(rows)


def monthly(month: Monthly) -> str:
    """Describe the monthly root, and its negative entries if it is not a matrix of probabilities."""
    lowest, where = month.lowest
    lines = [
        f"The month of a year of credit ratings: M = P^(1/12), n = {len(RATINGS)}",
        f"  {month.result.message}",
        f"  multiplied back: ||M^12 - P||_F / ||P||_F = {month.error:.1e}",
        f"  rows add up to 1 within {month.row_sum_error:.1e}",
    ]
    if month.negative:
        lines += [
            f"  {month.negative} of {month.M.size} entries are negative, down to {lowest:.1e} ({where}):",
            "  no monthly probabilities give exactly these yearly figures, published to 0.01 per cent",
            f"  those set to 0 and rows scaled to 1: M^12 is within {month.mended_error:.1e} of P",
        ]
    lines.append(f"  a year that does have a month, P = expm(Q): M = expm(Q/12) to {month.known_error:.1e}")
    return "\n".join(lines)
