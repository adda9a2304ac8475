"""Residual networks: torchvision's layers, the paper's classifier, and weights that come from elsewhere."""

import os
from functools import partial
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision.models
from red_finder import save_task
from torch import nn

from faceexpr.models.resnet import IMAGENET_MEAN, IMAGENET_STD, ResNet
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.errors import FaceExprError

FEATURES = {18: 512, 34: 512, 50: 2048}


@pytest.fixture(scope="module")
def original():
    """torchvision's ResNet-18 with weights and statistics that are like nobody else's."""
    torch.manual_seed(5)
    net = torchvision.models.resnet18(weights=None)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return net.eval()


@pytest.fixture
def weights(original, tmp_path):
    """A file as old as torchvision's own for 18 and 34 layers, which count no batches."""
    state = {name: value for name, value in original.state_dict().items() if "num_batches_tracked" not in name}
    torch.save(state, tmp_path / "resnet18.pth")
    return str(tmp_path / "resnet18.pth")


@pytest.mark.parametrize("depth", FEATURES)
def test_the_convolutional_layers_are_torchvision_s_and_the_head_the_paper_s(depth):
    with torch.device("meta"):
        net = ResNet(7, depth=depth)
        theirs = torchvision.models.get_model(f"resnet{depth}", weights=None)
    shapes = {name: value.shape for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    ours = {name: value.shape for name, value in net.backbone.state_dict().items()}
    assert ours.pop("conv1.weight") == (64, 1, 7, 7)  # grey, from scratch
    assert shapes.pop("conv1.weight") == (64, 3, 7, 7)
    assert ours == shapes
    widths = [(layer.in_features, layer.out_features) for layer in net.head if isinstance(layer, nn.Linear)]
    assert widths == [(FEATURES[depth], 1024), (1024, 1024), (1024, 7)]


@pytest.mark.parametrize(
    ("stem", "size", "first", "last"), [("small", 48, 48, 6), ("small", 24, 24, 3), ("torchvision", 48, 12, 2)]
)
@torch.inference_mode()
def test_the_small_stem_keeps_the_resolution_of_the_input(stem, size, first, last):
    net = ResNet(7, depth=18, stem=stem, input_size=size, final_relu=True).eval()
    sides = []
    for layer in (net.backbone.layer1, net.backbone.layer4):
        layer.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    logits = net(torch.randint(0, 256, (5, 3, 30, 30), dtype=torch.uint8))
    assert sides == [first, last]
    assert logits.min() == 0  # what a final ReLU makes of those below


@torch.inference_mode()
def test_local_weights_make_the_same_features_as_torchvision(original, weights):
    net = ResNet(7, depth=18, weights=weights).eval()
    image = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = (image.expand(-1, 3, -1, -1) / 255 - mean) / std
    seen = []
    with original.avgpool.register_forward_hook(lambda module, inputs, output: seen.append(output.flatten(1))):
        original(normalised)
    assert not torch.allclose(net.backbone(normalised), seen[0], atol=1e-2)  # nothing is read in the constructor
    net.load_pretrained()
    torch.testing.assert_close(net.backbone(normalised), seen[0])
    torch.testing.assert_close(net(image), net.head(seen[0]))


class TouchesAFile:
    """Unpickling it would leave a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"not weights at all", "cannot be loaded as weights"),
        ({"state_dict": {"conv1.weight": torch.zeros(1)}}, "is not a state dict"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, r"does not hold the weights of torchvision's ResNet-18 \(bn1"),
        ("unsafe", "cannot be loaded as weights"),
        (None, "is not a file; expected none, imagenet or a local file"),
    ],
    ids=["text", "nested", "part", "unsafe", "missing"],
)
def test_a_wrong_file_is_one_sentence_that_names_it(content, expected, tmp_path):
    path, trace = tmp_path / "wrong.pth", tmp_path / "trace"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save({"conv1.weight": TouchesAFile(str(trace))} if content == "unsafe" else content, path)
    with pytest.raises(FaceExprError, match=f"^weights: .*wrong.pth {expected}"):
        ResNet(7, depth=18, weights=str(path)).load_pretrained()
    assert not trace.exists()


def test_pretrained_weights_do_not_fit_the_small_stem():
    with pytest.raises(FaceExprError, match="weights is imagenet and stem is small"):
        ResNet(7, depth=18, weights="imagenet", stem="small")


@pytest.mark.parametrize("failure", [URLError, RuntimeError])
def test_a_failed_download_says_what_else_can_be_done(failure, monkeypatch):
    def fail(url, *args, check_hash, **kwargs):
        raise failure(f"{url}, checked: {check_hash}")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(FaceExprError, match=r"weights is imagenet, .*a local file.* from scratch with none") as error:
        ResNet(7, depth=18, weights="imagenet").load_pretrained()
    assert f"{torchvision.models.ResNet18_Weights.DEFAULT.url}, checked: True" in str(error.value)


def test_a_checkpoint_needs_no_weights_file(weights, tmp_path):  # E14
    model = ExpressionClassifier(net=partial(ResNet, depth=18, weights=weights)).eval()
    model.net.load_pretrained()
    save_task(model, tmp_path / "model.ckpt")
    Path(weights).unlink()
    again = ExpressionClassifier.load_from_checkpoint(tmp_path / "model.ckpt", map_location="cpu").eval()
    image = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(again(image), model(image), atol=1e-6, rtol=0)
    assert again.net.init_args["weights"] == weights
