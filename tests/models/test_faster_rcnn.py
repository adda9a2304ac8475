"""Faster R-CNN: torchvision's, for faces only, with nothing between the user and its candidates."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.models.faster_rcnn import FasterRCNN
from faceexpr.models.resnet import IMAGENET_MEAN, IMAGENET_STD
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.specs import describe

LOSSES = {"classifier", "box_reg", "objectness", "rpn_box_reg"}


def small(**options):
    """A network that is quick on pictures of 80 pixels, and does not depend on the batch."""
    torch.manual_seed(0)
    return FasterRCNN(**{"backbone": "resnet18", "norm": "group", "min_size": 80, "proposals": 300, **options})


def scene(width, height, faces, seed=0):
    pixels, boxes, _ = draw_scene(np.random.default_rng(seed), width, height, faces)
    return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(boxes)


@pytest.fixture(scope="module")
def learnt():
    """A network that knows one picture by heart, and that picture with its box."""
    image, boxes = scene(96, 80, 1)
    net = small(rois_per_image=32)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        torch.stack([*net.losses([image], [boxes]).values()]).sum().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
    return net.eval(), image, boxes


@pytest.fixture(scope="module")
def untrained():
    return small().eval()


def same(first, second, **tolerance):
    torch.testing.assert_close(first.boxes, second.boxes, **tolerance)
    torch.testing.assert_close(first.scores, second.scores, **tolerance)


@pytest.mark.parametrize("faces", [(1, 0), (0, 0), (0, 2)])
def test_d01_pictures_without_a_face_give_finite_losses_and_gradients(faces):
    net = small(min_size=48, rois_per_image=16)
    images, boxes = zip(*(scene(60, 48, count, seed) for seed, count in enumerate(faces)), strict=True)
    assert [tuple(own.shape) for own in boxes] == [(count, 4) for count in faces]
    before = [parameter.clone() for parameter in net.parameters()]
    losses = net.losses(images, boxes)
    assert set(losses) == LOSSES
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    torch.stack([*losses.values()]).sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in net.parameters())
    torch.optim.SGD(net.parameters(), lr=0.01).step()
    after = [*net.parameters()]
    assert all(parameter.isfinite().all() for parameter in after)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    if not any(faces):
        assert losses["box_reg"] == losses["rpn_box_reg"] == 0


@torch.inference_mode()
def test_d02_one_picture_is_learnt_with_faces_as_the_only_class(learnt):
    net, image, boxes = learnt
    (found,) = net([image])
    assert box_iou(found.boxes[:1], boxes).item() > 0.5
    assert found.scores[0] > 0.5
    assert set(found.labels.tolist()) == {0}  # what the user sees; the background is the network's affair


def test_d02_a_head_for_another_number_of_classes_is_refused(tmp_path, untrained):
    state = untrained.state_dict()
    for name, rows in (("cls_score", 1), ("bbox_pred", 4)):
        for kind in ("weight", "bias"):
            key = f"detector.roi_heads.box_predictor.{name}.{kind}"
            state[key] = state[key][:rows]
    torch.save(state, tmp_path / "one_class.pth")
    with pytest.raises(FaceExprError, match=r"one_class\.pth tells 1 classes; expected 2, the background and the face"):
        small(weights=str(tmp_path / "one_class.pth")).load_pretrained()


def crowd(net, monkeypatch):
    """Let a network propose 150 separate faces of the same score."""
    left, top = torch.meshgrid(torch.arange(15.0) * 20, torch.arange(10.0) * 20, indexing="xy")
    boxes = torch.stack([left, top, left + 12, top + 16], dim=-1).reshape(-1, 4)

    def head(features):
        scores = torch.tensor([0.0, 4.0]).expand(len(features), 2)
        return scores, torch.zeros(len(features), 8)

    monkeypatch.setattr(net.detector.rpn, "forward", lambda images, features, targets: ([boxes], {}))
    monkeypatch.setattr(net.detector.roi_heads.box_predictor, "forward", head)
    return boxes


@torch.inference_mode()
def test_d08_a_crowd_of_150_comes_back_whole_and_a_limit_that_is_reached_is_told(monkeypatch):
    net = small(min_size=200).eval()
    boxes = crowd(net, monkeypatch)
    image = torch.zeros(3, 200, 300, dtype=torch.uint8)
    (found,) = net([image])
    assert (len(found), found.limited) == (150, False)
    assert sorted(found.boxes.tolist()) == sorted(boxes.tolist())
    net.set_suppression(max_faces=100)
    (found,) = net([image])
    assert (len(found), found.limited) == (100, True)


def test_d08_a_limit_beyond_what_the_network_proposes_is_refused(untrained):
    message = r"max_faces is 400, but the network looks at 300 regions .* proposals"
    with pytest.raises(FaceExprError, match=message):
        FasterRCNN("resnet18", proposals=300, suppression=Suppression(max_faces=400))
    net = copy.deepcopy(untrained)
    net.set_suppression(max_faces=400)
    with pytest.raises(FaceExprError, match=message):
        net([torch.zeros(3, 80, 80)])


@torch.inference_mode()
def test_d12_bytes_and_fractions_are_the_same_picture_and_normalised_once(learnt):
    net, image, _ = learnt
    seen = []
    hook = net.detector.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    (bytes_,), (fractions,) = net([image]), net([image.float() / 255])
    hook.remove()
    same(bytes_, fractions, rtol=0, atol=0)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for batch in seen:
        torch.testing.assert_close(batch[0, :, :80, :96], (image / 255 - mean) / std)
    with pytest.raises(FaceExprError, match="expected uint8, or floating point from 0 to 1"):
        net([image.float()])


@torch.inference_mode()
def test_candidates_are_what_was_found_before_suppression(learnt):
    net, image, boxes = learnt
    ((candidates, scores),) = net.candidates([image])
    assert len(candidates) == len(scores) > 100
    # Several for the one face, some less sure than any that is returned: another suppression needs no new training.
    assert (box_iou(candidates, boxes) > 0.5).sum() > 1
    assert scores.min() < 0.05
    same(net([image])[0], suppress(candidates, scores, net.suppression))
    again = copy.deepcopy(net)
    again.set_suppression(method="none", min_score=0.0, max_faces=300)
    (everything,) = again([image])
    assert len(everything) == len(candidates)


@torch.inference_mode()
def test_a_picture_s_faces_do_not_depend_on_the_rest_of_the_batch(learnt):
    net, image, _ = learnt
    others = [scene(200, 50, 1, 2)[0], scene(64, 150, 1, 3)[0].float() / 255]
    together = net([others[0], image, others[1], image])
    for found, picture in zip(together, [others[0], image, others[1], image], strict=True):
        (alone,) = net([picture])
        same(found, alone, rtol=1e-4, atol=1e-3)
    assert net([]) == []


@pytest.mark.parametrize(("height", "width"), [(1, 300), (300, 1), (1, 1), (61, 500)])
@torch.inference_mode()
def test_boxes_lie_inside_pictures_of_any_shape(untrained, height, width):
    ((boxes, scores),) = untrained.candidates([torch.randint(0, 256, (3, height, width), dtype=torch.uint8)])
    assert len(boxes) == len(scores) > 0
    assert boxes.min() >= 0
    assert (boxes <= torch.tensor([width, height, width, height])).all()


@pytest.mark.parametrize("training", [True, False])
def test_losses_and_faces_can_be_had_in_any_mode_which_stays_as_it_is(training):
    net = small(norm="batch").train(training)
    image, boxes = scene(96, 80, 1)
    modes = [module.training for module in net.modules()]
    statistics = net.detector.backbone.body.bn1.running_mean.clone()
    with torch.no_grad():
        losses = net.losses([image], [boxes])
    assert set(losses) == LOSSES
    assert torch.equal(net.detector.backbone.body.bn1.running_mean, statistics) != training
    with torch.no_grad():
        assert len(net.candidates([image])[0][0]) > 0
    assert [module.training for module in net.modules()] == modes == [training] * len(modes)


def test_one_of_several_sizes_is_drawn_for_training_only():
    net = small(min_size=[48, 80])
    image, boxes = scene(96, 80, 1)
    seen = []
    net.detector.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-2]))
    with torch.no_grad():
        for _ in range(5):
            net.losses([image], [boxes])
        assert set(seen) == {64, 96}  # 48 and 80, padded to multiples of 32
        seen.clear()
        net.eval()
        for _ in range(3):
            net.losses([image], [boxes])
        net([image])
    assert set(seen) == {96}


@torch.inference_mode()
def test_mixed_precision_does_not_round_the_boxes(learnt):
    net, image, _ = learnt
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ((boxes, scores),) = net.candidates([image])
    assert boxes.dtype == scores.dtype == torch.float32
    assert (boxes != boxes.bfloat16().float()).float().mean() > 0.5


def test_the_network_can_be_built_again_from_its_description():
    net = small(anchor_ratios=(1.0, 2.0), suppression=Suppression(method="none", max_faces=7))
    description = describe(net, "model.net")
    assert description["class_path"] == "faceexpr.models.faster_rcnn.FasterRCNN"
    again = FasterRCNN(**{**description["init_args"], "suppression": None})
    again.load_state_dict(net.state_dict())
    assert description["init_args"]["suppression"]["max_faces"] == 7


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"min_size": 0}, r"min_size is 0; expected 1 pixel or more"),
        ({"min_size": []}, r"min_size is \[\]; expected 1 pixel"),
        ({"max_size": 60}, r"max_size is 60; expected min_size or more, 80"),
        ({"trainable_layers": 6}, r"trainable_layers is 6; expected 0 to 5"),
        ({"proposals": 0}, r"proposals is 0; expected 1 or more"),
        ({"rois_per_image": 0}, r"rois_per_image is 0"),
        ({"anchor_sizes": [[16], [32]]}, r"anchor_sizes is \[\[16\], \[32\]\]; expected 5 lists"),
        ({"anchor_sizes": [[16], [32], [64], [128], [256, 512]]}, "anchor_sizes is .* with as many sizes each"),
        ({"anchor_sizes": [[], [], [], [], []]}, "anchor_sizes is "),
        ({"anchor_sizes": [[0], [32], [64], [128], [256]]}, "anchor_sizes is .*; expected sizes above 0"),
        ({"anchor_ratios": []}, r"anchor_ratios is \[\]"),
        ({"norm": "frozen"}, r"norm is frozen; expected batch or group, since weights is none"),
        ({"norm": "group", "weights": "imagenet"}, "norm is group; expected frozen or batch, which the weights"),
    ],
)
def test_bad_options_are_named(options, expected):
    with pytest.raises(FaceExprError, match=rf"^{expected}"):
        small(**options)
