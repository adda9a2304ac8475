"""Copies of a task, as Lightning's averaging of weights makes them."""

import threading
from copy import deepcopy
from functools import partial
from typing import Any

import torch

from faceexpr.models.mlp import MLP
from faceexpr.tasks.classify import ExpressionClassifier


def test_the_weights_are_copied_and_the_factories_are_not() -> None:
    # The command line's factories hold on to the parser, the trainer and, when distributed, to what has no copy.
    def build(cls: type[torch.optim.SGD], lock: Any, parameters: Any) -> torch.optim.SGD:
        return cls(parameters, lr=0.1)

    model = ExpressionClassifier(
        net=partial(MLP, hidden=(4,)), optimizer=partial(build, torch.optim.SGD, threading.Lock())
    )
    copied = deepcopy(model)
    assert copied.optimizer is model.optimizer
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    assert all(
        torch.equal(changed, original + 1)
        for changed, original in zip(copied.parameters(), model.parameters(), strict=True)
    )
    assert copied.class_names == model.class_names
