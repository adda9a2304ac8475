from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.data.synthetic.drawing import draw_face, draw_scene
from faceexpr.data.synthetic.parts import head_outline
from faceexpr.data.synthetic.person import PROTOTYPES, Movements, draw_movements, draw_person
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES


def test_prototypes_are_the_seven_expressions():
    assert set(PROTOTYPES) == set(FER_NAMES)


@pytest.mark.parametrize("size", [16, 48, 101])
def test_a_face_is_decided_by_its_generator(size):
    first, second, other = (draw_face("Happy", np.random.default_rng(seed), size) for seed in (1, 1, 2))
    assert first.shape == (size, size, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, second)
    assert np.abs(first.astype(int) - other).mean() > 5


def test_expressions_of_one_generator_differ():
    faces = [draw_face(name, np.random.default_rng(4)) for name in FER_NAMES]
    assert len({face.tobytes() for face in faces}) == len(FER_NAMES)


def test_unknown_expression_is_refused():
    with pytest.raises(FaceExprError, match="'Bored'; expected one of Angry"):
        draw_face("Bored", np.random.default_rng(0))


def test_movements_follow_the_prototypes():
    moves = {name: [draw_movements(name, np.random.default_rng(seed)) for seed in range(50)] for name in FER_NAMES}
    assert min(m.corner_pull for m in moves["Happy"]) > max(m.corner_pull for m in moves["Sad"])
    assert min(m.jaw_drop for m in moves["Surprise"]) > max(m.jaw_drop for m in moves["Neutral"])
    assert min(m.brow_lower for m in moves["Angry"]) > max(m.brow_lower for m in moves["Surprise"])


def test_an_open_jaw_lengthens_the_head():
    who = draw_person(np.random.default_rng(0))
    assert head_outline(who, Movements(jaw_drop=1))[:, 1].max() > head_outline(who, Movements())[:, 1].max() + 0.1


def test_data_are_balanced_named_and_uint8():
    data = SyntheticFaces(train_size=70, val_size=14, test_size=21)
    assert data.class_names == FER_NAMES
    for stage, size in (("train", 70), ("val", 14), ("test", 21)):
        split = data.split(stage)
        assert split.images.shape == (size, 1, 48, 48)
        assert split.images.dtype == torch.uint8
        assert set(Counter(split.targets.tolist()).values()) == {size // 7}
        assert split.sources[3] == f"synthetic {stage} 3"


def test_a_larger_split_begins_with_the_images_of_a_smaller_one():
    small, large = SyntheticFaces(train_size=7), SyntheticFaces(train_size=21, val_size=7, batch_size=3)
    assert torch.equal(small.split("train").images, large.split("train").images[:7])


def test_splits_and_seeds_have_images_of_their_own():
    data, other = SyntheticFaces(21, 21, 21), SyntheticFaces(21, 21, 21, data_seed=1)
    images = [data.split("train"), data.split("val"), data.split("test"), other.split("train")]
    assert len({image.numpy().tobytes() for split in images for image in split.images}) == 84


def test_predict_is_the_test_split():
    data = SyntheticFaces(test_size=7)
    assert torch.equal(data.split("predict").images, data.split("test").images)
    assert list(data.split("predict").sources) == list(data.split("test").sources)


def test_global_random_state_does_not_matter():
    np.random.seed(0)
    first = SyntheticFaces(7).split("train").images
    np.random.seed(1)
    torch.manual_seed(9)
    assert torch.equal(first, SyntheticFaces(7).split("train").images)


def test_colour_and_size():
    grey, colour = (SyntheticFaces(7, channels=channels, image_size=32).split("train").images for channels in (1, 3))
    assert colour.shape == (7, 3, 32, 32)
    luma = (colour.float() * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    assert (luma - grey.float()).abs().max() <= 1
    assert not torch.equal(colour[:, 0], colour[:, 2])


def test_expressions_can_be_learnt_but_not_at_once():
    data = SyntheticFaces(train_size=700, val_size=210)

    def pixels(stage):
        images = data.split(stage).images.float()
        return torch.nn.functional.avg_pool2d(images, 2).flatten(1).numpy() / 255

    model = RidgeClassifier(10).fit(pixels("train"), data.split("train").targets)
    accuracy = model.score(pixels("val"), data.split("val").targets)
    assert 0.4 < accuracy < 0.95


@pytest.mark.parametrize(
    ("option", "value"),
    [("train_size", 0), ("val_size", -1), ("test_size", 0), ("image_size", 8), ("channels", 2), ("data_seed", -1)],
)
def test_bad_options_are_refused_by_name(option, value):
    with pytest.raises(FaceExprError, match=rf"data\.{option} is {value}; expected"):
        SyntheticFaces(**{option: value})


@pytest.mark.parametrize("faces", [0, 1, 6])
def test_boxes_lie_inside_the_picture_and_apart(faces):
    for seed in range(4):
        picture, boxes, expressions = draw_scene(np.random.default_rng(seed), 200, 150, faces)
        assert picture.shape == (150, 200, 3)
        assert picture.dtype == np.uint8
        assert boxes.shape == (faces, 4)
        assert boxes.dtype == np.float32
        assert len(expressions) == faces
        assert set(expressions) <= set(FER_NAMES)
        assert (boxes >= 0).all()
        assert (boxes <= (200, 150, 200, 150)).all()
        assert (boxes[:, 2:] - boxes[:, :2] > 8).all()
        for first in range(faces):
            for second in range(first):
                overlap = np.minimum(boxes[first, 2:], boxes[second, 2:]) - np.maximum(
                    boxes[first, :2], boxes[second, :2]
                )
                assert overlap.min() < 0


def test_a_picture_is_decided_by_its_generator():
    first, second, other = (draw_scene(np.random.default_rng(seed), 96, 64, 2) for seed in (0, 0, 1))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert first[2] == second[2]
    assert not np.array_equal(first[0], other[0])


def test_boxes_hold_the_faces(monkeypatch):
    # Without hair, shoulders, background and camera, what differs from the empty picture is heads with ears.
    from faceexpr.data.synthetic import drawing
    from faceexpr.data.synthetic import parts as features

    monkeypatch.setattr(features, "back", lambda who: [])
    monkeypatch.setattr(features, "hair", lambda who, outline: [])
    monkeypatch.setattr(drawing, "_background", lambda rng, w, h: drawing.Image.new("RGB", (w, h), (0, 0, 255)))
    monkeypatch.setattr(drawing, "_photograph", lambda canvas, rng: np.asarray(canvas.reduce(drawing.OVERSAMPLING)))
    picture, boxes, _ = draw_scene(np.random.default_rng(5), 240, 180, 3)
    drawn = (picture != (0, 0, 255)).any(2)
    for left, top, right, bottom in boxes:
        inside = drawn[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
        assert inside.mean() > 0.6
        assert inside[:3].any()
        assert inside[-3:].any()
        assert inside[:, :3].any()
        assert inside[:, -3:].any()
        drawn[max(int(top) - 1, 0) : int(bottom) + 2, max(int(left) - 1, 0) : int(right) + 2] = False
    assert not drawn.any()


def test_too_many_faces_are_refused():
    with pytest.raises(FaceExprError, match="40 x 30 has no room for 50 faces"):
        draw_scene(np.random.default_rng(0), 40, 30, 50)
