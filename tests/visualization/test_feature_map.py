"""Which feature map an explanation is made of, and where its cells lie."""

import pytest
import torch
from small_nets import Layers
from torch import nn

from faceexpr.models.compact_resnet import CompactResNet
from faceexpr.models.mlp import MLP
from faceexpr.models.resnet import ResNet
from faceexpr.models.simple_cnn import SimpleCNN
from faceexpr.visualization.feature_map import Axis, last_feature_map


def found(net):
    size = net.preprocess.size
    return last_feature_map(net.eval(), torch.rand(1, net.preprocess.channels, size, size))


@pytest.mark.parametrize(
    ("net", "kind", "cells", "first", "step"),
    [
        (SimpleCNN(7), nn.ReLU, (6, 6), 12, 4),  # before its last pooling, which leaves 2 x 2
        (SimpleCNN(7, batch_norm=True), nn.ReLU, (6, 6), 12, 4),
        (CompactResNet(7, stem=4, widths=(4, 8, 8)), nn.ReLU, (6, 6), 3.5, 8),
        (ResNet(7, 18, stem="small"), nn.Sequential, (6, 6), 0, 8),
        (ResNet(7, 18), nn.Sequential, (3, 3), 0, 16),  # before the stage of 2 x 2
    ],
)
def test_every_network_with_convolutions_has_one(net, kind, cells, first, step):
    feature_map = found(net)
    assert isinstance(feature_map.layer, kind)
    assert feature_map.size == cells
    assert feature_map.down[:2] == feature_map.across[:2] == (first, step)


def test_networks_without_convolutions_have_none():
    assert found(MLP(7)) is None
    small = Layers(2, nn.Conv2d(1, 3, 7), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    assert found(small) is None  # 2 x 2 cells tell nothing of places


def test_a_layer_that_runs_twice_is_not_taken():
    class Shared(Layers):
        def classify(self, image):
            conv, act, other, head = self.layers
            return head(act(other(act(conv(image)))).mean((2, 3)))

    net = Shared(2, nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Linear(3, 2))
    assert found(net).layer is net.layers[2]


def test_cells_see_the_pixels_that_their_place_says():
    net = SimpleCNN(7).eval()
    feature_map = found(net)
    assert feature_map.down == Axis(12, 4, 25)
    image, seen = torch.rand(16, 1, 48, 48, requires_grad=True), []
    handle = feature_map.layer.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    net.classify(image)
    handle.remove()
    for row in range(6):
        (gradient,) = torch.autograd.grad(seen[0][:, :, row, 2].sum(), image, retain_graph=True)
        pixels = gradient.abs().sum((0, 1, 3)).nonzero()[:, 0]
        middle = feature_map.down.first + row * feature_map.down.step
        reach = (feature_map.down.field - 1) / 2
        assert middle - reach <= int(pixels[0]) <= middle - reach + 2
        assert middle + reach - 2 <= int(pixels[-1]) <= middle + reach


def test_a_layer_of_unknown_kind_spreads_its_cells_evenly():
    net = Layers(2, nn.Conv2d(1, 3, 3, padding="same"), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2))
    assert found(net).down == Axis(0.5, 2, 2)


def test_looking_leaves_no_hook_behind():
    net = SimpleCNN(7).eval()
    found(net)
    assert not any(module._forward_hooks for module in net.modules())
