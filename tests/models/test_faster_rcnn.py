"""Faster R-CNN: torchvision's, for faces only, with nothing between the user and its candidates."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from faceexpr.boxes.suppression import Suppression
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.models.faster_rcnn import FasterRCNN
from faceexpr.utils.errors import FaceExprError


def small(**options):
    """A network that is quick on images of 80 pixels, and does not depend on the batch."""
    torch.manual_seed(0)
    quick = {"backbone": "resnet18", "norm": "group", "channels": 64, "head_width": 128}
    return FasterRCNN(**{**quick, "min_size": 80, "proposals": 300, **options})


def scene(width, height, faces, seed=0):
    pixels, boxes, _ = draw_scene(np.random.default_rng(seed), width, height, faces)
    return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(boxes)


@pytest.fixture(scope="module")
def learnt():
    """A network that knows one image by heart, and that image with its box."""
    image, boxes = scene(96, 80, 1)
    net = small(rois_per_image=32)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        torch.stack([*net.losses([image], [boxes]).values()]).sum().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
    return net.eval(), image, boxes


@torch.inference_mode()
def test_one_image_is_learnt_with_faces_as_the_only_class(learnt):
    net, image, boxes = learnt
    (found,) = net([image])
    assert box_iou(found.boxes[:1], boxes).item() > 0.5
    assert found.scores[0] > 0.5
    assert found.labels.unique().tolist() == [0]  # what the user sees; the background is the network's affair


def test_a_limit_beyond_what_the_network_proposes_is_refused():
    message = r"max_faces is 400, but the network looks at 300 regions .* proposals"
    with torch.device("meta"):
        net = small()
        with pytest.raises(FaceExprError, match=message):
            small(suppression=Suppression(max_faces=400))
    assert net.suppression.max_faces == 300
    net.set_suppression(max_faces=400)
    with pytest.raises(FaceExprError, match=message):
        net([torch.zeros(3, 80, 80)])


def test_fewer_proposals_lower_a_limit_that_nobody_has_written():  # case N11
    with torch.device("meta"):
        for suppression in (None, Suppression(iou=0.4)):
            assert small(proposals=100, suppression=suppression).suppression.max_faces == 100
        assert small(proposals=1000).suppression.max_faces == 300


@torch.inference_mode()
def test_candidates_are_what_was_found_before_suppression(learnt):
    net, image, boxes = learnt
    ((candidates, scores),) = net.candidates([image])
    # Several for the one face, some less sure than any that is returned: another suppression needs no new training.
    assert (box_iou(candidates, boxes) > 0.5).sum() > 1
    assert scores.min() < 0.05


@pytest.mark.parametrize("training", [True, False])
def test_losses_and_faces_can_be_had_in_any_mode_which_stays_as_it_is(training):
    net = small(norm="batch").train(training)
    image, boxes = scene(96, 80, 1)
    modes = [module.training for module in net.modules()]
    statistics = net.detector.backbone.body.bn1.running_mean.clone()
    with torch.no_grad():
        losses = net.losses([image], [boxes])
    assert set(losses) == set(net.loss_names)
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
        net.losses([image], [boxes])
        net([image])
    assert seen == [96, 96]


@torch.inference_mode()
def test_mixed_precision_does_not_round_the_boxes(learnt):
    net, image, _ = learnt
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ((boxes, scores),) = net.candidates([image])
    assert boxes.dtype == scores.dtype == torch.float32
    assert (boxes != boxes.bfloat16().float()).float().mean() > 0.5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"min_size": 0}, r"min_size is 0; expected 1 pixel or more"),
        ({"max_size": 60}, r"max_size is 60; expected min_size or more, 80"),
        ({"trainable_layers": 6}, r"trainable_layers is 6; expected 0 to 5"),
        ({"rois_per_image": 0}, r"rois_per_image is 0"),
        ({"anchor_sizes": [[16], [32]]}, r"anchor_sizes is \[\[16\], \[32\]\]; expected 5 lists"),
        ({"anchor_sizes": [[0], [32], [64], [128], [256]]}, "anchor_sizes is .*; expected sizes above 0"),
        ({"anchor_ratios": []}, r"anchor_ratios is \[\]"),
        ({"norm": "frozen"}, r"norm is frozen; expected batch or group, since weights is none"),
        ({"norm": "group", "weights": "imagenet"}, "norm is group; expected frozen or batch, which the weights"),
    ],
)
def test_bad_options_are_named(options, expected):
    with torch.device("meta"), pytest.raises(FaceExprError, match=rf"^{expected}"):
        small(**options)
