"""The blocks of numbers in a model card, in Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from faceexpr.metrics.calibration import COVERAGE, SIZE
from faceexpr.utils.text import counted, markdown_table

Block: TypeAlias = "Callable[[Mapping[str, Any], Collection[str]], str]"
"""Takes what was measured, and the names of the figures that there are."""

NOT_MEASURED = "Not measured."


def facts(found: Mapping[str, Any], figures: Collection[str]) -> str:
    """Return what the model is and how it was trained."""
    training = found["training"]
    size = "" if found["bytes"] is None else f", {found['bytes'] / 1e6:.2f} MB in half precision"
    mirror = "the mean over a face and its mirror image" if found["mirror"] else "of the face as it is"
    rows = [
        ("network", f"`{found['network']}`, {found['parameters']:,} parameters{size}"),
        ("trained by", ", then from that run (BEFORE) ".join(f"`{command}`" for command in training["commands"])),
        ("seed", str(training["seed"])),
        ("epoch", f"{training['best_epoch']} of {training['epochs']}, chosen by the validation split"),
        ("time", f"{training['minutes']:,} minutes on {training['hardware']}"),
        ("measured by", f"`{_test_command(found)}`"),
    ]
    if found["calibration"]:
        rows.insert(-1, ("calibrated by", f"`{_calibration_command(found)}`"))
    if "accuracy" in found["test"]:
        rows.insert(-1, ("probabilities", f"{mirror}{_temperature(found['calibration'])}"))
    return table(("", ""), rows)


def _test_command(found: Mapping[str, Any]) -> str:
    flags = [part for option, value in found["test_options"].items() for part in (f"--{option}", value)]
    robust = ["--robustness.enabled", "true"] if found["robustness"] else []
    return shlex.join(["faceexpr", "test", "--ckpt_path", found["name"], *flags, *robust])


def _calibration_command(found: Mapping[str, Any]) -> str:
    mirror = ["--model.mirror", "true"] if found["mirror"] else []
    fitted = found["calibration"]
    options = {"method": _method(fitted), **{name: fitted.get(name) for name in ("balance", "corruptions")}}
    flags = [part for option, value in options.items() if value for part in (f"--calibration.{option}", str(value))]
    begun = ["faceexpr", "validate", "--ckpt_path", "RUN", *mirror]
    return shlex.join([*begun, "--calibration.enabled", "true", *flags])


def _method(calibration: Mapping[str, Any]) -> str:
    """Return how a calibration was fitted, nothing where by the temperature alone; those of 0.1 did not say it."""
    method = str(calibration.get("method") or ("vector" if calibration["scales"] else ""))
    return "" if method == "temperature" else method


def _temperature(calibration: Mapping[str, Any] | None) -> str:
    if not calibration:
        return ", not calibrated"
    scaled = {"vector": " and vector scaling", "bias": " and a shift for each class"}.get(_method(calibration), "")
    scaled += f", balance {calibration['balance']:g}" if calibration.get("balance") else ""
    source = f" of {calibration['source']}" if calibration["source"] else ""
    return f", temperature {calibration['temperature']:.3f}{scaled} fitted on {calibration['samples']:,} images{source}"


def results(found: Mapping[str, Any], figures: Collection[str]) -> str:
    """Return a classifier's metrics on both splits."""
    splits = found["validation"], found["test"]
    rows = [("images", *(f"{one['n']:,}" for one in splits))]
    rows += [("accuracy", *(f"{one['accuracy']:.2%}" for one in splits))]
    rows += [
        ("95% interval", *(f"{one['accuracy_interval'][0]:.2%} to {one['accuracy_interval'][1]:.2%}" for one in splits))
    ]
    for metric, label, form in (
        ("balanced_accuracy", "balanced accuracy", ".2%"),
        ("top2_accuracy", "true class among the two most probable", ".2%"),
        ("macro_f1", "macro F1", ".3f"),
        ("auroc", "AUROC, one against the rest", ".3f"),
        ("ece", "calibration error (ECE)", ".3f"),
    ):
        rows.append((label, *(_shown(one[metric], form) for one in splits)))
    text = table(("", "PublicTest", "PrivateTest"), rows)
    leaks = found["leaks"]
    if leaks:
        text += (
            f"\n\n{leaks['n']:,} of the {found['test']['n']:,} images of PrivateTest are pixel-equal to a training "
            f"image; without them the accuracy is {leaks['accuracy_without']:.2%}."
        )
    return text


def per_class(found: Mapping[str, Any], figures: Collection[str]) -> str:
    """Return the metrics of each class, and what it is most often taken for."""
    test = found["test"]
    names = test["class_names"]
    rows = []
    for place, name in enumerate(names):
        one = test["per_class"][name]
        others = [0 if other == place else count for other, count in enumerate(test["confusion_matrix"][place])]
        taken = f"{names[others.index(max(others))]}, {max(others) / one['n']:.0%}" if max(others) else ""
        cells = (_shown(one["precision"], ".1%"), _shown(one["recall"], ".1%"), _shown(one["f1"], ".3f"))
        rows.append((name, f"{one['n']:,}", *cells, taken))
    head = ("class", "images", "precision", "recall", "F1", "most often taken for")
    return table(head, rows) + figure(found, figures, "confusion_matrix", "Confusion matrix on PrivateTest")


def calibration(found: Mapping[str, Any], figures: Collection[str]) -> str:
    """Return how often prediction sets hold the true class, and how sure the network may be believed."""
    test = found["test"]
    levels = [name.removeprefix(COVERAGE) for name in test if name.startswith(COVERAGE)]
    rows = [(f"{float(level):.4g}", f"{test[COVERAGE + level]:.1%}", f"{test[SIZE + level]:.2f}") for level in levels]
    text = table(("stated coverage", "holds the true expression", "expressions in it, mean"), rows) if rows else ""
    text += figure(found, figures, "prediction_sets", "Sizes of the prediction sets and their coverage by class")
    return text + figure(found, figures, "reliability", "How often predictions of a given confidence are right")


def robustness(found: Mapping[str, Any], figures: Collection[str]) -> str:
    """Return the accuracy under corruptions."""
    measured = found["robustness"]
    if measured is None:
        return NOT_MEASURED
    rows = [
        (_words(name), *(f"{one['accuracy']:.1%}" for one in each["strengths"]), f"{each['mean']['accuracy']:.1%}")
        for name, each in measured["corruptions"].items()
    ]
    costly = sorted(measured["corruptions"], key=lambda name: measured["corruptions"][name]["mean"]["accuracy"])[:3]
    strengths = [str(one["strength"]) for one in next(iter(measured["corruptions"].values()))["strengths"]]
    text = (
        f"Clean {measured['clean']['accuracy']:.1%}; mean over all of these {measured['mean']['accuracy']:.1%}, "
        f"n = {measured['n']:,} each, seed {measured['seed']}. Most is lost under "
        f"{', '.join(map(_words, costly))}. What the strengths mean is in [robustness.md](../robustness.md).\n\n"
    )
    return text + table(("", *strengths, "mean"), rows) + figure(found, figures, "robustness", "Accuracy by strength")


def slices(found: Mapping[str, Any], figures: Collection[str]) -> str:
    """Return the section on groups: the main metric of each, with its interval; nothing where none were measured."""
    measured = found.get("slices")
    if measured is None:
        return ""
    text = (
        "## By group\n\nIntervals of 95% by the bootstrap over images; p of the largest difference by permutation, "
        f"corrected by Holm for all of these; {measured['resamples']:,} of each, seed {measured['seed']}. "
        "What is counted how is in [slices.md](../slices.md)."
    )
    for name, column in measured["columns"].items():
        main = column["main"]
        rows = [
            (group, f"{one['n']:,}", *_interval(one["metrics"].get(main))) for group, one in column["groups"].items()
        ]
        text += f"\n\n{table((name, column['unit'] + 's', _words(main), '95% interval'), rows)}"
        if main in column["differences"]:
            test = column["differences"][main]
            text += (
                f"\n\nLargest difference: {test['difference']:.4f}, {test['highest']} over {test['lowest']}, "
                f"p {test['p_holm']:.3f}."
            )
    return text + figure(found, figures, "slices", "Each group with its interval")


def _interval(one: Mapping[str, float] | None) -> tuple[str, str]:
    return ("too few", "") if one is None else (f"{one['value']:.4f}", f"{one['low']:.4f} to {one['high']:.4f}")


def ferplus(found: Mapping[str, Any], figures: Collection[str]) -> str:
    """Return what the same network reaches with the labels of FER+; nothing where it was not measured."""
    test = found["ferplus"]
    if test is None:
        return ""
    rule = f" ({test['labels']['rule']})" if "labels" in test else ""
    low, high = test["accuracy_interval"]
    return (
        f"The same network after training on the votes of FER+, which is not the file that ships: accuracy "
        f"{test['accuracy']:.2%} ({low:.2%} to {high:.2%}) on the {test['n']:,} images of PrivateTest with a majority"
        f"{rule}, balanced accuracy {test['balanced_accuracy']:.2%}, macro F1 {test['macro_f1']:.3f}; mean distance to "
        f"the votes {test['js']:.3f} bits (Jensen-Shannon), {test['total_variation']:.3f} (total variation). See "
        "[results.md](../results.md)."
    )


def detection(found: Mapping[str, Any], figures: Collection[str]) -> str:
    """Return a detector's metrics on both splits."""
    splits = found["validation"], found["test"]
    held_out = "validation" if found["held_out"] is None else f"held-out {found['held_out']:.0%} of training"
    rows = [
        ("photographs", *(f"{one['images']:,}" for one in splits)),
        ("faces", *(f"{one['faces']:,}" for one in splits)),
    ]
    for metric, label in (
        ("ap50", "AP50"),
        ("ap", "AP"),
        ("ap75", "AP75"),
        ("ap_small", "AP, small faces"),
        ("ap_medium", "AP, medium"),
        ("ap_large", "AP, large"),
        ("recall", "recall, all boxes"),
        ("best_f1", "best F1"),
        ("best_f1_threshold", "score of the best F1"),
        ("best_f1_precision", "precision at that score"),
        ("best_f1_recall", "recall at that score"),
        ("wider_easy", "AP by WIDER FACE's protocol, easy"),
        ("wider_medium", "the same, medium"),
        ("wider_hard", "the same, hard"),
    ):
        if metric in splits[1]:
            rows.append((label, *(_shown(one[metric], ".4f") if metric in one else "" for one in splits)))
    text = table(("", held_out, "test"), rows)
    return text + figure(found, figures, "precision_recall", "Precision and recall on the test photographs")


def over_detection(found: Mapping[str, Any], figures: Collection[str]) -> str:
    """Return how many boxes are too many, by the way of suppression."""
    test = found["test"]
    names = {"none": "before suppression", "nms": "NMS", "soft_nms": "Soft-NMS", "wbf": "weighted boxes fusion"}
    rows = [
        (names[method], f"{one['found']:,}", f"{one['extra']:,}", f"{one['false']:,}")
        for method, one in test["over_detection"].items()
    ]
    head = (f"boxes with a score of {test['score']:g} or more", "faces found", "beyond one for a face", "on no face")
    return table(head, rows)


def speed(found: Mapping[str, Any], figures: Collection[str]) -> str:
    """Return the time a photograph beside other detectors'."""
    measured = found["benchmark"]
    if measured is None:
        return NOT_MEASURED
    rows = [
        (one["name"], f"{one['ap50']:.4f}", f"{one['ap']:.4f}", *(
            cell for look in ("first", "again") for cell in (f"{one[look]:.1f}", f"{one[look + '_ratio']:.2f}")
        ))
        for one in measured["rows"]
    ]  # fmt: skip
    head = ("", "AP50", "AP", "first look, ms", "ours by this", "second look, ms", "ours by this")
    return (
        f"`benchmarks/detection.py`, {counted(measured['threads'], 'thread')}, {measured['pictures']:,} photographs "
        f"with {measured['faces']:,} faces, in turns:\n\n{table(head, rows)}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(markdown_table(head, rows))


def figure(found: Mapping[str, Any], figures: Collection[str], name: str, caption: str) -> str:
    """Return a figure with an empty line before it; nothing where there is none."""
    return f"\n\n![{caption}]({found['name']}_{name}.png)" if name in figures else ""


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: float | None, form: str) -> str:
    return "not defined" if value is None else format(value, form)


BLOCKS: dict[str, Block] = {
    block.__name__: block
    for block in (
        facts, results, per_class, calibration, robustness, slices, ferplus, detection, over_detection, speed
    )
}  # fmt: skip
