"""Random changes to training images and their boxes: crops, mosaics, pasted faces, and torchvision's transforms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_area, box_iou, clip_boxes_to_image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import resize

MOST_PASTED = 3
"""Faces that are pasted into an image at most."""

SURROUNDINGS = 0.35
"""What is taken along on each side of a face, as a part of its width and height: hair, chin, shoulders."""

SMALLEST, LARGEST = 10.0, 0.35
"""Longer side of a pasted face: pixels at least, and at most as a part of the image's side."""

CLOSEST, LEAST_CLOSE = (0.8, 2.0), 20.0
"""Side of a crop of one face, as parts of the face's longer side, which has this many pixels at least."""

MOST_ENLARGED = 1.5
"""More than this, and a face would be told by its blur."""

TRIES = 5

Sample = tuple[Tensor, Tensor]
"""An image, uint8 (3, H, W), and its boxes, float32 (F, 4)."""


@dataclass(frozen=True)
class BoxAugmentation:
    """Random square crops, flips and changes of colour for the training images of a detector.

    Args:
        size: side in pixels of the square images that training sees.
        smallest: side of the smallest crop, as a fraction of the image's shorter side.
        largest: side of the largest crop; above 1 the image gets a black border, so that faces shrink.
        flip: probability of a mirrored image.
        brightness: largest relative change, 0 for none.
        contrast: largest relative change, 0 for none.
        saturation: largest relative change, 0 for none.
        grey: probability of an image without colour.
        mosaic: probability that an image is put together from crops of four.
        paste: probability that one to three faces of another training image are pasted in.
        close: probability that a crop is of one face alone, which fills it to a half or all of it, or goes beyond.
        min_visible: faces of which a smaller part, of their area, is inside the crop are left out.
        min_face: faces whose longer side becomes less than this, in pixels, are left out.
    """

    size: int = 320
    smallest: float = 0.3
    largest: float = 1.5
    flip: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    grey: float = 0.05
    mosaic: float = 0.0
    paste: float = 0.0
    close: float = 0.0
    min_visible: float = 0.4
    min_face: float = 4.0

    def __post_init__(self) -> None:
        for name, least in (("size", 32), ("min_face", 1)):
            if getattr(self, name) < least:
                raise FaceExprError(f"{name} is {getattr(self, name)}; expected {least} or more pixels")
        if not 0 < self.smallest <= self.largest:
            raise FaceExprError(
                f"smallest is {self.smallest} and largest is {self.largest}; expected 0 < smallest <= largest"
            )
        for name in ("flip", "grey", "mosaic", "paste", "close", "min_visible", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise FaceExprError(f"{name} is {getattr(self, name)}; expected 0 to 1")


def augment_sample(index: int, read: Callable[[int], Sample], others: int, options: BoxAugmentation) -> Sample:
    """Return a training image as the network sees it.

    Draws from torch's global generator, as torchvision's transforms do; whoever calls seeds it.

    Args:
        index: the image.
        read: returns an image and its boxes.
        others: number of images that a mosaic may take its other three from, and pasted faces may come from.
        options: what to change and how far.

    Returns:
        uint8 (3, size, size), and the boxes of the faces that are left, float32 (F, 4), inside it; F may be 0.
    """
    if float(torch.rand(())) < options.mosaic:
        places = [index, *torch.randint(others, (3,)).tolist()]
        image, boxes = _mosaic([read(place) for place in places], options)
    else:
        image, boxes = _cropped(read(index), options.size, options)
    if options.paste and float(torch.rand(())) < options.paste:
        source, faces = read(int(torch.randint(others, ())))
        for _ in range(int(torch.randint(1, MOST_PASTED + 1, ())) if len(faces) else 0):
            image, boxes = paste_face(image, boxes, source, faces)
    boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(options.size, options.size))
    change = v2.Compose(
        [
            v2.RandomHorizontalFlip(options.flip),
            v2.ColorJitter(options.brightness, options.contrast, options.saturation),
            v2.RandomGrayscale(options.grey),
        ]
    )
    changed, boxes = change(tv_tensors.Image(image), boxes)
    return changed.as_subclass(Tensor), boxes.as_subclass(Tensor)


def _cropped(sample: Sample, size: int, options: BoxAugmentation) -> Sample:
    """Cut a random square out of an image, or a larger one around it, and resize it; boxes follow.

    Cropping at random sizes is what makes small data sets of faces enough: each face is seen at many sizes
    (the sampling of RetinaFace, SCRFD and YuNet).
    """
    image, boxes = sample
    height, width = image.shape[-2:]
    share = float(torch.empty(1).uniform_(options.smallest, options.largest))
    side = max(round(min(height, width) * share), 1)
    # A crop beyond the image leaves the image anywhere within it.
    down, across = torch.rand(2).tolist()
    top, left = round(down * (height - side)), round(across * (width - side))
    if options.close and float(torch.rand(())) < options.close:
        top, left, side = _around_face(boxes) or (top, left, side)
    cropped = functional.resized_crop(image, top, left, side, side, [size, size])
    boxes = (boxes - boxes.new_tensor([left, top] * 2)) * (size / side)
    clipped = boxes.clamp(0, size)
    sides = clipped[:, 2:] - clipped[:, :2]
    kept = (box_area(clipped) >= options.min_visible * box_area(boxes)) & (sides.amin(dim=1) >= 1)
    return cropped, clipped[kept & (sides.amax(dim=1) >= options.min_face)]


def _around_face(boxes: Tensor) -> tuple[int, int, int] | None:
    """Return top, left and side of a crop of one of the faces at random; None where all are too small."""
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
    large = torch.nonzero(sides >= LEAST_CLOSE).flatten()
    if not len(large):
        return None
    face = large[int(torch.randint(len(large), ()))]
    side = max(round(float(sides[face] * torch.empty(()).uniform_(*CLOSEST))), 1)
    middle = (boxes[face, :2] + boxes[face, 2:]) / 2 + (torch.rand(2) - 0.5) * 0.3 * sides[face]
    left, top = (middle - side / 2).round().int().tolist()
    return top, left, side


def _mosaic(samples: Sequence[Sample], options: BoxAugmentation) -> Sample:
    """Return a square of four crops that meet at a random point near the middle (Bochkovskiy et al., YOLOv4, 2020)."""
    size = options.size
    image = torch.zeros(3, size, size, dtype=torch.uint8)
    across, down = (round(size * value) for value in torch.empty(2).uniform_(0.35, 0.65).tolist())
    found = []
    for place, sample in enumerate(samples):
        left, right = (0, across) if place % 2 == 0 else (across, size)
        top, bottom = (0, down) if place < 2 else (down, size)
        side = max(right - left, bottom - top)
        tile, boxes = _cropped(sample, side, options)
        image[:, top:bottom, left:right] = tile[:, : bottom - top, : right - left]
        shown = clip_boxes_to_image(boxes, (bottom - top, right - left))
        kept = box_area(shown) >= options.min_visible * box_area(boxes)
        found.append(shown[kept] + shown.new_tensor([left, top] * 2))
    boxes = torch.cat(found)
    return image, boxes[(boxes[:, 2:] - boxes[:, :2]).amin(dim=1) >= 1]


def paste_face(image: Tensor, boxes: Tensor, source: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Paste one face of another image where there is room, at a random size and place ("copy-paste").

    Few photographs hold few faces; pasted ones show each before many backgrounds (Ghiasi et al., "Simple copy-paste is
    a strong data augmentation method for instance segmentation", 2021). The edge is faded, so that nothing but the
    face tells it. Draws from torch's global generator.

    Args:
        image: uint8 (3, S, S); it is not changed.
        boxes: its faces, float32 (F, 4).
        source: the other image, uint8 (3, H, W).
        faces: its faces, float32 (G, 4), G at least 1.

    Returns:
        An image and its faces; the same ones where no free place was found in a few tries.
    """
    size = image.shape[-1]
    face = faces[int(torch.randint(len(faces), ()))]
    own = float((face[2:] - face[:2]).amax())
    largest = min(LARGEST * size, own * MOST_ENLARGED)
    draws = torch.rand(2 + 2 * TRIES).tolist()
    if own < SMALLEST or largest <= SMALLEST:
        return image, boxes
    longer = math.exp(math.log(SMALLEST) + draws[0] * (math.log(largest) - math.log(SMALLEST)))
    patch, inner = _cut(source, face, longer / own)
    if draws[1] < 0.5:
        patch = patch.flip(2)
        inner = torch.stack([patch.shape[2] - inner[2], inner[1], patch.shape[2] - inner[0], inner[3]])
    height, width = patch.shape[1:]
    for place in range(2, 2 + 2 * TRIES, 2):
        left, top = round(draws[place] * (size - width)), round(draws[place + 1] * (size - height))
        outer = torch.tensor([[left, top, left + width, top + height]], dtype=boxes.dtype)
        if left < 0 or top < 0 or (len(boxes) and float(box_iou(outer, boxes).amax()) > 0):
            continue
        # How much of each pixel is the pasted one: 1 inside an ellipse, fading to 0 at the corners.
        y, x = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        mask = ((1.1 - (x[None].square() + y[:, None].square()).sqrt()) / 0.25).clamp(0, 1)
        pasted = image.clone()
        below = pasted[:, top : top + height, left : left + width].float()
        pasted[:, top : top + height, left : left + width] = (patch * mask + below * (1 - mask)).round().byte()
        return pasted, torch.cat([boxes, (inner + inner.new_tensor([left, top] * 2))[None]])
    return image, boxes


def _cut(source: Tensor, face: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return a face with its surroundings, resized, float32 (3, h, w), and where the face is in it, (4,)."""
    around = SURROUNDINGS * (face[2:] - face[:2])
    height, width = source.shape[1:]
    left, top = (max(int(value), 0) for value in (face[:2] - around).tolist())
    right, bottom = map(math.ceil, (face[2:] + around).tolist())
    right, bottom = min(right, width), min(bottom, height)
    patch = source[:, top:bottom, left:right]
    size = max(round((bottom - top) * scale), 1), max(round((right - left) * scale), 1)
    factors = face.new_tensor([size[1] / (right - left), size[0] / (bottom - top)] * 2)
    return resize(patch[None], size)[0].float(), (face - face.new_tensor([left, top] * 2)) * factors
