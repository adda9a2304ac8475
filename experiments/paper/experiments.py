"""The experiments of the paper: their configurations, the command lines that run them, and what they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.paper.dataset1 import FOLDS, LISTS
from faceexpr.utils.errors import FaceExprError

Kind = Literal["fit", "sweep", "detectron2", "two_step"]
Data = Literal["fer2013", "ferplus", "wider", "dataset1"]

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
        seeds: of its runs: three where a run takes under ten minutes; on Dataset 1 each has a test part of its own, its
            fold (see `experiments.paper.dataset1`).
        start: what its training starts from in the place of random weights: a run folder, or a model that ships.
        gpu: nobody would wait for it without a GPU.
        detector: for the two-step system, the experiment whose detector it takes.
        classifier: likewise its classifier.
        compared: the predictions of each test sample are kept, to compare runs with one another.
        checkpoints: its checkpoints are kept after the test; those of a grid of KNN hold the data again and again.
        more: it learns from the further photographs of WIDER FACE too, those in ``wider_more``.
    """

    name: str
    title: str
    configs: tuple[str, ...]
    minutes: float
    data: Data = "fer2013"
    kind: Kind = "fit"
    sweep: str | None = None
    seeds: tuple[int, ...] = (0,)
    start: str = ""
    gpu: bool = False
    detector: str = ""
    classifier: str = ""
    compared: bool = False
    checkpoints: bool = True
    more: bool = False


def _expression(
    name: str, title: str, base: str, overlays: Sequence[str], minutes: float, data: Data = "fer2013", gpu: bool = False
) -> Experiment:
    configs = (EXPRESSION.format(base), *(PAPER.format(overlay) for overlay in overlays))
    return Experiment(name, title, configs, minutes, data, gpu=gpu, compared=True)


RUNS = Path("lightning_logs/paper")
"""Folder of the runs in --out, and of the reference runs in the project."""

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
    Experiment(
        "wider_faster_rcnn", "Faster R-CNN, ResNet-18", ("configs/detection/wider_faster_rcnn.yaml",), 60, "wider",
        more=True,
    ),
    _expression("resnet18", "ResNet-18 CNN, from scratch", "resnet18", ("resnet18",), 53),
    _expression("resnet50", "ResNet-50 CNN, from scratch", "resnet50", ("resnet50",), 42),
    _expression(
        "resnet18_final_relu", "ResNet-18 CNN, ReLU after the logits", "resnet18", ("resnet18", "resnet18_final_relu"),
        53,
    ),
    Experiment(
        "dataset1_light", "Light detector", (PAPER.format("dataset1_light"),), 50, "dataset1", start="wider_light",
        seeds=tuple(range(FOLDS)),
    ),
    Experiment(
        "dataset1_light_scratch", "Light detector, Dataset 1 alone",
        (PAPER.format("dataset1_light"), PAPER.format("dataset1_light_scratch")), 30, "dataset1",
    ),
    Experiment(
        "dataset1_faster_rcnn", "Faster R-CNN, ResNet-18", (PAPER.format("dataset1_faster_rcnn"),), 10, "dataset1",
        start=str(RUNS / "wider_faster_rcnn/seed_0"), seeds=tuple(range(FOLDS)),
    ),
    Experiment(
        "dataset1_faster_rcnn_scratch", "Faster R-CNN, ResNet-18, Dataset 1 alone",
        (PAPER.format("dataset1_faster_rcnn"), PAPER.format("dataset1_faster_rcnn_scratch")), 30, "dataset1",
    ),
    Experiment(
        "dataset1_detectron2", "Faster R-CNN, small, Detectron2, Dataset 1 alone",
        (PAPER.format("dataset1_detectron2"),), 90, "dataset1", "detectron2",
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
        2000, "dataset1", gpu=True,
    ),
    Experiment(
        "x101_detectron2", "Faster R-CNN X101-FPN, Detectron2", (PAPER.format("detection_x101_fpn_detectron2"),), 2000,
        "dataset1", "detectron2", gpu=True,
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


TEST = "test"
"""Folder in that of a run: the measurement of its best checkpoint on the test split."""

START, ALL_BOXES = "start", "before"
"""Likewise of what the training started from, and of the best checkpoint before suppression."""

SYSTEM = Path("two_step/seed_0")
"""Folder of the two-step system in that of the runs."""

BEFORE = "_before"
"""Ending of the folder of an analysis that keeps all boxes of a face."""

EXAMPLES = Path("examples")
"""Folder in --out with pictures that may be shown to everybody."""

WIDER_TRAIN = "data/wider/wider_face_split/wider_face_train_bbx_gt.txt"
WIDER_MORE = "data/wider_more/wider_face_split/wider_face_train_bbx_gt.txt"
WIDER_VAL = "data/wider/wider_face_split/wider_face_val_bbx_gt.txt"
DATASET_1, DATASET_1_IMAGES = "data/dataturks/face_detection.json", "data/dataturks/images"


@dataclass(frozen=True)
class Step:
    """A command line, given in the folder --out, where ``data`` and ``configs`` lead to the data and the project's.

    Attributes:
        name: ``fit``, ``sweep`` or ``test``, or one of its own; the record has the minutes of each.
        args: the arguments, verb included.
    """

    name: str
    args: tuple[str, ...]


def run_folder(experiment: Experiment, seed: int) -> Path:
    """Return the folder of a run, seen from --out."""
    return RUNS / experiment.name / f"seed_{seed}"


def training(experiment: Experiment, seed: int, out: Path) -> Step:
    """Return the step that trains, without what says where the run goes: the command for people."""
    configs = tuple(part for name in experiment.configs for part in ("--config", name))
    if experiment.kind == "sweep":
        grid = ("--sweep", str(experiment.sweep))
        return Step("sweep", ("sweep", *configs, *grid, *_data(experiment, seed, out), "--seed_everything", str(seed)))
    if experiment.kind == "detectron2":
        return Step("fit", ("detectron2", "fit", *configs, *_data(experiment, seed, out), "--seed", str(seed)))
    if experiment.kind == "two_step":
        return steps_of_system(experiment, seed)[0]
    start = ("--model.weights", experiment.start) if experiment.start else ()
    return Step("fit", ("fit", *configs, *_data(experiment, seed, out), *start, "--seed_everything", str(seed)))


def analysis(experiment: Experiment, seed: int, pictures: str, name: str) -> Step:
    """Return the two-step system over pictures."""
    models = (
        "--detector", str(RUNS / experiment.detector / "seed_0"),
        "--classifier", str(RUNS / experiment.classifier / "seed_0"),
    )  # fmt: skip
    return Step(name, ("analyze", pictures, *models, "--out", str(run_folder(experiment, seed) / name)))


def steps_of_system(experiment: Experiment, seed: int) -> list[Step]:
    """Return the steps of the two-step system: photographs and examples, each with and without suppression."""
    photographs = analysis(experiment, seed, "data/wider/WIDER_val/images", "photographs")
    shown = analysis(experiment, seed, str(EXAMPLES / "pictures"), "examples")
    model = ("--ckpt_path", str(RUNS / experiment.classifier / "seed_0"))
    data = ("--data", "FaceFiles", "--data.paths", f"[{EXAMPLES / 'faces'}]")
    return [
        Step(photographs.name, (*photographs.args, "--pictures", "true")),
        _before(photographs),
        shown,
        _before(shown),
        Step("drawn", ("predict", *model, *data, *logged_to(run_folder(experiment, seed), "drawn"))),
    ]


def _before(step: Step) -> Step:
    """Return an analysis that keeps all boxes of a face, as they are before suppression."""
    *args, out = step.args
    return Step(step.name + BEFORE, (*args, out + BEFORE, "--suppression", "none"))


def measuring(experiment: Experiment, trained: Path) -> Step:
    """Return the step that measures the best checkpoint of a run on the test split."""
    data = ("--data.test", WIDER_VAL) if experiment.data == "wider" else ()
    if experiment.kind == "detectron2":
        return Step("test", ("detectron2", "test", "--ckpt_path", str(trained / "version_0"), *data))
    return Step("test", ("test", "--ckpt_path", str(trained), *data, *logged_to(trained, TEST)))


def measuring_more(experiment: Experiment, seed: int, trained: Path, out: Path) -> list[Step]:
    """Return further measurements on Dataset 1's test part: before the training, and of seed 0 before suppression."""
    if experiment.data != "dataset1" or experiment.kind != "fit":
        return []
    steps = []
    if seed == 0:  # whose boxes are shown
        every = ("--ckpt_path", str(trained), "--model.net.suppression.method", "none")
        steps.append(Step(ALL_BOXES, ("test", *every, *logged_to(trained, ALL_BOXES))))
    if experiment.start:
        data = ("--data", "FaceBoxes", *_data(experiment, seed, out), "--data.reading.missing", "leave_out")
        steps.append(Step(START, ("test", "--ckpt_path", experiment.start, *data, *logged_to(trained, START))))
    return steps


def logged_to(folder: Path, name: str) -> tuple[str, ...]:
    """Return the options by which a run is logged to ``folder/name``."""
    logger = "--trainer.logger"
    return (
        logger, "TensorBoardLogger", f"{logger}.save_dir", str(folder), f"{logger}.name", "", f"{logger}.version", name,
    )  # fmt: skip


def _data(experiment: Experiment, seed: int, out: Path) -> tuple[str, ...]:
    if experiment.data == "wider":
        return ("--data.train", f"[{WIDER_TRAIN},{WIDER_MORE}]" if experiment.more else WIDER_TRAIN)
    if experiment.data == "dataset1":
        lists = {f"--data.{part}_list": str(LISTS / f"{part}_{seed % FOLDS}.txt") for part in ("test", "val")}
        files = {"--data.train": DATASET_1, "--data.images": DATASET_1_IMAGES, **lists}
        return tuple(word for pair in files.items() for word in pair)
    if experiment.data == "ferplus":
        # The votes fit the file's original order of rows only; where --data has one in that order, it is in ferplus/.
        folder = "ferplus" if (out / "data/ferplus").is_dir() else "fer2013"
        return ("--data.path", f"data/{folder}", "--data.votes", f"data/{folder}")
    return ("--data.path", "data/fer2013")
