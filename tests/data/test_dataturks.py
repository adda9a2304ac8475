"""Dataturks JSON lines: what the annotators' tool really exports."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from faceexpr.data.annotations.parsing import fetched_name
from faceexpr.data.annotations.reading import Annotations, ReadOptions, read_annotations
from faceexpr.utils.errors import FaceExprError

REAL = REPOSITORY.parent / "shared/data/dataturks/face_detection.json"


def box(x1: float, y1: float, x2: float, y2: float, label: Any = ("Face",), size: tuple[int, int] = (100, 50)) -> Any:
    points = [{"x": x1, "y": y1}, {"x": x2, "y": y2}]
    return {"label": label, "points": points, "imageWidth": size[0], "imageHeight": size[1], "notes": ""}


def record(content: str, *boxes: Any, unlabelled: bool = False) -> str:
    return json.dumps({"content": content, "annotation": None if unlabelled else boxes, "extras": None})


def write_image(path: Path, width: int = 100, height: int = 50) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "grey").save(path)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Write the text beside ``a.png`` of 100 x 50 pixels, and read it: ``read(text, min_size=2)``."""

    def from_text(text: str | bytes, **options: Any) -> Annotations:
        write_image(tmp_path / "a.png")
        path = tmp_path / "faces.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_annotations(path, options=ReadOptions(**options))

    return from_text


def test_an_unlabelled_image_shifts_nothing(tmp_path: Path, read: Any) -> None:  # case B01
    for name, side in (("one.png", 40), ("two.png", 50), ("three.png", 60)):
        write_image(tmp_path / name, side, side)
    lines = (record("one.png", box(0, 0, 0.5, 0.5)), record("two.png", unlabelled=True))
    text = "\n".join([*lines, record("three.png", box(0, 0, 1, 1))])
    left = read(text)
    found = [(image.path.name, image.boxes.tolist()) for image in left.images]
    assert found == [("one.png", [[0, 0, 20, 20]]), ("three.png", [[0, 0, 60, 60]])]
    assert any("1 unlabelled image left out" in note for note in left.notes)
    kept = read(text, unlabelled="no_faces")
    seen = [(image.size[0], image.labelled, len(image.boxes)) for image in kept.images]
    assert seen == [(40, True, 1), (50, False, 0), (60, True, 1)]
    assert any("1 unlabelled image taken as images without a face" in note for note in kept.notes)
    # An empty list is an answer: the annotator has looked, and there is no face.
    assert [len(image.boxes) for image in read(record("a.png")).images] == [0]


def test_labels_are_a_set(read: Any) -> None:  # case B02
    faces = [box(0, 0, 0.5, 1, ["Emotion_Happy", "Age_20_30", "E_White"]), box(0.5, 0, 1, 1, ["Not_Face"])]
    found = read(record("a.png", *faces))
    assert found.images[0].boxes.tolist() == [[0, 0, 50, 50]]
    assert any("1 box labelled as no face" in note and "a.png" in note for note in found.notes)
    assert len(read(record("a.png", box(0, 0, 1, 1, "FACE"))).images[0].boxes) == 1
    assert len(read(record("a.png", box(0, 0, 1, 1, ["Kopf"])), face_labels=("kopf",)).images[0].boxes) == 1
    with pytest.raises(FaceExprError, match=r"faces\.json, line 2: the label Cat, Tail .* a\.png is unknown"):
        read(record("a.png", box(0, 0, 1, 1)) + "\n" + record("a.png", box(0, 0, 1, 1, ["Cat", "Tail"])))


def test_corners_in_any_order_and_outside(read: Any) -> None:  # case B03
    boxes = [box(0.8, 0.7, 0.2, 0.1), box(0.8, 0.1, 0.2, 0.7), box(-0.02, 0.5, 1.04, 0.9)]
    found = read(record("a.png", *boxes))
    np.testing.assert_allclose(found.images[0].boxes, [[20, 5, 80, 35], [20, 5, 80, 35], [0, 25, 100, 45]], rtol=1e-6)
    assert any("1 box clipped to the image, in a.png" in note for note in found.notes)


@pytest.mark.parametrize("value", [None, True])
def test_a_corner_without_a_number_is_an_error(value: Any, read: Any) -> None:  # case B03
    with pytest.raises(FaceExprError, match=r"faces\.json, line 2, box 1: a corner is .* expected its x and y"):
        read(record("a.png") + "\n" + record("a.png", box(0.1, 0.1, value, 0.5)))
    broken = box(0.1, 0.1, 0.5, 0.5)
    del broken["points"][1]["x"]
    for corners, message in ((broken, "line 1, box 1: a corner"), (box(20, 5, 80, 35), "expected fractions of width")):
        with pytest.raises(FaceExprError, match=message):
            read(record("a.png", corners))


@pytest.mark.parametrize("size", [(0, 50), (640, 480), ("100", None)])
def test_the_size_of_the_file_counts(size: Any, read: Any) -> None:  # case B03
    found = read(record("a.png", box(0.2, 0.1, 0.8, 0.7, size=size)))
    np.testing.assert_allclose(found.images[0].boxes, [[20, 5, 80, 35]], rtol=1e-6)
    assert found.images[0].size == (100, 50)
    assert any("640x480, really 100x50" in note for note in found.notes) == (size == (640, 480))
    assert any('"100"xnull, really 100x50' in note for note in found.notes) == (size == ("100", None))


def test_an_image_that_is_named_twice_is_one_with_the_faces_of_both(tmp_path: Path, read: Any) -> None:  # case N01
    link = "http://host/a.png"
    first, again, other = box(0, 0, 0.2, 0.4), box(0.01, 0, 0.2, 0.4), box(0.5, 0.2, 1, 1)
    write_image(tmp_path / "b.png")
    lines = [record(link, first), record("b.png"), record(link, again, other), record("b.png", unlabelled=True)]
    found = read("\n".join(lines), unlabelled="no_faces")
    assert [(image.path.name, image.labelled) for image in found.images] == [("a.png", True), ("b.png", True)]
    np.testing.assert_allclose(found.images[0].boxes, [[0, 0, 20, 20], [50, 10, 100, 50]], rtol=1e-6)
    for note in ("2 images named again, the faces joined", "1 box marked again, and kept once, in a.png"):
        assert any(note in one for one in found.notes)


def test_lines_an_array_and_a_cut_file(read: Any) -> None:  # case B04
    lines = [record("a.png", box(0.1, 0.1, 0.5, 0.5)), record("a.png", box(0.2, 0.2, 0.9, 0.9))]
    expected = [image.boxes.tolist() for image in read("\n".join(lines)).images]
    text = f"[{','.join(lines)}]"
    for same in (text, json.dumps(json.loads(text), indent=2)):
        assert [image.boxes.tolist() for image in read(same).images] == expected
    cut = lines[0] + "\n" + lines[1][:60]
    damaged = dict.fromkeys((cut, f"{cut}\n{lines[0]}"), "the record that begins here is cut off")
    arrays = (f"[{lines[0]},\n{{", f"[{lines[0]}\n{lines[1]}]", f"[{lines[0]},\n{lines[1]}")
    for text, message in (damaged | dict.fromkeys(arrays, "cut off or no JSON")).items():
        with pytest.raises(FaceExprError, match=rf"faces\.json, line 2: {message}"):
            read(text)


def test_names_beyond_ascii_survive(tmp_path: Path, read: Any) -> None:  # case B04
    name = "Gruppe 家族 é.png"
    write_image(tmp_path / name)
    escaped = record(name, box(0, 0, 1, 1, ["Gesicht_ü"]))
    for text in (escaped, json.dumps(json.loads(escaped), ensure_ascii=False)):
        assert read(text, face_labels=("gesicht ü",)).images[0].path.name == name


def test_images_are_found_by_the_names_that_fetching_and_browsers_give(tmp_path: Path, read: Any) -> None:
    first, second = "http://host/a/my%20group.png", "http://host/b/my%20group.png?size=2"
    text = record(first, box(0, 0, 1, 1)) + "\n" + record(second, box(0, 0, 1, 1))
    folder = tmp_path / "images"
    write_image(folder / fetched_name(first), 10, 10)
    write_image(folder / fetched_name(second), 20, 20)
    assert [(image.size, image.url) for image in read(text).images] == [((10, 10), first), ((20, 20), second)]
    for file in folder.iterdir():
        file.unlink()
    write_image(folder / "my group.png", 30, 30)
    assert read(record(first)).images[0].size == (30, 30)
    with pytest.raises(FaceExprError, match=r"would be the image of line 1 and of line 2, whose links differ"):
        read(text)


def test_missing_images_are_one_error_and_a_choice(tmp_path: Path, read: Any) -> None:
    lost = (record(f"http://host/{number}.jpg", box(0, 0, 1, 1)) for number in range(14))
    text = "\n".join([*lost, record("a.png")])
    with pytest.raises(FaceExprError, match=r"14 of 15 images missing or unreadable: .* and 4 more; .*faceexpr fetch"):
        read(text)
    left = read(text, missing="leave_out")
    assert [image.path.name for image in left.images] == ["a.png"]
    assert any("14 of 15 images missing or unreadable, left out" in note for note in left.notes)
    kept = read(text, missing="keep").images
    assert (len(kept), kept[0].boxes.tolist()) == (15, [[0, 0, 100, 50]])
    for name, reason in (("b.png", "not an image"), ("\0.png", "no such file")):
        (tmp_path / "b.png").write_bytes(b"no image")
        with pytest.raises(FaceExprError, match=rf"1 of 1 image missing or unreadable: .*\.png \({reason}\)"):
            read(record(name))
    with pytest.raises(FaceExprError, match=r"nowhere is no folder"):
        read_annotations(tmp_path / "faces.json", tmp_path / "nowhere")


@pytest.mark.skipif(not REAL.is_file(), reason="the real data are not here")
def test_the_paper_s_first_data_set() -> None:
    kept = read_annotations(REAL, options=ReadOptions(missing="keep"))
    assert (len(kept.images), sum(len(image.boxes) for image in kept.images)) == (408, 1131)
