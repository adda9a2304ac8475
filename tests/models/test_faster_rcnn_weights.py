"""Where a Faster R-CNN starts from: nothing, torchvision's weights, or a file."""

from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d, boxes

from faceexpr.models.faster_rcnn import STRIDES, FasterRCNN, feature_pyramid
from faceexpr.utils.errors import FaceExprError

COCO_ANCHORS = {"anchor_sizes": [[32], [64], [128], [256], [512]], "anchor_ratios": [0.5, 1.0, 2.0]}
BACKBONES = ["resnext101_32x8d", "resnet50", "resnet18", "mobilenet_v3_large"]


def with_statistics(net):
    """Return torchvision's network with statistics that are like nobody else's."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.2, 0.4)
    return net.eval()


def torchvision_detector(classes, **options):
    """Return torchvision's detector with weights like nobody else's, on its quickest backbone."""
    torch.manual_seed(classes)
    pyramid = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d)
    return with_statistics(TorchvisionFasterRCNN(pyramid, num_classes=classes, **options))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_names_and_shapes_are_those_of_torchvision_s_networks(backbone):
    with torch.device("meta"):
        body = feature_pyramid(backbone, "batch", 256).body
        original = get_model(backbone, weights=None)
    expected = {
        name.removeprefix("features."): value.shape
        for name, value in original.state_dict().items()
        if not name.startswith(("fc.", "classifier."))
    }
    assert {name: value.shape for name, value in body.state_dict().items()} == expected


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large"])
@torch.inference_mode()
def test_the_levels_have_their_strides(backbone):
    levels = feature_pyramid(backbone, "group", 8).eval()(torch.zeros(1, 3, 128, 192))
    sizes = [(8, 128 // stride, 192 // stride) for stride in STRIDES]
    assert [tuple(level.shape[1:]) for level in levels.values()] == sizes


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("stages", "part"), [(0, 0.0), (3, 0.9), (5, 1.0)])
def test_the_last_stages_learn_and_the_first_do_not(backbone, stages, part):
    with torch.device("meta"):
        net = FasterRCNN(backbone, weights="imagenet", norm="batch", trainable_layers=stages)
    body = net.detector.backbone.body
    resting = [module.training for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
    assert resting == sorted(resting)  # statistics rest where weights do (case N09)
    assert all(resting) == (stages == 5)
    assert any(resting) == (stages > 0)
    again = [module.training for module in net.eval().train().detector.backbone.body.modules()]
    assert [resting] == [
        [mode for mode, module in zip(again, body.modules(), strict=True) if isinstance(module, nn.BatchNorm2d)]
    ]
    learning = [parameter.requires_grad for parameter in body.parameters()]
    assert learning == sorted(learning)  # the frozen ones come first
    weights = sum(parameter.numel() for parameter in body.parameters() if parameter.requires_grad)
    assert part <= weights / sum(parameter.numel() for parameter in body.parameters()) <= (stages > 0)


def test_normalisation_is_frozen_with_pretrained_weights_only():
    with torch.device("meta"):
        scratch, pretrained = FasterRCNN("resnet18"), FasterRCNN("resnet18", weights="imagenet")
        learning = FasterRCNN("resnet18", weights="imagenet", norm="batch")
    kinds = [type(net.detector.backbone.body.bn1) for net in (scratch, pretrained, learning)]
    assert kinds == [nn.BatchNorm2d, FrozenBatchNorm2d, nn.BatchNorm2d]
    assert all(parameter.requires_grad for parameter in scratch.parameters())
    assert not pretrained.detector.backbone.body.layer1[0].conv1.weight.requires_grad
    assert pretrained.detector.backbone.body.layer2[0].conv1.weight.requires_grad


@torch.inference_mode()
def test_with_torchvision_s_weights_it_finds_what_torchvision_finds(tmp_path):
    theirs = torchvision_detector(2, min_size=64, max_size=128, box_score_thresh=0.0)
    torch.save(theirs.state_dict(), path := tmp_path / "detector.pth")
    ours = FasterRCNN("resnet18", weights=str(path), min_size=64, max_size=128, **COCO_ANCHORS).eval()
    ours.load_pretrained()
    ours.set_suppression(min_score=0.0, max_faces=100)
    image = torch.rand(3, 64, 96)  # of the size that neither resizes
    (found,), (expected,) = ours([image]), theirs([image])
    assert len(found) == len(expected["boxes"]) > 50
    torch.testing.assert_close(found.scores, expected["scores"], rtol=1e-4, atol=1e-5)
    assert boxes.box_iou(found.boxes, expected["boxes"]).amax(1).min() > 0.99


@torch.inference_mode()
def test_coco_s_classes_are_replaced_and_its_normalisation_means_the_same(tmp_path):
    original = torchvision_detector(91)
    original.backbone.body.bn1.running_var.uniform_(1e-6, 1e-4)  # where an epsilon matters
    torch.save(original.state_dict(), path := tmp_path / "coco.pth")
    torch.manual_seed(3)
    net = FasterRCNN("resnet18", weights=str(path)).eval()  # with the anchors for faces, of which there are as many
    fresh = net.detector.roi_heads.box_predictor.cls_score.weight.clone()
    net.load_pretrained()
    assert torch.equal(net.detector.roi_heads.box_predictor.cls_score.weight, fresh)
    for part in ("rpn.head.bbox_pred.weight", "roi_heads.box_head.fc6.weight"):
        assert torch.equal(net.detector.get_parameter(part), original.get_parameter(part))
    theirs = [layer for layer in original.modules() if isinstance(layer, nn.BatchNorm2d)]
    ours = [layer for layer in net.modules() if isinstance(layer, FrozenBatchNorm2d)]
    for own, layer in zip(ours, theirs, strict=True):
        layer.eps = 0.0  # torchvision's loader does this for these weights
        features = torch.rand(1, layer.num_features, 2, 2)
        torch.testing.assert_close(own(features), layer(features), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large"])
@torch.inference_mode()
def test_a_classifier_s_file_is_a_backbone(backbone, tmp_path):
    original = with_statistics(get_model(backbone, weights=None))
    torch.save(original.state_dict(), tmp_path / "backbone.pth")
    net = FasterRCNN(backbone, weights=str(tmp_path / "backbone.pth")).eval()
    net.load_pretrained()
    image = torch.rand(1, 3, 64, 64)
    seen = []
    last = original.layer4 if backbone == "resnet18" else original.features
    with last.register_forward_hook(lambda module, inputs, output: seen.append(output)):
        original(image)
    torch.testing.assert_close(net.detector.backbone.body(image)["3"], seen[0], rtol=1e-4, atol=1e-4)


SMALL = {"backbone": "resnet18", "channels": 8, "head_width": 8}


@pytest.mark.parametrize("norm", ["auto", "group"])
@pytest.mark.parametrize("kind", ["checkpoint", "state dict"])
def test_its_own_weights_can_be_gone_on_from(kind, norm, tmp_path):
    state = FasterRCNN(**SMALL, norm=norm).state_dict()
    own = {"state_dict": {f"net.{name}": value for name, value in state.items()} | {"val_loss.value": torch.zeros(1)}}
    torch.save(own if kind == "checkpoint" else state, tmp_path / "own.ckpt")
    second = FasterRCNN(**SMALL, norm=norm, weights=str(tmp_path / "own.ckpt"))
    second.load_pretrained()
    loaded = second.state_dict()  # its normalisation is frozen, where it may be, and counts no batches
    assert set(state) - set(loaded) == {name for name in state if name.endswith("num_batches_tracked")}
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


ONE_CLASS = {"roi_heads.box_predictor.cls_score.weight": torch.zeros(1, 8)}


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, {}, r"does not hold .* torchvision's resnet18.* \(backbone"),
        ({"state_dict": {"net.stem.weight": torch.zeros(1)}}, {}, "is a checkpoint of another network"),
        (ONE_CLASS, {}, "tells 1 classes; expected 2, the background and the face, or COCO's 91"),  # D02
        ("own", {"anchor_ratios": [1.0, 2.0]}, r"number of anchors \(rpn\.head\.cls_logits\.weight"),
        ("own", {"backbone": "mobilenet_v3_large"}, r"differs in backbone, norm or number of anchors \(backbone\.body"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(content, options, expected, tmp_path):
    torch.save(FasterRCNN(**SMALL).state_dict() if content == "own" else content, path := tmp_path / "file.pth")
    net = FasterRCNN(**{**SMALL, "weights": str(path), **options})
    with pytest.raises(FaceExprError, match=rf"^weights: .*{expected}") as error:
        net.load_pretrained()
    assert str(path) in str(error.value)


COCO = FasterRCNN_ResNet50_FPN_Weights.DEFAULT
DOWNLOADS = [("imagenet", name, get_model_weights(name).DEFAULT) for name in BACKBONES] + [("coco", "resnet50", COCO)]


@pytest.mark.parametrize(("weights", "backbone", "entry"), DOWNLOADS)
def test_a_failed_download_says_what_else_can_be_done(weights, backbone, entry, monkeypatch):
    def fail(url, *args, **kwargs):
        raise URLError(url)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with torch.device("meta"):
        net = FasterRCNN(backbone, weights=weights)
    with pytest.raises(FaceExprError, match=rf"^weights is {weights}, and .*a local file.* from scratch") as error:
        net.load_pretrained()
    assert entry.url in str(error.value)


def test_coco_is_for_the_backbone_that_torchvision_has_it_for():
    with torch.device("meta"):
        net = FasterRCNN("mobilenet_v3_large", weights="coco")
    with pytest.raises(FaceExprError, match=r"backbone is mobilenet_v3_large: .* for resnet50 only; use that backbone"):
        net.load_pretrained()
