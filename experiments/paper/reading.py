"""What the numbers say, in sentences whose numbers come from the stored results."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from experiments.paper import published
from experiments.paper.cells import percent
from experiments.paper.commands import TEST
from experiments.paper.events import curves
from experiments.paper.published import Published
from experiments.paper.results import CHOSEN, Results, Run
from experiments.paper.tables import NAMES
from faceexpr.metrics.comparison import over_seeds
from faceexpr.metrics.predictions import file_name, unleaked_accuracy
from faceexpr.utils.labels import FER_NAMES

NOTHING = "Not run yet."
HALVINGS = 5
"""How often a ResNet with torchvision's stem halves the side of its picture."""


def data(results: Results) -> list[str]:
    """Return what the data are."""
    said = []
    if found := results.facts.get("fer2013"):
        train, val, test = (f"{sum(found['classes'][stage]):,}" for stage in ("train", "val", "test"))
        happy = found["classes"]["test"][FER_NAMES.index("Happy")] / sum(found["classes"]["test"])
        said.append(
            f"FER-2013: {train} images to train on, {val} of PublicTest, which choose every epoch and setting, and "
            f"{test} of PrivateTest, which are measured once. {found['leaked']['val']} of PublicTest and "
            f"{found['leaked']['test']} of PrivateTest are pixel-equal to a training image. Who always says Happy has "
            f"{percent(happy)}% of PrivateTest right. The file is a reconstruction: nearly all images are pixel-exact."
        )
    if found := results.facts.get("wider"):
        stated = published.DATASET_1
        said.append(
            f"Dataset 1's images lie behind links, and a part of WIDER FACE stands in for them: "
            f"{found['train']['pictures']} photographs with {found['train']['faces']:,} faces to train on, a tenth of "
            f"them to choose by, and {found['val']['pictures']} with {found['val']['faces']} faces to measure on. The "
            f"paper has about {stated['pictures']} images with a bit more than {stated['faces']:,} faces, and does not "
            f"say how it divided them."
        )
        if own := results.facts.get("dataturks"):
            said.append(
                f"The annotations of Dataset 1 themselves are read as they are: {own['pictures']} images, "
                f"{own['faces']:,} faces."
            )
    return said or [NOTHING]


def detection(results: Results) -> list[str]:
    """Return what is to be said of the detectors."""
    run = results.first("wider_light")
    if run is None:
        return [NOTHING]
    ap50 = 100 * run.test["ap50"]
    said = (
        f"The light detector, from scratch, has an AP50 of {ap50:.1f}%, {_apart(ap50, published.AP50)}, on other "
        "photographs than the paper's: the two stand beside each other, and prove nothing of each other. X101-FPN "
        "starts from weights that have to be downloaded, and takes a GPU."
    )
    small = results.first("wider_faster_rcnn")
    if small is not None:
        said += f" A small Faster R-CNN, trained from scratch on a CPU, has {100 * small.test['ap50']:.1f}%."
    return [said]


def neighbours(results: Results) -> list[str]:
    """Return what is to be said of nearest neighbours."""
    run = results.first("knn", CHOSEN["knn"])
    if run is None:
        return [NOTHING]
    said = [f"The paper's setting (K = 3, L1, raw pixels) has {_beside([run], published.KNN_RAW)}."]
    leak = unleaked_accuracy(run.folder / TEST / file_name("test"))
    if leak is not None:
        accuracy, left_out = leak
        said.append(
            f"Part of the difference is a leak in the data: without the {left_out} test images that are pixel-equal to "
            f"a training image the accuracy is {percent(accuracy)}%. K = 1 has every one of them right unless equal "
            "images have different labels; the paper, where it comes first, calls that over-fitting."
        )
    histogram = results.first("knn", {**CHOSEN["knn"], "representation": "Histogram"})
    if histogram is not None:
        said.append(f"Histograms have {_beside([histogram], published.KNN_HISTOGRAM)}.")
    norms = [results.first("knn", {**CHOSEN["knn"], "p": p}) for p in (1, 2, 3)]
    if all(norms):
        accuracies = [one.test["accuracy"] for one in norms if one is not None]
        same = accuracies == sorted(accuracies, reverse=True)
        said.append(f"The order of the norms is {'the' if same else 'not the'} paper's: L1, L2, L3.")
    said.append("Nothing is drawn at random here, so that other seeds would change nothing.")
    said.append("The paper does not say which images its numbers are from, or how levels were put into bins.")
    return [" ".join(said)]


def fully_connected(results: Results) -> list[str]:
    """Return what is to be said of the fully connected network."""
    found = {name: results.of("mlp", {"net.activation": name}) for name in published.MLP}
    if not all(found.values()):
        return [NOTHING]
    said = [f"{NAMES[name]} has {_beside(runs, published.MLP[name])}" for name, runs in found.items()]
    stuck = [NAMES[name] for name, runs in found.items() if any(_one_class(run) for run in runs)]
    ending = (
        f"With {' and '.join(stuck)} it says the same class of every face in the end; the paper reports of its ReLU "
        "network that it mostly says Happy."
        if stuck
        else "None of them gets stuck at one class, as the paper reports of its ReLU network."
    )
    return [
        f"{'; '.join(said)}. {ending} The paper names neither the optimizer nor its rate nor the batch size; Adam "
        "with the rate of its convolutional networks is used here, so that the difference may be the training and not "
        "the network."
    ]


def _one_class(run: Run) -> bool:
    predicted = [entry["predicted"] for entry in run.test["per_class"].values()]
    return bool(max(predicted) == sum(predicted))


def convolutional(results: Results) -> list[str]:
    """Return what is to be said of the convolutional networks."""
    said = []
    simple, resnet = results.first("simple_cnn"), results.first("resnet18")
    if simple is not None:
        beside = _beside(results.of("simple_cnn"), published.SIMPLE_CNN)
        said.append(
            f"The simple CNN has {beside}, with the paper's layers, optimizer and rate. Flips, small rotations, "
            "changes of size and shifts of the training faces are ours; the paper names none."
        )
    if resnet is not None:
        beside = _beside(results.of("resnet18"), published.RESNET)
        said.append(
            f"The ResNet-based CNN, from scratch, has {beside}, which started from ImageNet's weights. In their place "
            "it has faces of twice their size, so that its stem keeps their detail, stronger augmentation, one cycle "
            "of Adam's rate, and an average of its weights."
        )
        first = curves(resnet.folder, ("val/accuracy",)).get("val/accuracy")
        if first:
            said.append(
                f"After one epoch it has {percent(first[0][1])}% of PublicTest right, with an average of weights that "
                f"is still near their start; the paper's has {published.RESNET_FIRST_EPOCH.value}%, which is what "
                "pre-trained weights are for."
            )
    deep = results.first("resnet50")
    if deep is not None:
        size = int(deep.setting("net.input_size") or 48)
        left = math.ceil(size / 2**HALVINGS)
        said.append(
            f"With 50 layers it has {percent(deep.test['accuracy'])}%, from scratch, over faces of {size} pixels, of "
            f"which {left} by {left} places reach the last layers, after {deep.minutes:.0f} minutes: what a CPU can "
            "train, and no measure of that network."
        )
    for name, key, base in (
        ("simple CNN", "simple_cnn_final_relu", simple), ("ResNet-based CNN", "resnet18_final_relu", resnet)
    ):  # fmt: skip
        literal = results.first(key)
        if literal is not None and base is not None:
            said.append(_literal(name, literal, base))
    return [" ".join(said)] if said else [NOTHING]


def _literal(name: str, literal: Run, base: Run) -> str:
    silent = [one for one, entry in literal.test["per_class"].items() if entry["predicted"] == 0]
    lost = f" and never says {', '.join(silent)}" if silent else ""
    return (
        f"With the ReLU that Table 4 prints after the logits the {name} has {percent(literal.test['accuracy'])}% where "
        f"it has {percent(base.test['accuracy'])}% without{lost}: a class whose logit is negative for all faces of a "
        "batch learns nothing from it."
    )


def per_class(results: Results) -> list[str]:
    """Return what is to be said of the classes of the ResNet-based CNN."""
    run = results.first("resnet18")
    if run is None:
        return [NOTHING]
    recalls = {name: entry["recall"] for name, entry in run.test["per_class"].items()}
    hard = ", ".join(f"{name} {percent(recalls[name])}%" for name in published.HARD)
    best = max(recalls, key=lambda name: recalls[name])
    confused = _among(run, published.HARD)
    told = "" if confused is None else f" Of the errors on these four, {percent(confused)}% are one of the other three."
    return [
        f"Happy has {percent(recalls['Happy'])}%, in the paper {published.RESNET_HAPPY.value}%; those near "
        f"{published.RESNET_HARD.value:g}% there have here: {hard}. The highest is {best}.{told}"
    ]


def _among(run: Run, names: Sequence[str]) -> float | None:
    """Return which share of the errors on some classes is another one of them; None where there are no errors."""
    places = [run.test["class_names"].index(name) for name in names]
    rows = np.array(run.test["confusion_matrix"])[places]
    rows[range(len(places)), places] = 0
    return float(rows[:, places].sum() / rows.sum()) if rows.any() else None


def over_detection(results: Results) -> list[str]:
    """Return what is to be said of several boxes for one face."""
    run = results.first("wider_light")
    counts = {} if run is None else run.test.get("over_detection", {})
    if not counts:
        return [NOTHING]
    return [
        f"The paper points at non-maximum suppression. Before it, {counts['none']['extra']:,} boxes are beyond one for "
        f"the same face; after it {counts['nms']['extra']:,}, after Soft-NMS {counts['soft_nms']['extra']:,} and after "
        f"weighted boxes fusion {counts['wbf']['extra']:,}."
    ]


def ferplus(results: Results) -> list[str]:
    """Return what is to be said of FER+'s labels."""
    plus, plain = results.first("simple_cnn_ferplus"), results.first("simple_cnn")
    if plus is None or plain is None:
        return [NOTHING]
    dropped = results.facts.get("ferplus", {}).get("without", 0)
    return [
        f"The paper expects better accuracy from FER+'s labels, and so it is: the same network with the same training "
        f"has {percent(plus.test['accuracy'])}% of them right and {percent(plain.test['accuracy'])}% of FER-2013's. "
        f"The two are measured against other labels, and {dropped:,} test images without a majority are left out: "
        "doubtful faces are gone from the test as well as from the training."
        if plus.test["accuracy"] > plain.test["accuracy"]
        else f"With FER+'s labels the same network has {percent(plus.test['accuracy'])}% right, and "
        f"{percent(plain.test['accuracy'])}% with FER-2013's."
    ]


def two_step(results: Results) -> list[str]:
    """Return what the two-step system has found in the photographs."""
    found = results.facts.get("two_step")
    if not found:
        return [NOTHING]
    told = ", ".join(f"{name} {count}" for name, count in found["expressions"].items())
    return [
        f"Both steps together over {found['pictures']} photographs, {found['failed']} of which could not be read: "
        f"{found['faces']:,} faces ({told}). Nobody has labelled the expressions of these faces; what is measured is "
        "each step by itself."
    ]


def _beside(runs: Sequence[Run], theirs: Published) -> str:
    """Return the accuracy, of several seeds its mean, and how far it lies from the paper's."""
    accuracy = 100 * over_seeds([run.test["accuracy"] for run in runs]).mean
    seeds = f" (mean of {len(runs)} seeds)" if len(runs) > 1 else ""
    return f"{accuracy:.2f}%{seeds}, {_apart(accuracy, theirs)}"


def _apart(ours: float, theirs: Published) -> str:
    """Return how far a number in percent lies from the paper's."""
    word = "above" if ours >= theirs.value else "below"
    return f"{abs(ours - theirs.value):.2f} points {word} the paper's {theirs.value:g}% ({theirs.source})"
