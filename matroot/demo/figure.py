"""The picture of the demonstration: digits, spectra before and after, methods, and the monthly root."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matroot import Status
from matroot.demo.roots import Findings, Monthly
from matroot.gallery import RATINGS

Array = NDArray[Any]

INK, PALE, RED = "#202124", "#9aa0a6", "#c5221f"
LAYERS = ("#0072b2", "#d55e00", "#009e73")  # Okabe and Ito, safe for colour-blind readers
PRECISIONS = {"float64": "#0072b2", "float32": "#d55e00"}
MARKERS = "osDv^P*X"
LOWEST = 1e-11  # the end of the axis; the zeros are far below
SHOWN = 8  # digits


def draw(path: Path, found: Findings) -> None:
    """Write the picture as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # without pyplot: needs no display, and does not change the caller's figures
    figure: Any = Figure(figsize=(13.5, 9), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.3, 1), hspace=0.04)
    left, right = top.subfigures(1, 2, width_ratios=(1.25, 1))
    _spectra(left, found)
    _residuals(right.add_subplot(), found)
    left, right = bottom.subfigures(1, 2, width_ratios=(1.25, 1))
    _digits(left, found)
    _transitions(right.add_subplot(), found.month)
    figure.savefig(path)


def _spectra(figure: Any, found: Findings) -> None:
    before, after = figure.subplots(1, 2, sharey=True)
    for axes, statistics in ((before, found.before), (after, found.after)):
        for S in statistics:
            _line(axes, S.spectrum(), LAYERS[S.layer], "-" if S.side == "L" else "--", S.name)
    _line(before, found.pixels, INK, "-", "pixel covariance")
    before.axhline(found.ridge, color=PALE, lw=0.8)
    before.text(0.02, found.ridge / 4, f"ridge {found.ridge:.0e}", color=PALE, fontsize=8)
    for whitening, style in zip(found.whitenings, ("-", ":"), strict=True):
        w = whitening.variances / whitening.variances[0]
        _line(after, w, INK, style, f"pixels, {type(whitening.rule).__name__}")
    before.set_title("Spectra before ...", loc="left")
    after.set_title("... and after the inverse roots", loc="left")
    before.set_ylabel("eigenvalue / largest")
    before.set_ylim(LOWEST, 4)
    before.legend(loc="lower left", fontsize=8, frameon=False)
    after.legend(handles=after.get_lines()[-2:], loc="lower left", fontsize=8, frameon=False)


def _line(axes: Any, w: Array, color: str, style: str, label: str) -> None:
    place = np.linspace(0, 1, len(w))
    axes.semilogy(place, np.maximum(w, LOWEST**2), style, color=color, lw=1.6, label=label)
    axes.set_xlabel("index / n")
    axes.set_xlim(0, 1)
    _plain(axes)


def _residuals(axes: Any, found: Findings) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    markers = dict(zip(dict.fromkeys(row.method for row in found.rows), MARKERS, strict=False))
    for row in found.rows:
        color = PRECISIONS[row.dtype]
        face = color if (row.status == Status.CONVERGED).all() else "white"
        marker = markers[row.method]
        axes.loglog(1e3 * row.seconds, row.residual, marker, color=color, mfc=face, ms=9, mew=1.6)
    keys = [(marker, INK, method.replace("_", " ")) for method, marker in markers.items()]
    keys += [("_", color, f"{dtype} arithmetic") for dtype, color in PRECISIONS.items()]
    handles = [Line2D([], [], ls="", marker=m, color=c, mfc="white", ms=8, label=text) for m, c, text in keys]
    axes.legend(handles=handles, loc="center", ncols=2, fontsize=8.5, frameon=False)
    axes.margins(x=0.12, y=0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("milliseconds for all statistics")
    axes.set_ylabel("residual, the worst")
    axes.set_title("Residual against time (hollow: not all converged)", loc="left")
    _plain(axes)


def _digits(figure: Any, found: Findings) -> None:
    stacks = [("pixels", found.images[:SHOWN], "gray_r")]
    stacks += [(type(w.rule).__name__, w.pixels[:SHOWN], "RdBu_r") for w in found.whitenings]
    for axes, (name, images, colors) in zip(figure.subplots(len(stacks), 1), stacks, strict=True):
        size = np.percentile(np.abs(images), 99)
        strip = np.full((8, 9 * SHOWN - 1), np.nan)  # a blank column between two digits
        for k, image in enumerate(images):
            strip[:, 9 * k : 9 * k + 8] = image.reshape(8, 8)
        axes.imshow(strip, cmap=colors, vmin=0 if name == "pixels" else -size, vmax=size)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, fontsize=9)
        axes.spines[:].set_visible(False)
    figure.axes[0].set_title("Digits, and the same whitened", loc="left")


def _transitions(axes: Any, month: Monthly) -> None:
    from matplotlib.colors import LogNorm

    M = 100 * month.M
    visible = 5e-4  # half of the last decimal shown
    axes.imshow(np.maximum(M, 1e-3), cmap="Blues", norm=LogNorm(1e-3, 200), aspect="auto")
    for (i, j), x in np.ndenumerate(M):
        text = f"{x:.1f}" if x >= 10 else f"{x:.2f}" if x >= 0.1 else f"{x:.3f}" if abs(x) > visible else "0"
        color = RED if x < -visible else "white" if x > 5 else INK
        weight = "bold" if x < -visible else "normal"
        text = text.replace("-", "\N{MINUS SIGN}")
        axes.text(j, i, text, ha="center", va="center", fontsize=7.5, color=color, weight=weight)
    axes.set_xticks(range(len(RATINGS)), RATINGS, fontsize=8)
    axes.set_yticks(range(len(RATINGS)), RATINGS, fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Rating transitions in a month, per cent (red: below 0)", loc="left")


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(colors=INK, labelsize=8, which="both", width=0.6)
    axes.grid(True, which="major", color="#eceff1", lw=0.8)
    axes.set_axisbelow(True)
