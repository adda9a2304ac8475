"""The simple convolutional network of the paper's Table 4."""

import torch
from torch import nn

from faceexpr.models.simple_cnn import SimpleCNN


def table_4():
    """Table 4 in the order in which it is printed, without the ReLU after the logits."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, stride=1, padding=0), nn.ReLU(), nn.MaxPool2d(5, stride=2),
        nn.Conv2d(64, 64, 3, stride=1, padding=0), nn.ReLU(), nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 128, 3, stride=1, padding=0), nn.ReLU(), nn.MaxPool2d(3, stride=2),
        nn.Flatten(), nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 7),
    )  # fmt: skip


def test_outputs_and_gradients_are_those_of_table_4_in_its_order():
    torch.manual_seed(0)
    net, plain = SimpleCNN(7).double(), table_4().double()
    pairs = list(zip(net.parameters(), plain.parameters(), strict=True))
    with torch.no_grad():
        for ours, theirs in pairs:
            assert ours.shape == theirs.shape
            theirs.copy_(ours)
    image = torch.rand(6, 1, 48, 48, dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 3, 4, 6])
    logits, expected = net(image), plain(image * 2 - 1)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
    nn.functional.cross_entropy(logits, target).backward()
    nn.functional.cross_entropy(expected, target).backward()
    for ours, theirs in pairs:
        assert ours.grad.abs().max() > 0
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_final_relu_clamps_the_logits_and_changes_nothing_else():
    torch.manual_seed(1)
    plain, clamped = SimpleCNN(7).eval(), SimpleCNN(7, final_relu=True).eval()
    clamped.load_state_dict(plain.state_dict())
    image = torch.randint(0, 256, (4, 1, 48, 48), dtype=torch.uint8)
    logits = plain(image)
    assert (logits < 0).any()
    assert torch.equal(clamped(image), logits.clamp(min=0))


def test_batch_norm_follows_each_convolution_which_then_has_no_bias():
    net = SimpleCNN(7, batch_norm=True)
    normed = [nn.Conv2d, nn.BatchNorm2d]
    kinds = [type(layer) for layer in net.features]
    assert kinds == [*normed, nn.MaxPool2d, nn.ReLU] * 2 + [*normed, nn.ReLU, nn.MaxPool2d]
    assert all(layer.bias is None for layer in net.features if isinstance(layer, nn.Conv2d))


def test_dropout_is_for_the_two_hidden_layers():
    net = SimpleCNN(7, dropout=0.25)
    assert [type(layer) for layer in net.head] == [nn.Linear, nn.ReLU, nn.Dropout] * 2 + [nn.Linear]
    assert {layer.p for layer in net.head if isinstance(layer, nn.Dropout)} == {0.25}
