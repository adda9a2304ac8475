"""Random changes of training images, and the random numbers of samples that they are drawn from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from faceexpr.data.augment import ERASED, Augmentation, augment_batch, uniform
from faceexpr.data.loading import PADDING
from faceexpr.utils.errors import FaceExprError

EVERYTHING = Augmentation(0.5, 12, 0.15, 0.08, 0.3, 0.25, 0.25, 0.5, 0.3, 0.4)
CLASSES = 7


def batch(samples=16, channels=1, side=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (samples, channels, side, side), dtype=torch.uint8, generator=generator)
    return image, torch.randint(0, CLASSES, (samples,), generator=generator)


def augmented(image, target, settings, seed=0, num_classes=CLASSES, index=None):
    index = torch.arange(len(image)) if index is None else index
    return augment_batch(image, target, index, settings, (seed,), num_classes)


def changed(image, **settings):
    """Return the images alone, where targets do not matter."""
    return augmented(image, torch.zeros(len(image), dtype=torch.int64), Augmentation(**settings))[0]


def test_everything_off_returns_the_very_tensors():
    image, target = batch()
    result = augmented(image, target, Augmentation(erasing_size=0.5))
    assert result[0] is image
    assert result[1] is target


@pytest.mark.parametrize("channels", [1, 3])
def test_result_is_float32_between_0_and_1_and_follows_from_the_seed(channels):
    image, target = batch(channels=channels)
    before = image.clone()
    pixels, labels = augmented(image, target, EVERYTHING)
    assert (pixels.dtype, pixels.shape) == (torch.float32, image.shape)
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert labels.shape == (16, CLASSES)
    assert torch.equal(image, before)
    state = torch.get_rng_state()
    again, other = (augmented(image, target, EVERYTHING, seed)[0] for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again, pixels)
    assert not torch.equal(other, pixels)


def test_flip_alone_is_exact_and_keeps_integer_targets():
    image, target = batch(64)
    pixels, labels = augmented(image, target, Augmentation(flip=0.5))
    exact = image.float() / 255
    flipped = (pixels == exact.flip(-1)).flatten(1).all(1)
    kept = (pixels == exact).flatten(1).all(1)
    assert (flipped ^ kept).all()
    assert 16 < flipped.sum() < 48
    assert labels is target
    assert torch.equal(changed(image, flip=1.0), exact.flip(-1))


def test_flip_is_the_same_flip_when_images_are_warped_too():
    ramp = torch.linspace(20, 230, 48)
    image = (ramp[None, :] * 0.6 + ramp[:, None] * 0.4).to(torch.uint8).expand(64, 1, 48, 48)
    for flip in (0.0, 0.5):
        warped, exact = changed(image, flip=flip, rotation=1e-4), changed(image, flip=flip, brightness=1e-9)
        assert torch.allclose(warped, exact, atol=1e-3)


def test_aspect_stretches_one_axis_by_what_it_shrinks_the_other():
    image = torch.zeros(400, 1, 96, 96, dtype=torch.uint8)
    image[..., 32:64, 32:64] = 255
    stretched = changed(image, aspect=0.44)[:, 0]
    width, height = stretched[:, 48].sum(1), stretched[:, :, 48].sum(1)
    ratio = width / height
    assert torch.allclose(width * height, torch.tensor(32.0 * 32), rtol=0.02)
    assert 1 / 1.46 < ratio.min() < 1 / 1.38
    assert 1.38 < ratio.max() < 1.46
    assert ratio.log().mean().abs() < 0.03


def test_a_sample_does_not_depend_on_the_rest_of_the_batch():
    image, target = batch(16)
    settings = replace(EVERYTHING, mixup=0.0)
    whole, _ = augmented(image, target, settings)
    part, _ = augmented(image[3:8], target[3:8], settings, index=torch.arange(3, 8))
    other = image.clone()
    other[8:] = 0
    assert torch.equal(whole[3:8], part)
    assert torch.equal(whole[:8], augmented(other, target, settings)[0][:8])


def test_switching_one_change_on_leaves_the_others_draws():
    image, _ = batch()
    bare, erased = (changed(image, rotation=12, brightness=0.2, erasing=erasing) for erasing in (0.0, 1.0))
    assert (bare == erased).float().mean().item() == pytest.approx(1 - (14 / 48) ** 2, abs=0.01)


def centres(pixels):
    """The mean column and row of each image's brightness, from the middle of the image."""
    height, width = pixels.shape[-2:]
    weights = pixels[:, 0] / pixels[:, 0].sum((1, 2), keepdim=True)
    columns = (weights.sum(1) * torch.arange(width)).sum(1) - (width - 1) / 2
    return columns, (weights.sum(2) * torch.arange(height)).sum(1) - (height - 1) / 2


def test_shift_moves_by_up_to_its_fraction_of_the_side():
    image = torch.zeros(200, 1, 40, 60, dtype=torch.uint8)
    image[:, :, 18:22, 28:32] = 255
    columns, rows = centres(changed(image, shift=0.2))
    assert 10 < columns.abs().max() <= 12.01
    assert 7 < rows.abs().max() <= 8.01


def test_scale_changes_the_size_by_up_to_its_fraction():
    image = torch.zeros(200, 1, 48, 48, dtype=torch.uint8)
    image[:, :, 16:32, 16:32] = 255
    factors = (changed(image, scale=0.25).sum((1, 2, 3)) / 256).sqrt()
    assert 0.73 < factors.min() < 0.80
    assert 1.20 < factors.max() < 1.27


@pytest.mark.parametrize("width", [49, 79])
def test_rotation_turns_by_up_to_its_degrees_without_shear(width):
    middle = width // 2
    image = torch.zeros(200, 1, 49, width, dtype=torch.uint8)
    image[:, :, 23:26, middle + 14 : middle + 17] = 255
    x, y = centres(changed(image, rotation=30))
    angles = torch.rad2deg(torch.atan2(y, x))
    assert 27 < angles.max() < 31
    assert -31 < angles.min() < -27
    assert torch.allclose(torch.hypot(x, y), torch.tensor(15.0), atol=0.3)


def test_brightness_multiplies_and_contrast_keeps_the_mean():
    image = torch.randint(90, 120, (200, 1, 16, 16), dtype=torch.uint8)
    exact = image.float() / 255
    ratio, stretched = changed(image, brightness=0.3) / exact, changed(image, contrast=0.3)
    assert torch.allclose(ratio.amax((1, 2, 3)), ratio.amin((1, 2, 3)), atol=1e-5)
    assert torch.allclose(stretched.mean((1, 2, 3)), exact.mean((1, 2, 3)), atol=1e-5)
    for factors in (ratio, stretched.std((1, 2, 3)) / exact.std((1, 2, 3))):
        assert 0.69 < factors.min() < 0.74
        assert 1.26 < factors.max() < 1.31


@pytest.mark.parametrize(("fraction", "side"), [(0.3, 14), (1.0, 48), (0.001, 1)])
def test_erasing_covers_a_square_of_the_given_side(fraction, side):
    image = torch.full((32, 1, 48, 48), 255, dtype=torch.uint8)
    erased = changed(image, erasing=1.0, erasing_size=fraction)[:, 0] == ERASED
    assert (erased.sum((1, 2)) == side**2).all()
    assert (erased.any(1).sum(1) == side).all()
    assert (erased.any(2).sum(1) == side).all()
    some = changed(image, erasing=0.5, erasing_size=fraction) == ERASED
    assert 8 < some.flatten(1).any(1).sum() < 24


def test_mixup_targets_are_the_mix_of_the_images():
    # Image i is constant at value i and is the only one of its class, so the weights can be read off both.
    samples = 8
    image = (torch.arange(samples) * 30).to(torch.uint8).view(-1, 1, 1, 1).expand(samples, 1, 6, 6)
    target = torch.arange(samples)
    pixels, labels = augmented(image, target, Augmentation(mixup=1.0), seed=3, num_classes=samples)
    assert torch.allclose(labels.sum(1), torch.ones(samples))
    assert ((labels > 0).sum(1) <= 2).all()
    assert (labels.diagonal() > 0).all()
    expected = labels @ (torch.arange(samples) * 30 / 255)
    assert torch.allclose(pixels, expected.view(-1, 1, 1, 1).expand_as(pixels), atol=1e-5)
    assert (labels.max(1).values < 0.99).any()


def test_mixup_mixes_nothing_with_padding():
    image = torch.zeros(9, 1, 2, 2, dtype=torch.uint8)
    index = torch.tensor([3, PADDING, 5, 8, PADDING, 1, 2, 0, 9])
    image[index == PADDING] = 255
    pixels, labels = augmented(image, (index == PADDING).long(), Augmentation(mixup=1.0), index=index)
    assert pixels[index != PADDING].max() == 0
    assert labels[index != PADDING, 0].tolist() == [1.0] * 7
    torch.testing.assert_close(pixels[index == PADDING], torch.ones(2, 1, 2, 2))


def test_mixup_weights_follow_the_beta_distribution():
    # All zeros but one half ones: a mixed pixel is the weight, or one minus it, both Beta-distributed.
    image = torch.zeros(4000, 1, 1, 1, dtype=torch.uint8)
    target = torch.zeros(4000, dtype=torch.int64)
    image[2000:], target[2000:] = 255, 1
    alpha = 0.5
    pixels, labels = augmented(image, target, Augmentation(mixup=alpha), num_classes=2)
    assert torch.allclose(pixels.flatten(), labels[:, 1], atol=1e-6)
    mixed = labels[(labels[:, 1] > 0) & (labels[:, 1] < 1), 1].numpy()
    assert len(mixed) == pytest.approx(2000, rel=0.1)
    assert mixed.mean() == pytest.approx(0.5, abs=0.03)
    assert np.var(mixed) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("flip", float("nan")), ("rotation", 181.0), ("scale", 1.0), ("erasing_size", 0.0), ("mixup", float("inf"))],
)
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(FaceExprError, match=rf"^augment\.{name} is .*; expected"):
        Augmentation(**{name: value})


N, COLUMNS = 100_000, 12
SPREAD = 1 / np.sqrt(N)  # the standard deviation of a correlation of independent numbers


@pytest.fixture(scope="module")
def numbers() -> np.ndarray:
    return uniform(torch.arange(N), COLUMNS, (0, 0))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return abs(float(np.corrcoef(a, b)[0, 1]))


def test_numbers_are_uniform(numbers: np.ndarray) -> None:
    assert (numbers.dtype, numbers.shape) == (np.float32, (N, COLUMNS))
    assert 0 <= numbers.min() < numbers.max() < 1
    for column in numbers.T.astype(np.float64):
        assert column.mean() == pytest.approx(0.5, abs=4.5 * SPREAD / np.sqrt(12))
        assert column.var() == pytest.approx(1 / 12, rel=4.5 * SPREAD)
        # Chi-square of 256 bins: 255 degrees of freedom, standard deviation sqrt(2 * 255).
        counts = np.bincount((column * 256).astype(int), minlength=256)
        assert abs(((counts - N / 256) ** 2 / (N / 256)).sum() - 255) < 4.5 * np.sqrt(2 * 255)


def test_neighbouring_numbers_have_nothing_to_do_with_each_other(numbers: np.ndarray) -> None:
    pairs = {f"columns {i}, {j}": (numbers[:, i], numbers[:, j]) for i in range(COLUMNS) for j in range(i)}
    for name, key in {"epoch": (0, 1), "seed": (1, 0), "swapped": (1, 1)}.items():
        other = uniform(torch.arange(N), COLUMNS, key)
        pairs |= {f"{name} {i}": (numbers[:, i], other[:, i]) for i in range(COLUMNS)}
    pairs |= {f"index {i}": (numbers[1:, i], numbers[:-1, i]) for i in range(COLUMNS)}
    pairs |= {f"index and column {i}": (numbers[1:, i - 1], numbers[:-1, i]) for i in range(1, COLUMNS)}
    worst = max(pairs, key=lambda name: correlation(*pairs[name]))
    assert correlation(*pairs[worst]) < 4.5 * SPREAD, worst


def test_numbers_stay_as_they_are_from_version_to_version() -> None:
    found = uniform(torch.tensor([-1, 0, 1]), 2, (5, 7))
    expected = [[0.4594556093, 0.1164383292], [0.8813313246, 0.2576639056], [0.4151567221, 0.5511815548]]
    assert found.tolist() == [pytest.approx(row, abs=1e-9) for row in expected]
