"""What every detection network promises; a new one is found here without being named."""

import pkgutil
from importlib import import_module

import numpy as np
import pytest
import torch

import faceexpr.models
from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.models.detector import DetectionNet
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.specs import class_path, describe

for module in pkgutil.iter_modules(faceexpr.models.__path__, "faceexpr.models."):
    import_module(module.name)

# Other tests may have networks of their own.
NETS = sorted((net for net in DetectionNet.__subclasses__() if net.__module__.startswith("faceexpr.models.")), key=str)
QUICK = {
    "LightDetector": {"widths": (4, 4, 8, 8, 8), "neck": 8, "test_side": 80},
    "FasterRCNN": {"backbone": "resnet18", "norm": "group", "channels": 16, "head_width": 16, "min_size": 64,
                   "proposals": 300, "rois_per_image": 16},
}  # fmt: skip
EVERYTHING = Suppression(method="none", min_score=0.0, max_faces=100)


def scene(width, height, faces=1, seed=0):
    pixels, boxes, _ = draw_scene(np.random.default_rng(seed), width, height, faces)
    return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(boxes)


@pytest.fixture(scope="module", params=NETS, ids=lambda kind: kind.__name__)
def net(request):
    torch.manual_seed(0)
    return request.param(**QUICK.get(request.param.__name__, {}), suppression=EVERYTHING).eval()


@pytest.mark.parametrize("faces", [(2, 0), (0, 0), "odd"])
def test_images_without_a_face_or_with_odd_ones_give_finite_losses_and_gradients(net, faces):  # D01
    if faces == "odd":  # less than a pixel wide, the whole image, in a corner
        images, boxes = [scene(60, 48)[0]], [torch.tensor([[5, 5, 5.4, 15], [0, 0, 60, 48], [59.5, 47, 60, 48]])]
    else:
        images, boxes = zip(*(scene(60, 48, count, seed) for seed, count in enumerate(faces)), strict=True)
    losses = net.losses(images, boxes)
    assert set(losses) == set(net.loss_names)
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    net.zero_grad()
    torch.stack([*losses.values()]).sum().backward()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


@torch.inference_mode()
def test_bytes_and_fractions_are_the_same_image_and_others_are_refused(net):  # D12
    image, _ = scene(80, 64)  # which no network here resizes
    (bytes_,), (fractions,) = net([image]), net([image.float() / 255])
    assert torch.equal(bytes_.boxes, fractions.boxes)
    assert torch.equal(bytes_.scores, fractions.scores)
    with pytest.raises(
        FaceExprError, match=r"to 255; expected uint8, or floating point from 0 to 1: the detector norm"
    ):
        net([image.float()])


@torch.inference_mode()
def test_images_of_several_sizes_are_found_as_if_they_were_alone(net):
    images = [scene(96, 64, seed=1)[0], scene(64, 150, seed=2)[0].float() / 255, scene(96, 64, seed=3)[0]]
    for image, found in zip(images, net(images), strict=True):
        (alone,) = net([image])
        assert len(found) == len(alone) > 0
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-5, rtol=1e-4)
    assert net([]) == []


@pytest.mark.parametrize(("height", "width"), [(1, 150), (1, 1), (31, 250)])
@torch.inference_mode()
def test_candidates_lie_inside_images_of_any_shape_in_their_own_pixels(net, height, width):
    ((boxes, scores),) = net.candidates([torch.randint(0, 256, (3, height, width), dtype=torch.uint8)])
    assert len(boxes) == len(scores) > 0
    assert boxes.min() >= 0
    assert boxes.amax(0)[2:].tolist() == pytest.approx([width, height], abs=0.2 * width)
    assert (boxes <= torch.tensor([width, height, width, height])).all()


@torch.inference_mode()
def test_suppression_can_be_changed_and_a_limit_that_is_reached_is_told(net):  # D08
    image, _ = scene(96, 80)
    ((candidates, scores),) = net.candidates([image])
    assert len(candidates) > 100  # torchvision's own would stop there
    try:
        for limit in (20, 300):
            net.set_suppression(max_faces=limit)
            (found,) = net([image])
            assert (len(found), found.limited) == (min(limit, len(candidates)), limit < len(candidates))
            assert torch.equal(found.boxes, suppress(candidates, scores, net.suppression).boxes)
    finally:
        net.suppression = EVERYTHING


def test_it_says_how_to_build_it_again(net):
    description = describe(net, "net")
    assert description["class_path"] == class_path(type(net))
    assert description["init_args"]["suppression"]["max_faces"] == 100
    again = type(net)(**{**description["init_args"], "suppression": None})
    assert [value.shape for value in again.state_dict().values()] == [v.shape for v in net.state_dict().values()]
