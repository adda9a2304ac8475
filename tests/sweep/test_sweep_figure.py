"""The figure of a sweep shows every trial that has a value, with named axes."""

import itertools
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from faceexpr.sweep.figure import draw_sweep
from faceexpr.sweep.table import Row

NAME = "faceexpr.tasks.representations.RawPixels"


def rows(**values: list[Any]) -> list[Row]:
    names = [name.replace("_", ".") for name in values]
    points = [dict(zip(names, point, strict=True)) for point in itertools.product(*values.values())]
    return [Row(number, "done", point, 0.2 + number / 100) for number, point in enumerate(points)]


def drawn(used: list[Row], mode: str = "max") -> Figure:
    figure = draw_sweep(used, list(used[0].parameters), "val/accuracy", mode, "Sweep")
    assert figure is not None
    figure.canvas.draw()
    return figure


def labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_one_parameter_with_names_is_bars() -> None:
    figure = drawn([*rows(model_net=["MLP", NAME]), Row(9, "failed", {"model.net": "ResNet"})])
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0.2, 0.21])
    assert labels(axes.xaxis) == ["MLP", "RawPixels"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("model.net", "val/accuracy, best epoch")
    assert "2 done, 1 failed   best val/accuracy 0.2100: net RawPixels" in [text.get_text() for text in figure.texts]


def test_one_number_is_a_line_on_a_logarithmic_axis_where_it_spans_orders() -> None:
    (axes,) = drawn(rows(model_lr=[1e-1, 1e-4, 1e-2])).axes
    assert axes.get_xscale() == "log"
    assert axes.lines[0].get_xydata().tolist() == pytest.approx(np.array([[1e-4, 0.21], [1e-2, 0.22], [1e-1, 0.2]]))
    (axes,) = drawn(rows(model_k=[1, 3, 5])).axes
    assert axes.get_xscale() == "linear"
    assert labels(axes.xaxis) == ["1", "3", "5"]


def test_two_parameters_are_a_line_for_each_value_of_one() -> None:
    (axes,) = drawn(rows(model_representation=[NAME, "Histogram"], model_k=[1, 3, 5])).axes
    assert [line.get_label() for line in axes.lines] == ["RawPixels", "Histogram"]
    assert axes.lines[1].get_ydata().tolist() == pytest.approx([0.23, 0.24, 0.25])
    assert axes.get_xlabel() == "model.k"


def test_two_parameters_with_names_are_a_map() -> None:
    figure = drawn(rows(model_net=["MLP", "ResNet"], model_optimizer=["SGD", "Adam", "AdamW"]))
    axes = figure.axes[0]
    assert axes.images[0].get_array().tolist() == pytest.approx(np.array([[0.2, 0.21, 0.22], [0.23, 0.24, 0.25]]))
    assert [text.get_text() for text in axes.texts] == ["0.2000", "0.2100", "0.2200", "0.2300", "0.2400", "0.2500"]
    assert labels(axes.xaxis) == ["SGD", "Adam", "AdamW"]
    assert labels(axes.yaxis) == ["MLP", "ResNet"]


def test_two_ranges_are_points() -> None:
    generator = np.random.default_rng(0)
    used = [Row(n, "done", {"a": float(x), "b": float(y)}, 0.5) for n, (x, y) in enumerate(generator.random((20, 2)))]
    axes = drawn(used).axes[0]
    assert len(axes.collections[0].get_offsets()) == 20
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("a", "b")


@pytest.mark.parametrize(("mode", "tops"), [("max", [0.23, 0.27]), ("min", [0.2, 0.24])])
def test_more_parameters_are_a_panel_each_with_the_best_of_each_value(mode: str, tops: list[float]) -> None:
    used = rows(a=["x", "y"], b=[1, 2], c=[True, None])
    panels = drawn(used, mode).axes
    assert [axes.get_xlabel() for axes in panels] == ["a", "b", "c"]
    assert [bar.get_height() for bar in panels[0].patches] == pytest.approx(tops)
    assert all(len(axes.collections[0].get_offsets()) == 8 for axes in panels)
    assert labels(panels[2].xaxis) == ["true", "null"]


def test_a_parameter_with_one_value_takes_no_room() -> None:
    (axes,) = drawn(rows(a=["x"], b=["y", "z"])).axes
    assert axes.get_xlabel() == "b"


def test_nothing_is_drawn_without_a_value() -> None:
    assert draw_sweep([Row(0, "failed", {"a": 1})], ["a"], "val/accuracy", "max", "Sweep") is None
