"""Maps of what speaks for a class: which layer they are of, what they must be, and how they are laid over faces."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from faceexpr.models.base import ExpressionNet
from faceexpr.models.compact_resnet import CompactResNet
from faceexpr.models.mlp import MLP
from faceexpr.models.preprocess import Preprocess
from faceexpr.models.resnet import ResNet
from faceexpr.models.simple_cnn import SimpleCNN
from faceexpr.tasks.knn import KNNClassifier
from faceexpr.utils.errors import FaceExprError
from faceexpr.visualization.explain import class_maps, explained_network, last_feature_map, overlay, side_by_side


class Layers(ExpressionNet):
    """Layers one after the other, on grey images from 0 to 1."""

    def __init__(self, num_classes, *layers, size=8):
        super().__init__(num_classes, Preprocess(channels=1, size=size, mean=(0.0,), std=(1.0,)))
        self.layers = nn.Sequential(*layers)

    def classify(self, image):
        return self.layers(image)


def small_cnn():
    torch.manual_seed(0)
    return Layers(
        2,
        nn.Conv2d(1, 12, 5, padding=2), nn.BatchNorm2d(12), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 2),
        size=24,
    )  # fmt: skip


class Shared(Layers):
    """A network whose activation runs twice."""

    def classify(self, image):
        conv, act, other, head = self.layers
        return head(act(other(act(conv(image)))).mean((2, 3)))


POOLED = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
SAME = Layers(2, nn.Conv2d(1, 3, 3, padding="same"), nn.AdaptiveAvgPool2d(4), nn.Flatten())


@pytest.mark.parametrize(
    ("net", "kind", "first", "step"),
    [
        (SimpleCNN(7), nn.ReLU, 12, 4),  # before its last pooling, which leaves 2 x 2
        (CompactResNet(7, stem=4, widths=(4, 8, 8)), nn.ReLU, 3.5, 8),
        (ResNet(7, 18, stem="small"), nn.Sequential, 0, 8),
        (ResNet(7, 18), nn.Sequential, 0, 16),  # before the stage of 2 x 2
        (MLP(7), None, None, None),
        (Layers(2, nn.Conv2d(1, 3, 7), *POOLED), None, None, None),
        (Shared(2, nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Linear(3, 2)), nn.Conv2d, 2, 1),
        (SAME, nn.AdaptiveAvgPool2d, 0.5, 2),
    ],
)
def test_the_last_feature_map_of_3_cells_a_side_is_found(net, kind, first, step):
    image = torch.rand(1, net.preprocess.channels, net.preprocess.size, net.preprocess.size)
    found = last_feature_map(net.eval(), image)
    assert not any(module._forward_hooks for module in net.modules())
    if kind is None:
        assert found is None
    else:
        assert isinstance(found.layer, kind)
        assert (found.first.tolist(), found.step.tolist()) == ([first] * 2, [step] * 2)


def test_one_convolution_and_a_linear_head_give_the_analytic_map():
    torch.manual_seed(2)
    conv, head = nn.Conv2d(1, 5, 1), nn.Linear(5 * 64, 3)
    nn.init.uniform_(head.weight, -0.5, 1.0)
    net = Layers(3, conv, nn.ReLU(), nn.Flatten(), head).eval()
    faces = torch.rand(4, 1, 8, 8)
    for label in range(3):
        with torch.no_grad():
            values = conv(faces).relu()
            # The gradient of a linear head is its weight; a channel counts by the mean over its cells.
            importance = head.weight[label].view(5, 64).mean(1)
            wanted = (importance[None, :, None, None] * values).sum(1).relu()
        assert (wanted.amax((1, 2)) > 0).all()
        wanted /= wanted.amax((1, 2), keepdim=True)
        np.testing.assert_allclose(class_maps(net, faces, [label] * 4), wanted.numpy(), rtol=0, atol=1e-5)


def test_a_network_without_feature_maps_gives_the_gradient_at_the_pixels():
    head = nn.Linear(64, 2)
    head.weight.data.zero_()
    head.weight.data[0, 27], head.weight.data[1, 50] = -3.0, 1.0
    net = Layers(2, nn.Flatten(), head).eval()
    assert class_maps(net, torch.rand(2, 1, 8, 8), [0, 1]).reshape(2, -1).argmax(1).tolist() == [27, 50]
    assert class_maps(MLP(7).eval(), torch.rand(2, 1, 60, 50)).shape == (2, 60, 50)


@pytest.mark.parametrize("layers", [[nn.Conv2d(1, 1, 5)], [nn.Conv2d(1, 1, 3), nn.MaxPool2d(2)]])
def test_a_cell_lies_at_the_pixels_that_it_sees(layers):
    """What speaks for the class is one bright pixel; each convolution hands its middle on."""
    layers[0].weight.data.zero_()
    layers[0].weight.data[0, 0, layers[0].kernel_size[0] // 2, layers[0].kernel_size[0] // 2] = 1.0
    layers[0].bias.data.zero_()
    head = nn.Linear(1, 2)
    head.weight.data[:] = torch.tensor([[1.0], [-1.0]])
    net = Layers(2, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head, size=24).eval()
    faces = torch.zeros(3, 1, 24, 24)
    places = [(5, 5), (9, 15), (18, 8)]
    for face, (row, column) in zip(faces, places, strict=True):
        face[0, row, column] = 1.0
    np.testing.assert_array_equal(class_maps(net, faces), class_maps(net, faces, [0] * 3))  # as it predicts
    peaks = np.stack(np.unravel_index(class_maps(net, faces).reshape(3, -1).argmax(1), (24, 24)), 1)
    assert np.abs(peaks - places).max() <= len(layers) - 1
    assert class_maps(net, faces, [1] * 3).max() == 0


def test_maps_are_of_the_size_of_the_faces_and_reach_one():
    net, faces = small_cnn().eval(), torch.randint(0, 256, (3, 3, 90, 60), dtype=torch.uint8)
    maps = class_maps(net, faces)
    assert (maps.shape, maps.dtype) == ((3, 90, 60), np.float32)
    assert maps.min() >= 0
    assert maps.max((1, 2)).tolist() == pytest.approx([1, 1, 1])
    np.testing.assert_allclose(maps, class_maps(net, faces.float() / 255), atol=1e-4)
    np.testing.assert_allclose(maps, np.concatenate([class_maps(net, face[None]) for face in faces]), atol=1e-4)
    assert class_maps(net, faces[:0]).shape == (0, 90, 60)
    pairs = zip(class_maps(net.bfloat16(), faces), maps, strict=True)
    assert np.mean([np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in pairs]) > 0.9


def test_the_network_stays_as_it_was():
    net, faces = small_cnn(), torch.rand(4, 1, 24, 24)
    expected = class_maps(net.eval(), faces)
    net.train()
    net.layers[1].eval()
    net.requires_grad_(False)  # as a frozen network is
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.inference_mode():  # as evaluations run
        maps = class_maps(net, faces + 0)
        assert not torch.is_grad_enabled()
    # Dropout and batch normalisation were those of evaluation.
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())


def test_what_cannot_be_explained_is_said(monkeypatch):
    with pytest.raises(FaceExprError, match=r"^explain: KNNClassifier has no gradients .*; expected a network$"):
        explained_network(KNNClassifier())
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(FaceExprError, match=r"needs Captum, which is not installed; expected: pip install 'faceexpr\["):
        class_maps(MLP(7).eval(), torch.rand(1, 1, 48, 48))


def test_the_larger_the_value_the_brighter_and_the_less_of_the_face():
    values = np.linspace(0, 1, 32, dtype=np.float32)[None].repeat(8, 0)
    on_black, on_white = (overlay(np.full((8, 32), level, np.uint8), values, 8, 32).astype(float) for level in (0, 255))
    brightness = on_black[0] @ (0.299, 0.587, 0.114)
    assert (np.diff(brightness) >= 0).all()
    assert brightness[-1] > 180
    seen = (on_white - on_black).mean(2)[0] / 255
    assert (np.diff(seen) <= 0).all()
    assert (seen[0], seen[-1]) == pytest.approx((1, 0.25), abs=0.01)
    red = np.zeros((4, 4, 3), np.uint8)
    red[:, :, 0] = 200
    assert np.unique(overlay(red, np.zeros((4, 4), np.float32), 4, 4)).tolist() == [60]  # 0.299 of 200


def test_an_enlarged_face_keeps_its_edges_and_its_proportions():
    face = np.zeros((8, 8), np.uint8)
    face[:, 4:] = 255
    drawn = side_by_side(face, np.zeros((8, 8), np.float32), 80, 3)
    assert drawn.shape == (80, 163, 3)
    for half in (drawn[:, :80], drawn[:, 83:]):
        assert half[:, :30].max() == 0  # a smooth enlargement overshoots beside an edge
        assert half[:, 50:].min() == 255
    assert (drawn[:, 80:83] == 255).all()
    assert side_by_side(np.zeros((40, 20, 3), np.uint8), np.zeros((48, 48), np.float32), 100, 4).shape == (100, 104, 3)
