"""Every format of boxes into every other and back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceexpr.cli.annotate import run
from faceexpr.data.annotations.reading import (
    AnnotatedImage,
    ReadOptions,
    known_formats,
    read_annotations,
    write_annotations,
)
from faceexpr.utils.errors import FaceExprError

SHARED = Path(__file__).parents[3] / "shared/data"
SOURCES = {
    "wider": ("wider/wider_face_split/wider_face_train_bbx_gt.txt", None),
    "dataturks": ("dataturks/face_detection.json", "dataturks/images"),
}


def boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 4)


@pytest.fixture
def images(tmp_path):
    """Images of several folders and names: without a face, ignored, with decimals, at the border."""
    found = {
        "a.png": boxes([1, 2, 30, 40]),
        "an event/b c.jpeg": boxes([0, 0, 640, 481], [10.3, 20.7, 33.333, 47.1], [5, 5, 5.5, 9]),
        "an event/é & <d>.v2.jpg": boxes(),
        "other/b c.jpg": boxes([638.999, 0.001, 640, 3]),
    }
    images = []
    for number, (name, faces) in enumerate(found.items()):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (640, 481)).save(path)
        images.append(AnnotatedImage(path, (640, 481), faces, np.arange(len(faces)) == number))
    return images


def check_equal(images, others):
    others = {image.path: image for image in others}
    assert {image.path for image in images} == set(others)
    for image in images:
        other = others[image.path]
        assert image.size == other.size
        assert image.ignored.tolist() == other.ignored.tolist()
        np.testing.assert_allclose(other.boxes, image.boxes, rtol=0, atol=1e-3)


def read_again(place, root, format="auto"):
    return read_annotations(place, root, format, ReadOptions(min_size=0)).images


def test_there_are_eight():
    assert set(known_formats()) >= {"coco", "cvat", "dataturks", "labelme", "labelstudio", "voc", "wider", "yolo"}


@pytest.mark.parametrize("format", known_formats())
def test_what_is_written_is_told_by_its_content_and_becomes_every_other_format(format, images, tmp_path):
    place, root = write_annotations(images, format, tmp_path / format)
    assert root == tmp_path / "photos"
    found = read_again(place, root)
    check_equal(images, found)
    for other in known_formats():
        check_equal(images, read_again(*write_annotations(found, other, tmp_path / f"{format}_{other}")))


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_real_annotations_through_all_formats_and_back(source, tmp_path):
    file, folder = SOURCES[source]
    if not (SHARED / file).is_file():
        pytest.skip("the data are not here")
    options = ReadOptions(missing="leave_out")
    first = read_annotations(SHARED / file, SHARED / folder if folder else None, options=options).images
    first = [replace(image, path=image.path.resolve()) for image in first]
    images = first
    for format in [*known_formats(), source]:
        images = read_again(*write_annotations(images, format, tmp_path / format))
        check_equal(first, images)


def test_the_verb_says_how_to_read_what_it_wrote(images, tmp_path, capsys):
    place, root = write_annotations(images, "wider", tmp_path)
    run(["annotate", str(place), "--images", str(root), "--write", "yolo", "--out", str(tmp_path / "yolo")])
    assert (
        f"{tmp_path / 'yolo'}: 4 images with 5 faces, named from {root} on; to read it: --images {root}"
        in capsys.readouterr().out
    )
    assert (tmp_path / "yolo/labels/other/b c.txt").read_text().startswith("0 0.99")
    for command, message in (
        (["--write", "pdf"], "--write is 'pdf'; expected coco, cvat"),
        (["--write", "coco", "--limit", "0"], "--limit is 0"),
    ):
        with pytest.raises(FaceExprError, match=message):
            run(["annotate", str(place), "--images", str(root), *command, "--out", str(tmp_path)])


def test_what_a_format_cannot_hold_and_a_folder_in_use_are_refused(images, tmp_path):
    twin = images[0].path.with_suffix(".jpg")
    Image.new("L", (9, 9)).save(twin)
    both = [images[0], replace(images[0], path=twin, size=(9, 9), boxes=boxes([0, 0, 4, 4]))]
    with pytest.raises(FaceExprError, match=r"voc reads otherwise than it was written, in a\.png; expected an empty"):
        write_annotations(both, "voc", tmp_path / "voc")
    write_annotations(both, "coco", tmp_path / "coco")
    write_annotations(images, "labelme", tmp_path / "labelme")
    with pytest.raises(FaceExprError, match="labelme reads otherwise than it was written"):
        write_annotations(images[:1], "labelme", tmp_path / "labelme")


def test_a_folder_without_annotations_is_one_sentence(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(FaceExprError, match=r"is a folder without annotations; expected LabelMe JSON, Pascal VOC XML"):
        read_annotations(tmp_path)
