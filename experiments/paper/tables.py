"""The paper's Tables 1 to 5, each with ours beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from experiments.paper import published
from experiments.paper.cells import MADE_BY, NOT_RUN, interval, made_by, measured, percent, table
from experiments.paper.experiments import experiment
from experiments.paper.results import CHOSEN, Results, Settings
from faceexpr.cli.parser import read_config
from faceexpr.models.head import expression_head
from faceexpr.models.mlp import MLP
from faceexpr.models.simple_cnn import SimpleCNN

NAMES = {"sigmoid": "Sigmoid", "relu": "ReLU", "tanh": "Tanh"}
"""Activation functions in the order of Table 3."""


def table_1(project: Path) -> list[str]:
    """Return the settings of Faster R-CNN X101-FPN, read from the two configurations."""
    ours = read_config(project / experiment("x101_detectron2").configs[0])
    other = read_config(project / experiment("x101_torchvision").configs[0])
    model, data = other["model"]["init_args"], other["data"]["init_args"]
    schedule = model["scheduler"]["init_args"]
    rows = [
        ("Number of Workers", ours["workers"], data["num_workers"]),
        ("Image per Batch", ours["images_per_batch"], data["batch_size"]),
        ("Base Learning Rate", ours["base_lr"], model["optimizer"]["init_args"]["lr"]),
        ("Warm-up Iteration", ours["warmup_iters"], schedule["warmup_steps"]),
        ("Max Iteration", ours["max_iter"], other["trainer"]["max_steps"]),
        ("Gamma", ours["gamma"], schedule["gamma"]),
        ("Batch Size per Image", ours["rois_per_image"], model["net"]["init_args"]["rois_per_image"]),
        ("Number of Classes", "1 (face)", "1 (face)"),  # neither has an option for it
    ]
    heads = ("X101-FPN training setup", "paper", "ours, Detectron2", "ours, torchvision")
    return table(heads, [(name, published.TABLE_1[name], str(first), str(second)) for name, first, second in rows])


def table_2() -> list[str]:
    """Return the layers of the fully connected network, as it is built."""
    widths = [layer.out_features for layer in MLP(7).modules() if isinstance(layer, nn.Linear)]
    rows = [
        (f"Fully-connected {number}", str(theirs), str(ours))
        for number, (theirs, ours) in enumerate(zip(published.TABLE_2, widths, strict=True), 1)
    ]
    return table(("MLP layer", "paper, output channels", "ours"), rows)


def table_3(results: Results) -> list[str]:
    """Return the accuracies of the fully connected network by activation function."""
    rows = []
    for activation, name in NAMES.items():
        runs = results.of("mlp", {"net.activation": activation})
        rows.append(
            [
                name, str(published.MLP[activation].value), measured(runs, "accuracy"),
                measured(runs, "accuracy", "val"), measured(runs, "balanced_accuracy"),
                *made_by(experiment("mlp"), runs),
            ]
        )  # fmt: skip
    heads = ("activation function", "paper", "ours, PrivateTest", "PublicTest", "balanced accuracy", *MADE_BY)
    return table(heads, rows)


def table_4() -> list[str]:
    """Return the layers of the convolutional networks, as they are built."""
    ours = layers(SimpleCNN(7).modules())
    head = layers(expression_head(2048, 7))
    simple = [
        (name, theirs, own) for (name, theirs), own in zip(published.TABLE_4_SIMPLE, ours, strict=True)
    ]  # fmt: skip
    resnet = [
        (name, theirs, own)
        for (name, theirs), own in zip(
            published.TABLE_4_RESNET, ["of ResNet-50 and of ResNet-18, from scratch or ImageNet's weights", *head],
            strict=True,
        )
    ]  # fmt: skip
    lines = table(("Simple CNN", "paper", "ours"), simple)
    return [*lines, *table(("ResNet-based CNN", "paper", "ours"), resnet)]


def layers(modules: object) -> list[str]:
    """Return convolutions, poolings and fully connected layers in the words of Table 4.

    The order of ReLU and pooling makes no difference, and the ReLU counts to the layer that has weights.
    """
    found: list[str] = []
    weighted: list[int] = []
    for module in modules:  # type: ignore[attr-defined]
        if isinstance(module, nn.Conv2d):
            weighted.append(len(found))
            found.append(
                f"{_square(module.kernel_size)}x{module.out_channels}, stride {module.stride[0]}, "
                f"pad {module.padding[0]}"
            )
        elif isinstance(module, nn.MaxPool2d):
            found.append(f"{_square(module.kernel_size)}, stride {module.stride}")
        elif isinstance(module, nn.Linear):
            weighted.append(len(found))
            found.append(str(module.out_features))
        elif isinstance(module, nn.ReLU):
            found[weighted[-1]] += ", ReLU"
    return found


def _square(kernel: object) -> str:
    side = kernel[0] if isinstance(kernel, tuple) else kernel
    return f"{side}x{side}"


TABLE_5: tuple[tuple[str, str, Settings, published.Published], ...] = (
    ("KNN", "knn", CHOSEN["knn"], published.KNN_RAW),
    ("MLP", "mlp", CHOSEN["mlp"], published.MLP["relu"]),
    ("simple CNN", "simple_cnn", {}, published.SIMPLE_CNN),
    ("ResNet CNN", "resnet18", {}, published.RESNET),
)
"""The rows of Table 5: the paper's name, our experiment and its settings, the paper's accuracy."""

BESIDE_5: tuple[tuple[str, str], ...] = (
    ("ResNet CNN with 50 layers", "resnet50"),
    ("simple CNN, ReLU after the logits", "simple_cnn_final_relu"),
    ("ResNet CNN, ReLU after the logits", "resnet18_final_relu"),
    ("ResNet CNN with 18 layers, ImageNet's weights", "resnet18_imagenet"),
    ("ResNet CNN with 50 layers, ImageNet's weights", "resnet50_imagenet"),
)
"""What the paper names and Table 5 has no row for."""


def table_5(results: Results) -> list[str]:
    """Return the accuracies of the four kinds of model, and of their relatives."""
    rows: list[Sequence[str]] = []
    for name, key, settings, theirs in TABLE_5:
        rows.append([name, f"{theirs.value:.2f}", *_accuracies(results, key, settings)])
    for name, key in BESIDE_5:
        rows.append([name, "", *_accuracies(results, key, {})])
    heads = ("model", "paper", "ours, PrivateTest", "interval", "PublicTest", "balanced", "macro F1", *MADE_BY)
    return table(heads, rows)


def _accuracies(results: Results, key: str, settings: Settings) -> list[str]:
    runs = results.of(key, settings)
    return [
        measured(runs, "accuracy"),
        interval(runs[0]) if runs else "",
        measured(runs, "accuracy", "val") if runs else "",
        measured(runs, "balanced_accuracy") if runs else "",
        measured(runs, "macro_f1") if runs else "",
        *made_by(experiment(key), runs),
    ]


def knn_table(results: Results) -> list[str]:
    """Return the whole grid of nearest neighbours: what Figures 7 and 8 show, with both splits."""
    paper = {("RawPixels", 1, 1): published.KNN_ONE, ("RawPixels", 1, 3): published.KNN_RAW}
    paper[("Histogram", 1, 3)] = published.KNN_HISTOGRAM
    rows = []
    for representation in ("RawPixels", "Histogram"):
        for p in (1, 2, 3):
            for k in (1, 3, 5, 7, 9):
                run = results.first("knn", {"representation": representation, "p": p, "k": k})
                theirs = paper.get((representation, p, k))
                cells = [NOT_RUN, ""] if run is None else [percent(run.test["accuracy"]), percent(run.val["accuracy"])]
                rows.append([representation, f"L{p}", str(k), f"{theirs.value:g}" if theirs else "", *cells])
    return table(("representation", "norm", "K", "paper", "ours, PrivateTest", "PublicTest"), rows)


def detection_table(results: Results) -> list[str]:
    """Return the average precision of the detectors."""
    rows = []
    for key in ("wider_light", "wider_faster_rcnn", "x101_torchvision", "x101_detectron2"):
        one = experiment(key)
        runs = results.of(key)
        theirs = f"{published.AP50.value:g}" if key == "x101_detectron2" else ""
        ours = [measured(runs, metric) for metric in ("ap50", "ap", "recall")] if runs else [NOT_RUN, "", ""]
        rows.append([one.title, theirs, *ours, *made_by(one, runs)])
    return table(("detector", "paper, AP50", "ours, AP50", "AP", "recall", *MADE_BY), rows)


def ferplus_table(results: Results) -> list[str]:
    """Return the same network on the labels of FER-2013 and on those of FER+."""
    rows = []
    for name, key in (("FER-2013", "simple_cnn"), ("FER+, majority of the votes", "simple_cnn_ferplus")):
        runs = results.of(key)
        count = f"{runs[0].test['n']:,}" if runs else ""
        cells = [count, *(measured(runs, metric) if runs else "" for metric in ("balanced_accuracy", "macro_f1"))]
        rows.append([name, "", measured(runs, "accuracy"), *cells, *made_by(experiment(key), runs)])
    return table(
        ("labels", "paper", "ours, PrivateTest", "images", "balanced accuracy", "macro F1", *MADE_BY), rows
    )  # fmt: skip
