"""Faster R-CNN (Ren et al., 2015) with a feature pyramid, torchvision's, for faces: the paper's detector (Table 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Literal

import torch
from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import clip_boxes_to_image

from faceexpr.boxes.suppression import Suppression
from faceexpr.models.base import require
from faceexpr.models.detector import DetectionNet, as_unit
from faceexpr.models.faster_rcnn_weights import CLASSES, detector_weights
from faceexpr.models.pyramid import STAGES, STRIDES, BackboneName, Norm, feature_pyramid
from faceexpr.models.resnet import IMAGENET_MEAN, IMAGENET_STD
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import resize

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
        trainable_layers: stages of the backbone that learn, counted from the last, 0 to 5; from scratch all do.
        min_size: shorter side in pixels to which pictures are resized; of several, each training picture gets one at
            random, and other pictures the last.
        max_size: the longer side never becomes more than this.
        anchor_sizes: sides in pixels of the anchors at each of the five levels, as many at each. COCO's weights were
            trained with [[32], [64], [128], [256], [512]] and the ratios [0.5, 1, 2].
        anchor_ratios: heights of the anchors, relative to their widths. In half of WIDER FACE's boxes it is between
            1.2 and 1.5.
        proposals: regions a picture that are looked at more closely; the limit of the faces that can be found.
        rois_per_image: of these, how many a training picture contributes to the loss; 32 in the paper's Table 1.
        channels: of the pyramid and the proposal head; fewer than COCO's weights have, 256, suit a CPU.
        head_width: of the two layers that look at the regions; 1024 in COCO's weights.
        suppression: how candidates become detections; may be changed after training.
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
        suppression: Suppression | None = None,
    ) -> None:
        super().__init__(suppression)
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
        anchors = AnchorGenerator(
            tuple(tuple(level) for level in anchor_sizes), (tuple(anchor_ratios),) * len(anchor_sizes)
        )
        self.backbone_name = backbone
        self.weights = weights
        self.proposals = proposals
        self._check_limit()
        self.detector = detection.FasterRCNN(
            feature_pyramid(backbone, _norm(norm, weights), STAGES if scratch else trainable_layers, channels),
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
        # Padding changes what the border sees: what is found in a picture must not depend on the rest of the batch.
        for size in dict.fromkeys(padded):
            places = [place for place, own in enumerate(padded) if own == size]
            with self._as_if(training=False):
                results = self.detector([as_unit(images[place]) for place in places])
            for place, result in zip(places, results, strict=True):
                # Scaled back to the picture, a box at the border can be outside by a rounding error.
                inside = clip_boxes_to_image(result["boxes"], tuple(images[place].shape[-2:]))
                found[place] = inside, result["scores"]
        return [found[place] for place in range(len(images))]

    def _check_limit(self) -> None:
        # Also before use, since the suppression may be changed after training.
        if self.suppression.max_faces > self.proposals:
            raise FaceExprError(
                f"suppression.max_faces is {self.suppression.max_faces}, but the network looks at "
                f"{self.proposals} regions a picture; expected no more than model.net.proposals"
            )

    @contextmanager
    def _as_if(self, training: bool) -> Iterator[None]:
        """Make torchvision give losses or faces, whatever the mode of the layers, which stays as it is."""
        deciding = (self.detector, self.detector.rpn, self.detector.roi_heads, self.detector.transform)
        before = [module.training for module in deciding]
        for module in deciding:
            module.training = training
        # One of several sizes is drawn for training only, not for the loss on the validation pictures.
        self.detector.transform.training = training and self.training
        try:
            yield
        finally:
            for module, mode in zip(deciding, before, strict=True):
                module.training = mode


def _norm(norm: Literal["auto", "frozen", "batch", "group"], weights: str) -> Norm:
    if norm == "auto":
        return "batch" if weights == "none" else "frozen"
    require(norm != "frozen" or weights != "none", "norm", norm, "batch or group, since model.net.weights is none")
    require(
        norm != "group" or weights not in ("imagenet", "coco"),
        "norm",
        norm,
        f"frozen or batch, which the weights {weights} were trained with",
    )
    return norm


def _check_anchors(sizes: Sequence[Sequence[int]], ratios: Sequence[float]) -> None:
    fits = len(sizes) == len(STRIDES) and len({len(level) for level in sizes}) == 1 and len(sizes[0]) > 0
    written = [list(level) for level in sizes]
    require(fits, "anchor_sizes", written, f"{len(STRIDES)} lists, one a level, with as many sizes each")
    require(all(size > 0 for level in sizes for size in level), "anchor_sizes", written, "sizes above 0")
    require(len(ratios) > 0 and min(ratios) > 0, "anchor_ratios", list(ratios), "one or more numbers above 0")


class _Resize(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """torchvision's scaling, normalisation and padding, with the product's anti-aliased resize.

    Its own does not average when it shrinks, and makes nothing of a picture that is one pixel wide.
    """

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Return the picture and its boxes at the size that the network sees."""
        side = self.torch_choice(list(self.min_size)) if self.training else self.min_size[-1]
        before = image.shape[-2:]
        height, width = self.scaled_size(image, side)
        image = resize(image[None], (height, width))[0]
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], before, (height, width))
        return image, target

    def scaled_size(self, image: Tensor, side: int) -> tuple[int, int]:
        """Return the height and width of the picture when its shorter side becomes ``side``, or as near as allowed."""
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
