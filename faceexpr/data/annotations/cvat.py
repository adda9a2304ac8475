"""CVAT's own XML, "CVAT for images 1.1": one file for all images, with corners in pixels.

Source: https://docs.cvat.ai/docs/manual/advanced/xml_format/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

from faceexpr.data.annotations.parsing import begins_xml, coordinates, faces_of, file_names, parse_xml, whole, write_xml
from faceexpr.data.annotations.reading import AnnotatedImage, Document, Entry, Face
from faceexpr.utils.errors import FaceExprError

NAME = "CVAT XML"

_SIDES = ("xtl", "ytl", "xbr", "ybr")


def recognises(head: str) -> bool:
    """Tell whether a text is XML of CVAT."""
    return begins_xml(head, "annotations")


def read(path: Path, text: str) -> Document:
    """Read the upright boxes of each image; other shapes are counted.

    Raises:
        FaceExprError: it is damaged or of a video, or a box has no label or no four coordinates.
    """
    root = parse_xml(path, text, "annotations")
    if root.find("track") is not None:
        raise FaceExprError(f"{path}: holds tracks of a video; expected CVAT's export for images")
    entries, no_boxes = [], 0
    for number, image in enumerate(root.iter("image"), 1):
        where, name = f"image {number}", image.get("name", "").strip()
        shapes = [shape for shape in image if shape.tag != "tag"]
        boxes = [shape for shape in shapes if shape.tag == "box" and not shape.get("rotation", "").strip("0.")]
        no_boxes += len(shapes) - len(boxes)
        if not name or not all(box.get("label") for box in boxes):
            raise FaceExprError(
                f"{path}, {where}: a name or label is absent; expected those of the image and its boxes"
            )
        faces = []
        for box in boxes:
            left, top, right, bottom = coordinates(f"{path}, {where}", map(box.get, _SIDES))
            faces.append(Face(where, (left, top, right, bottom), labels=(box.attrib["label"],)))
        size = whole(image.get("width")), whole(image.get("height"))
        entries.append(Entry(where, file_names(name), tuple(faces), size=size))
    return Document(tuple(entries), others=True, no_boxes=no_boxes)


def write(images: Sequence[AnnotatedImage]) -> Iterator[tuple[str, str]]:
    """Write one file."""
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    for number, image in enumerate(images):
        width, height = map(str, image.size)
        one = SubElement(root, "image", id=str(number), name=image.path.as_posix(), width=width, height=height)
        for label, *corners in faces_of(image.boxes, image.ignored):
            sides = dict(zip(_SIDES, map(str, corners), strict=True))
            SubElement(one, "box", {"label": label, "occluded": "0", **sides, "z_order": "0"})
    yield "faces.xml", write_xml(root)
