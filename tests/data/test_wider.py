"""WIDER FACE's text, as released and as people write it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from faceexpr.data.annotations.reading import Annotations, read_annotations
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.utils.errors import FaceExprError

REAL = REPOSITORY.parent / "shared/data/wider/wider_face_split"
ZEROS = "0 0 0 0 0 0 0 0 0 0"
FLAGS = "0 0 0 0 0 0"

Read = Callable[[str], Annotations]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read a text whose images ``a.jpg``, ``b.jpg`` and ``c.jpg`` are 100 x 100 pixels."""
    for name in "abc":
        Image.new("RGB", (100, 100)).save(tmp_path / f"{name}.jpg")

    def from_text(text: str) -> Annotations:
        path = tmp_path / "wider.txt"
        path.write_bytes(text.encode())
        return read_annotations(path)

    return from_text


@pytest.mark.parametrize("after_none", [f"{ZEROS}\n", f"{ZEROS} \n", "0 0 0 0\n", ""])
def test_an_image_without_faces_keeps_step(after_none: str, read: Read) -> None:  # case B06
    found = read(f"a.jpg\n1\n1 2 3 4 {FLAGS}\nb.jpg\n0\n{after_none}c.jpg\n2\n5 6 7 8 {FLAGS}\n10 20 30 40 {FLAGS}\n")
    assert [image.path.name for image in found.images] == ["a.jpg", "b.jpg", "c.jpg"]
    boxes = [image.boxes.tolist() for image in found.images]
    assert boxes == [[[1, 2, 4, 6]], [], [[5, 6, 12, 14], [10, 20, 40, 60]]]
    assert found.images[1].boxes.shape == (0, 4)
    assert found.images[1].flags["blur"].shape == (0,)
    assert found.notes == (f"{found.images[0].path.parent}/wider.txt: 2 images with faces, 1 without, 3 faces",)


def test_boxes_are_clipped_and_those_without_an_area_counted_and_their_images_stay(read: Read) -> None:  # case B07
    boxes = ("20 20 0 12", "20 20 30 0", "20 20 30 30", "-5 90 20 20", "200 10 10 10", "50 50 -10 10")
    found = read("a.jpg\n6\n" + "".join(f"{box} {FLAGS}\n" for box in boxes) + f"b.jpg\n1\n5 5 0 0 {FLAGS}\n")
    assert [image.boxes.tolist() for image in found.images] == [[[20, 20, 50, 50], [0, 90, 15, 100]], []]
    assert all(len(values) == 2 for values in found.images[0].flags.values())
    [note] = [note for note in found.notes if "5 boxes without an area" in note]
    assert "a.jpg, b.jpg" in note
    assert any("1 box clipped" in note for note in found.notes)


def test_an_image_that_is_named_twice_is_one_with_the_faces_of_both(read: Read) -> None:  # case N01
    lines = ("1 2 30 40 1 0 0 0 0 0", f"b.jpg\n1\n1 2 3 4 {FLAGS}\n./a.jpg\n2", "1 2 30 40", "50 50 9 9 2 0 0 1 0 0")
    found = read("a.jpg\n1\n" + "\n".join(lines) + "\n")
    assert [image.path.name for image in found.images] == ["a.jpg", "b.jpg"]
    assert found.images[0].boxes.tolist() == [[1, 2, 31, 42], [50, 50, 59, 59]]
    assert found.images[0].ignored.tolist() == [False, True]
    assert found.images[0].flags["blur"].tolist() == [1, 2]


def test_blanks_tabs_and_line_ends(tmp_path: Path) -> None:  # case B09
    folder = tmp_path / "WIDER_train/images/0--Parade"
    folder.mkdir(parents=True)
    pixels, _, _ = draw_scene(np.random.default_rng(0), 90, 60, 1)
    Image.fromarray(pixels).save(folder / "my group 1.jpg")
    path = tmp_path / "wider_face_split/wider_face_train_bbx_gt.txt"
    path.parent.mkdir()
    boxes = ["1 2 30 40 2 1 0 1 0 1 ", "3\t4\t5\t6\t0\t0\t0\t0\t2\t0", "7 8 9 10"]
    path.write_bytes("\r\n".join(["0--Parade/my group 1.jpg", "3", *boxes, "", ""]).encode())
    [image] = read_annotations(path).images
    assert image.path.samefile(folder / "my group 1.jpg")
    assert image.size == (90, 60)
    assert image.boxes.tolist() == [[1, 2, 31, 42], [3, 4, 8, 10], [7, 8, 16, 18]]
    assert [image.flags[name].tolist() for name in ("blur", "occlusion")] == [[2, 0, 0], [0, 2, 0]]
    assert image.ignored.tolist() == [True, False, False]
    for named in (tmp_path, tmp_path / "WIDER_train", tmp_path / "WIDER_train/images"):
        assert read_annotations(path, named).images[0].size == (90, 60)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"a.jpg\n1\n1 2 3 4 {FLAGS}\n5 6 7 8 {FLAGS}\n", r"line 4: .* one line of a face more than the number"),
        (f"a.jpg\n2\n1 2 3 4 {FLAGS}\nb.jpg\n1\n1 2 3 4\n", r"line 4: 'b\.jpg' is no face of 'a\.jpg'"),
        (f"a.jpg\n2\n1 2 3 4 {FLAGS}\n", r"line 3: the file ends after 1 of the 2 faces of a\.jpg"),
        ("a.jpg\n1\n1 2 3\n", "line 3: '1 2 3' is no face"),
        (f"a.jpg\n1\n1 2 nan 4 {FLAGS}\n", "is no face"),
        (f"a.jpg\n1\n1 2 {'9' * 400} 4 {FLAGS}\n", "is no face"),
        ("a.jpg\n0\nb.jpg\n", r"line 3: the file ends after 'b\.jpg'"),
        ("a.jpg\n0\nb.jpg\nc.jpg\n", r"line 4: 'c\.jpg'; expected the number of faces of 'b\.jpg'"),
        ("a.jpg\nb.jpg\n", r"is in no format known here; expected COCO JSON, .*WIDER FACE text"),
        ("", "is empty"),
    ],
)
def test_a_damaged_line_is_named(text: str, message: str, read: Read) -> None:  # case B09
    with pytest.raises(FaceExprError, match=message):
        read(text)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not here")
@pytest.mark.parametrize(("split", "images", "faces"), [("train", 600, 1472), ("val", 134, 414)])
def test_the_subset_of_wider_face(split: str, images: int, faces: int) -> None:
    found = read_annotations(REAL / f"wider_face_{split}_bbx_gt.txt")
    assert (len(found.images), sum(len(image.boxes) for image in found.images)) == (images, faces)
