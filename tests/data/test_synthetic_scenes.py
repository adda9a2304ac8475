"""Drawn pictures as a detection data set."""

from collections import Counter

import numpy as np
import pytest
import torch

from faceexpr.data.box_augment import BoxAugmentation
from faceexpr.data.synthetic import SyntheticScenes
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.utils.errors import FaceExprError

SMALL = {"width": 96, "height": 64, "max_faces": 2, "batch_size": 2}


def pictures(data, stage):
    split = data.split(stage)
    return [split.read(index) for index in range(len(split))]


def test_pictures_and_boxes_are_those_of_the_drawing():
    data = SyntheticScenes(3, 1, 2, width=120, height=80, min_faces=2, max_faces=2, data_seed=5)
    for stage, stream, size in (("train", 0, 3), ("val", 1, 1), ("test", 2, 2)):
        assert len(data.split(stage)) == size
        for index, record in enumerate(data.split(stage).records):
            rng = np.random.default_rng([5, stream, index])
            assert rng.integers(2, 3) == 2
            pixels, boxes, _ = draw_scene(rng, 120, 80, 2)
            assert np.array_equal(data.picture(stage, index), pixels)
            assert np.array_equal(record.boxes, boxes)
            assert (record.size, record.ignored.tolist()) == ((120, 80), [False, False])
            assert data.source(stage, index) == f"synthetic {stage} {index}"


def test_all_numbers_of_faces_occur_none_included():
    data = SyntheticScenes(60, 1, 1, width=96, height=64, min_faces=0, max_faces=3)
    counts = Counter(len(record.boxes) for record in data.split("train").records)
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) >= 8


def test_a_larger_split_begins_with_the_pictures_of_a_smaller_one():
    small, large = SyntheticScenes(2, **SMALL), SyntheticScenes(5, 3, 3, **SMALL)
    assert np.array_equal(pictures(small, "train"), pictures(large, "train")[:2])


def test_splits_and_seeds_have_pictures_of_their_own():
    data, other = SyntheticScenes(3, 3, 3, **SMALL), SyntheticScenes(3, 3, 3, data_seed=1, **SMALL)
    drawn = [
        pictures(data, "train"), pictures(data, "val"), pictures(data, "test"), pictures(other, "train"),
    ]  # fmt: skip
    assert len({picture.tobytes() for split in drawn for picture in split}) == 12
    assert np.array_equal(pictures(data, "predict"), pictures(data, "test"))


def test_batches_hold_the_pictures_and_a_picture_without_a_face_has_an_empty_box_tensor():
    data = SyntheticScenes(1, 6, 1, **SMALL)
    seen = 0
    for batch in data.val_dataloader():
        for place, index in enumerate(batch["index"].tolist()):
            record = data.split("val").records[index]
            assert torch.equal(batch["image"][place], torch.from_numpy(data.picture("val", index)).permute(2, 0, 1))
            assert batch["image"][place].is_contiguous()
            assert batch["boxes"][place].shape == (len(record.boxes), 4)
            assert batch["boxes"][place].dtype == torch.float32
            seen += 1
    assert seen == 6
    assert 0 in {len(record.boxes) for record in data.split("val").records}


def test_the_pictures_are_in_memory_once():
    data = SyntheticScenes(2, **SMALL)
    data.train_dataloader()
    split = data.split("train")
    kept = [split.tensor(index).data_ptr() for index in range(2)]
    assert kept == [data.read_pixels(record).__array_interface__["data"][0] for record in split.records]


def test_training_pictures_are_augmented_and_others_not():
    data = SyntheticScenes(2, 2, 2, augment=BoxAugmentation(size=40), **SMALL)
    (train,), (val,) = list(data.train_dataloader()), list(data.val_dataloader())
    assert {tuple(image.shape) for image in train["image"]} == {(3, 40, 40)}
    assert {tuple(image.shape) for image in val["image"]} == {(3, 64, 96)}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("train_size", 0), ("val_size", 0), ("test_size", -1), ("width", 8), ("height", 31), ("min_faces", -1),
        ("max_faces", 0), ("data_seed", -1),
    ],
)  # fmt: skip
def test_bad_options_are_refused_by_name(option, value):
    with pytest.raises(FaceExprError, match=rf"data\.{option} is {value}; expected"):
        SyntheticScenes(**{option: value})


def test_more_faces_than_there_is_room_for_are_refused_by_name():
    data = SyntheticScenes(1, width=32, height=32, min_faces=30, max_faces=30)
    with pytest.raises(FaceExprError, match=r"data\.max_faces is 30: a picture of 32 x 32 has no room for 30 faces"):
        data.split("train")


def test_fewer_faces_at_most_than_at_least_are_refused():
    with pytest.raises(FaceExprError, match=r"data\.max_faces is 2; expected 1 or more, and no less than"):
        SyntheticScenes(min_faces=3, max_faces=2)
