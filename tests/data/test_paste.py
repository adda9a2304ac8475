"""Faces pasted into other pictures: the box is where the face is, and only there."""

import torch
from torch import Tensor

from faceexpr.data.box_augment import BoxAugmentation, augment_sample
from faceexpr.data.paste import LARGEST, MOST_ENLARGED, SMALLEST, paste_face

FACE = torch.tensor([[40.0, 30.0, 80.0, 90.0]])
SIZE = 128


def source() -> tuple[Tensor, Tensor]:
    """A black picture with one face, which is white."""
    picture = torch.zeros(3, 120, 160, dtype=torch.uint8)
    picture[:, 30:90, 40:80] = 255
    return picture, FACE


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
    image, boxes = pasted(0, torch.tensor([[0.0, 0.0, SIZE, SIZE]]))
    assert len(boxes) == 1
    assert not image.any()


def test_a_small_face_is_not_blown_up() -> None:
    picture = torch.zeros(3, 60, 60, dtype=torch.uint8)
    face = torch.tensor([[20.0, 20.0, 32.0, 32.0]])
    for seed in range(40):
        torch.manual_seed(seed)
        _, boxes = paste_face(torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), torch.zeros(0, 4), picture, face)
        assert float(boxes[0, 3] - boxes[0, 1]) < 12 * MOST_ENLARGED + 1


def test_the_share_of_pictures_with_pasted_faces() -> None:
    pictures = [(torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), torch.zeros(0, 4)), source()]
    counts = []
    for seed in range(200):
        torch.manual_seed(seed)
        options = BoxAugmentation(size=SIZE, paste=0.5)
        counts.append(len(augment_sample(0, pictures.__getitem__, len(pictures), options)[1]))
    # Half of the pictures are to get faces, and half of these draw them from the picture that has one.
    assert 0.15 < sum(count > 0 for count in counts) / 200 < 0.35
    assert set(counts) == {0, 1, 2, 3}
