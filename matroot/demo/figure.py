"""The picture of the demonstration, one story a panel: time, precision, spectra, digits, the monthly root."""

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
LOWEST = 1e-11  # the end of the axis; the zeros are far below
SHOWN = 8  # digits


def draw(path: Path, found: Findings) -> None:
    """Write the picture as a PNG: a column that can be read on a telephone."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.size": 10, "axes.titlesize": 11.5, "axes.titleweight": "bold"}):
        # without pyplot: needs no display, and does not change the caller's figures
        figure: Any = Figure(figsize=(5.6, 17), dpi=150, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        heights = (1.05, 1.15, 1.35, 0.95, 1.2)
        time, precision, spectra, digits, transitions = figure.subfigures(5, 1, height_ratios=heights, hspace=0.03)
        _times(time.add_subplot(), found)
        _precisions(precision.add_subplot(), found)
        _spectra(spectra, found)
        _digits(digits, found)
        _transitions(transitions.add_subplot(), found.month)
        figure.savefig(path)


def _times(axes: Any, found: Findings) -> None:
    """Draw a bar for each method in float64, and for what one would write by hand."""
    ours = [(row.method.replace("_", " "), row.seconds, LAYERS[0]) for row in found.rows if row.dtype == "float64"]
    bars = sorted([*ours, *((row.name, row.seconds, PALE) for row in found.others)], key=lambda bar: -bar[1])
    names, seconds, colors = zip(*bars, strict=True)
    drawn = axes.barh(names, [1e3 * s for s in seconds], color=colors, height=0.7)
    axes.bar_label(drawn, [f"{1e3 * s:.{0 if s >= 0.1 else 1}f} ms" for s in seconds], padding=3, fontsize=9)
    axes.set_xscale("log")
    axes.set_xticks([])
    axes.minorticks_off()
    axes.margins(x=0.25)
    axes.set_title(f"Time of {len(found.before)} inverse roots (log scale)", loc="left")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _precisions(axes: Any, found: Findings) -> None:
    """Draw the residual of every method, in both precisions of the arithmetic."""
    names = list(dict.fromkeys(row.method for row in found.rows))
    for row in found.rows:
        good = (row.status == Status.CONVERGED).all()
        color = PRECISIONS[row.dtype]
        axes.plot(
            row.residual, names.index(row.method), "o", color=color, mfc=color if good else "white", ms=8, mew=1.8
        )
    for dtype, color in PRECISIONS.items():
        axes.plot([], [], "o", color=color, ms=8, label=f"{dtype} arithmetic")
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.margins(x=0.1)
    cond = max(row.cond for row in found.rows)
    axes.set_title("Residual (hollow: the status warns)", loc="left")
    eps = float(np.finfo(np.float32).eps)
    axes.set_xlabel(f"float32 keeps few digits: cond {cond:.0e} x eps {eps:.0e} = {cond * eps:.1g}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.35, -0.16), ncols=2, fontsize=9, frameon=False)
    _plain(axes)


def _spectra(figure: Any, found: Findings) -> None:
    before, after = figure.subplots(1, 2, sharey=True)
    for axes, statistics in ((before, found.before), (after, found.after)):
        for S in statistics:
            _line(axes, S.spectrum(), LAYERS[S.layer], "-" if S.side == "L" else "--", S.name)
    before.axhline(found.ridge, color=PALE, lw=0.8)
    before.text(0.02, found.ridge / 6, f"ridge {found.ridge:.0e}", color=PALE, fontsize=9)
    figure.suptitle("Spectra before and after the roots", x=0.02, ha="left", fontsize=11.5, fontweight="bold")
    before.set_title("before", loc="left", fontsize=10, fontweight="normal")
    after.set_title("after", loc="left", fontsize=10, fontweight="normal")
    before.set_ylabel("eigenvalue / largest")
    before.set_ylim(LOWEST, 4)
    figure.legend(*before.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9, frameon=False)


def _line(axes: Any, w: Array, color: str, style: str, label: str) -> None:
    place = np.linspace(0, 1, len(w))
    axes.semilogy(place, np.maximum(w, LOWEST**2), style, color=color, lw=1.6, label=label)
    axes.set_xlabel("index / n")
    axes.set_xlim(0, 1)
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
        axes.set_title(name, loc="left", fontsize=9, fontweight="normal", pad=2)
        axes.spines[:].set_visible(False)
    figure.suptitle("Digits, and the same whitened", x=0.02, ha="left", fontsize=11.5, fontweight="bold")


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
        axes.text(j, i, text, ha="center", va="center", fontsize=8.5, color=color, weight=weight)
    axes.set_xticks(range(len(RATINGS)), RATINGS, fontsize=9)
    axes.set_yticks(range(len(RATINGS)), RATINGS, fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Rating transitions in a month, % (red: below 0)", loc="left")


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(colors=INK, labelsize=9, which="both", width=0.6)
    axes.grid(True, which="major", color="#eceff1", lw=0.8)
    axes.set_axisbelow(True)
