"""Look through a data set for what a training should not see: copies, wrong labels, broken images and missing boxes."""

from __future__ import annotations

import base64
import hashlib
import io
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import fft, sparse
from sklearn.covariance import EmpiricalCovariance
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torchvision.ops import box_iou

from faceexpr.data.annotations.reading import AnnotatedImage
from faceexpr.data.base import ExpressionDataModule, ImageFilesModule, Stage
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.data.corrections import BROKEN, EXCLUDE
from faceexpr.data.face_files import FaceFiles
from faceexpr.data.image_reading import map_in_threads, split_fragment
from faceexpr.data.loading import PADDING, BatchRequest
from faceexpr.models.base import ExpressionNet
from faceexpr.pipeline.classifiers import load_classifier
from faceexpr.pipeline.detectors import Detector
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import ImageError, upright_size

TEMPLATE = Path(__file__).with_suffix(".html")

Draw: TypeAlias = "Callable[[Finding], NDArray[np.uint8]]"

STAGES: tuple[Stage, ...] = ("train", "val", "test")
WORTH = {"test": -2, "val": -1}
"""The splits whose images stay rather than their copies in others."""

SIDE = 48
"""Side in pixels of the grey thumbnails that are compared."""

WAVES, CLOSE = 8, 0.94
"""Images are candidates for near copies where their lowest waves, 8 x 8 of the cosine transform, are as similar."""

SHIFT = 3
"""Pixels of a thumbnail by which one may be shifted against its near copy."""

MOST = 20
"""Near copies that are looked at for each image; more, as in videos, hang together by these."""

FOLDS = 5
BLANK = 2.0
"""Standard deviation of grey values below which an image shows nothing."""

ODD = 0.02
"""Part of the faces, those least like all others, in which a detector looks for a face."""

ISSUES = {
    BROKEN: "Images that cannot be read. Repair or remove them.",
    "blank": "Images of one colour.",
    "tiny": "Images with few pixels.",
    "no_face": "Images unlike the others in which the detector finds no face.",
    "contradiction": "Equal images with different labels. Write the right label as the action of each.",
    "duplicate": "Equal images. One of each group is to stay: that of test, else of validation, else the first.",
    "near_duplicate": "Images that differ by compression, brightness, a small shift or a mirror.",
    "wrong_label": "Suspects: a classifier that has not seen these labels says something else, most clearly first.",
    "outside": "Boxes, as the file has them, that leave their image or have no area.",
    "tiny_box": "Boxes with few pixels.",
    "doubled": "Boxes that overlap another box of their image so much that both may be of one face.",
    "unmarked": "Faces that the detector is sure of and that no box covers.",
}
"""What is looked for, in the order of the table, and what it means."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or may be, with one image.

    Attributes:
        issue: one of `ISSUES`.
        place: of the image in the `Album`; None where it cannot be read.
        split: its split.
        image: its file, or what else it is called.
        label: the name of its class.
        suggestion: ``exclude``, the name of another class, or nothing.
        score: the similarity of a near copy, the probability of a doubtful label, a contrast, a side, an overlap.
        group: images that belong together have the same number.
        box: left, top, right, bottom in pixels.
        note: remarks.
    """

    issue: str
    place: int | None
    split: str
    image: str
    label: str = ""
    suggestion: str = ""
    score: float | None = None
    group: int | None = None
    box: tuple[float, ...] | None = None
    note: str = ""


@dataclass
class Album:
    """The images of all splits, small and grey, with what is known of each; lists of equal length.

    Attributes:
        class_names: the classes in index order; none for images with boxes.
        broken: the images that cannot be read.
        leaks: by split, how many images are equal to one for training, as the data set itself says.
        notes: why a split is missing.
    """

    class_names: Sequence[str] = ()
    splits: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    features: list[NDArray[np.float32]] = field(default_factory=list)
    broken: list[Finding] = field(default_factory=list)
    leaks: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, split: str, image: str, label: int | None, pixels: NDArray[np.uint8]) -> None:
        """Add an image, uint8 (H, W) or (H, W, 3)."""
        small = Image.fromarray(pixels).convert("L")
        if small.size != (SIDE, SIDE):
            small = small.resize((SIDE, SIDE), Image.Resampling.BOX)
        self.splits.append(split)
        self.images.append(image)
        self.labels.append(label)
        self.thumbnails.append(np.asarray(small))
        self.digests.append(hashlib.blake2b(pixels.tobytes() + repr(pixels.shape).encode(), digest_size=16).digest())

    @property
    def stacked(self) -> NDArray[np.uint8]:
        """All thumbnails, uint8 (N, 48, 48)."""
        return np.array(self.thumbnails, dtype=np.uint8).reshape(-1, SIDE, SIDE)

    def find(self, issue: str, place: int, **more: Any) -> Finding:
        """Return a finding about the image at a place."""
        label = self.labels[place]
        name = "" if label is None else self.class_names[label]
        return Finding(issue, place, self.splits[place], self.images[place], name, **more)

    def balance(self) -> dict[str, dict[str, int]]:
        """Return the number of images by split and class."""
        table: dict[str, dict[str, int]] = {}
        for split, label in zip(self.splits, self.labels, strict=True):
            row = table.setdefault(split, dict.fromkeys(self.class_names, 0))
            name = "images" if label is None else self.class_names[label]
            row[name] = row.get(name, 0) + 1
        return table


def read_splits(module: ExpressionDataModule | DetectionDataModule, notes: list[str]) -> dict[Stage, Any]:
    """Return the splits that there are; why others cannot be had becomes a note, or the error where none is there."""
    splits: dict[Stage, Any] = {}
    problem: FaceExprError | None = None
    for stage in ("predict",) if isinstance(module, FaceFiles) else STAGES:
        try:
            splits[stage] = module.split(stage)
        except FaceExprError as error:
            problem = problem or error
            notes.append(f"{stage}: {error}")
    if not splits and problem is not None:
        raise problem
    return splits


class Embedder:
    """What a trained network knows of a face: the input of its last fully connected layer, or its logits without one.

    Args:
        source: a checkpoint, a run folder, a model file, or the name of a model that comes with the package.
        device: where it runs.

    Raises:
        FaceExprError: it cannot be loaded, or is no network.
    """

    def __init__(self, source: str, device: str = "cpu") -> None:
        net = getattr(getattr(load_classifier(source, device), "task", None), "net", None)  # an ONNX file has none
        if not isinstance(net, ExpressionNet):
            raise FaceExprError(f"classifier is {source}, which is no network in torch; expected one")
        self.net, self.device = net.eval(), device
        if device == "cpu":
            self.net.to(memory_format=torch.channels_last)
        self._seen: list[Tensor] = []
        for layer in [module for module in self.net.modules() if isinstance(module, nn.Linear)][-1:]:
            layer.register_forward_pre_hook(lambda _, inputs: self._seen.append(inputs[0]))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """Return float32 (N, D) for faces, uint8 (N, 1 or 3, H, W)."""
        self._seen.clear()
        logits = self.net(images.to(self.device))
        return (self._seen or [logits])[-1].flatten(1).float().cpu().numpy()


def read_faces(module: ExpressionDataModule, embed: Callable[[Tensor], NDArray[np.float32]] | None) -> Album:
    """Read all splits of a data set of faces; broken images are listed, whatever its options say."""
    for option in ("on_bad_image", "on_bad_row"):
        if hasattr(module, option):
            setattr(module, option, "skip")
    album = Album(module.class_names)
    for stage, split in read_splits(module, album.notes).items():
        album.broken += [Finding(BROKEN, None, stage, one.source, note=one.reason) for one in split.failures]
        leaked = module.leaked(stage) if stage in ("val", "test") else None
        if leaked is not None:
            album.leaks[stage] = int(leaked.sum())
        labels = split.targets if split.targets is None or split.targets.ndim == 1 else split.targets.argmax(1)
        for start in range(0, len(split), 128):
            found = split.read(BatchRequest([*range(start, min(start + 128, len(split)))]))
            album.broken += [
                Finding(BROKEN, None, stage, split.sources[place], note=reason)
                for place, reason in found.broken.items()
            ]
            good = found.indices != PADDING
            for place, image in zip(found.indices[good].tolist(), found.image[good].numpy(), strict=True):
                pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0).copy()
                album.add(stage, split.sources[place], None if labels is None else int(labels[place]), pixels)
            if embed is not None and good.any():
                album.features.extend(embed(found.image[good]))
    return album


def find_copies(album: Album, similarity: float) -> tuple[list[Finding], NDArray[np.int64]]:
    """Find equal and nearly equal images, within and across splits.

    Args:
        album: the images.
        similarity: least correlation of the pixels of near copies, at the best shift, 0 to 1.

    Returns:
        What was found, and for each image the number of its group, int64 (N,), which copies share.
    """
    thumbnails = album.stacked
    first: dict[bytes, int] = {}
    original = np.array([first.setdefault(digest, place) for place, digest in enumerate(album.digests)], dtype=np.int64)
    distinct = np.flatnonzero((original == np.arange(len(original))) & (thumbnails.std(axis=(1, 2)) >= BLANK))
    pairs = _near_pairs(thumbnails[distinct], similarity)
    left, right = distinct[np.array([pair[:2] for pair in pairs], dtype=np.int64).reshape(-1, 2).T]
    graph = sparse.coo_matrix((np.ones(len(pairs)), (left, right)), shape=(len(original), len(original)))
    groups = sparse.csgraph.connected_components(graph, directed=False)[1][original].astype(np.int64)
    best: dict[int, tuple[float, str]] = defaultdict(lambda: (0.0, ""))
    for one, other, (_, _, score, mirrored) in zip(left.tolist(), right.tolist(), pairs, strict=True):
        for place in (one, other):
            best[place] = max(best[place], (score, "mirrored" * mirrored))
    findings = []
    members: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(groups.tolist()):
        members[group].append(place)
    for number, places in ((number, places) for number, places in members.items() if len(places) > 1):
        equal: dict[int, list[int]] = defaultdict(list)
        places = sorted(places, key=lambda place: (WORTH.get(album.splits[place], 0), place))
        for place in places:
            equal[int(original[place])].append(place)
        labels = len({album.labels[place] for place in places}) > 1
        for same in equal.values():
            differ = len({album.labels[place] for place in same}) > 1
            issue = "near_duplicate" if len(same) == 1 else "contradiction" if differ else "duplicate"
            for place in same:
                score, note = best[int(original[place])] if issue == "near_duplicate" else (1.0, "")
                told: dict[str, Any] = {"note": ", ".join(filter(None, (note, "labels differ" * labels)))}
                told["suggestion"] = "" if place == places[0] or issue == "contradiction" else EXCLUDE
                findings.append(album.find(issue, place, score=score, group=number, **told))
    return findings, groups


def count_copies(album: Album, groups: NDArray[np.int64]) -> dict[str, Any]:
    """Return how many groups of equal images there are, how many of these have different labels, and what leaks.

    ``leaks`` are, by split, the images that are equal to one for training, and those that are near copies of one only.
    """
    labels: dict[bytes, list[int | None]] = defaultdict(list)
    for digest, label in zip(album.digests, album.labels, strict=True):
        labels[digest].append(label)
    equal = [group for group in labels.values() if len(group) > 1]
    train = [place for place, split in enumerate(album.splits) if split == "train"]
    known, near = {album.digests[place] for place in train}, {int(groups[place]) for place in train}
    leaks: dict[str, dict[str, int]] = {split: {"equal": 0, "near": 0} for split in dict.fromkeys(album.splits)}
    for split, digest, group in zip(album.splits, album.digests, groups.tolist(), strict=True):
        leaks[split]["equal"] += digest in known
        leaks[split]["near"] += digest not in known and group in near
    leaks.pop("train", None)
    for split, number in album.leaks.items():
        leaks[split]["equal"] = number  # by what the data set calls equal, such as the bytes of files
    return {"groups": len(equal), "contradictions": sum(len({*group}) > 1 for group in equal), "leaks": leaks}


def _near_pairs(thumbnails: NDArray[np.uint8], similarity: float) -> list[tuple[int, int, float, bool]]:
    """Return the pairs of places of thumbnails that are near copies, their correlation, and whether one is mirrored."""
    basis = torch.from_numpy(fft.dct(np.eye(SIDE), axis=0, norm="ortho")[:WAVES]).float()
    images = torch.from_numpy(thumbnails)
    waves = torch.cat([basis @ part.float() @ basis.T for part in images.split(4096)] or [torch.zeros(0, WAVES, WAVES)])
    waves[:, 0, 0] = 0  # the brightness
    waves = nn.functional.normalize(waves.flatten(1))
    sign = torch.tensor([1.0, -1.0]).repeat(WAVES // 2).repeat(WAVES)
    pairs = []
    for mirrored in (False, True):
        others = waves * sign if mirrored else waves
        for start in range(0, len(waves), 1024):
            # Each pair once: from the diagonal on.
            near = waves[start : start + 1024] @ others[start:].T
            near[torch.ones_like(near, dtype=torch.bool).tril()] = 0
            kept = near >= CLOSE
            if kept.sum() > MOST * len(near):
                kept &= near >= near.topk(min(MOST, near.shape[1])).values[:, -1:]
            found = kept.nonzero() + start
            for part in found.split(512):
                scores = _correlate(images[part[:, 0]], images[part[:, 1]].flip(-1) if mirrored else images[part[:, 1]])
                chosen = zip(part.tolist(), scores.tolist(), strict=True)
                pairs += [(one, other, score, mirrored) for (one, other), score in chosen if score >= similarity]
    return pairs


def _correlate(images: Tensor, others: Tensor) -> Tensor:
    """Return the correlation of the pixels of pairs, uint8 (N, 48, 48), at the best shift of one against the other."""

    def unit(part: Tensor) -> Tensor:
        flat = part.flatten(1).float()
        return nn.functional.normalize(flat - flat.mean(1, keepdim=True))

    inner = unit(images[:, SHIFT:-SHIFT, SHIFT:-SHIFT])
    size = SIDE - 2 * SHIFT
    shifts = [(down, across) for down in range(2 * SHIFT + 1) for across in range(2 * SHIFT + 1)]
    values = [(inner * unit(others[:, y : y + size, x : x + size])).sum(1) for y, x in shifts]
    return torch.stack(values).amax(0)


def find_wrong_labels(album: Album, groups: NDArray[np.int64]) -> list[Finding]:
    """Find labels that others contradict, by cleanlab (Northcutt et al., "Confident learning", 2021), worst first.

    A logistic regression on the features of a network says what each image shows, learned from the images of other
    folds; copies are in one fold, so that none vouches for another.

    Args:
        album: the images with their features; those without a label are left out.
        groups: the number of each image's group, int64 (N,).
    """
    from cleanlab.filter import find_label_issues

    places = np.array([place for place, label in enumerate(album.labels) if label is not None], dtype=np.int64)
    names, labels = np.unique([album.labels[place] for place in places.tolist()], return_inverse=True)
    if len(names) < 2 or len(np.unique(groups[places])) < FOLDS:
        album.notes.append(f"no labels were doubted, which takes 2 classes and {FOLDS} images without copies")
        return []
    features = np.stack(album.features)[places]
    learner = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    folds = GroupKFold(FOLDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what more steps change is no matter of doubt
        said = cross_val_predict(learner, features, labels, groups=groups[places], cv=folds, method="predict_proba")
    ranked = find_label_issues(labels, said, return_indices_ranked_by="normalized_margin", n_jobs=1)
    return [
        album.find(
            "wrong_label",
            int(places[row]),
            score=float(said[row, labels[row]]),
            suggestion=album.class_names[int(names[said[row].argmax()])],
        )
        for row in ranked.tolist()
    ]


def find_bad_faces(album: Album, module: ExpressionDataModule, min_side: int) -> list[Finding]:
    """Find images of one colour, and files with fewer pixels than ``min_side`` on a side."""
    contrast = album.stacked.std(axis=(1, 2))
    blank = np.flatnonzero(contrast < BLANK).tolist()
    found = [album.find("blank", place, score=float(contrast[place]), suggestion=EXCLUDE) for place in blank]
    if isinstance(module, ImageFilesModule):
        sides = map_in_threads(lambda place: _side(album.images[place]), range(len(album.images)))
        small = [(place, side) for place, side in enumerate(sides) if side < min_side]
        found += [album.find("tiny", place, score=side, suggestion=EXCLUDE) for place, side in small]
    return found


def _side(name: str) -> int:
    """Return the shorter side, in pixels, of an image or of the box that its name gives."""
    file, box = split_fragment(name)
    return min(upright_size(file)) if box is None else min(box[2] - box[0], box[3] - box[1])


def find_no_faces(album: Album, detector: Detector) -> list[Finding]:
    """Find images without a face: among those least like all others, those in which a detector finds none."""
    if not album.features:
        return []
    features = np.stack(album.features)
    distance = EmpiricalCovariance().fit(features).mahalanobis(features)
    odd = np.argsort(-distance)[: max(1, round(ODD * len(distance)))].tolist()
    found = []
    for start in range(0, len(odd), 64):
        part = odd[start : start + 64]
        for place, faces in zip(part, detector([_enlarge(album.thumbnails[one]) for one in part]), strict=True):
            if not len(faces):
                found.append(album.find("no_face", place, score=float(distance[place]), suggestion=EXCLUDE))
    return found


def _enlarge(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a thumbnail as the middle of a larger image, since detectors are made for photographs."""
    large = np.asarray(Image.fromarray(thumbnail).resize((3 * SIDE, 3 * SIDE), Image.Resampling.BICUBIC))
    return np.repeat(np.pad(large, SIDE, mode="edge")[..., None], 3, axis=2)


def read_boxes(
    module: DetectionDataModule, detector: Detector | None, min_side: float
) -> tuple[Album, list[Finding], Draw]:
    """Read all splits of a data set of images with boxes, find what is wrong with the boxes, and say how to draw it.

    Args:
        module: the data set.
        detector: finds faces that nobody has marked; None looks for none.
        min_side: boxes with a shorter side of fewer pixels are tiny, unless they are to be ignored.
    """
    album, found, records = Album(), list[Finding](), list[AnnotatedImage]()
    for stage, split in read_splits(module, album.notes).items():
        for record in split.records:
            try:
                pixels = module.read_pixels(record)
            except ImageError as error:
                album.broken.append(Finding(BROKEN, None, stage, str(record.path), note=error.reason))
                continue
            place, boxes = len(records), record.boxes
            album.add(stage, str(record.path), None, pixels)
            records.append(record)
            found += [album.find("outside", place, box=corners) for corners in record.clipped]
            sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf)
            for row in np.flatnonzero((sides < min_side) & ~record.ignored).tolist():
                found.append(album.find("tiny_box", place, score=float(sides[row]), box=tuple(boxes[row].tolist())))
            overlap = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).triu(1).numpy()
            for row, other in np.argwhere(overlap >= 0.7).tolist():
                iou, box = float(overlap[row, other]), tuple(boxes[other].tolist())
                found.append(album.find("doubled", place, score=iou, box=box))
            if detector is not None:
                [faces] = detector([pixels])
                found += _unmarked(album, place, faces.boxes.numpy(), faces.scores.numpy(), boxes)

    def draw(finding: Finding) -> NDArray[np.uint8]:
        return draw_box(module.read_pixels(records[finding.place or 0]), finding.box)

    return album, found, draw


def _unmarked(
    album: Album, place: int, faces: NDArray[np.float32], scores: NDArray[np.float32], boxes: NDArray[np.float32]
) -> Iterator[Finding]:
    """Yield the faces that share less than a third of their own area with every box."""
    for face, score in zip(faces, scores.tolist(), strict=True):
        corners = np.maximum(boxes[:, :2], face[:2]), np.minimum(boxes[:, 2:], face[2:])
        shared = np.clip(corners[1] - corners[0], 0, None).prod(axis=1).max(initial=0)
        if shared < (face[2:] - face[:2]).prod() / 3:
            yield album.find("unmarked", place, score=score, box=tuple(face.tolist()))


def write_page(title: str, facts: Mapping[str, Any], findings: Sequence[Finding], draw: Draw, most: int) -> str:
    """Return a page of HTML that needs no other file, with at most so many images for each issue.

    Args:
        title: of the page.
        facts: what audit.json holds.
        findings: in their order.
        draw: draws a finding, RGB or grey, uint8; only those that have an image.
        most: images for each issue.
    """
    sections = []
    for issue, meaning in ISSUES.items():
        own = [finding for finding in findings if finding.issue == issue]
        shown = [(finding, None if finding.place is None else _png(draw(finding))) for finding in own[:most]]
        sections += [(issue, meaning, len(own), shown)] * bool(own)
    page = jinja2.Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return page.render(title=title, facts=facts, sections=sections)


def draw_box(pixels: NDArray[np.uint8], box: tuple[float, ...] | None) -> NDArray[np.uint8]:
    """Return an image of at most 240 pixels a side with a box in it."""
    image = Image.fromarray(pixels)
    scale = min(1.0, 240 / max(image.size))
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    if box is not None:
        left, right = sorted((box[0] * scale, box[2] * scale))
        top, bottom = sorted((box[1] * scale, box[3] * scale))
        ImageDraw.Draw(image).rectangle((left, top, right, bottom), outline="#ff2d2d", width=2)
    return np.asarray(image)


def _png(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
