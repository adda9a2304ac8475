"""The light detector: which of its cells learn what, and what comes out."""

import pytest
import torch

from faceexpr.boxes.suppression import Suppression
from faceexpr.models.light_detector import PRIOR, LightDetector, detection_losses, drawn, grid
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import resize


def small(**options):
    torch.manual_seed(0)
    return LightDetector(widths=(4, 4, 8, 8, 8), neck=8, **options)


def test_it_has_less_than_a_million_parameters():
    assert sum(parameter.numel() for parameter in LightDetector().parameters()) < 1_000_000


def outputs_for(boxes, centres, strides):
    """Return boxes (A, 4) such that each cell's is that of the first face that it lies in, or itself."""
    own = torch.cat([centres - strides[:, None] / 2, centres + strides[:, None] / 2], dim=1)
    for box in boxes.flip(0):
        inside = ((centres > box[:2]) & (centres < box[2:])).all(dim=1)
        own[inside] = box
    return own[None]


def test_the_loss_is_small_where_all_is_right_and_large_where_it_is_not():
    centres, strides = grid(96, 96, torch.device("cpu"))
    faces = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    predicted = outputs_for(faces, centres, strides)
    inside = ((centres > faces[0, :2]) & (centres < faces[0, 2:])).all(dim=1)
    right = torch.where(inside, 8.0, -8.0)[None]
    perfect = detection_losses(right, predicted, centres, strides, [faces], 8.0)
    wrong = detection_losses(-right, predicted, centres, strides, [faces], 8.0)
    assert float(perfect["box"]) == pytest.approx(0, abs=1e-5)
    assert float(perfect["score"]) < float(wrong["score"]) / 10


def test_a_higher_box_power_puts_boxes_between_those_of_annotators_who_differ():
    centres, strides = grid(64, 64, torch.device("cpu"))
    image = torch.full((1, len(centres)), 2.0)
    tight, loose = torch.tensor([[16.0, 16.0, 48.0, 48.0]]), torch.tensor([[8.0, 8.0, 56.0, 56.0]])

    def best(power):
        """Return the side at which one box for all cells costs least, where two of three annotators are loose."""
        costs = {}
        for side in range(28, 54):
            box = torch.tensor([32 - side / 2, 32 - side / 2, 32 + side / 2, 32 + side / 2]).expand(1, len(centres), 4)
            each = [
                detection_losses(image, box, centres, strides, [face], 8.0, power)["box"] for face in (tight, loose)
            ]
            costs[side] = float(each[0] + 2 * each[1])
        return min(costs, key=costs.__getitem__)

    assert best(1.0) == 48
    assert 38 <= best(4.0) <= 42


def taught(size, faces, predicted=None):
    """Return the centres of all cells and the gradient of the score loss to their scores."""
    centres, strides = grid(size, size, torch.device("cpu"))
    logits = torch.zeros(1, len(centres), requires_grad=True)
    predicted = outputs_for(faces, centres, strides) if predicted is None else predicted
    detection_losses(logits, predicted, centres, strides, [faces], 8.0)["score"].backward()
    return centres, logits.grad[0]


def test_only_some_cells_inside_a_face_learn_it_and_they_learn_how_well_they_fit():
    faces = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    predicted = outputs_for(faces, *grid(96, 96, torch.device("cpu")))
    predicted[0, 0] = torch.tensor([0.0, 0.0, 64.0, 32.0])  # overlaps by half
    centres, gradient = taught(96, faces, predicted)
    towards = gradient < 0  # their score is to rise
    assert int(towards.sum()) == 10  # of 64 + 16 + 4 cells inside
    assert ((centres[towards] > 0) & (centres[towards] < 64)).all()
    assert not towards[0]


def test_cells_in_faces_too_small_to_learn_are_not_taught_that_nothing_is_there():
    centres, gradient = taught(64, torch.tensor([[10.0, 10.0, 15.0, 14.0]]))
    assert centres[gradient == 0].tolist() == [[12, 12], [8, 8], [16, 16]]


def test_training_moves_scores_towards_the_faces():
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


def test_before_training_scores_are_the_prior_and_boxes_grow_with_the_image():
    net = small(test_side=64, suppression=Suppression(min_score=0.0)).eval()
    image = torch.randint(0, 256, (3, 100, 200), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ((boxes, scores),) = net.candidates([image])
    assert float(boxes[:, 2].max()) > 64
    assert scores.tolist() == pytest.approx([PRIOR] * len(scores), abs=0.05)


def test_the_second_look_adds_what_fills_a_large_image_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    large, least = (
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in ((128, 96), (64, 64))
    )
    net = small(test_side=96, second_side=64, suppression=Suppression(min_score=0.0)).eval()
    with torch.inference_mode():
        both = net.candidates([large, least])
        net.second_side = 0
        first = net.candidates([large, least])
        net.test_side = 64
        ((again, scores),) = net.candidates([resize(large[None], (96, 72))[0]])  # of what the first look saw
    again = again * 128 / 96
    filling = (again[:, 2:] - again[:, :2]).amax(dim=1) >= 0.4 * 128
    assert 0 < int(filling.sum()) < len(again)
    torch.testing.assert_close(both[0][0], torch.cat([first[0][0], again[filling]]))
    torch.testing.assert_close(both[0][1], torch.cat([first[0][1], scores[filling]]))
    assert torch.equal(both[1][0], first[1][0])  # no larger than the second look's side


def test_boxes_come_in_every_extent_and_training_fits_the_first():
    image = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    net = small(test_side=96, suppression=Suppression(min_score=0.0)).eval()
    faces = [torch.tensor([[24.0, 24.0, 56.0, 56.0]])]
    with torch.inference_mode():
        ((boxes, scores),) = net.candidates([image])
        net.extents = ((1.0, 1.0, 1.0), (1.5, 1.25, 0.25))
        ((both, likely),) = net.candidates([image])
        dense, certain = net.dense_candidates(image[None])
        first = net.losses([image], faces)
        net.extents = net.extents[1:]
        second = net.losses([image], faces)
        net.extents = ((1.0, 1.0, 1.0),)
        alone = net.losses([image], faces)
    assert torch.equal(both[: len(boxes)], boxes)  # the surest come first
    assert sorted(likely[len(boxes) :].tolist()) == pytest.approx(sorted((scores / 4).tolist()))
    assert torch.allclose(certain[0].sort().values, likely.sort().values)
    assert torch.allclose(dense[0].sum(dim=0), both.sum(dim=0))
    assert torch.equal(first["box"], alone["box"])
    assert not torch.equal(second["box"], alone["box"])
    assert drawn(torch.tensor([10.0, 20.0, 30.0, 60.0]), (1.5, 0.5, 1.0)).tolist() == [5.0, 30.0, 35.0, 50.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (1, 2)}, "widths"),
        ({"neck": 0}, "neck is 0"),
        ({"test_side": 8}, "test_side is 8"),
        ({"box_power": 0.5}, "box_power is 0.5"),
        ({"second_side": 8}, "second_side is 8"),
        ({"extents": ((1.0, 1.0, 2.0),)}, "extents is"),
        ({"extents": ()}, "extents is"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(FaceExprError, match=message):
        LightDetector(**options)
