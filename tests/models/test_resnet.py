"""Residual networks: torchvision's layers, the paper's classifier, and weights that come from elsewhere."""

import os
from functools import partial
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision.models
from lightning.pytorch import Trainer
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
    torch.save(original.state_dict(), tmp_path / "resnet18.pth")
    return str(tmp_path / "resnet18.pth")


def features_of(original, image):
    """What torchvision's network computes before its classifier."""
    seen = []
    hook = original.avgpool.register_forward_hook(lambda module, inputs, output: seen.append(output.flatten(1)))
    original(image)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("depth", FEATURES)
def test_the_convolutional_layers_are_torchvision_s_and_the_head_the_paper_s(depth):
    net = ResNet(7, depth=depth)
    theirs = torchvision.models.get_model(f"resnet{depth}", weights=None)
    shapes = {name: value.shape for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    ours = {name: value.shape for name, value in net.backbone.state_dict().items()}
    assert ours.pop("conv1.weight") == (64, 1, 7, 7)  # grey, from scratch
    assert shapes.pop("conv1.weight") == (64, 3, 7, 7)
    assert ours == shapes
    widths = [(layer.in_features, layer.out_features) for layer in net.head if isinstance(layer, nn.Linear)]
    assert widths == [(FEATURES[depth], 1024), (1024, 1024), (1024, 7)]
    assert net.eval()(torch.zeros(1, 1, 48, 48, dtype=torch.uint8)).shape == (1, 7)


@pytest.mark.parametrize(("stem", "first", "last"), [("small", 48, 6), ("torchvision", 12, 2)])
def test_the_small_stem_keeps_the_resolution(stem, first, last):
    net = ResNet(7, depth=18, stem=stem).eval()
    sides = []
    for layer in (net.backbone.layer1, net.backbone.layer4):
        layer.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    net(torch.zeros(1, 1, 30, 30, dtype=torch.uint8))
    assert sides == [first, last]


def test_input_size_and_final_relu():
    torch.manual_seed(0)
    net = ResNet(7, depth=18, stem="small", input_size=24, final_relu=True).eval()
    seen = []
    net.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    logits = net(torch.randint(0, 256, (5, 3, 48, 48), dtype=torch.uint8))
    assert seen == [(5, 1, 24, 24)]
    assert (logits.min(), logits.max() > 0) == (0, True)


@torch.inference_mode()
def test_local_weights_make_the_same_features_as_torchvision(original, weights):
    net = ResNet(7, depth=18, weights=weights).eval()
    image = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = (image.expand(-1, 3, -1, -1) / 255 - mean) / std
    expected = features_of(original, normalised)
    assert not torch.allclose(net.backbone(normalised), expected, atol=1e-2)  # nothing is read in the constructor
    net.load_pretrained()
    torch.testing.assert_close(net.backbone(normalised), expected)
    torch.testing.assert_close(net(image), net.head(expected))


def test_files_without_counts_of_batches_are_read(original, tmp_path):
    # torchvision's own files for 18 and 34 layers are that old.
    state = {name: value for name, value in original.state_dict().items() if "num_batches_tracked" not in name}
    torch.save(state, tmp_path / "old.pth")
    net = ResNet(7, depth=18, weights=str(tmp_path / "old.pth"))
    net.load_pretrained()
    loaded = net.backbone.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items() if not name.startswith("fc."))


class TouchesAFile:
    """Unpickling it would leave a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"not weights at all", "cannot be read as weights"),
        ([1, 2], "is not a state dict"),
        ({"state_dict": {"conv1.weight": torch.zeros(1)}}, "is not a state dict"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, r"does not hold the weights of torchvision's ResNet-18 \(bn1"),
        ("resnet34", r"ResNet-18 \(layer1\.2\."),
        ("resnet50", r"ResNet-18 \(layer1\.0\.conv1\.weight"),
        ("unsafe", "cannot be read as weights"),
    ],
    ids=["text", "list", "nested", "part", "deeper", "other blocks", "unsafe"],
)
def test_a_wrong_file_is_one_sentence_that_names_it(content, expected, tmp_path):
    path, trace = tmp_path / "wrong.pth", tmp_path / "trace"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "unsafe":
        torch.save({"conv1.weight": TouchesAFile(str(trace))}, path)
    elif isinstance(content, str):
        torch.save(torchvision.models.get_model(content, weights=None).state_dict(), path)
    else:
        torch.save(content, path)
    with pytest.raises(FaceExprError, match=expected) as error:
        ResNet(7, depth=18, weights=str(path)).load_pretrained()
    assert str(path) in str(error.value)
    assert str(error.value).startswith("weights")
    assert not trace.exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FaceExprError, match=r"missing\.pth is not a file; expected none, imagenet or a local file"):
        ResNet(7, depth=18, weights=str(tmp_path / "missing.pth")).load_pretrained()


@pytest.mark.parametrize("weights", ["imagenet", "somewhere.pth"])
def test_pretrained_weights_do_not_fit_the_small_stem(weights):
    with pytest.raises(FaceExprError, match=rf"weights is {weights} and stem is small"):
        ResNet(7, depth=18, weights=weights, stem="small")


@pytest.mark.parametrize("failure", [URLError("no network"), RuntimeError('invalid hash value (expected "5c1")')])
def test_a_failed_download_says_what_else_can_be_done(failure, monkeypatch):
    def fail(url, *args, **kwargs):
        raise failure

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(FaceExprError, match="weights is imagenet") as error:
        ResNet(7, depth=18, weights="imagenet").load_pretrained()
    for way_on in ("a local file", "from scratch with none"):
        assert way_on in str(error.value)


def test_imagenet_asks_torchvision_for_the_depth_and_the_checksum(original, monkeypatch):
    asked = []

    def answer(url, *args, **kwargs):
        asked.append((url, kwargs["check_hash"]))
        return original.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", answer)
    net = ResNet(7, depth=18, weights="imagenet")
    net.load_pretrained()
    assert asked == [(torchvision.models.ResNet18_Weights.DEFAULT.url, True)]
    assert torch.equal(net.backbone.layer4[1].conv2.weight, original.layer4[1].conv2.weight)


def test_e14_a_checkpoint_needs_no_weights_file(weights, tmp_path):
    model = ExpressionClassifier(net=partial(ResNet, depth=18, weights=weights)).eval()
    model.net.load_pretrained()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    Path(weights).unlink()
    again = ExpressionClassifier.load_from_checkpoint(tmp_path / "model.ckpt", map_location="cpu").eval()
    image = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(again(image), model(image), atol=1e-6, rtol=0)
    assert again.net.init_args["weights"] == weights


@pytest.mark.parametrize("options", [{"input_size": 0}, {"dropout": 2.0}])
def test_bad_options_are_named(options):
    (name,) = options
    with pytest.raises(FaceExprError, match=rf"^{name} is "):
        ResNet(7, depth=18, **options)
