"""The fully connected network of the paper's Table 2."""

import pytest
import torch
from torch import nn

from faceexpr.models.mlp import MLP

TABLE_2 = [(2304, 1024), (1024, 1024), (1024, 64), (64, 32), (32, 7)]


def linears(net):
    return [layer for layer in net.layers if isinstance(layer, nn.Linear)]


def test_the_defaults_are_table_2():
    net = MLP(7)
    assert [(layer.in_features, layer.out_features) for layer in linears(net)] == TABLE_2
    assert [type(layer) for layer in net.layers[1:]] == [nn.Linear, nn.ReLU] * 4 + [nn.Linear]
    assert sum(p.numel() for p in net.parameters()) == sum(i * o + o for i, o in TABLE_2)


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "gelu", "silu", "leaky_relu"])
def test_every_activation_stands_after_each_hidden_layer(name):
    function = getattr(nn.functional, name)
    net = MLP(3, hidden=(6, 5), activation=name, image_size=4)
    image = torch.randn(2, 1, 4, 4)
    first, second, last = linears(net)
    expected = last(function(second(function(first(image.flatten(1))))))
    torch.testing.assert_close(net.classify(image), expected)


def test_batch_norm_stands_before_the_activation():
    net = MLP(7, hidden=(6,), batch_norm=True, image_size=4)
    assert [type(layer) for layer in net.layers] == [nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    hidden = net.train().layers[:3](torch.randn(50, 1, 4, 4))
    torch.testing.assert_close(hidden.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden.std(0, correction=0), torch.ones(6), atol=1e-3, rtol=0)


def test_dropout_drops_hidden_units_in_training_alone():
    torch.manual_seed(0)
    net = MLP(7, hidden=(1000, 8), activation="sigmoid", dropout=0.3, image_size=4)
    assert [layer.p for layer in net.layers if isinstance(layer, nn.Dropout)] == [0.3, 0.3]
    hidden = net.layers[:4]
    image = torch.rand(8, 1, 4, 4)
    assert (hidden.train()(image) == 0).float().mean() == pytest.approx(0.3, abs=0.03)
    assert (hidden.eval()(image) == 0).sum() == 0


def test_no_hidden_layer_is_a_linear_classifier_of_images_of_the_size():
    net = MLP(7, hidden=(), image_size=20)
    assert [(layer.in_features, layer.out_features) for layer in linears(net)] == [(400, 7)]
    assert net(torch.zeros(2, 3, 48, 48, dtype=torch.uint8)).shape == (2, 7)
