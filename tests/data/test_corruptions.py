"""Each corruption does what its table says, alike whatever batch an image is in."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchvision.transforms.v2 import functional as change

from faceexpr.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from faceexpr.data.synthetic.drawing import draw_face
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

AT_RANDOM = {"noise", "rotation", "shift"}


def faces(count=16, size=48):
    rng = np.random.default_rng(0)
    drawn = np.stack([draw_face(FER_NAMES[place % 7], rng, size) for place in range(count)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def grey():
    return faces()[:, :1]


def spoilt(image, name, strength, seed=0):
    return corrupt(image, torch.arange(len(image)), name, strength, seed)


def value(name, strength):
    return CORRUPTIONS[name].values[strength - 1]


def apart(one, other):
    return float((one.float() - other.float()).abs().mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_strength_changes_more_than_the_one_before(grey, name):
    before = grey.clone()
    changes = [apart(spoilt(grey, name, strength), grey) for strength in STRENGTHS]
    assert torch.equal(grey, before)
    assert changes[0] > 0.5
    assert all(weaker < stronger for weaker, stronger in pairwise(changes))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_comes_out_the_same_in_every_batch(grey, name):
    for images in (grey, faces(16, 24)[..., :20]):  # any size, in grey and colour
        whole = spoilt(images, name, 3)
        assert (whole.shape, whole.dtype) == (images.shape, torch.uint8)
        for rows in ([5], [9, 2, 2, 15]):
            assert torch.equal(corrupt(images[rows], torch.tensor(rows), name, 3), whole[rows])


def test_an_array_will_do(grey):
    assert torch.equal(corrupt(grey[:2].numpy(), np.arange(2), "noise", 3), spoilt(grey[:2], "noise", 3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "blurr"}, "name is blurr; expected one of blur, .*; the nearest is blur"),
        ({"strength": 6}, "strength is 6; expected 1 to 5"),
        ({"image": torch.zeros(1, 8, 8)}, r"image is a Tensor \(1, 8, 8\); expected faces"),
        ({"image": torch.zeros(2, 1, 8, 8)}, "image is torch.float32; expected uint8"),
        ({"image": "a.jpg"}, "image is 'a.jpg'; expected faces"),
        ({"index": 0}, r"index is of shape \(\); expected 2, one for each image"),
    ],
)
def test_what_cannot_be_spoilt_is_said(change, said):
    given = {
        "image": torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
        "index": torch.arange(2),
        "name": "blur",
        "strength": 3,
    }
    with pytest.raises(FaceExprError, match=said):
        corrupt(**{**given, **change})


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_draws_follow_from_seed_and_index(grey, name):
    same = grey[:1].expand(16, -1, -1, -1)
    variants = len(torch.unique(spoilt(same, name, 4), dim=0))
    assert variants == {"noise": 16, "rotation": 2, "shift": 4}.get(name, 1)
    assert torch.equal(spoilt(same, name, 4), spoilt(same, name, 4))
    assert torch.equal(spoilt(same, name, 4, seed=1), spoilt(same, name, 4)) == (name not in AT_RANDOM)


@pytest.mark.parametrize("side", [48, 96])
def test_blur_has_its_sigma_and_grows_with_the_image(side):
    image = faces(1, side)
    for strength in STRENGTHS:
        sigma = value("blur", strength) * side / 48
        expected = ndimage.gaussian_filter(image[0, 0].numpy().astype(float), sigma, mode="mirror")
        assert np.abs(spoilt(image, "blur", strength)[0, 0].numpy() - expected).max() < 1.5


@pytest.mark.parametrize("strength", STRENGTHS)
def test_noise_has_its_deviation_and_no_pattern(strength):
    image = torch.full((32, 1, 48, 48), 128, dtype=torch.uint8)
    grain = (spoilt(image, "noise", strength).double() - 128) / value("noise", strength)
    assert float(grain.std()) == pytest.approx(1, rel=0.02)
    for values in (grain, grain[..., 1:] * grain[..., :-1], grain[1:] * grain[:-1]):
        assert float(values.mean()) == pytest.approx(0, abs=0.02)


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
def test_jpeg_has_the_quality_that_torchvision_means(grey):
    for image in (faces(4), grey[:4]):
        for strength in STRENGTHS:
            assert torch.equal(spoilt(image, "jpeg", strength), change.jpeg(image, value("jpeg", strength)))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_rotation_turns_either_way_and_repeats_the_border(grey, strength):
    angle = value("rotation", strength)
    options = {"axes": (3, 2), "reshape": False, "order": 1, "mode": "nearest"}
    turned = np.stack([ndimage.rotate(grey.numpy().astype(float), -way * angle, **options) for way in (1, -1)])
    errors = np.abs(spoilt(grey, "rotation", strength).numpy() - turned).mean((2, 3, 4))
    assert errors.min(axis=0).max() < 1
    assert set(errors.argmin(axis=0)) == {0, 1}


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
