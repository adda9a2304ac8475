"""Drawn faces and scenes: decided by their generator, and boxes that hold the faces."""

import numpy as np
import pytest

from faceexpr.data.synthetic import drawing, parts
from faceexpr.data.synthetic.drawing import draw_face, draw_scene
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES


@pytest.mark.parametrize("size", [16, 48, 101])
def test_a_face_is_decided_by_its_generator_and_expression(size):
    first, second, other = (draw_face("Happy", np.random.default_rng(seed), size) for seed in (1, 1, 2))
    assert (first.shape, first.dtype) == ((size, size, 3), np.uint8)
    assert np.array_equal(first, second)
    assert np.abs(first.astype(int) - other).mean() > 5
    assert len({draw_face(name, np.random.default_rng(4), size).tobytes() for name in FER_NAMES}) == 7


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(FaceExprError, match="'Bored'; expected one of Angry"):
        draw_face("Bored", np.random.default_rng(0))
    with pytest.raises(FaceExprError, match="40 x 30 has no room for 50 faces"):
        draw_scene(np.random.default_rng(0), 40, 30, 50)


@pytest.mark.parametrize("faces", [0, 1, 6])
def test_boxes_lie_inside_the_image_and_apart(faces):
    for seed in range(4):
        image, boxes, expressions = draw_scene(np.random.default_rng(seed), 200, 150, faces)
        assert (image.shape, image.dtype) == ((150, 200, 3), np.uint8)
        assert (boxes.shape, boxes.dtype) == ((faces, 4), np.float32)
        assert len(expressions) == faces
        assert set(expressions) <= set(FER_NAMES)
        assert (boxes >= 0).all()
        assert (boxes <= (200, 150, 200, 150)).all()
        assert (boxes[:, 2:] - boxes[:, :2] > 8).all()
        for place, box in enumerate(boxes):
            rest = boxes[:place]
            shared = np.minimum(box[2:], rest[:, 2:]) - np.maximum(box[:2], rest[:, :2])
            assert (shared.min(axis=1) < 0).all()


def test_boxes_hold_the_faces(monkeypatch):
    # Without hair, shoulders, background and camera, what differs from the empty image is heads with ears.
    monkeypatch.setattr(parts, "back", lambda who: [])
    monkeypatch.setattr(parts, "hair", lambda who, outline: [])
    monkeypatch.setattr(drawing, "_background", lambda rng, w, h: drawing.Image.new("RGB", (w, h), (0, 0, 255)))
    monkeypatch.setattr(drawing, "_photograph", lambda canvas, rng: np.asarray(canvas.reduce(drawing.OVERSAMPLING)))
    image, boxes, _ = draw_scene(np.random.default_rng(5), 240, 180, 3)
    drawn = (image != (0, 0, 255)).any(2)
    for left, top, right, bottom in boxes:
        inside = drawn[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
        assert inside.mean() > 0.6
        for border in (inside[:3], inside[-3:], inside[:, :3], inside[:, -3:]):
            assert border.any()
        drawn[max(int(top) - 1, 0) : int(bottom) + 2, max(int(left) - 1, 0) : int(right) + 2] = False
    assert not drawn.any()
