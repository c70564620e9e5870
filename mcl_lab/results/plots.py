"""Pictures of curves, each a Figure of matplotlib: accuracy by epoch, terms of the loss, layer-matching weights.

Seeds are drawn as their mean, with a band from the least to the greatest. Colours are Okabe and Ito's, told apart by colour-blind
readers too, and lines of one panel differ by dash as well.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mcl_lab.results.curves import BaselineCurve, Curve, LayerWeights

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
GREY = "#555555"
FONT = 9  # points
WIDTH, HEIGHT = 7.0, 3.8  # of a plot with one panel, in inches
MARGIN = 0.15  # of a text, in inches
LINE = 0.16  # of text, in inches
CELL = 0.42  # of a heat map, in inches
PANELS = 5  # epochs at which the layer-matching weights are shown, at most
LOG_FROM = 30  # times the least value the greatest is, and an axis is logarithmic

matplotlib.rcParams |= {
    "font.size": FONT,
    "axes.titlesize": FONT,
    "figure.titlesize": FONT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "mcl_lab",  # equal plots make equal files
}


def accuracy_plot(title: str, curves: Sequence[Curve], baselines: Sequence[BaselineCurve] = ()) -> Figure:
    """Test accuracies (%) of the own heads by epoch, baselines dashed; the legend tells the last epoch's."""
    figure, axes = _panel(title, "test accuracy (%)")
    lines = [_draw(axes, curve, _colour(place), "-") for place, curve in enumerate(curves)]
    lines += [_draw(axes, curve, GREY if like is None else _colour(like), "--") for curve, like in baselines]
    labels = [f"{curve.label}: {curve.mean[-1]:.2f}" for curve in [*curves, *(curve for curve, _ in baselines)]]
    axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
    _legend(figure, axes, lines, labels, "after the last epoch (%)")
    return figure


def loss_plot(title: str, terms: Sequence[Curve], total: Curve) -> Figure:
    """The weighted terms of the loss by epoch, and their sum; the legend is in the order of the last epoch."""
    figure, axes = _panel(title, "weighted term of the loss")
    drawn = [
        (curve, _draw(axes, curve, _colour(place), DASHES[place // 2 % len(DASHES)]))
        for place, curve in enumerate(terms)
    ]
    if len(terms) > 1:
        drawn.append((total, _draw(axes, total, GREY, "-", width=2.5)))
    values = np.concatenate([curve.mean for curve, _ in drawn])
    if np.nanmin(values) > 0 and np.nanmax(values) > LOG_FROM * np.nanmin(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0, np.nanmin(values)))
    drawn.sort(key=lambda pair: -np.nan_to_num(pair[0].mean[-1]))
    _legend(figure, axes, [line for _, line in drawn], [curve.label for curve, _ in drawn], None)
    return figure


def layer_weights_plot(title: str, epochs: Sequence[int], pairs: Sequence[LayerWeights]) -> Figure:
    """Heat maps, head by head, at epochs spread over the training; a line of them for each two peers, one scale for all."""
    shown = sorted({round(place) for place in np.linspace(0, len(epochs) - 1, min(PANELS, len(epochs)))})
    values = np.concatenate([pair.values[shown].ravel() for pair in pairs])
    low, high = np.floor(np.nanmin(values) * 20) / 20, np.ceil(np.nanmax(values) * 20) / 20
    widest = max(len(pair.column_heads) for pair in pairs)
    heights = [1.0 + CELL * len(pair.row_heads) for pair in pairs]
    width = max(5.0, 1.6 + len(shown) * (0.2 + CELL * widest))
    words = _wrapped(title, width)
    figure = Figure(figsize=(width, sum(heights) + LINE * (1 + words.count("\n"))), layout="constrained")
    figure.suptitle(words, x=0.01, ha="left")
    lines = figure.subfigures(len(pairs), 1, height_ratios=heights, squeeze=False)[:, 0]
    for pair, line in zip(pairs, lines, strict=True):
        maps = line.subplots(1, len(shown), squeeze=False)[0]
        for place, axes in zip(shown, maps, strict=True):
            image = axes.imshow(pair.values[place], cmap="cividis", vmin=low, vmax=max(high, low + 0.05))
            axes.set_title(f"epoch {epochs[place]}")
            axes.set_xticks(range(len(pair.column_heads)), [_literal(head) for head in pair.column_heads])
            axes.set_yticks([])
            _write_values(axes, pair.values[place], image)
        maps[0].set_yticks(range(len(pair.row_heads)), [_literal(head) for head in pair.row_heads])
        line.supylabel(_wrapped(f"stage of {pair.rows}", 0.5 + CELL * len(pair.row_heads), most=2), fontsize=FONT)
        line.supxlabel(_wrapped(f"stage of {pair.columns}", width - 0.5, most=1), fontsize=FONT)
        bar = line.colorbar(image, ax=maps, aspect=12, pad=0.015)
        bar.set_label("mean weight")
        bar.outline.set_visible(False)
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png, 200 dots an inch, and `stem`.svg; returns them."""
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    figure.savefig(files[0], dpi=200, metadata={"Software": None})
    figure.set_layout_engine("none")  # as it is laid out now
    figure.savefig(files[1], metadata={"Date": None})
    return files


def _panel(title: str, quantity: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    figure.suptitle(_wrapped(title, WIDTH), x=0.01, ha="left")
    axes = figure.subplots()
    axes.set_xlabel("epoch")
    axes.set_ylabel(quantity)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _draw(axes: Axes, curve: Curve, colour: str, style: object, width: float = 1.4) -> Line2D:
    if len(curve.values) > 1:
        low, high = curve.values.min(axis=0), curve.values.max(axis=0)
        axes.fill_between(curve.epochs, low, high, color=colour, alpha=0.18, linewidth=0)
    marker = "o" if len(curve.epochs) == 1 else None
    (line,) = axes.plot(
        curve.epochs, curve.mean, color=colour, linestyle=style, linewidth=width, marker=marker, markersize=4
    )
    return line


def _legend(figure: Figure, axes: Axes, lines: Sequence[Line2D], labels: Sequence[str], title: str | None) -> None:
    """Beside the panel, where it hides nothing; the figure grows with it."""
    texts = [_wrapped(label, WIDTH / 3) for label in labels]
    needed = 1.0 + sum(0.08 + LINE * (1 + text.count("\n")) for text in texts)
    figure.set_size_inches(WIDTH, max(HEIGHT, needed))
    axes.legend(lines, texts, title=title, loc="center left", bbox_to_anchor=(1.01, 0.5), alignment="left")


def _write_values(axes: Axes, values: np.ndarray, image: AxesImage) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    shades = np.asarray(image.norm(values))  # from 0 to 1
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if shades[row, column] < 0.5 else "black"
        text = "" if np.isnan(value) else f"{value:.2f}".removeprefix("0")
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=FONT - 1)


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _wrapped(text: str, inches: float, most: int = 3) -> str:
    """At most so many lines that are no longer than that; a word that is too long is broken."""
    lines = [""]
    for word in re.findall(r"\S+\s*", text):
        if lines[-1] and _inches(lines[-1] + word) > inches - MARGIN:
            lines.append("")
        while _inches(lines[-1] + word) > inches - MARGIN:
            fitting = next(n for n in range(len(word), 0, -1) if n == 1 or _inches(word[:n]) <= inches - MARGIN)
            lines[-1:] = [word[:fitting], ""]
            word = word[fitting:]
        lines[-1] += word
    kept = [line.rstrip() for line in lines if line]
    if len(kept) > most:
        kept[most - 1 :] = [kept[most - 1][:-1] + "…"]
    return "\n".join(map(_literal, kept))


def _inches(text: str) -> float:
    """The length of a line in the plots' font, at most: on the screen letters are rounded to whole dots."""
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(FONT, 720)
    font.set_text(text.rstrip())
    return 1.06 * font.get_width_height()[0] / 64 / 720


def _literal(text: str) -> str:
    """Text that is not taken for mathematics."""
    return text.replace("$", r"\$")
