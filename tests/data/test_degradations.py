"""Training images are spoiled as cameras and files do, each by its own draws."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from faceexpr.data.degradations import Degradations, compress, degrade_batch, reduce_and_enlarge
from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import resize

ALL = {"grey": 1.0, "gamma": 1.0, "blur": 1.0, "low_resolution": 1.0, "noise": 1.0, "jpeg": 1.0}


@pytest.fixture(scope="module")
def faces():
    return SyntheticFaces(train_size=32, val_size=7, test_size=7).split("train").images


def changed(faces, index=None, key=(0, 0), **options):
    index = torch.arange(len(faces)) if index is None else index
    return degrade_batch(faces, index, Degradations(**options), key)


def detail(images):
    """The mean step from a pixel to its neighbour, of each image."""
    return images.float().diff(dim=-1).abs().flatten(1).mean(1)


def test_nothing_is_done_by_default(faces):
    assert changed(faces) is faces


@pytest.mark.parametrize("name", [name for name in ALL if name != "grey"])
def test_a_sample_changes_alike_in_every_batch_and_otherwise_in_every_epoch(faces, name):
    one = changed(faces, **{name: 1.0})
    assert one.dtype == torch.uint8
    assert one.shape == faces.shape
    rows = torch.tensor([5, 2])
    assert (changed(faces[rows], rows, **{name: 1.0}).int() - one[rows].int()).abs().max() <= 1
    assert not torch.equal(changed(faces, key=(0, 1), **{name: 1.0}), one)


def test_as_many_change_as_asked_for(faces):
    many = faces[:1].expand(2000, -1, -1, -1)
    same = (changed(many, jpeg=0.3, least_quality=5.0) == many).flatten(1).all(1).float().mean()
    assert same == pytest.approx(0.7, abs=0.04)


def test_blur_and_low_resolution_take_detail_and_noise_adds_it(faces):
    before = detail(faces)
    assert (detail(changed(faces, blur=1.0)) <= before + 0.1).all()
    assert (detail(changed(faces, low_resolution=1.0)) <= before + 0.1).all()
    assert detail(changed(faces, noise=1.0)).mean() > before.mean() + 5


def test_noise_is_as_strong_as_said():
    flat = torch.full((400, 1, 16, 16), 128, dtype=torch.uint8)
    strength = changed(flat, noise=1.0, most_noise=20.0).float().flatten(1).std(1)
    assert strength.max() < 24
    assert strength.mean() == pytest.approx(10, abs=1)  # evenly from 0 to 20


def test_a_bright_dot_becomes_a_streak_of_the_same_light():
    dot = torch.zeros(64, 1, 33, 33, dtype=torch.uint8)
    dot[..., 13:20, 13:20] = 255
    light = changed(dot, blur=1.0).float().sum((1, 2, 3))
    assert light == pytest.approx(np.full(64, 49 * 255), rel=0.03)


@pytest.mark.parametrize("quality", [5, 20, 50, 90])
def test_jpeg_loses_what_pillow_loses(faces, quality):
    ours = compress(faces.float(), torch.full((len(faces),), float(quality))).round().clamp(0, 255)
    theirs = []
    for image in faces[:, 0].numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        theirs.append(np.asarray(Image.open(file)))
    assert (ours[:, 0] - torch.from_numpy(np.stack(theirs)).float()).abs().mean() < 0.5


def test_sides_need_not_be_multiples_of_a_block():
    image = torch.randint(0, 256, (3, 3, 21, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert changed(image, **ALL).shape == image.shape
    gentle = compress(image.float(), torch.full((3,), 100.0))
    assert (gentle - image.float()).abs().max() < 3


def test_colour_becomes_grey_by_weights_that_differ(faces):
    colour = torch.zeros(200, 3, 4, 4, dtype=torch.uint8)
    colour[:, 0] = 240
    grey = changed(colour, grey=1.0)
    assert (grey == grey[:, :1, :1, :1]).all()
    assert grey[:, 0, 0, 0].float().mean() == pytest.approx(80, abs=12)  # red weighs a third on the average
    assert grey[:, 0, 0, 0].float().std() > 40


def test_low_resolution_is_that_of_the_resize(faces):
    shares = torch.tensor([0.25, 0.5, 1.0]).repeat(2)
    found = reduce_and_enlarge(faces[:6].float(), shares)
    for row, share in enumerate(shares.tolist()):
        expected = resize(resize(faces[row : row + 1].float(), round(48 * share)), 48)
        assert torch.allclose(found[row], expected[0], atol=0.01)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("blur", 1.1, "0 to 1"),
        ("least_quality", 0, "1 to 95"),
        ("least_side", 0, "0.001 to 1"),
        ("noise", -1, "0 to 1"),
    ],
)
def test_an_option_outside_its_range_is_refused(option, value, expected):
    with pytest.raises(FaceExprError, match=rf"degrade.{option} is {value}; expected {expected}"):
        Degradations(**{option: value})


def test_training_batches_are_degraded_before_they_are_augmented(faces):
    data = SyntheticFaces(train_size=8, val_size=7, test_size=7, degrade=Degradations(blur=1.0))
    split = data.split("train")
    batch = {"image": split.images, "target": split.targets, "index": torch.arange(8), "share": 1.0}
    found = data.augmented(batch, epoch=3)["image"]
    assert torch.equal(found, degrade_batch(split.images, torch.arange(8), data.degrade, (data.seed, 3)))
    assert not torch.equal(found, split.images)
