"""The network that is small enough to ship."""

import torch

from faceexpr.models.compact_resnet import CompactResNet


def test_each_stage_halves_the_resolution_and_all_have_fewer_than_a_million_parameters():
    assert 900_000 < sum(parameter.numel() for parameter in CompactResNet(7).parameters()) < 1_000_000
    net = CompactResNet(7, stem=4, widths=(6, 8), depths=(1, 2)).eval()
    sizes = []
    for layer in net.features[:4]:
        layer.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[1:])))
    net(torch.zeros(1, 1, 48, 48, dtype=torch.uint8))
    assert sizes == [(4, 48, 48), (6, 24, 24), (8, 12, 12), (8, 12, 12)]
