"""Plain values from which objects can be built again."""

import copy
import io
import pickle
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

from faceexpr.data.augment import Augmentation
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.specs import Described, describe


class Cup(Described):
    def __init__(self, size, colour="white", *, lid=False):
        self.size = size


class Mug(Cup):
    def __init__(self, handle=None):
        super().__init__(3, lid=True)


class Layer(Described, nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.linear = nn.Linear(width, width)


def brew():
    return "tea"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(value, value) for value in (None, True, 0, -1.5, "text")],
        (np.float64(0.25), 0.25),
        (np.str_("a"), "a"),
        (Path("a/b.csv"), str(Path("a/b.csv"))),
        ((1, 2.5, "x"), [1, 2.5, "x"]),
        ([(1,), [None]], [[1], [None]]),
        (OrderedDict(a=1, b=(2,)), {"a": 1, "b": [2]}),
        ({3: "three"}, {"3": "three"}),
        (torch.optim.Adam, {"class_path": "torch.optim.adam.Adam"}),
        (partial(torch.optim.Adam), {"class_path": "torch.optim.adam.Adam"}),
        (
            partial(torch.optim.Adam, lr=0.1, betas=(0.9, 0.99)),
            {"class_path": "torch.optim.adam.Adam", "init_args": {"lr": 0.1, "betas": [0.9, 0.99]}},
        ),
    ],
    ids=str,
)
def test_other_values_become_plain(value, expected):
    described = describe(value, "x")
    assert described == expected
    assert type(described) is type(expected)
    file = io.BytesIO()
    torch.save(described, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == expected


def test_a_dataclass_is_its_fields_and_a_described_object_its_class_and_all_its_arguments():
    assert Augmentation(**describe(Augmentation(flip=0.5), "x")) == Augmentation(flip=0.5)
    cup = {"class_path": f"{__name__}.Cup", "init_args": {"size": 3, "colour": "white", "lid": True}}
    assert describe(Cup(3, lid=True), "x") == cup
    # Of the outermost class alone, and as deep as they go.
    assert Mug().init_args == {"handle": None}
    assert describe(Mug(handle=Cup(3, lid=True)), "x")["init_args"] == {"handle": cup}


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_remember_their_arguments(duplicate):
    assert duplicate(Cup(3, colour="red")).init_args == {"size": 3, "colour": "red", "lid": False}
    layer = Layer(width=3)
    again = duplicate(layer)
    assert again.init_args == {"width": 3}
    assert torch.equal(again.linear.weight, layer.linear.weight)


@pytest.mark.parametrize("value", [brew, partial(brew), torch.zeros(1), {1, 2}], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("wrap", [lambda value: {"size": value}, Cup, lambda value: partial(Cup, size=value)])
def test_what_no_checkpoint_can_keep_is_refused_with_its_place(wrap, value):
    with pytest.raises(FaceExprError, match=r"^model\.net\.size\.x is .*, which a checkpoint cannot keep; expected "):
        describe(wrap({"x": value}), "model.net")


def test_what_jsonargparse_makes_of_a_callable_is_understood():
    parser = ArgumentParser()
    parser.add_argument("--optimizer", type=OptimizerCallable)
    parsed = parser.parse_args(["--optimizer", "torch.optim.SGD", "--optimizer.lr", "0.1"])
    description = describe(parser.instantiate_classes(parsed).optimizer, "model.optimizer")
    assert description["class_path"] == "torch.optim.sgd.SGD"
    factory = parser.instantiate_classes(parser.parse_object({"optimizer": description})).optimizer
    assert factory([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"] == 0.1


class Base(Described):
    def __init__(self, batch_size: int = 128, shuffle: bool = False) -> None:
        self.batch_size = batch_size


class HandsOn(Base):
    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Fixes(HandsOn):
    """No option of its own, and one that it sets itself."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(shuffle=True, **kwargs)


def test_options_that_are_handed_on_are_remembered_with_their_defaults():
    assert HandsOn("a").init_args == {"path": "a", "batch_size": 128, "shuffle": False}
    assert HandsOn("a", batch_size=2).init_args == {"path": "a", "batch_size": 2, "shuffle": False}
    assert Fixes(path="a").init_args == {"path": "a", "batch_size": 128}
    assert Fixes(**Fixes(path="a", batch_size=3).init_args).batch_size == 3
