import numpy as np
import pytest
import torch
from torch import nn

from faceexpr.models.mlp import MLP
from faceexpr.tasks.knn import Histogram, NetworkFeatures, RawPixels
from faceexpr.utils.errors import FaceExprError

GREY = torch.randint(0, 256, (5, 1, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_raw_pixels_are_the_images_own_numbers() -> None:
    features = RawPixels()(GREY)
    assert features.dtype == torch.uint8
    assert torch.equal(features, GREY.flatten(1))
    assert torch.equal(RawPixels()(GREY.expand(-1, 3, -1, -1)), features)  # equal channels are grey
    assert RawPixels(size=24)(GREY).shape == (5, 576)


def test_histogram_is_numpys() -> None:
    counts = Histogram()(GREY).numpy()
    assert counts.shape == (5, 255)
    for image, found in zip(GREY.numpy(), counts, strict=True):
        # 255 bins of equal width over the 256 values that a pixel can have
        expected, _ = np.histogram(image, bins=255, range=(0, 256))
        np.testing.assert_array_equal(found, expected)
    assert (counts.sum(axis=1) == 48 * 48).all()


def test_histogram_forgets_where() -> None:
    shuffled = GREY.flatten(2)[..., torch.randperm(48 * 48)].view_as(GREY)
    assert torch.equal(Histogram()(shuffled), Histogram()(GREY))


def test_colours_are_counted_each_for_itself() -> None:
    generator = torch.Generator().manual_seed(1)
    colour = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8, generator=generator)
    counts = Histogram(channels=3)(colour)
    assert counts.shape == (4, 3 * 255)
    for channel in range(3):
        one = Histogram()(colour[:, channel : channel + 1])
        assert torch.equal(counts[:, 255 * channel : 255 * (channel + 1)], one)
    grey = Histogram(channels=3)(GREY)  # grey images have the same level in all three
    assert torch.equal(grey, Histogram()(GREY).repeat(1, 3))


def test_bad_bins_are_refused() -> None:
    with pytest.raises(FaceExprError, match="bins is 300"):
        Histogram(bins=300)


def test_network_features_are_what_the_last_layer_sees() -> None:
    features = NetworkFeatures("unused.ckpt")
    features.net = MLP(7, hidden=(16, 5))
    seen = features(GREY)
    assert seen.shape == (5, 5)
    last = features.net.layers[-1]
    assert isinstance(last, nn.Linear)
    torch.testing.assert_close(last(seen), features.net(GREY))
