"""What a sweep varies, and how it is written."""

import pytest
from optuna.distributions import IntDistribution

from faceexpr.cli.sweep import read_options
from faceexpr.sweep.options import flags, grid, probes, read_space
from faceexpr.utils.errors import FaceExprError


def test_a_grid_holds_every_combination_and_the_last_parameter_changes_fastest():
    space = read_space({"model.p": [1, 2], "--model.k": {"low": 1, "high": 9, "step": 4}}, "grid")
    assert [tuple(point.values()) for point in grid(space)] == [(1, 1), (1, 5), (1, 9), (2, 1), (2, 5), (2, 9)]
    assert list(grid(space)[0]) == ["model.p", "model.k"]
    steps = read_space({"x": {"low": 0.1, "high": 0.7, "step": 0.1}}, "grid")
    assert [point["x"] for point in grid(steps)] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]  # as people write them


def test_probes_hold_every_value_and_both_ends_in_few_points():
    space = read_space({"a": [1, 2, 3], "b": {"low": 0.5, "high": 8}, "c": ["x", "y"]}, "search")
    points = probes(space)
    assert len(points) == 5  # not 12
    assert {point["a"] for point in points} == {1, 2, 3}
    assert {point["b"] for point in points} == {0.5, 8}
    assert {point["c"] for point in points} == {"x", "y"}


@pytest.mark.parametrize(("values", "whole"), [((1, 9, 2), True), ((1, 9.0, None), False), ((1, 9, 0.5), False)])
def test_whole_numbers_stay_whole(values, whole):
    space = read_space({"x": dict(zip(("low", "high", "step"), values, strict=True))}, "search")
    assert isinstance(space["x"], IntDistribution) is whole


def test_values_become_flags_that_the_command_line_reads_back():
    space = read_space(
        {"a": [None], "b": [True], "c": [1e-5], "d": ["x y"], "e": [{"class_path": "A", "n": [1]}]}, "grid"
    )
    expected = ["--a=null", "--b=true", "--c=1e-05", "--d=x y", '--e={"class_path": "A", "n": [1]}']
    assert flags(grid(space)[0]) == expected


@pytest.mark.parametrize(
    ("parameters", "method", "said"),
    [
        ({}, "grid", "without parameters"),
        ({"a": []}, "grid", "a is an empty list"),
        ({"a": [1, 2, 1]}, "grid", "a lists 1 twice"),
        ({"a": 3}, "grid", "a is 3; expected a list"),
        ({"a": {"low": 0, "high": 1}}, "grid", "range without a step"),
        ({"a": {"low": 1}}, "search", "the range of a has low; expected"),
        ({"a": {"low": 0, "high": 1, "logg": True}}, "search", "has low, high, logg; expected"),
        ({"a": {"low": 1, "high": 1}}, "search", "expected low to be less than high"),
        ({"a": {"low": "x", "high": 1}}, "search", "the range of a has 'x'; expected a number"),
        ({"a": {"low": 0, "high": 1, "log": True}}, "search", "`low >= 1` must hold"),
        ({"a": {"low": 1, "high": 9, "step": 0}}, "grid", "`step > 0` must hold"),
    ],
)
def test_what_is_no_parameter_is_refused_in_one_sentence(parameters, method, said):
    with pytest.raises(FaceExprError, match=said) as error:
        read_space(parameters, method)
    assert "\n" not in str(error.value)


def test_own_options_are_told_from_those_of_fit(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: search\ntrials: 3\nparameters:\n  model.lr: {low: 1e-4, high: 1e-1, log: true}\n")
    fits = ["--config", "a.yaml", "--data.path", "x", "-c", "b.yaml"]
    options, fit = read_options([*fits[:2], "--sweep", str(path), *fits[2:4], "--trials=5", *fits[4:], "--seed", "7"])
    assert fit == fits
    assert (options.name, options.trials, options.seed, options.method) == ("mine", 5, 7, "search")
    assert options.parameters == {"model.lr": {"low": 1e-4, "high": 1e-1, "log": True}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--monitor=test/accuracy"], "never sees the test split"),
        (["--monitor=val/nll"], "expected mode min"),
        (["--mode=min"], "expected mode max"),
        (["--trials=0"], "trials"),
        (["--name=a/b"], "expected the name of a folder"),
        (["--method=gird"], "method"),
    ],
)
def test_bad_options_of_the_sweep_are_refused(arguments, said):
    with pytest.raises(FaceExprError, match=said):
        read_options(arguments)
