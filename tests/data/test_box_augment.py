"""Augmentation of images with boxes: boxes stay on their faces."""

import pytest
import torch
from torch import Tensor

from faceexpr.data.box_augment import LARGEST, MOST_ENLARGED, SMALLEST, BoxAugmentation, augment_sample, paste_face
from faceexpr.utils.errors import FaceExprError

STILL = {"flip": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "grey": 0.0}


def sample() -> tuple[Tensor, Tensor]:
    """A black image with two patches, red and green, and their boxes."""
    image = torch.zeros(3, 90, 120, dtype=torch.uint8)
    boxes = torch.tensor([[10.0, 20.0, 40.0, 60.0], [70.0, 30.0, 100.0, 60.0]])
    for channel, (left, top, right, bottom) in enumerate(boxes.long().tolist()):
        image[channel, top:bottom, left:right] = 255
    return image, boxes


def changed(seed: int, **options: float) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return augment_sample(0, lambda _: sample(), 4, BoxAugmentation(size=96, **options))


def inside(image: Tensor, box: Tensor) -> Tensor:
    """Return the mean of red and green in a box, without its rim, 0 to 1."""
    left, top, right, bottom = box.round().long().tolist()
    return image[:2, top + 2 : bottom - 2, left + 2 : right - 2].float().mean(dim=(1, 2)) / 255


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_boxes_stay_on_their_faces(mosaic: float) -> None:
    seen = 0
    for seed in range(40):
        image, boxes = changed(seed, mosaic=mosaic, **{**STILL, "flip": 0.5}, min_face=8.0)
        assert image.shape == (3, 96, 96)
        assert ((boxes >= 0) & (boxes <= 96)).all()
        for box in boxes:
            if (box[2:] - box[:2]).min() >= 8:
                red, green = inside(image, box).tolist()
                assert max(red, green) > 0.9
                seen += 1
    assert seen >= 30


def test_a_face_of_which_too_little_is_left_goes() -> None:
    for seed in range(60):
        _, boxes = changed(seed, **STILL, min_visible=1.0, smallest=0.5, largest=0.5)
        # Whole faces only: the crop of 45 pixels becomes 96.
        sizes = (boxes[:, 2:] - boxes[:, :2]) * 45 / 96
        assert all(size.round().tolist() in ([30, 40], [30, 30]) for size in sizes)


def test_a_close_crop_is_filled_by_a_face() -> None:
    filled = []
    for seed in range(40):
        image, boxes = changed(seed, **STILL, close=1.0, min_visible=0.1)
        largest = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1).max()
        filled.append(float(largest) / 96)
        assert image[:2].float().amax(dim=0).mean() > 0.1 * 255
    assert min(filled) > 0.45
    assert max(filled) == 1
    found = [changed(seed, **STILL, close=0.5)[1] for seed in range(40)]
    close = [len(boxes) > 0 and float((boxes[:, 2:] - boxes[:, :2]).max()) > 0.45 * 96 for boxes in found]
    assert 10 < sum(close) < 35


def test_mirroring_moves_boxes_with_the_image() -> None:
    once = changed(1, **STILL)
    mirrored = changed(1, **{**STILL, "flip": 1.0})
    assert torch.equal(mirrored[0].flip(-1), once[0])
    back = mirrored[1][:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([96, 0, 96, 0])
    assert torch.equal(back, once[1])


@pytest.mark.parametrize(
    ("name", "value"), [("size", 16), ("smallest", 0.0), ("smallest", 2.0), ("mosaic", 1.5), ("min_face", 0.0)]
)
def test_options_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(FaceExprError, match=f"{name} is {value}"):
        BoxAugmentation(**{name: value})


# Pasted faces

SIZE = 128


def source() -> tuple[Tensor, Tensor]:
    """A black image with one face, which is white."""
    image = torch.zeros(3, 120, 160, dtype=torch.uint8)
    image[:, 30:90, 40:80] = 255
    return image, torch.tensor([[40.0, 30.0, 80.0, 90.0]])


def pasted(seed: int, boxes: Tensor) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return paste_face(torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), boxes, *source())


def test_the_box_is_where_the_face_is() -> None:
    longer = []
    for seed in range(60):
        image, boxes = pasted(seed, torch.zeros(0, 4))
        assert len(boxes) == 1
        left, top, right, bottom = boxes[0].tolist()
        assert 0 <= left < right <= SIZE
        assert 0 <= top < bottom <= SIZE
        # Its brightness lies around the middle of the box, and nearly all of it inside.
        light = image[0].double()
        y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
        assert abs(float((light * x).sum() / light.sum()) - (left + right) / 2) < 1
        assert abs(float((light * y).sum() / light.sum()) - (top + bottom) / 2) < 1
        inside = (x > left - 1) & (x < right + 1) & (y > top - 1) & (y < bottom + 1)
        assert float(light[inside].sum() / light.sum()) > 0.97
        longer.append(bottom - top)
    assert min(longer) < 1.3 * SMALLEST
    assert 0.8 * LARGEST * SIZE < max(longer) <= LARGEST * SIZE + 1


def test_a_face_is_not_pasted_over_another() -> None:
    taken = torch.tensor([[0.0, 0.0, SIZE, SIZE / 2]])
    free = 0
    for seed in range(40):
        image, boxes = pasted(seed, taken)
        assert boxes[0].equal(taken[0])
        assert not image[:, : SIZE // 2].any()
        free += len(boxes) - 1
    assert 0 < free < 40


def test_a_small_face_is_not_blown_up() -> None:
    image = torch.zeros(3, 60, 60, dtype=torch.uint8)
    face = torch.tensor([[20.0, 20.0, 32.0, 32.0]])
    for seed in range(40):
        torch.manual_seed(seed)
        _, boxes = paste_face(torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), torch.zeros(0, 4), image, face)
        assert float(boxes[0, 3] - boxes[0, 1]) < 12 * MOST_ENLARGED + 1


def test_the_share_of_images_with_pasted_faces() -> None:
    images = [(torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), torch.zeros(0, 4)), source()]
    counts = []
    for seed in range(100):
        torch.manual_seed(seed)
        options = BoxAugmentation(size=SIZE, paste=0.5)
        counts.append(len(augment_sample(0, images.__getitem__, len(images), options)[1]))
    # Half of the images are to get faces, and half of these draw them from the image that has one.
    assert 0.15 < sum(count > 0 for count in counts) / 100 < 0.35
    assert set(counts) == {0, 1, 2, 3}
