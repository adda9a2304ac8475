"""Whatever a file holds, reading it ends in records that hold or in one sentence."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from faceexpr.data.annotations.reading import AnnotatedImage, ReadOptions, known_formats, read_annotations
from faceexpr.utils.errors import FaceExprError

BOX = {"label": ["Face"], "points": [{"x": 0.1, "y": 0.2}, {"x": 0.5, "y": 0.6}], "imageWidth": 40, "imageHeight": 30}
DATATURKS = [{"content": "a.png", "annotation": [BOX]}, {"content": "http://host/b.png", "annotation": None}]
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}, {"id": 2, "file_name": "c.png"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "iscrowd": 0}],
    "categories": [{"id": 1, "name": "face"}, {"id": 2, "name": "cat"}],
}
FACES = np.array([[1, 2, 30, 29.5], [4.25, 5, 20, 25]], np.float32)
IMAGES = [AnnotatedImage(Path("annotations.png"), (40, 30), FACES, np.array([False, True]))]


def written(name: str) -> str:
    """Return what a format writes of an image: the file, or the file of that image."""
    one = known_formats()[name]
    ending = getattr(one, "PARTS", ("", ""))[1]
    return next(text for file, text in one.write(IMAGES) if file.endswith(ending))


WRITTEN = {name: written(name) for name in known_formats()}
VALID = {
    "lines": "\n".join(map(json.dumps, DATATURKS)),
    "array": json.dumps(DATATURKS),
    "lists": json.dumps(COCO),
    "text": "a.png\n1\n1 2 30 40 0 0 0 0 0 0 \nc.png\n0\n0 0 0 0 0 0 0 0 0 0\na.png\n2\n-5 -5 20 20\n9 9 0 9\n",
    **WRITTEN,
}
JSON = {name: json.loads(text) for name, text in VALID.items() if name != "lines" and text.startswith(("{", "["))}
PIECES = ["{", "}", "[", "]", ",", '"', "\n", "\r", " ", "0", "-1", "1e400", "NaN", "null", "true", "9" * 5000, "\0",
          "\\ud800", "../", "é", "\u2028", "\ufeff", "0 0 0 0\n", "1_0", "a.png"]  # fmt: skip

EXAMPLES = settings(
    max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from([0, -1, 1, 2, 0.5, 1e308, 10**25, "face", "a.png", "http://[", "\ud800", "x" * 300]),
)  # fmt: skip
ANY_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.png", "annotations.png"):
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    return tmp_path


def check(content: str | bytes, folder: Path, missing: Any = "keep") -> None:
    """Read the content as every format: records whose boxes lie inside and have an area, or one sentence."""
    path = folder / "annotations"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    for format_name in ("auto", *known_formats()):
        images = []
        try:
            images = read_annotations(path, folder, format_name, ReadOptions(missing=missing)).images
            assert images
        except FaceExprError as error:
            assert str(path) in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        for image in images:
            assert (image.boxes.dtype, image.boxes.shape) == (np.float32, (len(image.ignored), 4))
            left, top, right, bottom = image.boxes.T
            assert np.isfinite(image.boxes).all()
            assert ((left >= 0) & (top >= 0) & (right <= image.size[0]) & (bottom <= image.size[1])).all()
            assert ((right > left) & (bottom > top)).all()
            assert all(len(values) == len(image.boxes) for values in image.flags.values())


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value within a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths(value[key], (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@EXAMPLES
@given(
    content=st.text() | st.lists(st.sampled_from(PIECES)).map("".join) | st.binary(max_size=60),
    mark=st.sampled_from([b"", b"\xff\xfe", b"\xef\xbb\xbf", b"\xff\xfe\0\0"]),
)
def test_any_text_and_any_bytes(mark: bytes, content: str | bytes, folder: Path) -> None:
    check(mark + content if isinstance(content, bytes) else content, folder)


@EXAMPLES
@given(data=st.data())
@pytest.mark.parametrize("valid", JSON.values(), ids=JSON.keys())
def test_valid_json_with_one_other_value(valid: Any, data: st.DataObject, folder: Path) -> None:
    path = data.draw(st.sampled_from(list(paths(valid))))  # the first is the whole value
    text = json.dumps(replaced(valid, path, data.draw(ANY_JSON)))
    check(text, folder, data.draw(st.sampled_from(["keep", "refuse"])))


@EXAMPLES
@given(data=st.data())
@pytest.mark.parametrize("valid", VALID.values(), ids=VALID.keys())
def test_valid_text_cut_doubled_or_disturbed(valid: str, data: st.DataObject, folder: Path) -> None:
    places = st.integers(0, len(valid))
    start, end = sorted((data.draw(places), data.draw(places)))
    piece = data.draw(st.sampled_from([*PIECES, valid[start:end], "", valid]))
    check(valid[:start] + piece + valid[end:], folder)


@pytest.mark.parametrize("valid", VALID.values(), ids=VALID.keys())
def test_encodings_and_line_ends_change_nothing(valid: str, folder: Path) -> None:
    path = folder / "annotations"
    read = set()
    for text in (valid, valid.replace("\n", "\r\n"), valid.replace("\n", "\r")):
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
            path.write_bytes(text.encode(encoding))
            found = read_annotations(path, folder)
            read.add(str([(image.path, image.boxes.tolist()) for image in found.images]))
    assert len(read) == 1
