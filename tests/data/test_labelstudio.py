"""Label Studio's JSON: where its images are, which annotation counts, percent."""

import json

import numpy as np
import pytest
from PIL import Image

from faceexpr.data.annotations.reading import ReadOptions, read_annotations
from faceexpr.utils.errors import FaceExprError


def box(x, y, width, height, **others):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": ["Face"]} | others
    return {"original_width": 200, "original_height": 80, "type": "rectanglelabels", "value": value}


def task(image, *annotations, key="image"):
    return {"id": 1, "data": {key: image}, "annotations": list(annotations), "predictions": []}


@pytest.fixture
def read(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.jpg", "deep/b c.jpg", "http.jpg"):
        Image.new("L", (200, 80)).save(tmp_path / name)

    def tasks(*content, **options):
        path = tmp_path / "project-1.json"
        path.write_text(json.dumps(content))
        return read_annotations(path, options=ReadOptions(**options))

    return tasks


def test_boxes_in_percent_of_the_first_annotation_that_counts(read):
    point = {"type": "keypointlabels", "value": {"x": 1, "y": 1, "width": 0.5, "keypointlabels": ["nose"]}}
    done = {"result": [box(10, 25, 20, 50), box(0, 0, 9, 9, rotation=15), point, {"type": "choices", "value": {}}]}
    found = read(task("a.jpg", {"was_cancelled": True, "result": [box(0, 0, 1, 1)]}, done, {"result": []}))
    np.testing.assert_allclose(found.images[0].boxes, [[20, 20, 60, 60]])
    assert any("2 shapes that are no boxes left out" in note for note in found.notes)
    assert [len(one.boxes) for one in read(task("a.jpg"), unlabelled="no_faces").images] == [0]


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("/data/upload/7/0a1b2c3d-a.jpg", "a.jpg"),
        ("/data/local-files/?d=deep%2Fb%20c.jpg", "deep/b c.jpg"),
        ("https://host/x/http.jpg?size=9", "http.jpg"),
        ("deep/b c.jpg", "deep/b c.jpg"),
    ],
)
def test_images_are_found_where_it_keeps_them(image, name, read, tmp_path):
    found = read(task(image, {"result": [box(10, 25, 20, 50)]}, key="photo")).images[0]
    assert found.path == tmp_path / name
    assert (found.url is not None) == image.startswith("https")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (task(5), r"task 1: data is \{.*; expected an image"),
        (task("a.jpg", {"result": 5}), "task 1: result is 5; expected a list"),
        (task("a.jpg", {"result": [box(1, 2, None, 4)]}), "task 1: the coordinates are"),
        (task("a.jpg", {"result": [box(1, 2, 3, 4, rectanglelabels=[])]}), "rectanglelabels is "),
    ],
)
def test_what_is_wrong_is_named(content, message, read):
    with pytest.raises(FaceExprError, match=message):
        read(content)
