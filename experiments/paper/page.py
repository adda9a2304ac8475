"""Write docs/paper.md: the template ``page.md.jinja`` filled with what the stored runs have measured."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import nn

from experiments.paper import figures, published
from experiments.paper.dataset1 import AIM, METRICS
from experiments.paper.experiments import EXPERIMENTS, RUNS, START, TEST, Experiment, experiment, training
from experiments.paper.figures import Drawn, file_name
from experiments.paper.published import Published
from experiments.paper.runs import CHOSEN, Results, Run, Settings, curves, read_results, unleaked_accuracy
from faceexpr.cli.compare import lines_of, on_all_and_unleaked
from faceexpr.cli.parser import read_config
from faceexpr.metrics import predictions
from faceexpr.metrics.comparison import check_same
from faceexpr.models.base import expression_head
from faceexpr.models.mlp import MLP
from faceexpr.models.simple_cnn import SimpleCNN
from faceexpr.utils.files import write_file
from faceexpr.utils.labels import FER_NAMES
from faceexpr.utils.text import markdown_table

PAGE = Path("docs/paper.md")
FIGURES = Path("docs/paper")
TEMPLATE = "page.md.jinja"

NOT_RUN = "not run"
MADE_BY = ("command", "seed", "hardware", "minutes")
RESAMPLES, SEED = 2_000, 0
"""Of the bootstrap by which runs are compared."""

HALVINGS = 5
"""How often a ResNet with torchvision's stem halves the side of its image."""

FACTS = ("fer2013", "ferplus", "wider", "dataturks", "dataset1", "two_step")

ACTIVATIONS = {"sigmoid": "Sigmoid", "relu": "ReLU", "tanh": "Tanh"}
"""Activation functions in the order of Table 3, with their names there."""

TABLE_5: tuple[tuple[str, str, Settings, Published | None], ...] = (
    ("KNN", "knn", CHOSEN["knn"], published.KNN_RAW),
    ("MLP", "mlp", CHOSEN["mlp"], published.MLP["relu"]),
    ("simple CNN", "simple_cnn", {}, published.SIMPLE_CNN),
    ("ResNet CNN", "resnet18", {}, published.RESNET),
    ("ResNet CNN with 50 layers", "resnet50", {}, None),
    ("simple CNN, ReLU after the logits", "simple_cnn_final_relu", {}, None),
    ("ResNet CNN, ReLU after the logits", "resnet18_final_relu", {}, None),
    ("ResNet CNN with 18 layers, ImageNet's weights", "resnet18_imagenet", {}, None),
    ("ResNet CNN with 50 layers, ImageNet's weights", "resnet50_imagenet", {}, None),
)
"""Rows of Table 5: name, experiment, settings, the paper's accuracy; those without one are not in the paper's table."""

TITLES = {
    1: "The detected human faces in an input image",
    5: "Sample images, result of the face detection model",
    6: "Human face detection in an image from elsewhere",
    7: "KNN accuracies with respect to L1, L2, L3 norm",
    8: "KNN accuracies with respect to K",
    9: "Training loss, sigmoid",
    10: "Training loss, ReLU",
    11: "Training loss, tanh",
    12: "Simple CNN loss curve",
    13: "ResNet-based CNN loss curve",
    14: "Example of predictions made by our model",
    15: "Per class accuracy",
    16: "Confusion matrix",
    17: "An example of over-detecting",
    18: "FER vs FER+ examples",
    19: "An example of potential multiple expressions in one face",
}
"""The paper's captions, for figures that cannot be drawn yet."""


def write_page(project: Path) -> list[Path]:
    """Write the page and its figures into a clone of the project, and return their paths.

    Args:
        project: the clone, with stored runs.

    Raises:
        FaceExprError: a stored run is damaged.
    """
    results = read_results(project / RUNS)
    drawn = figures.draw_all(results)
    for stale in (project / FIGURES).glob("figure_*.png"):
        if stale.name not in {one.name for one in drawn.values()}:
            stale.unlink()
    paths = [one.write(project / FIGURES) for one in drawn.values()]
    write_file(project / PAGE, render(project, results, drawn))
    return [project / PAGE, *paths]


def render(project: Path, results: Results, drawn: dict[int, Drawn]) -> str:
    """Return the text of the page.

    Args:
        project: the clone, for the configurations.
        results: what was measured.
        drawn: the figures by number.
    """
    environment = Environment(  # Markdown, not HTML
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "thousands": lambda value: f"{value:,}"}
    tables: dict[str, Callable[[], str]] = {
        "table_1": lambda: table_1(project), "table_2": table_2, "table_3": lambda: table_3(results),
        "table_4": table_4, "table_5": lambda: table_5(results), "knn_table": lambda: knn_table(results),
        "detection_table": lambda: detection_table(results), "ferplus_table": lambda: ferplus_table(results),
        "comparison": lambda: comparison(results), "dataset_1_table": lambda: dataset_1_table(results),
    }  # fmt: skip
    facts = {name: results.facts.get(name) for name in FACTS}
    text = environment.get_template(TEMPLATE).render(
        tables, facts=facts, published=published, chosen=CHOSEN, class_names=FER_NAMES, resamples=RESAMPLES,
        first=results.first, all=results.of, figure=lambda number: _figure(number, drawn.get(number)),
        command=lambda name: plain_command(experiment(name)), apart=apart, beside=beside, without_leaked=without_leaked,
        all_activations=lambda: all_activations(results), names_of_constant=names_of_constant,
        accuracy_after_one_epoch=accuracy_after_one_epoch, input_size=input_size, silent=silent,
        last_cells=lambda run: math.ceil(input_size(run) / 2**HALVINGS), highest_recall=highest_recall,
        aim=AIM, confused_among=confused_among, over_detecting=figures.over_detecting(results),
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _figure(number: int, drawn: Drawn | None) -> str:
    if drawn is None:
        return f"**Figure {number}: {TITLES[number]}.** {NOT_RUN.capitalize()}.\n"
    note = f" {drawn.note}" if drawn.note else ""
    return f"**Figure {number}: {drawn.title}.**{note}\n\n![Figure {number}]({FIGURES.name}/{file_name(number)})\n"


# What the sentences say of the runs.


def percent(value: float) -> str:
    """Return a share in percent with two decimals, as the paper prints accuracies."""
    return f"{100 * value:.2f}"


def apart(ours: float, theirs: Published) -> str:
    """Return how far a number in percent lies from the paper's."""
    word = "above" if ours >= theirs.value else "below"
    return f"{abs(ours - theirs.value):.2f} points {word} the paper's {theirs.value:g}% ({theirs.source})"


def beside(runs: Sequence[Run], theirs: Published) -> str:
    """Return the accuracy, of several seeds its mean, and how far it lies from the paper's."""
    accuracy = 100 * float(np.mean([run.test["accuracy"] for run in runs]))
    seeds = f" (mean of {len(runs)} seeds)" if len(runs) > 1 else ""
    return f"{accuracy:.2f}%{seeds}, {apart(accuracy, theirs)}"


def without_leaked(run: Run) -> tuple[float, int] | None:
    """Return the test accuracy without images that are also in the training split, and how many those are."""
    return unleaked_accuracy(run.folder / TEST / predictions.file_name("test"))


def all_activations(results: Results) -> list[tuple[str, list[Run], Published]]:
    """Return name, runs and the paper's accuracy of each activation function; nothing unless all were run."""
    found = [
        (ACTIVATIONS[name], results.of("mlp", {"net.activation": name}), published.MLP[name]) for name in ACTIVATIONS
    ]
    return found if all(runs for _, runs, _ in found) else []


def names_of_constant(found: Sequence[tuple[str, list[Run], Published]]) -> list[str]:
    """Return the activation functions with a run that predicts the same class for every face."""

    def constant(run: Run) -> bool:
        predicted = [entry["predicted"] for entry in run.test["per_class"].values()]
        return bool(max(predicted) == sum(predicted))

    return [name for name, runs, _ in found if any(map(constant, runs))]


def accuracy_after_one_epoch(run: Run) -> float | None:
    """Return the validation accuracy of the first epoch; None where the curve is not stored."""
    curve = curves(run.folder, ("val/accuracy",)).get("val/accuracy")
    return curve[0][1] if curve else None


def input_size(run: Run) -> int:
    """Return the side of a network's input in pixels."""
    return int(run.setting("net.input_size") or 48)


def silent(run: Run) -> list[str]:
    """Return the classes that a classifier predicts for no test sample."""
    return [name for name, entry in run.test["per_class"].items() if entry["predicted"] == 0]


def highest_recall(run: Run) -> str:
    """Return the class of the highest recall."""
    per_class = run.test["per_class"]
    return str(max(per_class, key=lambda name: float(per_class[name]["recall"])))


def confused_among(run: Run, names: Sequence[str]) -> float | None:
    """Return which share of the errors on some classes is another one of them; None where there are no errors."""
    places = [run.test["class_names"].index(name) for name in names]
    rows = np.array(run.test["confusion_matrix"])[places]
    rows[range(len(places)), places] = 0
    return float(rows[:, places].sum() / rows.sum()) if rows.any() else None


# Tables.


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, and an empty line after it."""
    return "\n".join([*markdown_table(heads, rows), ""])


def spread(values: Sequence[float]) -> str:
    """Return shares of several seeds in percent: their mean and, of two or more, the standard deviation."""
    if not values:
        return NOT_RUN
    mean = percent(float(np.mean(values)))
    return mean if len(values) == 1 else f"{mean} ± {percent(float(np.std(values, ddof=1)))}"


def measured(runs: Sequence[Run], metric: str, stage: str = "test") -> str:
    """Return a metric of runs that differ in their seed."""
    return spread([getattr(run, stage)[metric] for run in runs])


def made_by(one: Experiment, runs: Sequence[Run]) -> list[str]:
    """Return how runs were made: command, seeds, hardware and minutes of each."""
    if not runs:
        return [f"`{plain_command(one)}`", "", "", "takes a GPU" if one.gpu else NOT_RUN]
    return [
        f"`{without_seed(runs[0].record.command)}`",
        ", ".join(str(run.seed) for run in runs),
        "; ".join(sorted({run.record.hardware for run in runs})),
        f"{np.mean([run.minutes for run in runs]):.1f}",
    ]


def plain_command(one: Experiment) -> str:
    """Return the command of an experiment that was not run."""
    return without_seed(shlex.join(["faceexpr", *training(one, 0, Path()).args]))


def without_seed(command: str) -> str:
    """Return a command but for its last option, the seed, which has a column of its own."""
    return re.sub(r" --seed(_everything)? \d+$", "", command)


def table_1(project: Path) -> str:
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


def table_2() -> str:
    """Return the layers of the fully connected network, as it is built."""
    widths = [layer.out_features for layer in MLP(7).modules() if isinstance(layer, nn.Linear)]
    rows = [
        (f"Fully-connected {number}", str(theirs), str(ours))
        for number, (theirs, ours) in enumerate(zip(published.TABLE_2, widths, strict=True), 1)
    ]
    return table(("MLP layer", "paper, output channels", "ours"), rows)


def table_3(results: Results) -> str:
    """Return the accuracies of the fully connected network by activation function."""
    rows = []
    for activation, name in ACTIVATIONS.items():
        runs = results.of("mlp", {"net.activation": activation})
        accuracies = (
            measured(runs, "accuracy"),
            measured(runs, "accuracy", "val"),
            measured(runs, "balanced_accuracy"),
        )
        rows.append([name, str(published.MLP[activation].value), *accuracies, *made_by(experiment("mlp"), runs)])
    heads = ("activation function", "paper", "ours, PrivateTest", "PublicTest", "balanced accuracy", *MADE_BY)
    return table(heads, rows)


def table_4() -> str:
    """Return the layers of the convolutional networks, as they are built."""
    resnet = ["of ResNet-50 and of ResNet-18, from scratch or ImageNet's weights", *layers(expression_head(2048, 7))]
    blocks = []
    for head, theirs, ours in (
        ("Simple CNN", published.TABLE_4_SIMPLE, layers(SimpleCNN(7))),
        ("ResNet-based CNN", published.TABLE_4_RESNET, resnet),
    ):
        rows = [(name, paper, own) for (name, paper), own in zip(theirs, ours, strict=True)]
        blocks.append(table((head, "paper", "ours"), rows))
    return "\n".join(blocks)


def layers(net: nn.Module) -> list[str]:
    """Return convolutions, poolings and fully connected layers in the words of Table 4.

    The order of ReLU and pooling makes no difference, and the ReLU counts to the layer that has weights.
    """
    found: list[str] = []
    weighted = -1
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            found[weighted] += ", ReLU"
            continue
        if isinstance(module, nn.Conv2d):
            kernel = "x".join(map(str, module.kernel_size))
            text = f"{kernel}x{module.out_channels}, stride {module.stride[0]}, pad {module.padding[0]}"
        elif isinstance(module, nn.MaxPool2d):
            text = f"{module.kernel_size}x{module.kernel_size}, stride {module.stride}"
        elif isinstance(module, nn.Linear):
            text = str(module.out_features)
        else:
            continue
        weighted = weighted if isinstance(module, nn.MaxPool2d) else len(found)
        found.append(text)
    return found


def table_5(results: Results) -> str:
    """Return the accuracies of the four kinds of model, and of their relatives."""
    rows = []
    for name, key, settings, theirs in TABLE_5:
        runs = results.of(key, settings)
        interval = "{} to {}".format(*map(percent, runs[0].test["accuracy_interval"])) if runs else ""
        others = [
            measured(runs, metric, stage) if runs else ""
            for metric, stage in (("accuracy", "val"), ("balanced_accuracy", "test"), ("macro_f1", "test"))
        ]
        paper = f"{theirs.value:.2f}" if theirs else ""
        rows.append([name, paper, measured(runs, "accuracy"), interval, *others, *made_by(experiment(key), runs)])
    heads = ("model", "paper", "ours, PrivateTest", "interval", "PublicTest", "balanced", "macro F1", *MADE_BY)
    return table(heads, rows)


def knn_table(results: Results) -> str:
    """Return the whole grid of nearest neighbours: what Figures 7 and 8 show, with both splits."""
    paper = {
        ("RawPixels", 1, 1): published.KNN_ONE,
        ("RawPixels", 1, 3): published.KNN_RAW,
        ("Histogram", 1, 3): published.KNN_HISTOGRAM,
    }
    rows = []
    for representation in ("RawPixels", "Histogram"):
        for p in (1, 2, 3):
            for k in (1, 3, 5, 7, 9):
                run = results.first("knn", {"representation": representation, "p": p, "k": k})
                theirs = paper.get((representation, p, k))
                cells = [NOT_RUN, ""] if run is None else [percent(run.test["accuracy"]), percent(run.val["accuracy"])]
                rows.append([representation, f"L{p}", str(k), f"{theirs.value:g}" if theirs else "", *cells])
    return table(("representation", "norm", "K", "paper", "ours, PrivateTest", "PublicTest"), rows)


def detection_table(results: Results) -> str:
    """Return the average precision of the detectors on WIDER FACE."""
    rows = []
    for one in (one for one in EXPERIMENTS if one.data == "wider" and one.kind == "fit"):
        runs = results.of(one.name)
        ours = [measured(runs, metric) for metric in ("ap50", "ap", "recall")] if runs else [NOT_RUN, "", ""]
        rows.append([one.title, *ours, *made_by(one, runs)])
    return table(("detector on WIDER FACE", "AP50", "AP", "recall", *MADE_BY), rows)


def dataset_1_table(results: Results) -> str:
    """Return what detectors measure on Dataset 1: those that have run, and the paper's, which takes a GPU."""
    rows = []
    intervals = (results.facts.get("dataset1") or {}).get("runs", {})
    for one in (one for one in EXPERIMENTS if one.data == "dataset1"):
        runs, known = results.of(one.name), intervals.get(one.name, {})
        theirs = f"{published.AP50.value:g}" if one.name == "x101_detectron2" else ""
        if not runs:
            if one.gpu:
                rows.append([one.title, theirs, NOT_RUN, *[""] * (len(METRICS) + 1), *made_by(one, runs)])
            continue
        if START in known:
            cells = [with_interval(known[START][metric]) for metric in METRICS]
            rows.append(
                [f"{one.title}, WIDER FACE alone", "", *cells, _folds(known.get(f"{START}_folds"), []), *[""] * 4]
            )
        first = known.get(TEST) or {name: [runs[0].test[name]] for name in METRICS if name in runs[0].test}
        cells = [with_interval(first[metric]) if metric in first else "" for metric in METRICS]
        rows.append([one.title, theirs, *cells, _folds(known.get(f"{TEST}_folds"), runs), *made_by(one, runs)])
    heads = ("AP50", "AP", "AP75", "recall", "precision, best F1", "recall, best F1", "AP50, mean of folds")
    return table(("detector on Dataset 1", "paper, AP50", *heads, *MADE_BY), rows)


def with_interval(values: Sequence[float]) -> str:
    """Return a share in percent, with the ends of its interval where they are known."""
    value, *ends = (f"{100 * each:.1f}" for each in values)
    return f"{value} ({' to '.join(ends)})" if ends else value


def _folds(known: dict[str, Sequence[float]] | None, runs: Sequence[Run]) -> str:
    if known is None:
        return ""
    each = [100 * run.test["ap50"] for run in runs]
    folds = f", {len(each)} folds, standard deviation {np.std(each, ddof=1):.1f}" if len(each) > 1 else ""
    return with_interval(known["ap50"]) + folds


def ferplus_table(results: Results) -> str:
    """Return the same network on the labels of FER-2013 and on those of FER+."""
    rows = []
    for name, key in (("FER-2013", "simple_cnn"), ("FER+, majority of the votes", "simple_cnn_ferplus")):
        runs = results.of(key)
        count = f"{runs[0].test['n']:,}" if runs else ""
        cells = [count, *(measured(runs, metric) if runs else "" for metric in ("balanced_accuracy", "macro_f1"))]
        rows.append([name, "", measured(runs, "accuracy"), *cells, *made_by(experiment(key), runs)])
    return table(("labels", "paper", "ours, PrivateTest", "images", "balanced accuracy", "macro F1", *MADE_BY), rows)


def comparison(results: Results) -> str:
    """Return accuracies and pairwise tests of the rows of the paper's Table 5; of several seeds the first."""
    found = {name: results.first(key, settings) for name, key, settings, theirs in TABLE_5 if theirs}
    files = {name: run.folder / TEST / predictions.file_name("test") for name, run in found.items() if run is not None}
    runs = {name: predictions.read_samples(path) for name, path in files.items() if path.is_file()}
    if len(runs) < 2:
        return f"{NOT_RUN}\n"
    check_same(runs)
    compared, note = on_all_and_unleaked(runs, RESAMPLES, SEED)
    return "\n".join([*lines_of(compared, mark="#### "), "", note, ""])
