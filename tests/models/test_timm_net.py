"""Every classifier of timm: built, pre-processed as it was, started from weights, explained and exported."""

import pytest
import torch
from safetensors.torch import save_file
from whole_networks import check_network

from faceexpr.models.timm_net import TimmNet
from faceexpr.utils.errors import FaceExprError
from faceexpr.visualization.explain import class_maps, last_feature_map

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "size", "mean"),
    [("resnet10t", 176, 0.485), ("vit_tiny_patch16_224", 224, 0.5), ("resnet18.a3_in1k", 160, 0.485)],
)
def test_preprocessing_is_that_of_the_weights(name, size, mean):
    net = TimmNet(7, name)
    assert (net.preprocess.channels, net.preprocess.size) == (3, size)
    assert net.preprocess.mean[0, 0, 0, 0] == pytest.approx(mean)


@pytest.mark.parametrize(("name", "size"), [("resnet10t", 64), ("vit_tiny_patch16_224", 64)])
def test_a_local_file_gives_all_but_the_last_layer(name, size, tmp_path):
    torch.manual_seed(3)
    original = timm.create_model(name)
    theirs = original.state_dict()
    save_file(theirs, tmp_path / "weights.safetensors")
    net = TimmNet(7, name, weights=str(tmp_path / "weights.safetensors"), input_size=size)
    net.load_pretrained()
    equal = {key for key, value in net.backbone.state_dict().items() if torch.equal(value, theirs[key])}
    head = {
        key for key in theirs if theirs[key].shape != net.backbone.state_dict()[key].shape and "pos_embed" not in key
    }
    assert len(head) == 2  # weight and bias of the last layer
    assert equal >= theirs.keys() - head - {"pos_embed"}


def test_what_cannot_be_had_or_does_not_fit_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(FaceExprError, match=r"name is 'resnet10'; expected one of timm's .*resnet10t"):
        TimmNet(7, "resnet10")
    for name, size in (("vit_tiny_patch16_224", 8), ("resnet10t", 0)):
        with pytest.raises(FaceExprError, match=f"input_size is {size}; expected "):
            TimmNet(7, name, input_size=size)
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(FaceExprError, match=r"other\.safetensors, and timm could not use it as the resnet10t weights"):
        TimmNet(7, "resnet10t", weights=str(tmp_path / "other.safetensors")).load_pretrained()

    def unreachable(*args, **kwargs):
        raise FileNotFoundError("no network")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    with pytest.raises(FaceExprError, match=r"timm could not download the resnet10t weights \(no network\); give"):
        TimmNet(7, "resnet10t", weights="pretrained").load_pretrained()


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        ("resnet10t", 96, "layer4"),
        ("vit_tiny_patch16_224", 96, "blocks.11.norm1"),
        ("swin_tiny_patch4_window7_224", 224, "norm"),
        ("mixer_s32_224", 224, "norm"),
    ],
)
def test_the_layer_to_explain_by_is_found(name, size, layer):
    torch.manual_seed(0)
    net = TimmNet(7, name, input_size=size).eval()
    torch.nn.init.normal_(net.backbone.get_classifier().weight)  # some begin with a last layer of zeros
    faces = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    found = last_feature_map(net, net.preprocess(faces[:1]))
    names = [key for key, module in net.backbone.named_modules() if module is found.layer]
    assert layer in names[0]
    maps = class_maps(net, faces)
    assert maps.max(axis=(1, 2)).tolist() == [1, 1]


@pytest.mark.slow
def test_every_twentieth_name_has_an_outline():
    for name in timm.list_models()[::20]:
        with torch.device("meta"):
            net = TimmNet(7, name)
        assert net.preprocess.mean.shape == (1, 3, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["convnext_atto", "deit_tiny_distilled_patch16_224", "edgenext_xx_small", "efficientnet_b0", "ghostnet_100",
     "mobilenetv3_small_100", "mobilevit_xxs", "regnetx_002", "resnet10t", "swin_tiny_patch4_window7_224",
     "tf_efficientnet_lite0", "vit_tiny_patch16_224"],
)  # fmt: skip
def test_a_sample_learns_and_is_explained_and_exported(name, tmp_path):
    check_network(TimmNet, name, tmp_path)
