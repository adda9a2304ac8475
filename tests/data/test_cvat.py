"""CVAT's XML for images."""

import numpy as np
import pytest
from PIL import Image

from faceexpr.data.annotations.reading import read_annotations
from faceexpr.utils.errors import FaceExprError

FILE = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><job><labels><label><name>face</name></label></labels></job></meta>
  <image id="0" name="people/a.jpg" width="100" height="80">
    <box label="face" source="manual" occluded="0" xtl="10.25" ytl="20" xbr="40" ybr="60.75" z_order="0"></box>
    <box label="face" occluded="0" xtl="1" ytl="2" xbr="3" ybr="4" rotation="30.00" z_order="0"/>
    <polygon label="face" points="1,2;3,4;5,6"/>
    <tag label="outdoors"/>
  </image>
  <image id="1" name="b.jpg" width="100" height="80">{}</image>
</annotations>"""


@pytest.fixture
def write(tmp_path):
    for name in ("people/a.jpg", "b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (100, 80)).save(tmp_path / name)

    def one(more):
        (tmp_path / "annotations.xml").write_text(FILE.format(more))
        return tmp_path / "annotations.xml"

    return one


def test_boxes_are_read_and_other_shapes_counted(write):
    found = read_annotations(write(""))
    assert [image.boxes.tolist() for image in found.images] == [[[10.25, 20, 40, 60.75]], []]
    np.testing.assert_array_equal(found.images[0].size, (100, 80))
    assert any("2 shapes that are no boxes left out" in note for note in found.notes)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('<box label="face" xtl="1" ytl="2" xbr="3"/>', r"image 2: the coordinates are .*null\]; expected numbers"),
        ('<box xtl="1" ytl="2" xbr="3" ybr="4"/>', "image 2: a name or label is absent"),
        ('</image><track id="0"/><image name="c.jpg">', "tracks of a video"),
    ],
)
def test_what_is_wrong_is_named(more, message, write):
    with pytest.raises(FaceExprError, match=message):
        read_annotations(write(more))
