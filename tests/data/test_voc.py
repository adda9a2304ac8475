"""Pascal VOC XML: a file or a folder of them, and nothing that XML could do beside."""

import numpy as np
import pytest
from PIL import Image

from faceexpr.data.annotations.reading import ReadOptions, read_annotations
from faceexpr.utils.errors import FaceExprError

OBJECT = """<object><name>{}</name><difficult>{}</difficult>
<part><name>nose</name><bndbox><xmin>1</xmin></bndbox></part>
<bndbox><xmin>10</xmin><ymin>20.5</ymin><xmax>{}</xmax><ymax>60</ymax></bndbox></object>"""
FILE = """<?xml version="1.0"?>
<annotation verified="no"><folder>VOC2007</folder><filename>{}</filename>
<size><width>100</width><height>80</height><depth>3</depth></size>{}</annotation>"""


@pytest.fixture
def data(tmp_path):
    """A data set of two images in VOC's layout."""
    for name in ("Annotations", "JPEGImages"):
        (tmp_path / name).mkdir()
    for name, objects in {
        "1": OBJECT.format("face", 0, 40) + OBJECT.format("cat", 0, 40),
        "2": OBJECT.format("Face", 1, 200),
    }.items():
        Image.new("L", (100, 80)).save(tmp_path / f"JPEGImages/{name}.jpg")
        (tmp_path / f"Annotations/{name}.xml").write_text(FILE.format(f"{name}.jpg", objects))
    return tmp_path


def test_a_file_and_a_folder_and_the_folder_above_are_read(data):
    for path in (data, data / "Annotations"):
        found = read_annotations(path)
        assert [image.path.name for image in found.images] == ["1.jpg", "2.jpg"]
        np.testing.assert_array_equal(found.images[0].boxes, [[10, 20.5, 40, 60]])
        np.testing.assert_array_equal(found.images[1].boxes, [[10, 20.5, 100, 60]])
        assert [image.ignored.tolist() for image in found.images] == [[False], [True]]
        assert any("1 box of other categories left out, in 1.jpg" in note for note in found.notes)
    [image] = read_annotations(data / "Annotations/2.xml").images
    assert image.path.resolve() == data / "JPEGImages/2.jpg"
    assert len(read_annotations(data, options=ReadOptions(face_labels=("cat",))).images[0].boxes) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "has a DOCTYPE, which could define entities"),
        ("<annotation>\n<filename>", "line 2: no XML"),
        ("<annotation/>", "filename is empty or absent"),
        (FILE.format("1.jpg", OBJECT.format("", 0, 1)), "object 1: name is empty"),
        (FILE.format("1.jpg", OBJECT.format("face", 0, "wide")), r'coordinates are \["10", "20.5", "wide", "60"\]'),
        (FILE.format("1.jpg", OBJECT.format("face", 0, "1e300")), "expected numbers"),
        (FILE.format("1.jpg", OBJECT.format("head", 0, 40)), r"none of its categories means a face \(head\)"),
        ("<html><annotation/></html>", "is in no format known here"),
    ],
)
def test_what_is_wrong_is_named(text, message, data):
    path = data / "Annotations/1.xml"
    path.write_text(text)
    with pytest.raises(FaceExprError, match=message):
        read_annotations(path)
