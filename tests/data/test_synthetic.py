"""Drawn faces and drawn scenes as data sets."""

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from faceexpr.data.synthetic import SyntheticFaces, SyntheticScenes
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

SMALL = {"width": 96, "height": 64, "max_faces": 2, "batch_size": 2}


def pixels(data, stage):
    """Return the images of a split as arrays."""
    if isinstance(data, SyntheticFaces):
        return list(data.split(stage).images.numpy())
    return [data.split(stage).tensor(index).permute(1, 2, 0).numpy() for index in range(len(data.split(stage)))]


@pytest.mark.parametrize(("data_set", "options"), [(SyntheticFaces, {}), (SyntheticScenes, SMALL)])
def test_an_image_depends_on_seed_split_and_place_alone(data_set, options):
    small, other = data_set(3, 3, 3, **options), data_set(3, data_seed=1, **options)
    np.random.seed(1)
    torch.manual_seed(9)
    large = data_set(5, 3, 3, **{**options, "batch_size": 3})
    assert np.array_equal(pixels(small, "train"), pixels(large, "train")[:3])
    drawn = [*pixels(small, "train"), *pixels(small, "val"), *pixels(small, "test"), *pixels(other, "train")]
    assert len({image.tobytes() for image in drawn}) == 12
    assert np.array_equal(pixels(small, "predict"), pixels(small, "test"))


@pytest.mark.parametrize(
    ("data_set", "option", "value"),
    [
        *((SyntheticFaces, *bad) for bad in (("train_size", 0), ("image_size", 8), ("channels", 2), ("data_seed", -1))),
        *((SyntheticScenes, *bad) for bad in (("test_size", -1), ("height", 31), ("max_faces", 0))),
    ],
)
def test_bad_options_are_refused_by_name(data_set, option, value):
    with pytest.raises(FaceExprError, match=rf"^{option} is {value}; expected"):
        data_set(**{option: value})


def test_faces_are_balanced_named_and_uint8():
    data = SyntheticFaces(train_size=70, val_size=14, test_size=21)
    assert data.class_names == FER_NAMES
    for stage, size in (("train", 70), ("val", 14), ("test", 21)):
        split = data.split(stage)
        assert split.images.shape == (size, 1, 48, 48)
        assert split.images.dtype == torch.uint8
        assert set(Counter(split.targets.tolist()).values()) == {size // 7}
        assert split.sources[3] == f"synthetic {stage} 3"
    assert list(data.split("predict").sources) == list(data.split("test").sources)


def test_colour_and_size_of_faces():
    grey, colour = (SyntheticFaces(7, channels=channels, image_size=32).split("train").images for channels in (1, 3))
    assert colour.shape == (7, 3, 32, 32)
    luma = (colour.float() * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    assert (luma - grey.float()).abs().max() <= 1
    assert not torch.equal(colour[:, 0], colour[:, 2])


def test_expressions_can_be_learnt_but_not_at_once():
    data = SyntheticFaces(train_size=420, val_size=140)
    splits = [data.split(stage) for stage in ("train", "val")]
    train, val = (torch.nn.functional.avg_pool2d(one.images.float(), 2).flatten(1).numpy() / 255 for one in splits)
    accuracy = RidgeClassifier(10).fit(train, splits[0].targets).score(val, splits[1].targets)
    assert 0.4 < accuracy < 0.95


def test_all_numbers_of_faces_occur_none_included():
    data = SyntheticScenes(60, 1, 1, width=96, height=64, min_faces=0, max_faces=3)
    counts = Counter(len(record.boxes) for record in data.split("train").records)
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) >= 8


def test_scenes_are_in_memory_once():
    data = SyntheticScenes(2, **SMALL)
    data.train_dataloader()
    split = data.split("train")
    kept = [split.tensor(index).data_ptr() for index in range(2)]
    assert kept == [data.read_pixels(record).__array_interface__["data"][0] for record in split.records]


def test_numbers_of_faces_that_cannot_be_are_refused():
    data = SyntheticScenes(1, width=32, height=32, min_faces=30, max_faces=30)
    with pytest.raises(FaceExprError, match=r"^max_faces is 30: an image of 32 x 32 has no room for 30 faces"):
        data.split("train")
    with pytest.raises(FaceExprError, match=r"^max_faces is 2; expected 1 or more, and no less than"):
        SyntheticScenes(min_faces=3, max_faces=2)
