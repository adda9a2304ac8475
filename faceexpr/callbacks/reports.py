"""Reports of an evaluation: a record for machines, a table for people, and the files of a run folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from faceexpr.metrics.classification import OVERALL, PER_CLASS, Scores
from faceexpr.metrics.distributions import DISTANCES, distance_lines
from faceexpr.metrics.sets import recorded, set_lines
from faceexpr.utils.files import write_file
from faceexpr.utils.text import counted
from faceexpr.visualization import classification as figures
from faceexpr.visualization.overlay import side_by_side

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from faceexpr.data.loading import Selection
    from faceexpr.metrics.tables import SampleTable

Maps: TypeAlias = "Callable[[Tensor, Sequence[int]], NDArray[np.float32]]"
"""From faces, uint8 (N, C, H, W), and a class for each to what speaks for it, (N, H, W), from 0 to 1."""

_AT_ONCE = 64  # faces that are explained together
_SHOWN = 160  # pixels of a face beside its explanation

CONFIDENCE = 0.95
LABELS = {
    "accuracy": "accuracy",
    "top2_accuracy": "top-2 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC, one against the rest",
    "ece": "calibration error (ECE)",
    "nll": "negative log likelihood",
}


def record(
    scores: Scores, interval: tuple[float, float], epoch: int | None, selection: Selection | None = None
) -> dict[str, Any]:
    """Return everything measured as plain values; what is undefined is None, and listed with its reason.

    Args:
        scores: of one pass over a split.
        interval: 95 % confidence interval of the accuracy.
        epoch: epoch of the weights, counted from 0, where it is known.
        selection: the rule by which images have a label, where there is one.
    """
    support, predictions = scores.confusion.sum(axis=1), scores.confusion.sum(axis=0)
    return {
        **({} if epoch is None else {"epoch": epoch}),
        "n": scores.count,
        "accuracy": scores.values["accuracy"],
        "accuracy_interval": list(interval),
        "accuracy_interval_confidence": CONFIDENCE,
        **({} if selection is None else {"labels": {"rule": selection.rule, "left_out": dict(selection.left_out)}}),
        **{name: scores.values.get(name) for name in OVERALL if name != "accuracy"},
        **{name: scores.values[name] for name in DISTANCES if name in scores.values},
        **recorded(scores.values),
        "class_names": list(scores.class_names),
        "per_class": {
            name: {
                "n": int(support[index]),
                "predicted": int(predictions[index]),
                **{metric: scores.values.get(f"{metric}/{name}") for metric in PER_CLASS},
            }
            for index, name in enumerate(scores.class_names)
        },
        "confusion_matrix": scores.confusion.tolist(),
        "undefined": scores.undefined,
    }


def summary(stage: str, scores: Scores, interval: tuple[float, float], selection: Selection | None = None) -> str:
    """Return the metrics as a table for the console, with the rule by which images have a label where there is one."""
    lines = [f"{stage}: {scores.count:,} {'sample' if scores.count == 1 else 'samples'}"]
    for name, label in LABELS.items():
        value = scores.values.get(name)
        if value is None:
            lines.append(f"  {label:<28} not defined: {scores.undefined[name]}")
        elif name in ("ece", "nll", "auroc", "macro_f1"):
            lines.append(f"  {label:<28} {value:7.4f}")
        else:
            note = (
                f"   ({CONFIDENCE:.0%} interval {interval[0]:.2%} to {interval[1]:.2%})" if name == "accuracy" else ""
            )
            lines.append(f"  {label:<28} {value:7.2%}{note}")
    lines += distance_lines(scores.values)
    lines += set_lines(scores.values, scores.count)
    if selection is not None:
        lines.append(f"  {selected(scores, selection)}")
    width = max(len("class"), *map(len, scores.class_names))
    lines.append(f"  {'class':<{width}} {'recall':>8} {'precision':>9} {'F1':>7} {'n':>7}")
    for name, count in zip(scores.class_names, scores.confusion.sum(axis=1), strict=True):
        recall, precision, f1 = (scores.values.get(f"{metric}/{name}") for metric in ("recall", "precision", "f1"))
        cells = (_cell(recall, "8.2%"), _cell(precision, "9.2%"), _cell(f1, "7.4f"))
        lines.append(f"  {name:<{width}} {' '.join(cells)} {count:7,}")
    return "\n".join(lines)


def selected(scores: Scores, selection: Selection) -> str:
    """Return which images an accuracy is of."""
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in selection.left_out.items() if count)
    return (
        f"accuracy {scores.values['accuracy']:.2%} of {counted(scores.count, 'image')}: {selection.rule}; "
        f"{sum(selection.left_out.values()):,} left out{f' ({left_out})' if left_out else ''}"
    )


def _cell(value: float | None, form: str) -> str:
    return format(value, form) if value is not None else "-".rjust(int(form[0]))


def write_metrics(folder: Path, stage: str, entry: dict[str, Any]) -> Path:
    """Put one stage's record into the folder's ``metrics.json``, beside those of other stages."""
    path = folder / "metrics.json"
    stages: dict[str, Any] = {}
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            stages = found if isinstance(found, dict) else {}
        except ValueError:
            rank_zero_warn(f"{path} is not JSON and is written anew")
    stages[stage] = entry
    write_file(path, json.dumps(stages, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def write_confusion(folder: Path, stage: str, scores: Scores) -> Path:
    """Write the confusion matrix as CSV: a row for each true class, a column for each predicted class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *scores.class_names])
    for name, row in zip(scores.class_names, scores.confusion.tolist(), strict=True):
        writer.writerow([name, *row])
    path = folder / f"confusion_matrix_{stage}.csv"
    write_file(path, text.getvalue())
    return path


def write_figure(folder: Path, name: str, figure: Figure) -> Path:
    """Write ``figures/<name>.png``."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    path = folder / "figures" / f"{name}.png"
    write_file(path, content.getvalue())
    return path


def draw(
    stage: str,
    table: SampleTable,
    scores: Scores,
    images: Any | None,
    gallery_size: int,
    when: str = "",
    maps: Maps | None = None,
) -> dict[str, Figure]:
    """Draw every figure of an evaluation.

    Args:
        stage: ``val`` or ``test``.
        table: the samples.
        scores: their metrics.
        images: the split's images, a uint8 tensor (N, C, H, W), or None where they are not at hand.
        gallery_size: largest number of faces in a gallery; 0 draws none.
        when: addition to the titles, such as the epoch.
        maps: tells which parts of faces speak for their classes; laid over the faces beside them where it is given.

    Returns:
        Figures by name.
    """
    title = f"{stage}{when}"
    drawn = {
        "confusion_matrix": figures.confusion_matrix(scores, f"Confusion matrix, {title}"),
        "per_class_accuracy": figures.per_class_accuracy(scores, f"Accuracy of each class, {title}"),
        "reliability": figures.reliability(table, scores, f"Reliability, {title}"),
    }
    if images is None or gallery_size == 0:
        return drawn
    for name, rows, heading in (
        ("right", surest_right(table, gallery_size), "Confidently right, class by class"),
        ("wrong", surest_wrong(table, gallery_size), "Confidently wrong"),
    ):
        if len(rows):
            shown = [images[int(table.indices[row])] for row in rows]
            faces = [face(image) for image in shown]
            if maps is not None:
                faces = _explained(shown, faces, [int(table.predicted[row]) for row in rows], maps)
            captions = [_caption(table, scores.class_names, row) for row in rows]
            looks = "" if maps is None else ", and where the network looks"
            drawn[name] = figures.gallery(faces, captions, f"{heading}, {title}{looks}")
    return drawn


def _explained(
    images: Sequence[Tensor], faces: Sequence[NDArray[Any]], classes: Sequence[int], maps: Maps
) -> list[NDArray[Any]]:
    """Return each face with what speaks for its class beside it, as large as they are shown."""
    values = [
        one
        for start in range(0, len(images), _AT_ONCE)
        for one in maps(torch.stack(list(images[start : start + _AT_ONCE])), classes[start : start + _AT_ONCE])
    ]
    return [side_by_side(face, one, _SHOWN, gap=4) for face, one in zip(faces, values, strict=True)]


def face(image: Any) -> NDArray[Any]:
    """Return an image tensor (1 or 3, H, W) as matplotlib wants it: (H, W) or (H, W, 3)."""
    array = image.detach().cpu().numpy()
    return np.asarray(array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0))


def _caption(table: SampleTable, class_names: Sequence[str], row: int) -> list[tuple[str, str]]:
    right = bool(table.correct[row])
    guess = figures.shortened(class_names[table.predicted[row]])
    truth = figures.shortened(class_names[table.labels[row]])
    ink = figures.RIGHT if right else figures.WRONG
    return [(f"{guess} {table.confidence[row]:.0%}", ink), (f"true: {truth}", "#222222")]


def surest_right(table: SampleTable, size: int) -> list[int]:
    """Return rows predicted right, the classes taking turns, each class's surest first."""
    turns = []
    for label in np.unique(table.labels):
        rows = np.flatnonzero(table.correct & (table.labels == label))
        rows = rows[np.argsort(-table.confidence[rows], kind="stable")][:size]
        turns += [(turn, int(label), int(row)) for turn, row in enumerate(rows)]
    return [row for _, _, row in sorted(turns)[:size]]


def surest_wrong(table: SampleTable, size: int) -> list[int]:
    """Return rows predicted wrong, the surest first."""
    rows = np.flatnonzero(~table.correct)
    return [int(row) for row in rows[np.argsort(-table.confidence[rows], kind="stable")][:size]]
