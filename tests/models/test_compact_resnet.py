"""The network that is small enough to ship."""

import pytest
import torch

from faceexpr.models.compact_resnet import CompactResNet
from faceexpr.utils.errors import FaceExprError


def test_each_stage_halves_the_resolution_and_all_have_fewer_than_a_million_parameters():
    assert 900_000 < sum(parameter.numel() for parameter in CompactResNet(7).parameters()) < 1_000_000
    net = CompactResNet(7, stem=4, widths=(6, 8), depths=(1, 2)).eval()
    sizes = []
    for layer in net.features[:4]:
        layer.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[1:])))
    net(torch.zeros(1, 1, 48, 48, dtype=torch.uint8))
    assert sizes == [(4, 48, 48), (6, 24, 24), (8, 12, 12), (8, 12, 12)]


def test_a_block_without_body_passes_its_input_on():
    net = CompactResNet(7, stem=4, widths=(4,), depths=(2,), squeeze=False)
    block = net.features[2]
    torch.nn.init.zeros_(block.body[-1].weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x)


def test_channels_are_weighed_by_the_image_as_a_whole():
    block = CompactResNet(7, stem=8, widths=(8,), depths=(2,)).features[2]
    x = torch.randn(2, 8, 6, 6)
    weights = block.squeeze(x) / x
    assert torch.allclose(weights, weights.mean((2, 3), keepdim=True).expand_as(weights), atol=1e-5)
    assert ((weights > 0) & (weights < 1)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": ()}, r"widths is \[\]; expected one or more channels"),
        ({"widths": (8, 8), "depths": (1,)}, r"depths is \[1\]; expected 1 or more blocks for each of 2"),
        ({"dropout": 1.0}, "dropout is 1.0; expected 0 to below 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(FaceExprError, match=message):
        CompactResNet(7, **options)
