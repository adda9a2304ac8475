"""Faster R-CNN (Ren et al., 2015) with a feature pyramid, torchvision's, for faces: the paper's detector (Table 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from math import ceil, gcd
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models import detection, get_model, get_model_weights
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import FrozenBatchNorm2d, clip_boxes_to_image

from faceexpr.boxes.suppression import Suppression
from faceexpr.models.detector import DetectionNet, as_unit, group_equal
from faceexpr.models.resnet import IMAGENET_MEAN, IMAGENET_STD
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.images import resize
from faceexpr.weights.pretrained import download_weights, read_weights_file, require_fit, require_state_dict, without

BackboneName = Literal["resnext101_32x8d", "resnet50", "resnet18", "mobilenet_v3_large"]
Norm = Literal["frozen", "batch", "group"]

STRIDES = (4, 8, 16, 32, 64)
"""Pixels of the image, in each direction, that one place of a level stands for."""

CLASSES = 2
"""The background and the face."""

COCO_CLASSES = 91
HEAD = "roi_heads.box_predictor."
BODY = "backbone.body."

STAGES = 5
"""Stages of every backbone, the stem included: its modules between one halving of the resolution and the next."""

RESNET_STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
# torchvision's own detector takes strides 32, 32 and 64 from this network, too coarse for most faces.
MOBILE_STAGES = (("0", "1"), ("2", "3"), ("4", "5", "6"), ("7", "8", "9", "10", "11", "12"), ("13", "14", "15", "16"))


def _group_norm(channels: int, eps: float) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(channels, 32), channels, eps=eps)


_NORMS: dict[Norm, Any] = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d, "group": _group_norm}


def feature_pyramid(name: BackboneName, norm: Norm, channels: int) -> BackboneWithFPN:
    """Build a pyramid with the levels of `STRIDES`, from scratch, and with torchvision's names in its ``body``.

    Args:
        name: the classification network below it.
        norm: ``frozen`` batch normalisation keeps its statistics and weights, ``batch`` learns them, ``group`` (Wu and
            He, 2018) does not depend on the size of the batch.
        channels: of each level.
    """
    mobile = name == "mobilenet_v3_large"
    # The epsilon is that which the published weights were trained with.
    body = get_model(name, weights=None, norm_layer=partial(_NORMS[norm], eps=1e-3 if mobile else 1e-5))
    if mobile:
        body, widths = body.features, [24, 40, 112, 960]
    else:
        widths = [body.fc.in_features // part for part in (8, 4, 2, 1)]
    # The last module of each stage but the stem feeds a level.
    levels = {parts[-1]: str(level) for level, parts in enumerate(_stages(name)[1:])}
    return BackboneWithFPN(body, levels, widths, channels)


def _stages(name: BackboneName) -> Sequence[Sequence[str]]:
    return MOBILE_STAGES if name == "mobilenet_v3_large" else RESNET_STAGES


FACE_ANCHORS = tuple(tuple(round(4 * stride * 2 ** (third / 3)) for third in range(3)) for stride in STRIDES)
"""Sides from 16 to 406 pixels, three an octave, so that next to every face there is an anchor of about its size."""

POOLED = 7
"""Side of the grid that torchvision pools a region to."""


class FasterRCNN(DetectionNet):
    """torchvision's Faster R-CNN with a feature pyramid of five levels; it finds faces and nothing else.

    Args:
        backbone: classification network below the pyramid; the paper's is ``resnext101_32x8d``.
        weights: where training starts: ``none`` (from scratch), ``imagenet`` (the backbone, downloaded by
            torchvision), ``coco`` (the whole detector, for resnet50), or a local file: a checkpoint of this network,
            or a state dict with torchvision's names of the backbone or of the whole detector. COCO's 91 classes are
            replaced by the face. Loaded when training starts; a checkpoint brings its own.
        norm: normalisation in the backbone: ``frozen`` (as pretrained), ``batch`` or ``group``. ``auto`` is frozen
            with pretrained weights and batch from scratch.
        trainable_layers: stages of the backbone that learn, counted from the last, 0 to 5; from scratch all do. The
            others keep the statistics of their batch normalisation too.
        min_size: shorter side in pixels to which images are resized; of several, each training image gets one at
            random, and other images the last.
        max_size: the longer side never becomes more than this.
        anchor_sizes: sides in pixels of the anchors at each of the five levels, as many at each. COCO's weights were
            trained with [[32], [64], [128], [256], [512]] and the ratios [0.5, 1, 2].
        anchor_ratios: heights of the anchors, relative to their widths. In half of WIDER FACE's boxes it is between
            1.2 and 1.5.
        proposals: regions an image that are looked at more closely; the limit of the faces that can be found.
        rois_per_image: of these, how many a training image contributes to the loss; 32 in the paper's Table 1.
        channels: of the pyramid and the proposal head; fewer than COCO's weights have, 256, suit a CPU.
        head_width: of the two layers that look at the regions; 1024 in COCO's weights.
    """

    loss_names = ("classifier", "box_reg", "objectness", "rpn_box_reg")

    def __init__(
        self,
        backbone: BackboneName = "resnet50",
        weights: str = "none",
        norm: Literal["auto", "frozen", "batch", "group"] = "auto",
        trainable_layers: int = 3,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        anchor_sizes: Sequence[Sequence[int]] = FACE_ANCHORS,
        anchor_ratios: Sequence[float] = (1.3,),
        proposals: int = 1000,
        rois_per_image: int = 128,
        channels: int = 256,
        head_width: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        sides = [min_size] if isinstance(min_size, int) else list(min_size)
        require(bool(sides) and min(sides) >= 1, "min_size", min_size, "1 pixel or more")
        require(max_size >= max(sides), "max_size", max_size, f"min_size or more, {max(sides)}")
        require(0 <= trainable_layers <= STAGES, "trainable_layers", trainable_layers, f"0 to {STAGES}")
        require(proposals >= 1, "proposals", proposals, "1 or more")
        require(rois_per_image >= 1, "rois_per_image", rois_per_image, "1 or more")
        require(channels >= 1, "channels", channels, "1 or more")
        require(head_width >= 1, "head_width", head_width, "1 or more")
        _check_anchors(anchor_sizes, anchor_ratios)
        scratch = weights == "none"
        anchors = AnchorGenerator(tuple(map(tuple, anchor_sizes)), (tuple(anchor_ratios),) * len(STRIDES))
        self.backbone_name = backbone
        self.weights = weights
        self.proposals = proposals
        if self.suppression.max_faces == Suppression.max_faces:  # nobody has written it
            self.set_suppression(max_faces=min(proposals, Suppression.max_faces))
        self._check_limit()
        self.detector = detection.FasterRCNN(
            feature_pyramid(backbone, _norm(norm, weights), channels),
            rpn_anchor_generator=anchors,
            rpn_head=_ProposalHead(channels, anchors.num_anchors_per_location()[0]),
            rpn_pre_nms_top_n_test=proposals,
            rpn_post_nms_top_n_test=proposals,
            box_head=TwoMLPHead(channels * POOLED**2, head_width),
            box_predictor=_FacePredictor(head_width, CLASSES),
            # What is left out here would be out of reach of `suppression`.
            box_score_thresh=0.0,
            box_nms_thresh=1.0,
            box_detections_per_img=proposals,
            box_batch_size_per_image=rois_per_image,
        )
        self.detector.transform = _Resize(sides, max_size, list(IMAGENET_MEAN), list(IMAGENET_STD))
        if not scratch:
            frozen = chain.from_iterable(_stages(backbone)[: STAGES - trainable_layers])
            self.freeze(*(f"detector.{BODY}{part}" for part in frozen))

    def load_pretrained(self) -> None:
        if self.weights != "none":
            state = detector_weights(self.weights, self.backbone_name, self.detector)
            self.detector.load_state_dict(state, strict=False)  # what is not in it has been found to be replaced

    def losses(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> dict[str, Tensor]:
        # torchvision counts the background as class 0.
        targets = [
            {"boxes": own.float().reshape(-1, 4), "labels": own.new_ones(len(own), dtype=torch.int64)} for own in boxes
        ]
        with self._as_if(training=True):
            losses: dict[str, Tensor] = self.detector([as_unit(image) for image in images], targets)
        return {name.removeprefix("loss_"): value for name, value in losses.items()}

    def candidates(self, images: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        self._check_limit()
        found: dict[int, tuple[Tensor, Tensor]] = {}
        padded = [self.detector.transform.padded_size(image) for image in images]
        for places in group_equal(padded):
            with self._as_if(training=False):
                results = self.detector([as_unit(images[place]) for place in places])
            for place, result in zip(places, results, strict=True):
                # Scaled back to the image, a box at the border can be outside by a rounding error.
                inside = clip_boxes_to_image(result["boxes"], tuple(images[place].shape[-2:]))
                found[place] = inside, result["scores"]
        return [found[place] for place in range(len(images))]

    def _check_limit(self) -> None:
        # Also before use, since the suppression may be changed after training.
        if self.suppression.max_faces > self.proposals:
            raise FaceExprError(
                f"max_faces is {self.suppression.max_faces}, but the network looks at "
                f"{self.proposals} regions an image; expected no more than proposals"
            )

    @contextmanager
    def _as_if(self, training: bool) -> Iterator[None]:
        """Make torchvision give losses or faces, whatever the mode of the layers, which stays as it is."""
        deciding = (self.detector, self.detector.rpn, self.detector.roi_heads, self.detector.transform)
        before = [module.training for module in deciding]
        for module in deciding:
            module.training = training
        # One of several sizes is drawn for training only, not for the loss on the validation images.
        self.detector.transform.training = training and self.training
        try:
            yield
        finally:
            for module, mode in zip(deciding, before, strict=True):
                module.training = mode


def _norm(norm: Literal["auto", "frozen", "batch", "group"], weights: str) -> Norm:
    if norm == "auto":
        return "batch" if weights == "none" else "frozen"
    require(norm != "frozen" or weights != "none", "norm", norm, "batch or group, since weights is none")
    fits = norm != "group" or weights not in ("imagenet", "coco")
    require(fits, "norm", norm, f"frozen or batch, which the weights {weights} were trained with")
    return norm


def _check_anchors(sizes: Sequence[Sequence[int]], ratios: Sequence[float]) -> None:
    fits = len(sizes) == len(STRIDES) and len({len(level) for level in sizes}) == 1 and len(sizes[0]) > 0
    written = [list(level) for level in sizes]
    require(fits, "anchor_sizes", written, f"{len(STRIDES)} lists, one a level, with as many sizes each")
    require(all(size > 0 for level in sizes for size in level), "anchor_sizes", written, "sizes above 0")
    require(len(ratios) > 0 and min(ratios) > 0, "anchor_ratios", list(ratios), "one or more numbers above 0")


class _Resize(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """torchvision's scaling, normalisation and padding, with the product's anti-aliased resize.

    Its own does not average when it shrinks, and makes nothing of an image that is one pixel wide.
    """

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Return the image and its boxes at the size that the network sees."""
        side = self.torch_choice(list(self.min_size)) if self.training else self.min_size[-1]
        before = image.shape[-2:]
        height, width = self.scaled_size(image, side)
        image = resize(image[None], (height, width))[0]
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], before, (height, width))
        return image, target

    def scaled_size(self, image: Tensor, side: int) -> tuple[int, int]:
        """Return the height and width of the image when its shorter side becomes ``side``, or as near as allowed."""
        height, width = image.shape[-2:]
        scale = min(side / min(height, width), self.max_size / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def padded_size(self, image: Tensor) -> tuple[int, int]:
        """Return the height and width that the network sees outside of training, alone in a batch."""
        step = self.size_divisible
        height, width = self.scaled_size(image, self.min_size[-1])
        return ceil(height / step) * step, ceil(width / step) * step


class _ProposalHead(RPNHead):  # type: ignore[misc]  # torchvision has no types
    """In float32 under mixed precision too: bfloat16 would round the coordinates of boxes to 4 pixels in 1,000."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, shifts = super().forward(x)
        return [level.float() for level in scores], [level.float() for level in shifts]


class _FacePredictor(FastRCNNPredictor):  # type: ignore[misc]  # torchvision has no types
    """In float32 under mixed precision too."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, shifts = super().forward(x)
        return scores.float(), shifts.float()


def detector_weights(weights: str, backbone: str, detector: nn.Module) -> dict[str, Tensor]:
    """Return weights with the names of torchvision's detector: of the backbone, or of everything.

    Args:
        weights: ``imagenet``, ``coco`` or a local file.
        backbone: torchvision's name of the network below the pyramid.
        detector: torchvision's Faster R-CNN.

    Raises:
        FaceExprError: they cannot be had, or are not this network's.
    """
    if weights == "coco" and backbone != "resnet50":
        raise FaceExprError(
            f"weights is coco and backbone is {backbone}: torchvision has a COCO detector with "
            "these levels for resnet50 only; use that backbone, or weights imagenet"
        )
    if weights == "coco":
        state = download_weights(FasterRCNN_ResNet50_FPN_Weights.DEFAULT, weights, "Faster R-CNN ResNet-50")
    elif weights == "imagenet":
        state = download_weights(get_model_weights(backbone).DEFAULT, weights, backbone)
    else:
        state = _read_file(Path(weights))
    expected = without(detector.state_dict())
    if not any(name.startswith("roi_heads.") for name in state):
        own = without(state, "fc.", "classifier.")
        state = {f"{BODY}{name.removeprefix('features.')}": value for name, value in own.items()}
        expected = {name: value for name, value in expected.items() if name.startswith(BODY)}
        otherwise = f"{weights} does not hold the weights of torchvision's {backbone}, or of a detector"
    else:
        scores = state.get(f"{HEAD}cls_score.weight")
        classes = CLASSES if scores is None else len(scores)
        if classes not in (CLASSES, COCO_CLASSES):
            raise FaceExprError(
                f"weights: the head in {weights} tells {classes} classes; expected {CLASSES}, the background "
                f"and the face, or COCO's {COCO_CLASSES}, which are replaced"
            )
        state = without(state)
        if classes == COCO_CLASSES:
            state, expected = _with_eps(without(state, HEAD), detector), without(expected, HEAD)
        otherwise = f"{weights} holds a detector that differs in backbone, norm or number of anchors"
    require_fit(state, expected, otherwise)
    return state


def _read_file(path: Path) -> dict[str, Tensor]:
    content: Any = read_weights_file(path, "none, imagenet, coco")
    if not isinstance(content, Mapping) or "state_dict" not in content:
        state = require_state_dict(content, path)
        return {name.removeprefix("detector."): value for name, value in state.items()}
    state = require_state_dict(content["state_dict"], path)
    prefix = "net.detector."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not own:
        raise FaceExprError(
            f"weights: {path} is a checkpoint of another network; expected one of FasterRCNN, or a state dict"
        )
    return own


def _with_eps(state: dict[str, Tensor], detector: nn.Module) -> dict[str, Tensor]:
    """Return COCO's weights, which were trained without an epsilon in the normalisation, for layers that have one."""
    eps = {
        f"{name}.running_var": layer.eps
        for name, layer in detector.named_modules()
        if isinstance(layer, FrozenBatchNorm2d | nn.BatchNorm2d)
    }
    return {name: value - eps[name] if name in eps else value for name, value in state.items()}
