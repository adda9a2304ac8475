"""YOLO's text: labels beside images, names of classes, outlines."""

import numpy as np
import pytest
from PIL import Image

from faceexpr.data.annotations.reading import read_annotations
from faceexpr.utils.errors import FaceExprError


@pytest.fixture
def data(tmp_path):
    """Two splits with an image of the same name in both, and one with boxes of two classes."""
    for split, text in {
        "train": "1 0.5 0.5 0.2 0.5\n0 0.1 0.1 0.1 0.1\n",
        "val": "1 0.1 0.2 0.3 0.2 0.2 0.6\n",
    }.items():
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        (tmp_path / f"labels/{split}/a.txt").write_text(text)
        (tmp_path / f"labels/{split}/empty.txt").write_text("")
        for name in ("a.JPG", "empty.png"):
            Image.new("L", (100, 80)).save(tmp_path / f"images/{split}/{name}")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nnc: 2\nnames: {0: person, 1: face}\n")
    return tmp_path


def test_a_folder_a_split_and_a_file_are_read(data):
    train = data / "images/train"
    for path, expected in (
        (data, [train / "a.JPG", train / "empty.png", data / "images/val/a.JPG", data / "images/val/empty.png"]),
        (data / "labels/train", [train / "a.JPG", train / "empty.png"]),
        (data / "labels/train/a.txt", [train / "a.JPG"]),
    ):
        found = read_annotations(path)
        assert [image.path for image in found.images] == expected
        np.testing.assert_allclose(found.images[0].boxes, [[40, 20, 60, 60]])
        assert any("1 box of other categories left out" in note for note in found.notes)
    np.testing.assert_allclose(read_annotations(data / "labels/val").images[0].boxes, [[10, 16, 30, 48]])


def test_names_stand_in_classes_txt_too_and_without_any_the_first_class_is_a_face(data):
    (data / "data.yaml").unlink()
    found = read_annotations(data / "labels/train")
    np.testing.assert_allclose(found.images[0].boxes, [[5, 4, 15, 12]])
    (data / "labels/train/classes.txt").write_text("dog\nface\n")
    found = read_annotations(data / "labels/train")
    np.testing.assert_allclose(found.images[0].boxes, [[40, 20, 60, 60]])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 0.2\n", "line 1: '1 0.5 0.5 0.2'; expected a class"),
        ("1 0.5 0.5 0.2 wide\n", "line 1: the coordinates are"),
        ("face 0.5 0.5 0.2 0.1\n", "expected a class"),
    ],
)
def test_what_is_wrong_is_named(line, message, data):
    path = data / "labels/train/a.txt"
    path.write_text(line)
    with pytest.raises(FaceExprError, match=message):
        read_annotations(path, format="yolo")
    (data / "data.yaml").write_text("names: 5")
    with pytest.raises(FaceExprError, match=r"data\.yaml cannot be read \(TypeError\); expected the names of classes"):
        read_annotations(path, format="yolo")
