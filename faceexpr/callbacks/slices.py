"""Measure a classifier or a detector by group: every metric of each, and whether the groups differ by chance."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torchvision.ops import box_iou

from faceexpr.boxes.matching import stack
from faceexpr.callbacks.detection import DetectionEvaluation
from faceexpr.callbacks.evaluation import Evaluation, Stage, data_of
from faceexpr.callbacks.reports import class_names, show_figures
from faceexpr.data.annotations.wider import LEVELS
from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.metrics.classification import METRICS, accuracy_interval, check_resamples, score
from faceexpr.metrics.comparison import CONFIDENCE, holm
from faceexpr.metrics.detection import FACE_METRICS, IMAGE_METRICS, Measure, measure_faces, measure_images
from faceexpr.metrics.tables import SampleTable
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.files import say, write_file
from faceexpr.utils.text import aligned_table, counted
from faceexpr.visualization.base import draw_groups

Places = NDArray[np.int64]
Groups = dict[str, tuple[str, Places, Sequence[str]]]
"""By column: ``image`` or ``face``; the group of each of these, -1 where it has none; the names of the groups."""

ANNOTATIONS = "annotations"
COLUMNS = {
    "index": ("index",), "file": ("file", "filename", "image", "source", "path"), "face": ("face",),
    "left": ("left", "x", "xmin", "x1"), "top": ("top", "y", "ymin", "y1"), "right": ("right", "xmax", "x2"),
    "bottom": ("bottom", "ymax", "y2"), "width": ("width", "w"), "height": ("height", "h"),
}  # fmt: skip
"""Names of the columns of a file that make no groups, without case and ``_``."""

HEIGHTS = (10, 30, 50, 300)
"""Heights of faces in pixels that part small from large: those of WIDER FACE's levels and of its largest scale."""

SAME, LEAST, MOST = 0.5, 10, 20
"""Overlap from which a box is of a face, members that a group must have to be measured, and groups of a column."""

SHARES = ("accuracy", "recall", "recall_at_score")


class Slices(Callback):
    """Measure each group of the images or faces of ``test`` and ``validate``, and the largest difference of groups.

    Of classifiers, and of detectors by image, there is every metric; of detectors by face there is recall, since what
    is found beside the faces is of no group. Intervals are of the percentile bootstrap over images (95%).

    Args:
        path: CSV file or files with a row for each image or face: a column ``file`` (the end of its path) or ``index``
            (its place in the split), for a face its box (``left,top,right,bottom`` or ``x,y,width,height``) or its
            place in its image, ``face``; each further column has groups, one with many numbers their quarters. Of
            detectors also ``annotations``: the height, and the flags of WIDER FACE's annotations (``blur``, ...).
        resamples: of the bootstrap behind each interval, and permutations behind each p.
        seed: of both.
        figures: draw the groups with their intervals.
    """

    def __init__(
        self, path: str | list[str] | None = None, resamples: int = 1000, seed: int = 0, figures: bool = True
    ) -> None:
        check_resamples(resamples)
        require(seed >= 0, "seed", seed, "0 or more")
        self.paths = [path] if isinstance(path, str) else [*(path or ())]
        self.resamples, self.seed, self.figures = resamples, seed, figures

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.paths and stage in ("test", "validate"):  # what is wrong is said before anything is measured
            self._find(trainer, "test" if stage == "test" else "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.paths and trainer.is_global_zero:
            self._report(trainer, "test" if trainer.testing else "val")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.on_test_end(trainer, pl_module)

    def _find(self, trainer: Trainer, stage: Stage) -> tuple[Groups, list[int]]:
        """Return the groups of the images of a split, and of the faces in all of them; and the number in each."""
        scenes, data = data_of(trainer, DetectionDataModule), data_of(trainer, ExpressionDataModule)
        records = [] if scenes is None else scenes.split(stage).records
        if data is None and not records:
            raise FaceExprError("path is given, but the images have no names; expected a data module of faceexpr")
        sources = [str(record.path) for record in records] if data is None else data.split(stage).sources
        found: Groups = {}
        for path in self.paths:
            if path != ANNOTATIONS:
                groups = read_groups(Path(path), sources, [record.boxes for record in records])
            elif records:
                boxes = np.concatenate([record.boxes for record in records])
                groups = {"height in pixels": ("face", *divide(boxes[:, 3] - boxes[:, 1], HEIGHTS))}
                for name in (name for name in LEVELS if all(name in record.flags for record in records)):
                    groups[name] = "face", np.concatenate([record.flags[name] for record in records]), LEVELS[name]
            else:
                raise FaceExprError(f"path is {ANNOTATIONS}, which faces without boxes do not have; expected a file")
            found |= {name if name not in found else f"{name} of {path}": each for name, each in groups.items()}
        return found, [len(record.boxes) for record in records]

    def _report(self, trainer: Trainer, stage: Stage) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set at run time
        evaluation: Evaluation[Any, Any] | None
        evaluation = next((one for one in callbacks if isinstance(one, Evaluation) and one.latest), None)
        if evaluation is None or evaluation.latest is None:
            raise FaceExprError("path is given, but nothing was evaluated; expected an evaluation before it")
        table, (groups, faces) = evaluation.latest.table, self._find(trainer, stage)
        images = np.arange(len(table.indices))
        settings: dict[str, float] = {"resamples": self.resamples, "seed": self.seed}
        # Of each unit: the metrics, that which is shown first; what measures them; the image of each; its place.
        units: dict[str, tuple[Sequence[str], Measure, Places, Places]]
        if isinstance(evaluation, DetectionEvaluation):
            by = {"score": evaluation.least_score, "iou": evaluation.iou}
            stacked, settings = stack(table.truths, table.found, evaluation.max_detections), settings | by
            ends = np.cumsum(faces)
            places = np.concatenate([np.arange(ends[at] - faces[at], ends[at]) for at in table.indices])
            owner = np.repeat(images, np.diff(stacked.truth_starts))
            units = {
                "image": (IMAGE_METRICS, measure_images(stacked, **by), images, table.indices),
                "face": (FACE_METRICS, measure_faces(stacked, **by), owner, np.where(stacked.ignored, -1, places)),
            }
        else:
            names = class_names(trainer.lightning_module)
            known = [name for name, metric in METRICS.items() if table.targets.ndim == 2 or not metric.of_votes]

            def measure_samples(rows: Places) -> NDArray[np.float64]:
                values = score(SampleTable(rows, table.probabilities[rows], table.targets[rows]), names).values
                return np.array([values.get(metric, np.nan) for metric in known])

            units = {"image": (known, measure_samples, images, table.indices)}
        columns: dict[str, dict[str, Any]] = {}
        for name, (unit, codes, labels) in groups.items():
            metrics, measure, owner, places = units[unit]
            codes = np.append(codes, -1)[places]
            counts = {"unit": unit, "main": metrics[0], "without": int(((codes < 0) & (places >= 0)).sum())}
            compared = compare_groups(codes, labels, metrics, measure, owner, self.resamples, self.seed)
            columns[name] = {**counts, **compared}
        tests = [test for column in columns.values() for test in column["differences"].values()]
        for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = p
        found = {**settings, "columns": columns}
        say(summarise(stage, found))
        if (folder := evaluation.folder) is not None:
            text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
            write_file(folder / f"slices_{stage}.json", text + "\n")
        if self.figures and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            show_figures(trainer, stage, {"slices": draw_groups(columns, f"By group, {stage}")}, folder)


def read_groups(path: Path, sources: Sequence[str], boxes: Sequence[NDArray[np.float32]]) -> Groups:
    """Read a CSV file with groups of images, or of the faces in them.

    Args:
        path: the file.
        sources: the paths of the images of a split.
        boxes: the faces in each image, float32 (F, 4); none for a classifier.

    Raises:
        FaceExprError: it is no such file, or none of its rows is of an image or a face of the split.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = [row for row in csv.reader(file) if row]
        columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise FaceExprError(f"path: {path} cannot be read as a table ({error}); expected a CSV file") from error
    own = {
        kind: next((name for name in columns if name.lower().replace("_", "") in COLUMNS[kind]), "") for kind in COLUMNS
    }
    groups = [name for name in columns if name and name not in own.values()]
    if not (own["index"] or own["file"]) or not groups:
        raise FaceExprError(f"path: {path} has the columns {', '.join(header)}; expected file or index, and groups")
    image = _find_images(path, columns[own["index"] or own["file"]], sources, bool(own["index"]))
    corners = [own["left"], own["top"], own["right"] or own["width"], own["bottom"] or own["height"]]
    if not (all(corners) or own["face"]):
        unit, number, target = "image", len(sources), image
        if len(np.unique(image[image >= 0])) < (image >= 0).sum():
            raise FaceExprError(f"path: {path} has an image twice; expected a row for each, or boxes of faces")
    elif not boxes:
        raise FaceExprError(f"path: {path} has rows for boxes, which a classifier does not see; expected images")
    else:
        unit, starts, target = "face", np.cumsum([0, *map(len, boxes)]), np.full(len(image), -1)
        number = int(starts[-1])
        try:
            given = np.array([columns[name] for name in (corners if all(corners) else [own["face"]])], np.float32).T
        except ValueError as error:
            raise FaceExprError(f"path: {path} has a box that is none ({error}); expected numbers") from error
        given[:, 2:] += given[:, :2] * [not own["right"], not own["bottom"]] if all(corners) else 0
        for row in np.flatnonzero(image >= 0).tolist():
            faces = boxes[int(image[row])]
            overlap = np.arange(len(faces)) == given[row, 0]
            if all(corners):
                overlap = box_iou(torch.from_numpy(given[row : row + 1]), torch.from_numpy(faces)).numpy()[0]
            if len(faces) and overlap.max() >= SAME:
                target[row] = starts[image[row]] + overlap.argmax()
    known = np.flatnonzero(target >= 0)
    if not len(known):
        first = columns[own["index"] or own["file"]][0]
        raise FaceExprError(f"path: {path} has no {unit} of the split, but {first}; expected such as {sources[0]}")
    if len(known) < len(rows):
        rank_zero_info(f"slices: {len(rows) - len(known):,} of {len(rows):,} rows of {path} are of no {unit} here")
    found: Groups = {}
    for name in groups:
        codes, labels = as_groups([columns[name][row].strip() for row in known], f"{name} of {path}")
        found[name] = unit, np.full(number, -1), labels
        found[name][1][target[known]] = codes
    return found


def _find_images(path: Path, names: Sequence[str], sources: Sequence[str], by_index: bool) -> Places:
    """Return the places of images by their numbers, or by the ends of their paths; -1 of others."""
    ends: dict[str, int | None] = {str(place): place for place in range(len(sources)) if by_index}
    for place, source in enumerate([] if by_index else sources):
        parts = PurePath(source).parts
        for name in (PurePath(*parts[start:]).as_posix() for start in range(len(parts))):
            ends[name] = None if name in ends else place
    found = [ends.get(PurePath(name).as_posix(), -1) for name in names]
    if None in found:
        name = names[found.index(None)]
        raise FaceExprError(f"path: {path} has {name}, which several images are called; expected more of their paths")
    return np.array(found, dtype=np.int64)


def as_groups(values: Sequence[str], what: str) -> tuple[Places, list[str]]:
    """Return the group of each value, -1 of an empty one, and their names; of more numbers than `MOST` four groups.

    Raises:
        FaceExprError: so many values that are no numbers.
    """
    different = {*values} - {""}
    try:
        numbers = {value: float(value) for value in different}
    except ValueError:
        numbers = {}
    if len(different) <= MOST:
        names = sorted(different, key=lambda name: (numbers.get(name, 0.0), name))
        return np.array([names.index(value) if value else -1 for value in values], dtype=np.int64), names
    if not numbers:
        raise FaceExprError(f"path: {what} has {len(different):,} values; expected at most {MOST}, or numbers")
    measured = np.array([numbers.get(value, np.nan) for value in values])
    codes, names = divide(measured, np.unique(np.nanquantile(measured, [0.25, 0.5, 0.75])).tolist())
    return np.where(np.isnan(measured), -1, codes), names


def divide(numbers: NDArray[Any], edges: Sequence[float]) -> tuple[Places, list[str]]:
    """Return between which edges each number lies, and what to call the parts; an edge is in the upper one."""
    names = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    places = np.searchsorted(edges, numbers, side="right").astype(np.int64)
    return places, [f"below {edges[0]:g}", *names, f"from {edges[-1]:g}"]


def compare_groups(
    codes: Places, names: Sequence[str], metrics: Sequence[str], measure: Measure, images: Places, resamples: int,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Measure each group with its interval, and test the largest difference between groups.

    Images are what is resampled, and what groups are permuted by: those of an image's faces stay together, in an order
    that is drawn, and are dealt to all faces in turn, in an order of the images that is drawn. So groups that are alike
    within images, as is what is found there, do not look different for that alone.

    Args:
        codes: int64 (N,), the group of each image or face, -1 for none.
        names: of the groups; one without a member is left out, one with fewer than `LEAST` only counted.
        metrics: names of what is measured.
        measure: returns these of any of the N, given by their places, also the same one several times.
        images: int64 (N,), the image of each, ascending.
        resamples: of the bootstrap, and permutations.
        seed: of both.

    Returns:
        ``groups`` with ``n`` and, by metric, ``value``, ``low`` and ``high``; by metric the ``differences`` between the
        ``highest`` and the ``lowest`` group, with the ``p`` of one as large or larger.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(codes == code) for code in range(len(names))]
    groups: dict[str, Any]
    groups = {names[code]: {"n": len(rows), "metrics": {}} for code, rows in enumerate(members) if len(rows)}
    large = [code for code, rows in enumerate(members) if len(rows) >= LEAST]
    for code in large:
        parts = np.split(members[code], np.flatnonzero(np.diff(images[members[code]])) + 1)
        draws = (rng.integers(0, len(parts), len(parts)) for _ in range(resamples))
        drawn = np.array([measure(np.concatenate([parts[place] for place in draw])) for draw in draws])
        for metric, value, values in zip(metrics, measure(members[code]), drawn.T, strict=True):
            if np.isfinite(value) and np.isfinite(values).any():
                low, high = np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
                if value in (0, 1) and metric in SHARES:  # which resampling gives no width
                    low, high = accuracy_interval(np.full(len(members[code]), value == 1), CONFIDENCE)
                one = {"value": float(value), "low": float(low), "high": float(high)}
                groups[names[code]]["metrics"][metric] = one
    differences: dict[str, Any] = {}
    if len(large) > 1:
        rows = np.flatnonzero(np.isin(codes, large))
        known, owner = np.unique(images[rows], return_inverse=True)

        def measure_all(dealt: Places) -> NDArray[np.float64]:
            return np.array([measure(rows[dealt == code]) for code in large])

        values = measure_all(codes[rows])
        orders = (np.lexsort((rng.random(len(rows)), rng.permutation(len(known))[owner])) for _ in range(resamples))
        chance = [measure_all(codes[rows[order]]) for order in orders]
        # Of those that are defined.
        spreads = [np.fmax.reduce(one) - np.fmin.reduce(one) for one in (values, *chance)]
        for metric, column, (most, *others) in zip(metrics, values.T, np.array(spreads).T, strict=True):
            if np.isfinite(column).sum() > 1:
                ends = {"highest": names[large[np.nanargmax(column)]], "lowest": names[large[np.nanargmin(column)]]}
                p = (1 + int((np.array(others) >= most - 1e-12).sum())) / (1 + resamples)
                differences[metric] = {"difference": float(most), **ends, "p": p}
    return {"groups": groups, "differences": differences}


def summarise(stage: str, found: Mapping[str, Any]) -> str:
    """Return the groups as tables for the console."""
    lines = [f"{stage} by group; {found['resamples']:,} resamples and permutations, seed {found['seed']}"]
    for name, column in found["columns"].items():
        main, groups, unit = column["main"], column["groups"], column["unit"]
        metrics = [main, *sorted({metric for one in groups.values() for metric in one["metrics"]} - {main})]
        rows = [[group, f"{one['n']:,}", *_cells(metrics, one["metrics"], "value")] for group, one in groups.items()]
        for row, one in zip(rows, groups.values(), strict=True):
            row.insert(3, "{low:.4f} to {high:.4f}".format(**one["metrics"][main]) if main in one["metrics"] else "-")
        for label, key in (("largest difference", "difference"), ("p", "p"), ("Holm's p", "p_holm")):
            first, *rest = _cells(metrics, column["differences"], key)
            rows.append([label, "", first, "", *rest])
        lines += ["", *aligned_table([name, f"{unit}s", main, "95% interval", *metrics[1:]], rows)]
        if column["without"]:
            lines.append(f"  {counted(column['without'], unit)} without a group")
    return "\n".join(lines)


def _cells(metrics: Sequence[str], found: Mapping[str, Any], key: str) -> list[str]:
    return [format(found[metric][key], ".4f") if metric in found else "-" for metric in metrics]
