"""What every network of the package promises; a new one is found here without being named."""

import copy
import inspect
import pkgutil
from importlib import import_module

import pytest
import torch

import faceexpr.models
from faceexpr.models.base import ExpressionNet
from faceexpr.models.compact_resnet import CompactResNet
from faceexpr.models.mlp import MLP
from faceexpr.models.resnet import ResNet
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.specs import describe

for module in pkgutil.iter_modules(faceexpr.models.__path__, "faceexpr.models."):
    import_module(module.name)


def derived(parent):
    for child in parent.__subclasses__():
        yield child
        yield from derived(child)


# Other tests may have networks of their own.
NETS = sorted({net for net in derived(ExpressionNet) if net.__module__.startswith("faceexpr.models.")}, key=str)
QUICK = {
    "ResNet": {"depth": 18},
    "TorchvisionNet": {"name": "resnet18", "input_size": 64},
    "TimmNet": {"name": "vit_tiny_patch16_224", "input_size": 64},
}
EXTRAS = {"TimmNet": "timm"}
"""Packages that a network needs and that need not be there."""


def build(kind, num_classes=7):
    if kind.__name__ in EXTRAS:
        pytest.importorskip(EXTRAS[kind.__name__])
    return kind(num_classes, **QUICK.get(kind.__name__, {})).eval()


def images(number=2, channels=1, height=48, width=48):
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (number, channels, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module", params=NETS, ids=lambda net: net.__name__)
def net(request):
    torch.manual_seed(0)
    return build(request.param)


def test_only_the_number_of_classes_is_required(net):
    assert {net.__name__ for net in NETS} >= {"MLP", "SimpleCNN", "ResNet"}
    first, *others = inspect.signature(type(net)).parameters.values()
    assert first.name == "num_classes"
    assert all(parameter.default is not parameter.empty for parameter in others)


@torch.inference_mode()
def test_as_many_logits_as_classes_for_images_of_any_kind(net):
    assert net.num_classes == 7
    for image in (images(3), images(2, channels=3, height=96, width=80), images(1), images(2).float() / 255):
        logits = net(image)
        assert (logits.shape, logits.dtype) == ((len(image), 7), torch.float32)
        assert logits.isfinite().all()
    assert build(type(net), num_classes=5)(images(1)).shape == (1, 5)


@torch.inference_mode()
def test_grey_equal_rgb_and_fractions_are_the_same_image(net):  # F01
    image = images(2)
    expected = net(image).softmax(1)
    assert (expected[0] - expected[1]).abs().max() > 1e-6  # it looks at the image
    for same in (image.expand(-1, 3, -1, -1), image.float() / 255):
        torch.testing.assert_close(net(same).softmax(1), expected, atol=1e-5, rtol=0)


def test_the_gradient_reaches_every_parameter(net):
    torch.manual_seed(0)
    own = copy.deepcopy(net).train()
    torch.nn.functional.cross_entropy(own(images(4)), torch.tensor([0, 1, 2, 6])).backward()
    unreached = [name for name, p in own.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unreached == []


@torch.inference_mode()
def test_evaluation_is_deterministic_and_sees_each_image_alone(net):
    image = images(3)
    logits = net(image)
    assert torch.equal(net(image), logits)
    torch.testing.assert_close(net(image[1:2]), logits[1:2], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_weights_and_preprocessing_survive_a_file(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    torch.manual_seed(1)
    other = build(type(net))
    assert not torch.allclose(other(images(2)), net(images(2)), atol=1e-7)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(images(2)), net(images(2)))
    assert {"preprocess.mean", "preprocess.std"} <= set(net.state_dict())


@torch.inference_mode()
def test_a_copy_is_equal_and_separate_and_starts_from_scratch_without_weights(net):
    other = copy.deepcopy(net)
    before = net(images(2))
    other.load_pretrained()
    assert other.init_args == net.init_args
    assert torch.equal(other(images(2)), before)
    for parameter in other.parameters():
        parameter.zero_()
    assert torch.equal(net(images(2)), before)


def test_it_says_how_to_build_it_again(net):
    description = describe(net, "net")
    assert description["class_path"] == f"{type(net).__module__}.{type(net).__name__}"
    assert list(description["init_args"]) == list(inspect.signature(type(net)).parameters)
    again = type(net)(**description["init_args"])
    assert [(n, p.shape) for n, p in again.named_parameters()] == [(n, p.shape) for n, p in net.named_parameters()]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (MLP, {"hidden": [8, 0]}),
        (MLP, {"dropout": float("nan")}),
        (MLP, {"image_size": 0}),
        (ResNet, {"input_size": 0}),
        (ResNet, {"dropout": 2.0}),
        (CompactResNet, {"widths": ()}),
        (CompactResNet, {"depths": (1,)}),
        (CompactResNet, {"dropout": 1.0}),
    ],
)
def test_bad_options_are_named(kind, options):
    (name,) = options
    with pytest.raises(FaceExprError, match=rf"^{name} is .*; expected "):
        kind(7, **options)
