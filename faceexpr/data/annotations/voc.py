"""Pascal VOC's XML: a file for each image, in ``Annotations`` beside ``JPEGImages``.

Source: Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 2010; boxes are corners in pixels, counted
from 0 on, as today's tools write them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

from faceexpr.data.annotations.parsing import (
    FACE,
    begins_xml,
    coordinates,
    faces_of,
    file_names,
    parse_xml,
    whole,
    write_xml,
)
from faceexpr.data.annotations.reading import AnnotatedImage, Document, Entry, Face
from faceexpr.utils.errors import FaceExprError

NAME = "Pascal VOC XML"
PARTS = ("Annotations", ".xml")

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def recognises(head: str) -> bool:
    """Tell whether a text is XML of one image."""
    return begins_xml(head, "annotation")


def read(path: Path, text: str) -> Document:
    """Read the objects of one image.

    Raises:
        FaceExprError: it is damaged, or an object has no name or no four coordinates.
    """
    root = parse_xml(path, text, "annotation")
    name, folder = (root.findtext(tag, "").strip() for tag in ("filename", "folder"))
    if not name:
        raise FaceExprError(f"{path}: filename is empty or absent; expected the name of an image")
    faces = []
    for number, one in enumerate(root.iter("object"), 1):
        where, label = f"object {number}", one.findtext("name", "").strip()
        if not label:
            raise FaceExprError(f"{path}, {where}: name is empty or absent; expected a label")
        left, top, right, bottom = coordinates(f"{path}, {where}", (one.findtext(f"bndbox/{s}") for s in _SIDES))
        difficult = one.findtext("difficult", "").strip() == "1"
        faces.append(Face(where, (left, top, right, bottom), labels=(label,), ignored=difficult))
    size = whole(root.findtext("size/width")), whole(root.findtext("size/height"))
    entry = Entry("its image", file_names(name) + file_names(f"{folder}/{name}"), tuple(faces), size=size)
    return Document((entry,), ("", "images", "JPEGImages"), others=True)


def write(images: Sequence[AnnotatedImage]) -> Iterator[tuple[str, str]]:
    """Write a file for each image; faces that are ignored are difficult."""
    for image in images:
        root = Element("annotation")
        SubElement(root, "filename").text = image.path.name
        size = SubElement(root, "size")
        for side, value in zip(("width", "height", "depth"), (*image.size, 3), strict=True):
            SubElement(size, side).text = str(value)
        for label, *corners in faces_of(image.boxes, image.ignored):
            one = SubElement(root, "object")
            SubElement(one, "name").text = FACE
            SubElement(one, "difficult").text = str(int(label != FACE))
            box = SubElement(one, "bndbox")
            for side, corner in zip(_SIDES, corners, strict=True):
                SubElement(box, side).text = str(corner).removesuffix(".0")
        yield f"{PARTS[0]}/{image.path.with_suffix('.xml').as_posix()}", write_xml(root)
