"""Every classifier of torchvision: built, pre-processed as it was, started from weights, explained and exported."""

import re
from urllib.error import URLError

import pytest
import torch
import torchvision.models
from torchvision.models import get_model, get_model_weights, list_models
from whole_networks import check_network

from faceexpr.models.torchvision_net import TorchvisionNet
from faceexpr.utils.errors import FaceExprError
from faceexpr.visualization.explain import class_maps, last_feature_map

NAMES = list_models(module=torchvision.models)


def is_large(name):
    return re.search(r"regnet.*(_3_2|8|16|32)gf", name) is not None


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * is_large(name)) for name in NAMES])
def test_every_name_builds(name):
    # RegNets compute their widths with tensors, which then have to have values.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        net = TorchvisionNet(7, name)
    made = get_model_weights(name).DEFAULT.transforms()
    assert net.preprocess.size == made.crop_size[0]
    assert net.preprocess.mean.shape == (1, 3, 1, 1)


def test_preprocessing_is_torchvision_s_but_for_the_cutting():
    net = TorchvisionNet(7, "efficientnet_v2_s", input_size=64)
    made = get_model_weights("efficientnet_v2_s").DEFAULT.transforms()
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    expected = torchvision.transforms.functional.normalize(image / 255, made.mean, made.std)
    torch.testing.assert_close(net.preprocess(image), expected)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mnasnet0_5", "squeezenet1_1", "densenet121", "googlenet"])
def test_a_local_file_gives_all_but_the_last_layer(name, tmp_path):
    torch.manual_seed(3)
    options = {"init_weights": True} if name == "googlenet" else {}
    original = get_model(name, weights=None, **options).eval()
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    net = TorchvisionNet(7, name, weights=str(tmp_path / "weights.pth"), input_size=64).eval()
    before = net.backbone.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    net.load_pretrained()
    theirs, changed = original.state_dict(), []
    for key, value in net.backbone.state_dict().items():
        if value.shape == theirs[key].shape:
            assert torch.equal(value, theirs[key])
        else:
            changed.append(key)
            assert torch.equal(value, before[key])
    assert len(changed) == 2  # weight and bias of the last layer


def test_names_of_older_files_are_understood(tmp_path):
    state = get_model("densenet121", weights=None).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12]\.)", r"\1.\2", key): value for key, value in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "old.pth")
    net = TorchvisionNet(7, "densenet121", weights=str(tmp_path / "old.pth"))
    net.load_pretrained()
    key = "features.denseblock1.denselayer1.norm1.running_var"
    assert torch.equal(net.backbone.state_dict()[key], state[key])


def test_what_cannot_be_had_or_does_not_fit_is_one_sentence(tmp_path, monkeypatch):
    for name, message in (
        ("mobilenet_v3_smal", r"name is 'mobilenet_v3_smal'; .*torchvision's 80 .*such as mobilenet_v3_small"),
        ("0", r"name is '0'; expected one of torchvision's \d+ networks$"),
    ):
        with pytest.raises(FaceExprError, match=message):
            TorchvisionNet(7, name)
    for name, size in (("alexnet", 32), ("vit_b_32", 33), ("maxvit_t", 100), ("resnet18", 0)):
        with pytest.raises(FaceExprError, match=f"input_size is {size}; expected "):
            TorchvisionNet(7, name, input_size=size)
    torch.save(get_model("squeezenet1_0", weights=None).state_dict(), tmp_path / "other.pth")
    for name in ("squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5"):
        net = TorchvisionNet(7, name, weights=str(tmp_path / "other.pth"))
        with pytest.raises(FaceExprError, match=rf"other\.pth does not hold the weights of torchvision's {name} \("):
            net.load_pretrained()

    def unreachable(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(FaceExprError, match="weights is pretrained, and torchvision could not download the resnet18"):
        TorchvisionNet(7, "resnet18", weights="pretrained").load_pretrained()


@pytest.mark.parametrize(
    ("name", "size", "cells", "layer"),
    [("mobilenet_v3_small", 96, (3, 3), None), ("vit_b_32", 96, (3, 3), "ln_1"), ("swin_t", 96, (3, 3), "permute")],
)
def test_the_layer_to_explain_by_is_found(name, size, cells, layer):
    torch.manual_seed(0)
    net = TorchvisionNet(7, name, input_size=size).eval()
    torch.nn.init.normal_([*net.parameters()][-2])  # vision transformers begin with a last layer of zeros
    faces = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    found = last_feature_map(net, net.preprocess(faces[:1]))
    assert found.step.tolist() == [size / cells[0]] * 2
    names = [key for key, module in net.named_modules() if module is found.layer]
    assert layer is None or names[0].endswith(layer)
    maps = class_maps(net, faces)
    assert maps.shape == (2, 48, 48)
    assert maps.max(axis=(1, 2)).tolist() == [1, 1]
    assert maps.min() >= 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t",
     "mnasnet0_5", "mobilenet_v2", "regnet_x_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_0",
     "swin_v2_t", "vgg11_bn", "vit_b_16", "wide_resnet50_2"],
)  # fmt: skip
def test_a_sample_learns_and_is_explained_and_exported(name, tmp_path):
    check_network(TorchvisionNet, name, tmp_path)
