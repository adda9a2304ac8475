"""The light detector: where its cells lie, which of them learn what, and what comes out."""

import math

import pytest
import torch
from torch import Tensor

from faceexpr.boxes.suppression import Suppression
from faceexpr.models.light_detector import PRIOR, LightDetector, decode, detection_losses, grid
from faceexpr.utils.errors import FaceExprError

SMALL = (4, 4, 8, 8, 8)


def small(**options: object) -> LightDetector:
    torch.manual_seed(0)
    return LightDetector(widths=SMALL, neck=8, **options)  # type: ignore[arg-type]


def picture(height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_it_has_less_than_a_million_parameters() -> None:
    assert sum(parameter.numel() for parameter in LightDetector().parameters()) < 1_000_000


def test_cells_lie_in_the_middle_of_their_squares() -> None:
    centres, strides = grid(64, 32, torch.device("cpu"))
    assert centres.shape == (8 * 4 + 4 * 2 + 2 * 1, 2)
    assert centres[:2].tolist() == [[4, 4], [12, 4]]  # x first
    assert centres[-2:].tolist() == [[16, 16], [16, 48]]
    assert strides.unique().tolist() == [8, 16, 32]


def test_outputs_are_offsets_and_sizes_in_strides() -> None:
    centres, strides = grid(32, 32, torch.device("cpu"))
    outputs = torch.zeros(1, len(centres), 5)
    outputs[0, 0] = torch.tensor([0, 0.5, -0.25, math.log(2), math.log(4)])
    assert decode(outputs, centres, strides)[0, 0].tolist() == pytest.approx([0, -14, 16, 18])


def outputs_for(boxes: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Return boxes (A, 4) such that each cell's is that of the first face that it lies in, or itself."""
    own = torch.cat([centres - strides[:, None] / 2, centres + strides[:, None] / 2], dim=1)
    for box in boxes.flip(0):
        inside = ((centres > box[:2]) & (centres < box[2:])).all(dim=1)
        own[inside] = box
    return own[None]


def test_the_loss_is_small_where_all_is_right_and_large_where_it_is_not() -> None:
    centres, strides = grid(96, 96, torch.device("cpu"))
    faces = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    predicted = outputs_for(faces, centres, strides)
    inside = ((centres > faces[0, :2]) & (centres < faces[0, 2:])).all(dim=1)
    right = torch.where(inside, 8.0, -8.0)[None]
    perfect = detection_losses(right, predicted, centres, strides, [faces], 8.0)
    wrong = detection_losses(-right, predicted, centres, strides, [faces], 8.0)
    assert float(perfect["box"]) == pytest.approx(0, abs=1e-5)
    assert float(perfect["score"]) < float(wrong["score"]) / 10


def test_only_some_cells_inside_a_face_learn_it_and_they_learn_how_well_they_fit() -> None:
    centres, strides = grid(96, 96, torch.device("cpu"))
    faces = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    predicted = outputs_for(faces, centres, strides)
    predicted[0, 0] = torch.tensor([0.0, 0.0, 64.0, 32.0])  # overlaps by half
    logits = torch.zeros(1, len(centres), requires_grad=True)
    detection_losses(logits, predicted, centres, strides, [faces], 8.0)["score"].backward()
    assert logits.grad is not None
    towards = logits.grad[0] < 0  # their score is to rise
    assert int(towards.sum()) == 10  # of 64 + 16 + 4 cells inside
    assert ((centres[towards] > 0) & (centres[towards] < 64)).all()
    assert not towards[0]


def test_cells_in_faces_too_small_to_learn_are_not_taught_that_nothing_is_there() -> None:
    centres, strides = grid(64, 64, torch.device("cpu"))
    logits = torch.zeros(1, len(centres), requires_grad=True)
    tiny = torch.tensor([[10.0, 10.0, 15.0, 14.0]])
    detection_losses(logits, outputs_for(tiny, centres, strides), centres, strides, [tiny], 8.0)["score"].backward()
    assert logits.grad is not None
    untaught = (logits.grad[0] == 0).nonzero().flatten()
    assert [centres[cell].tolist() for cell in untaught] == [[12, 12], [8, 8], [16, 16]]


def test_two_faces_in_one_place_share_the_cells() -> None:
    centres, strides = grid(64, 64, torch.device("cpu"))
    faces = torch.tensor([[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 32.0, 30.0]])
    losses = detection_losses(
        torch.zeros(1, len(centres)), outputs_for(faces, centres, strides), centres, strides, [faces], 8.0
    )
    assert all(torch.isfinite(part) for part in losses.values())


@pytest.mark.parametrize("faces", [[1, 0], [0, 0], [2, 1]])
def test_d01_losses_are_finite_and_a_step_can_be_made_without_faces(faces: list[int]) -> None:
    net = small()
    boxes = [torch.tensor([[10.0, 10.0, 40.0, 50.0], [50, 10, 80, 40]])[:number] for number in faces]
    losses = net.losses([picture(seed=1), picture(seed=2)], boxes)
    total = torch.stack([*losses.values()]).sum()
    assert torch.isfinite(total)
    total.backward()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0


def test_training_moves_scores_towards_the_faces() -> None:
    net = small(suppression=Suppression(min_score=0.0))
    image = torch.full((3, 64, 64), 40, dtype=torch.uint8)
    image[:, 16:48, 16:48] = 220
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.stack([*net.losses([image, image], [torch.tensor([[16.0, 16, 48, 48]])] * 2).values()]).sum()
        loss.backward()
        optimizer.step()
    net.eval()
    (found,) = net([image])
    left, top, right, bottom = found.boxes[0].tolist()
    assert found.scores[0] > 0.5
    assert max(abs(left - 16), abs(top - 16), abs(right - 48), abs(bottom - 48)) < 8


def test_candidates_lie_in_the_picture_in_its_own_pixels_whatever_the_test_side() -> None:
    net = small(test_side=64, suppression=Suppression(min_score=0.0, method="none")).eval()
    with torch.inference_mode():
        ((boxes, scores),) = net.candidates([picture(100, 200)])
    assert len(boxes) > 0
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 200).all()
    assert (boxes[:, 3] <= 100).all()
    assert float(boxes[:, 2].max()) > 64
    assert scores.tolist() == pytest.approx([PRIOR] * len(scores), abs=0.05)


def test_pictures_of_several_sizes_are_found_as_if_they_were_alone() -> None:
    net = small(suppression=Suppression(min_score=0.0)).eval()
    images = [picture(64, 96, 1), picture(50, 40, 2), picture(64, 96, 3)]
    together = net(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = net([image])
        assert torch.allclose(found.scores, alone.scores, atol=1e-5)
        assert len(found) == len(alone)


def test_d08_the_limit_is_a_setting_and_reaching_it_is_said() -> None:
    net = small(suppression=Suppression(min_score=0.0, method="none", max_faces=5)).eval()
    (few,) = net([picture()])
    assert (len(few), few.limited) == (5, True)
    net.set_suppression(max_faces=500)
    (many,) = net([picture()])
    assert len(many) > 5
    assert not many.limited


def test_d12_bytes_and_unit_floats_are_the_same_and_others_are_refused() -> None:
    net = small(suppression=Suppression(min_score=0.0)).eval()
    image = picture()
    (bytes_,), (unit,) = net([image]), net([image.float() / 255])
    assert torch.equal(bytes_.boxes, unit.boxes)
    with pytest.raises(
        FaceExprError, match=r"holds values from 0 to 255; expected uint8, or floating point from 0 to 1"
    ):
        net([image.float()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (1, 2)}, "widths"),
        ({"neck": 0}, "neck is 0"),
        ({"test_side": 8}, "test_side is 8"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(FaceExprError, match=message):
        LightDetector(**options)  # type: ignore[arg-type]
