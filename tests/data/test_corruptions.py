"""Each corruption does what its table says, alike whatever batch an image is in."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchvision.transforms.v2 import functional as change

from faceexpr.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from faceexpr.data.synthetic.drawing import draw_face
from faceexpr.utils.labels import FER_NAMES

AT_RANDOM = {"noise", "rotation", "shift"}


def faces(count=16, size=48, grey=True):
    rng = np.random.default_rng(0)
    drawn = np.stack([draw_face(FER_NAMES[place % 7], rng, size) for place in range(count)])
    images = torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()
    return images[:, :1] if grey else images


@pytest.fixture(scope="module")
def grey():
    return faces()


def spoilt(image, name, strength, seed=0):
    return corrupt(image, torch.arange(len(image)), name, strength, seed)


def value(name, strength):
    return CORRUPTIONS[name].values[strength - 1]


def apart(one, other):
    return float((one.float() - other.float()).abs().mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_strength_changes_more_than_the_one_before(grey, name):
    changes = [apart(spoilt(grey, name, strength), grey) for strength in STRENGTHS]
    assert changes[0] > 0.5
    assert all(weaker < stronger for weaker, stronger in pairwise(changes))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_comes_out_the_same_in_every_batch(grey, name):
    whole = spoilt(grey, name, 3)
    for rows in ([5], [9, 2, 2, 15]):
        assert torch.equal(corrupt(grey[rows], torch.tensor(rows), name, 3), whole[rows])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_draws_follow_from_seed_and_index(grey, name):
    same = grey[:1].expand(16, -1, -1, -1)
    variants = len(torch.unique(spoilt(same, name, 4), dim=0))
    assert variants == {"noise": 16, "rotation": 2, "shift": 4}.get(name, 1)
    assert torch.equal(spoilt(same, name, 4), spoilt(same, name, 4))
    assert torch.equal(spoilt(same, name, 4, seed=1), spoilt(same, name, 4)) == (name not in AT_RANDOM)


@pytest.mark.parametrize("shape", [(3, 3, 40, 56), (2, 1, 8, 8)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_size_in_grey_and_colour(name, shape):
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    for strength in (1, 5):
        changed = spoilt(image, name, strength)
        assert (changed.shape, changed.dtype) == (image.shape, torch.uint8)
    assert torch.equal(image, before)


@pytest.mark.parametrize("side", [48, 96])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_blur_has_its_sigma_and_grows_with_the_image(side, strength):
    image = faces(2, side)
    sigma = value("blur", strength) * side / 48
    expected = np.stack([ndimage.gaussian_filter(one[0].numpy().astype(float), sigma, mode="mirror") for one in image])
    assert np.abs(spoilt(image, "blur", strength)[:, 0].numpy() - expected).max() < 1.5


@pytest.mark.parametrize("strength", STRENGTHS)
def test_noise_has_its_deviation_and_no_pattern(strength):
    image = torch.full((32, 1, 48, 48), 128, dtype=torch.uint8)
    grain = spoilt(image, "noise", strength).double() - 128
    deviation = value("noise", strength)
    assert float(grain.std()) == pytest.approx(deviation, rel=0.02)
    assert float(grain.mean()) == pytest.approx(0, abs=0.02 * deviation)
    for one, other in ((grain[..., 1:], grain[..., :-1]), (grain[1:], grain[:-1])):
        assert float((one * other).mean()) / deviation**2 == pytest.approx(0, abs=0.02)


def test_low_resolution_keeps_what_is_coarser_than_its_pixels():
    columns = torch.arange(48)
    fine, coarse = ((columns // width % 2 * 200).to(torch.uint8).expand(1, 1, 48, 48) for width in (1, 12))
    kept = [float(spoilt(fine, "low_resolution", strength).float().std()) for strength in STRENGTHS[1:]]
    assert max(kept) < 8  # of 100
    kept = [float(spoilt(coarse, "low_resolution", strength).float().std()) for strength in STRENGTHS]
    assert min(kept[:4]) > 80


@pytest.mark.parametrize("name", ["darker", "brighter"])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_brightness_is_a_factor_up_to_white(name, strength):
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    factor = value(name, strength)
    expected = np.minimum(np.arange(256, dtype=np.float32) * np.float32(factor), 255).astype(np.uint8)
    assert spoilt(ramp, name, strength).flatten().tolist() == expected.tolist()
    assert factor > 1 if name == "brighter" else factor < 1


@pytest.mark.parametrize("strength", STRENGTHS)
def test_contrast_shrinks_about_the_mean(grey, strength):
    before, after = grey.double().flatten(1), spoilt(grey, "contrast", strength).double().flatten(1)
    assert torch.allclose(after.mean(1), before.mean(1), atol=1)
    assert torch.allclose(after.std(1), before.std(1) * value("contrast", strength), atol=0.5)


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities")
@pytest.mark.parametrize("grey", [True, False])
def test_jpeg_has_the_quality_that_torchvision_means(grey):
    image = faces(4, grey=grey)
    for strength in STRENGTHS:
        expected = change.jpeg(image, value("jpeg", strength))
        assert torch.equal(spoilt(image, "jpeg", strength), expected)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_rotation_turns_either_way_and_repeats_the_border(grey, strength):
    angle = value("rotation", strength)
    turned = [
        [
            ndimage.rotate(face[0].numpy().astype(float), way * angle, reshape=False, order=1, mode="nearest")
            for way in (1, -1)
        ]
        for face in grey
    ]
    found = spoilt(grey, "rotation", strength)[:, 0].numpy()
    errors = np.array([[np.abs(one - way).mean() for way in ways] for one, ways in zip(found, turned, strict=True)])
    assert errors.min(axis=1).max() < 1
    assert set(errors.argmin(axis=1)) == {0, 1}


@pytest.mark.parametrize("strength", STRENGTHS)
def test_shift_moves_along_both_axes_and_repeats_the_border(grey, strength):
    step = round(value("shift", strength) * 48)
    ways = []
    for face, changed in zip(grey[:, 0].numpy(), spoilt(grey, "shift", strength)[:, 0].numpy(), strict=True):
        padded = np.pad(face, step, mode="edge")
        corners = [(top, left) for top in (0, 2 * step) for left in (0, 2 * step)]
        ways += [corner for corner in corners if np.array_equal(padded[corner[0] :, corner[1] :][:48, :48], changed)]
    assert len(ways) == 16
    assert len(set(ways)) == 4
