"""Which experiments there are, and by which configurations each is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from faceexpr.utils.errors import FaceExprError

Kind = Literal["fit", "sweep", "detectron2", "two_step"]
Data = Literal["fer2013", "ferplus", "wider"]

EXPRESSION = "configs/expression/fer2013_{}.yaml"
PAPER = "configs/paper/{}.yaml"


@dataclass(frozen=True)
class Experiment:
    """One experiment: a training or a grid of trainings, each followed by its test.

    Args:
        name: of its folder.
        title: what it is, for people.
        configs: configuration files, in the order in which they are given, in the project's folder.
        minutes: that one seed takes on one or two CPU cores, from a measurement or, of what takes a GPU, a guess; until
            a run of it is stored.
        data: which of the data sets it needs.
        kind: the verb that runs it.
        sweep: the file of its grid.
        seeds: of its runs: three where a run takes under ten minutes.
        gpu: nobody would wait for it without a GPU.
        detector: for the two-step system, the experiment whose detector it takes.
        classifier: likewise its classifier.
        compared: the predictions of each test sample are kept, to compare runs with one another.
        checkpoints: its checkpoints are kept after the test; those of a grid of KNN hold the data again and again.
    """

    name: str
    title: str
    configs: tuple[str, ...]
    minutes: float
    data: Data = "fer2013"
    kind: Kind = "fit"
    sweep: str | None = None
    seeds: tuple[int, ...] = (0,)
    gpu: bool = False
    detector: str = ""
    classifier: str = ""
    compared: bool = False
    checkpoints: bool = True


def _expression(
    name: str, title: str, base: str, overlays: Sequence[str], minutes: float, data: Data = "fer2013", gpu: bool = False
) -> Experiment:
    configs = (EXPRESSION.format(base), *(PAPER.format(overlay) for overlay in overlays))
    return Experiment(name, title, configs, minutes, data, gpu=gpu, compared=True)


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        "knn", "K nearest neighbours", (EXPRESSION.format("knn"),), 10, kind="sweep",
        sweep="configs/sweeps/paper_knn.yaml", compared=True, checkpoints=False,
    ),
    Experiment(
        "mlp", "Fully connected network", (EXPRESSION.format("mlp"),), 24, kind="sweep",
        sweep="configs/sweeps/paper_activation.yaml", seeds=(0, 1, 2), compared=True,
    ),
    _expression("simple_cnn", "Simple CNN", "simple_cnn", (), 22),
    _expression(
        "simple_cnn_final_relu", "Simple CNN, ReLU after the logits", "simple_cnn", ("simple_cnn_final_relu",), 22
    ),
    _expression("simple_cnn_ferplus", "Simple CNN, FER+ labels", "simple_cnn", ("simple_cnn_ferplus",), 20, "ferplus"),
    Experiment("wider_light", "Light detector", ("configs/detection/wider_light.yaml",), 91, "wider"),
    Experiment("wider_faster_rcnn", "Small Faster R-CNN", ("configs/detection/wider_faster_rcnn.yaml",), 79, "wider"),
    _expression("resnet18", "ResNet-18 CNN, from scratch", "resnet18", ("resnet18",), 53),
    _expression("resnet50", "ResNet-50 CNN, from scratch", "resnet50", ("resnet50",), 42),
    _expression(
        "resnet18_final_relu", "ResNet-18 CNN, ReLU after the logits", "resnet18", ("resnet18", "resnet18_final_relu"),
        53,
    ),
    Experiment(
        "two_step", "Two-step system", (), 2, "wider", "two_step", detector="wider_light", classifier="resnet18"
    ),
    _expression(
        "resnet18_imagenet", "ResNet-18 CNN, ImageNet's weights", "resnet18", ("resnet18_imagenet",), 600, gpu=True
    ),
    _expression(
        "resnet50_imagenet", "ResNet-50 CNN, ImageNet's weights", "resnet50", ("resnet50_imagenet",), 1500, gpu=True
    ),
    Experiment(
        "x101_torchvision", "Faster R-CNN X101-FPN, torchvision", (PAPER.format("detection_x101_fpn_torchvision"),),
        2000, "wider", gpu=True,
    ),
    Experiment(
        "x101_detectron2", "Faster R-CNN X101-FPN, Detectron2", (PAPER.format("detection_x101_fpn_detectron2"),), 2000,
        "wider", "detectron2", gpu=True,
    ),
)  # fmt: skip
"""All of them, in the order in which they are run: the cheapest first, and the two-step system after its parts."""


def experiment(name: str) -> Experiment:
    """Return an experiment by its name.

    Raises:
        FaceExprError: there is none of that name.
    """
    found = next((one for one in EXPERIMENTS if one.name == name), None)
    if found is None:
        raise FaceExprError(f"--only: there is no experiment {name}; expected {', '.join(e.name for e in EXPERIMENTS)}")
    return found
