"""From pixels to what a network sees; `test_contract` has what each network shows of it."""

import numpy as np
import pytest
import torch
from PIL import Image

from faceexpr.models.preprocess import Preprocess


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def test_the_paper_s_range_is_reached_exactly():
    image = torch.tensor([0, 255, 51], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 48, 48)
    black, white, grey = Preprocess()(image).unbind()
    assert black.unique().tolist() == [-1.0]
    assert white.unique().tolist() == [1.0]
    torch.testing.assert_close(grey, torch.full((1, 48, 48), 0.2 * 2 - 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(2, 1, 48, 48), (2, 3, 30, 50)])
def test_pixels_and_fractions_give_the_same_and_are_not_changed(channels, shape):
    image = noise(*shape)
    fractions = image.double() / 255
    before = fractions.clone()
    result = Preprocess(channels=channels)(image)
    assert (result.shape, result.dtype) == ((2, channels, 48, 48), torch.float32)
    torch.testing.assert_close(Preprocess(channels=channels)(fractions), result)
    assert torch.equal(fractions, before)


def test_rgb_becomes_grey_as_pillow_makes_it():
    image = noise(1, 3, 48, 48)
    grey = Image.fromarray(image[0].permute(1, 2, 0).numpy()).convert("L")
    ours = Preprocess(mean=(0.0,), std=(1.0,))(image)[0, 0] * 255
    assert (ours - torch.from_numpy(np.array(grey))).abs().max() <= 1  # Pillow rounds


@pytest.mark.parametrize("channels", [1, 3])
def test_each_channel_is_normalised_for_itself_and_grey_is_repeated(channels):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    image = noise(2, channels, 48, 48)
    result = Preprocess(channels=3, mean=mean, std=std)(image)
    for channel in range(3):
        own = image[:, channel % channels] / 255
        torch.testing.assert_close(result[:, channel], (own - mean[channel]) / std[channel])


def test_fine_stripes_are_averaged_as_pillow_averages_them():  # F09
    stripes = torch.zeros(1, 1, 480, 480, dtype=torch.uint8)
    stripes[..., ::2] = 255
    stripes[:, :, 100:300, 100:300] = noise(1, 1, 200, 200)
    ours = Preprocess(mean=(0.0,), std=(1.0,))(stripes)[0, 0] * 255
    theirs = Image.fromarray(stripes[0, 0].numpy()).resize((48, 48), Image.Resampling.BILINEAR)
    difference = (ours - torch.from_numpy(np.array(theirs))).abs()
    assert difference.mean() < 2
    # Without anti-aliasing the stripes would come out black or white.
    assert 120 < ours[1, 1:-1].min() <= ours[1, 1:-1].max() < 136


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_result_has_the_precision_of_the_network(dtype):
    image = noise(1, 3, 48, 48)
    preprocess = Preprocess()
    exact = preprocess(image)
    converted = preprocess.to(dtype)(image)
    assert converted.dtype == dtype
    torch.testing.assert_close(converted.float(), exact, atol=0.01, rtol=0)


def test_standardised_images_do_not_depend_on_light_and_contrast():
    image = noise(2, 3, 48, 48).float() / 255
    standardise = Preprocess(standardise=True)
    found = standardise(image)
    torch.testing.assert_close(standardise(0.3 + 0.4 * image), found, atol=0.1, rtol=0)
    assert found.mean((1, 2, 3)).abs().max() < 1e-5  # 0.5 on the scale of pixels
    assert found.std((1, 2, 3)).tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert standardise(torch.full((1, 1, 48, 48), 77, dtype=torch.uint8)).abs().max() < 1e-4
