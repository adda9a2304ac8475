"""COCO JSON: ids of any kind, boxes of any kind, images without boxes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import with_orientation
from PIL import Image

from faceexpr.data.annotations.reading import Annotations, ReadOptions, read_annotations
from faceexpr.utils.errors import FaceExprError

FACE = ({"id": 1, "name": "face"},)


def image(number: int, name: str = "a.png", **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": 600, "height": 600, **more}


def annotation(number: Any, bbox: Any, image_id: int = 1, category_id: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Write a file and its images, grey and as large as it says, and read it."""

    def from_lists(images: Any, annotations: Any, categories: Any = FACE, **options: Any) -> Annotations:
        for one in images:
            if not (tmp_path / one["file_name"]).exists():
                Image.new("RGB", (one["width"], one["height"])).save(tmp_path / one["file_name"])
        path = tmp_path / "coco.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return read_annotations(path, options=ReadOptions(**options))

    return from_lists


@pytest.mark.parametrize("category_id", [0, 7])
def test_categories_are_matched_by_name_and_their_ids_kept(category_id: int, read: Any) -> None:  # case B10
    categories = [{"id": 3, "name": "cat"}, {"id": category_id, "name": "Face"}]
    annotations = [annotation(1, [10, 20, 30, 40], category_id=category_id), annotation(2, [1, 1, 9, 9], category_id=3)]
    found = read([image(5)], [{**one, "image_id": 5} for one in annotations], categories)
    assert found.category_id == category_id
    assert [(one.image_id, one.boxes.tolist()) for one in found.images] == [(5, [[10, 20, 40, 60]])]
    assert any("1 box of other categories left out" in note for note in found.notes)


def test_results_get_the_category_that_the_boxes_have(read: Any) -> None:  # case N18
    categories = [{"id": 0, "name": "faces"}, {"id": 1, "name": "face", "supercategory": "faces"}]
    boxes = [
        annotation(1, [1, 2, 30, 40]),
        annotation(2, [50, 50, 30, 40]),
        annotation(3, [99, 99, 9, 9], category_id=0),
    ]
    assert read([image(1)], boxes[:2], categories).category_id == 1
    assert read([image(1)], boxes[2:], categories).category_id == 0
    assert read([image(1)], [], categories).category_id == 1  # of images whose faces are to be found
    found = read([image(1)], boxes, categories)
    assert found.category_id == 1
    assert any("several categories are taken as faces (face, faces)" in note for note in found.notes)


def test_an_undeclared_category_is_an_error(read: Any) -> None:  # case B10
    with pytest.raises(FaceExprError, match=r"coco\.json, annotation 1 .*id 9.*category_id 2 is not declared"):
        read([image(1)], [annotation(9, [1, 2, 3, 4], category_id=2)])
    with pytest.raises(FaceExprError, match=r"none of its categories means a face \(head\); .*face_labels"):
        read([image(1)], [], [{"id": 1, "name": "head"}])
    assert read([image(1)], [], [{"id": 4, "name": "head"}], face_labels=("head",)).category_id == 4
    with pytest.raises(FaceExprError, match="category 2 of the list: id 1 or name"):
        read([image(1)], [], [{"id": 1, "name": "face"}, {"id": 1, "name": "cat"}])


def test_boxes_are_left_top_width_height(read: Any) -> None:  # case B11
    boxes = ([500, 533, 31, 25], [5, 5, 0, 10], [5, 5, 0.4, 10], [-3, -3, 10, 10], [590, 590, 50, 50])
    found = read([image(1)], [annotation(number, box) for number, box in enumerate(boxes)])
    kept = found.images[0]
    expected = [[500, 533, 531, 558], [5, 5, 5.4, 15], [0, 0, 7, 7], [590, 590, 600, 600]]
    np.testing.assert_allclose(kept.boxes, expected, rtol=1e-6)
    assert kept.ignored.tolist() == [False, True, False, False]
    notes = ("1 box without an area left out", "1 box with a side of less than 1 pixels ignored", "2 boxes clipped to")
    assert all(any(f"{note}, in a.png" in one for one in found.notes) for note in notes[:2])
    assert any(notes[2] in note for note in found.notes)
    for min_size, ignored in ((0.1, [False] * 4), (10, [False, True, True, False]), (30, [True] * 4)):
        again = read([image(1)], [annotation(number, box) for number, box in enumerate(boxes)], min_size=min_size)
        assert again.images[0].ignored.tolist() == ignored


@pytest.mark.parametrize("bbox", [["1", "2", "3", "4"], [1, 2, 3], [1, 2, 3, True], None, [1, 2, 3, 4, 5]])
def test_what_is_no_four_numbers_is_an_error(bbox: Any, read: Any) -> None:  # case B11
    with pytest.raises(FaceExprError, match=r"annotation 2 of the list \(id 77\): bbox is .*; expected four numbers"):
        read([image(1)], [annotation(1, [1, 2, 3, 4]), annotation(77, bbox)])


def test_images_without_annotations_and_ignored_crowds_stay(read: Any) -> None:  # case B13
    boxes = [annotation(1, [1, 2, 3, 4], iscrowd=1), annotation(1, [5, 6, 7, 8], iscrowd=0)]
    found = read([image(1), image(2, "b.png")], boxes)
    assert [(one.image_id, one.ignored.tolist()) for one in found.images] == [(1, [True, False]), (2, [])]
    assert any("1 annotation with the id of another, all kept" in note for note in found.notes)
    faces = "1 image with faces, 1 without, 2 faces (1 marked as not to be counted)"
    assert found.notes[0].endswith(f"coco.json: {faces}")


def test_repeated_and_unknown_ids_of_images_are_errors(read: Any) -> None:  # case B13
    with pytest.raises(FaceExprError, match="image 2 of the list: the id 3 is that of an image before it"):
        read([image(3), image(3, "b.png")], [])
    with pytest.raises(FaceExprError, match="no image of the file has its image_id 8"):
        read([image(1)], [annotation(1, [1, 2, 3, 4], image_id=8)])


def test_a_file_under_two_ids_is_refused(read: Any) -> None:  # case N01
    with pytest.raises(FaceExprError, match=r"a\.png would be the image of image 3 and of image 4, whose ids differ"):
        read([image(3), image(4)], [annotation(1, [1, 2, 30, 40], 3), annotation(2, [1, 2, 30, 40], 4)])


@pytest.mark.parametrize(
    ("width", "height", "said"), [(-1, -1, "-1x-1"), ("6", None, '"6"xnull'), (0, 0, ""), (None, None, "")]
)
def test_a_stated_size_that_is_none_is_said(width: Any, height: Any, said: str, read: Any) -> None:  # case N16
    read([image(1)], [])  # writes it
    found = read([image(1, width=width, height=height)], [annotation(1, [1, 2, 30, 40])])
    assert found.images[0].size == (600, 600)
    assert any(
        f"another size than stated, which the file decides: a.png ({said}" in note for note in found.notes
    ) == bool(said)


def test_boxes_lie_on_the_upright_image(read: Any, tmp_path: Path) -> None:  # case C01
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=with_orientation(6))
    found = read([image(1, "turned.jpg", width=40, height=20)], [annotation(1, [4, 26, 10, 10])])
    assert [(record.size, record.boxes.tolist()) for record in found.images] == [((20, 40), [[4, 26, 14, 36]])]
    assert any("turned.jpg (40x20, really 20x40)" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [], "annotations": []}', "'categories' is null; expected COCO's list of categories"),
        ('{"images": [], "annotations": [], "categories": [{"id":1,"name":"face"}]}', "none of its 0 images is left"),
        ('{"images": [', r"line 1: cut off or no JSON"),
        ('{"images": [], "images": []}', "the key 'images' is given twice"),
        ('{"images": NaN}', "NaN is no number of JSON"),
        ('{"images": 1e999}', "the number 1e999 is too large"),
        ('{"images": ' + "9" * 5000 + "}", "has 5,000 digits"),
        ('{"images": ' + "[" * 200_000, "nested too deeply"),
        ('{"images": [{"id": true}], "annotations": [], "categories": []}', "id is true; expected a whole number"),
        ('{"images": []} {}', "text follows the end of the JSON; expected COCO JSON"),
    ],
)
def test_damaged_json_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    path.write_text(text)
    with pytest.raises(FaceExprError, match=message):
        read_annotations(path)


def test_the_format_can_be_named_and_options_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "faces.txt"
    path.write_text("a.jpg\n0\n")
    for name, message in (("pdf", "format is 'pdf'; expected auto, coco, cvat, data"), ("coco", "cut off or no JSON")):
        with pytest.raises(FaceExprError, match=message):
            read_annotations(path, format=name)
    with pytest.raises(FaceExprError, match="min_size is"):
        ReadOptions(min_size=-1)
    with pytest.raises(FaceExprError, match="face_labels is"):
        ReadOptions(face_labels=())
