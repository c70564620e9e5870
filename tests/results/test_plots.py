"""Plots as files: they open, nothing in them is cut off, and they show the numbers they were given."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from mcl_lab.results.curves import BaselineCurve, Curve, LayerWeights
from mcl_lab.results.plots import accuracy_plot, layer_weights_plot, loss_plot, save

LONG = "a network with a long name (widths=[16, 32, 64], block=bottleneck) " * 3 + "W" * 80
NAMES = ["a: ResNet-32", LONG, "_hidden", "$x_1$ & <b> größe"]


def curve(label="a", seeds=1, epochs=12):
    return Curve(label, range(1, epochs + 1), np.linspace(1, 90, epochs) + np.arange(seeds)[:, None])


def is_cut_off(figure) -> bool:
    """Whether anything that is drawn reaches over the edge of the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn, page = figure.get_tightbbox(canvas.get_renderer()), figure.bbox_inches.padded(0.01)
    return not (page.contains(*drawn.min) and page.contains(*drawn.max))


def accuracy(name, seeds=1, epochs=12):
    curves = [curve(name, seeds, epochs), curve("b", seeds, epochs)]
    return accuracy_plot(name, curves, [BaselineCurve(curve(f"{name} alone", seeds, epochs), None)])


def loss(name, seeds=1, epochs=12):
    terms = [curve(f"{name}{n}", seeds, epochs) for n in range(7)]
    return loss_plot(name, terms, curve("sum", seeds, epochs))


def weights(name, seeds=1, epochs=12, heads=3, pairs=1):
    ticks = [str(n) for n in range(1, heads)] + ["own"]
    values = np.random.default_rng(0).uniform(0.3, 0.7, (epochs, heads, heads))
    return layer_weights_plot(name, range(1, epochs + 1), [LayerWeights(name, name, ticks, ticks, values)] * pairs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("draw", [accuracy, loss, weights])
def test_no_text_is_cut_off(draw, name):
    assert not is_cut_off(draw(name))


@pytest.mark.parametrize("options", [{"heads": 2}, {"heads": 5}, {"pairs": 3}, {"epochs": 1}, {"epochs": 3}])
def test_no_text_of_a_heat_map_is_cut_off(options):
    assert not is_cut_off(weights("b: ResNet-110", **options))


def test_the_check_sees_what_is_cut_off():
    for place in ((0.98, 0.5), (0.5, 0.99), (-0.01, 0.5)):
        figure = accuracy("a")
        assert not is_cut_off(figure)
        figure.text(*place, "too far")
        assert is_cut_off(figure)


@pytest.mark.parametrize("draw", [accuracy, loss, weights])
def test_files_open_and_are_the_same_each_time(draw, tmp_path):
    files = save(draw("a", seeds=2), tmp_path / "one.two")
    assert [file.name for file in files] == ["one.two.png", "one.two.svg"]
    with Image.open(files[0]) as image:
        assert image.size[0] > 900 and len(image.convert("L").getcolors()) > 5
    assert ElementTree.parse(files[1]).getroot().tag.endswith("svg")
    again = save(draw("a", seeds=2), tmp_path / "again")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]


def test_curves_are_means_with_a_band_and_baselines_are_dashed():
    figure = accuracy_plot(
        "t", [curve("a", seeds=3), curve("b")], [BaselineCurve(curve("a alone"), 0), BaselineCurve(curve("c"), None)]
    )
    (axes,) = figure.axes
    first, second, beside, other = axes.lines
    assert np.allclose(first.get_ydata(), np.linspace(1, 90, 12) + 1)
    assert len(axes.collections) == 1  # the band of three seeds
    assert [line.get_linestyle() for line in axes.lines] == ["-", "-", "--", "--"]
    assert beside.get_color() == first.get_color() != second.get_color() and other.get_color() not in (
        first.get_color(),
        second.get_color(),
    )
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "a: 91.00",
        "b: 90.00",
        "a alone: 90.00",
        "c: 90.00",
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "test accuracy (%)")


def test_the_loss_axis_is_logarithmic_only_where_it_can_be():
    def scale(*values):
        terms = [Curve(str(value), [1, 2], np.array([[value, value]])) for value in values]
        return loss_plot("t", terms, Curve("sum", [1, 2], np.full((1, 2), sum(values)))).axes[0].get_yscale()

    assert [scale(1.0, 100.0), scale(1.0, 2.0), scale(0.0, 100.0), scale(-1.0, 100.0)] == [
        "log",
        "linear",
        "linear",
        "linear",
    ]


def test_heat_maps_from_the_first_epoch_to_the_last_with_their_numbers():
    values = np.arange(12 * 6).reshape(12, 2, 3) / 100
    figure = layer_weights_plot(
        "t", range(1, 13), [LayerWeights("a: x", "b: y", ["1", "own"], ["1", "2", "own"], values)]
    )
    maps = [axes for axes in figure.findobj(lambda artist: hasattr(artist, "get_images")) if axes.get_images()]
    titles = [axes.get_title() for axes in maps]
    assert titles[0] == "epoch 1" and titles[-1] == "epoch 12" and len(titles) == 5
    for axes in maps:
        place = int(axes.get_title().split()[1]) - 1
        (image,) = axes.get_images()
        assert np.array_equal(image.get_array(), values[place])
        assert [text.get_text() for text in axes.texts] == [
            f"{value:.2f}".removeprefix("0") for value in values[place].ravel()
        ]
        assert image.get_clim() == maps[0].get_images()[0].get_clim()
    assert [text.get_text() for text in maps[0].get_yticklabels()] == ["1", "own"]
    assert [text.get_text() for text in maps[0].get_xticklabels()] == ["1", "2", "own"]
