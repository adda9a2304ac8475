"""LabelMe's JSON, a file beside each image."""

import json

import pytest
from PIL import Image

from faceexpr.data.annotations.reading import read_annotations
from faceexpr.utils.errors import FaceExprError


def shape(kind, *points, label="face"):
    return {"label": label, "points": [list(point) for point in points], "shape_type": kind, "group_id": None}


@pytest.fixture
def write(tmp_path):
    """Write a record for an image in a folder of its own, whose path is beside that."""
    (tmp_path / "images").mkdir()
    Image.new("L", (100, 80)).save(tmp_path / "images/a.jpg")

    def one(*shapes, **others):
        path = tmp_path / "set/deep/a.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"version": "5.4.1", "shapes": shapes, "imagePath": "../../images/a.jpg", "imageData": "A" * 99_999}
        path.write_text(json.dumps(record | others))
        return path

    return one


def test_rectangles_and_outlines_are_boxes_and_other_shapes_counted(write):
    path = write(
        shape("rectangle", (40, 60), (10.5, 20)), shape("polygon", (1, 2), (9, 3), (4, 8)), shape("point", (1, 1)),
        shape("rectangle", (1, 1), (9, 9), label="dog"),
    )  # fmt: skip
    for place in (path, path.parent, path.parents[1]):
        found = read_annotations(place)
        assert [image.boxes.tolist() for image in found.images] == [[[10.5, 20, 40, 60], [1, 2, 9, 8]]]
        assert any("1 shape that are no boxes left out" in note for note in found.notes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (shape("rectangle", (1, 2), (3,)), "shape 1: .*expected a label, and points as pairs"),
        (shape("rectangle", (1, 2), ("x", 3)), "shape 1: the coordinates are"),
        (shape("rectangle"), "shape 1: .*expected a label, and points as pairs"),
        (shape("rectangle", (1, 2), (3, 4), label=None), "shape 1: .*expected a label"),
    ],
)
def test_what_is_wrong_is_named(wrong, message, write):
    with pytest.raises(FaceExprError, match=message):
        read_annotations(write(wrong))
    with pytest.raises(FaceExprError, match="imagePath is null"):
        read_annotations(write(imagePath=None))
    with pytest.raises(FaceExprError, match="shapes is 5; expected a list"):
        read_annotations(write(shapes=5))
