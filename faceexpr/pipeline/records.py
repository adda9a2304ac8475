"""What is known of an image after the two steps: as an object, as a line of JSON, and as rows of CSV."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.files import as_bytes, replacing, write_file
from faceexpr.utils.images import ImageError, Source, read_image
from faceexpr.utils.text import class_columns, column_classes, counted, printable, some

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RECORDS, ROWS, COCO, OPTIONS = "faces.jsonl", "faces.csv", "detections.json", "analysis.json"
"""Files of results: a record an image, a row a face, COCO detections, and the options that all depend on."""

PICTURES, CROPS, EXPLAINED, PARTS = "pictures", "crops", "explained", "parts"
"""Folders in the folder of the results: drawn images, faces, explained faces, and the records of several processes."""

MIN_SCORE = 0.5
"""Faces that a detector is less sure of are left out, unless it is told otherwise."""

UNKNOWN = "?"
"""Caption of a face without an expression."""

DRAWN = 1000
"""Pixels that the shorter side of an image keeps where a result is drawn; in a notebook, the longer side at most."""

LIKELIEST = 3
"""Expressions of a face that are printed."""

FACE_HEAD = "  left    top  right bottom  score  expressions"
"""Names of the columns that `face_lines` prints beside an image: pixels of the upright image, and what was found."""

NOT_FINITE = "the classifier's probabilities are not finite"

COLUMNS = (
    "image", "status", "reason", "width", "height", "face", "left", "top", "right", "bottom", "score", "expression",
    "expressions",
)  # fmt: skip
"""Columns of the CSV file before those of each class's probability."""

_FIELDS = {
    "image": str, "name": str, "status": str, "reason": str | None, "width": int | None, "height": int | None,
    "faces": list, "notes": list,
}  # fmt: skip
_FACE_FIELDS = {
    "box": list, "score": int | float, "expression": str | None, "expressions": list | None,
    "probabilities": dict | None,
}  # fmt: skip
_OF_VIDEO = {"frame", "time", "track"}  # the number of a frame, its time in seconds, and the track of a face


@dataclass(frozen=True, repr=False)
class FaceResult:
    """A face.

    Attributes:
        box: left, top, right, bottom in pixels of the upright image, inside it.
        score: how sure the detector is, from 0 to 1.
        expression: the most probable one; None where the classifier has given no finite probabilities, or where it is
            less probable than was asked for.
        probabilities: of each of the classifier's classes, in its order; they sum to 1. None where they are not finite.
        expressions: those that it may be, the most probable first: the prediction set of the stated coverage. None
            where no coverage was stated, or there are no probabilities.
    """

    box: tuple[float, float, float, float]
    score: float
    expression: str | None
    probabilities: Mapping[str, float] | None
    expressions: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        return f"FaceResult({caption(self)}, score {self.score:.2f}, box {tuple(map(round, self.box))})"


@dataclass(frozen=True, repr=False)
class ImageResult:
    """An image. In a notebook it shows itself.

    Attributes:
        source: its path, or what it was given as.
        status: ``ok``, also where there is no face, or ``error``.
        reason: what was wrong; None where nothing was.
        size: width and height in pixels of the upright image; None where it could not be read.
        faces: the faces, the surest first.
        notes: remarks, such as "first of 2 frames".
        image: what was given in the place of a file, to draw on; None where ``source`` is a file.
    """

    source: str
    status: Literal["ok", "error"]
    reason: str | None
    size: tuple[int, int] | None
    faces: tuple[FaceResult, ...]
    notes: tuple[str, ...] = ()
    image: Source | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        if self.status == "error" and not self.faces:
            return f"ImageResult({self.source!r}, error: {self.reason})"
        found = some([caption(face) for face in self.faces])
        return f"ImageResult({self.source!r}, {counted(len(self.faces), 'face')}{': ' if found else ''}{found})"

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, place: int) -> FaceResult:
        return self.faces[place]

    def __getattr__(self, name: str) -> Any:
        hint = f", each of its faces has one: result.faces[0].{name}" if name in _FACE_FIELDS else ""
        raise AttributeError(f"an ImageResult has no {name}{hint}")

    def _repr_png_(self) -> bytes | None:
        try:
            image = Image.fromarray(self.draw())
        except ImageError:  # the text says what there is to say
            return None
        image.thumbnail((DRAWN, DRAWN))
        return image_file(image, "PNG")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, as the faces have them; empty where there is none."""
        return next((tuple(face.probabilities) for face in self.faces if face.probabilities), ())

    def draw(self) -> NDArray[np.uint8]:
        """Return the image with its boxes, expressions and charts, RGB, uint8 (H, W, 3); large ones are shrunk.

        Raises:
            ImageError: it cannot be read (any more): a file has gone, or was given to ``run`` as bytes.
        """
        return draw_result(self)

    def show(self) -> None:
        """Show the drawn image: in a notebook below the cell, or else in a window."""
        image = Image.fromarray(self.draw())
        shell = sys.modules.get("IPython")
        if shell is not None and hasattr(shell.get_ipython(), "kernel"):
            shell.display.display(image)
        else:
            image.show()

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw into axes of matplotlib, by default new ones, and return them."""
        from matplotlib import pyplot

        axes = axes or pyplot.subplots()[1]
        axes.imshow(self.draw())
        axes.set_axis_off()
        return axes

    def save(self, path: str | Path) -> None:
        """Write the drawn image, as PNG or JPEG by the ending of the name."""
        known = Path(path).suffix.lower() in (".png", ".jpg", ".jpeg")
        require(known, "path", path, "a name that ends in .png or .jpg")
        write_image(self.draw(), Path(path))

    def to_dataframe(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each face and the columns of ``faces.csv``."""
        try:
            import pandas
        except ImportError as error:
            raise FaceExprError("to_dataframe needs pandas: pip install pandas; record() does without it") from error
        text = csv_header(self.class_names) + csv_rows(self.record(), self.class_names)
        return pandas.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""], dtype={"image": str})

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> ImageResult:
        """Return the result that a line of ``faces.jsonl`` holds."""
        faces = (FaceResult(**{**face, "box": tuple(face["box"])}) for face in record["faces"])
        size = None if record["width"] is None else (record["width"], record["height"])
        return cls(record["image"], record["status"], record["reason"], size, (*faces,), (*record["notes"],))

    def record(self) -> dict[str, Any]:
        """Return the result as plain values, ready for JSON; every result has the same fields."""
        width, height = self.size or (None, None)
        return {
            "image": self.source,
            "status": self.status,
            "reason": self.reason,
            "width": width,
            "height": height,
            "faces": [{name: getattr(face, name) for name in _FACE_FIELDS} for face in self.faces],
            "notes": self.notes,
        }


def draw_result(result: ImageResult) -> NDArray[np.uint8]:
    """Draw a result into its image; see its method."""
    from faceexpr.pipeline.analysis import draw_faces
    from faceexpr.pipeline.pipeline import Analysis

    image = read_image(result.source if result.image is None else result.image, reduce_to=DRAWN)
    return draw_faces(Analysis(result, image.pixels, image.reduction), result.class_names)


def write_image(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write pixels, RGB, uint8 (H, W, 3), as PNG where the name ends so, or else as JPEG."""
    write_file(path, image_file(Image.fromarray(pixels), "PNG" if path.suffix.lower() == ".png" else "JPEG"))


def image_file(image: Image.Image, image_format: str) -> bytes:
    """Return an image as the bytes of a file, PNG or JPEG."""
    file = io.BytesIO()
    image.save(file, image_format, quality=92)
    return file.getvalue()


def caption(face: FaceResult) -> str:
    """Return what is written beside a face: its expression in per cent, or those that it may be as people say them."""
    if face.expression is None or face.probabilities is None:
        return UNKNOWN
    names = face.expressions or ()
    if len(names) <= 1:
        return f"{face.expression} {face.probabilities[face.expression]:.0%}"
    if len(names) > 3:
        names = (*names[:2], f"{len(names) - 2} more")
    return f"{', '.join(names[:-1])} or {names[-1]}"


def face_lines(record: Mapping[str, Any], width: int) -> list[str]:
    """Return a record as lines under `FACE_HEAD`, with the name in ``width`` characters: one a face, or one in all."""
    lines = []
    for face in record["faces"]:
        given = face["probabilities"] or {}
        ranked = sorted(given, key=given.__getitem__, reverse=True)[:LIKELIEST]
        names = face["expressions"] or [name for name in ranked if given[name] >= 0.005]  # of others, 0% would stand
        text = ", ".join(f"{name} {given[name]:.0%}" for name in names)
        left, top, right, bottom = face["box"]
        box = f"{left:6.0f} {top:6.0f} {right:6.0f} {bottom:6.0f}"
        lines.append(f"{box}  {face['score']:5.2f}  {'' if face['expression'] else UNKNOWN + ' '}{text}".rstrip())
    if record["status"] != "ok":
        lines.append(f"failed: {record['reason']}")
    elif not lines:
        lines.append("no face")
    return [
        f"{printable(record['image']):<{width}}  {line}" for line in (*lines, *map("note: {}".format, record["notes"]))
    ]


def read_lines(path: str | Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each whole line of a file of records with the record that it holds; nothing where there is no file.

    A last line without an end is left out. A line that is no record is a `FaceExprError`.
    """
    path = Path(path)
    if not path.is_file():
        return
    with path.open("rb") as file:  # as bytes: text would end lines at other characters too
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not _is_record(record):
                raise FaceExprError(f"{path}, line {number} is not a record of an image; expected one")
            yield line, record


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file; see `read_lines`."""
    for _, record in read_lines(path):
        yield record


def _is_record(value: Any) -> bool:
    return _fits(value, _FIELDS) and _are(str, value["notes"]) and all(map(_is_face, value["faces"]))


def _is_face(value: Any) -> bool:
    # Records of earlier versions have no expressions.
    if not isinstance(value, dict) or not _fits({"expressions": None, **value}, _FACE_FIELDS):
        return False
    numbers = [*value["box"], *(value["probabilities"] or {}).values()]
    return len(value["box"]) == 4 and _are(int | float, numbers) and _are(str, value.get("expressions") or ())


def _fits(value: Any, fields: Mapping[str, Any]) -> bool:
    named = isinstance(value, dict) and value.keys() - _OF_VIDEO == fields.keys()
    return named and all(isinstance(value[name], kind) for name, kind in fields.items())


def _are(kind: Any, values: Iterable[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)


def write_rows(
    path: Path, class_names: Sequence[str], lines: Iterable[tuple[bytes, dict[str, Any]]]
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Write a CSV file anew from lines of records and yield these; it is there once all of them were taken."""
    with replacing(path) as file:
        file.write(as_bytes(csv_header(class_names)))
        for line, record in lines:
            file.write(as_bytes(csv_rows(record, class_names)))
            yield line, record


def csv_header(class_names: Sequence[str]) -> str:
    """Return the line of CSV that names the columns."""
    return _csv_line(*COLUMNS, *class_columns(class_names, (*COLUMNS, "notes")), "notes")


def csv_rows(record: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """Return the lines of CSV for an image: one a face, or one whose cells of a face are empty."""
    image, size, notes = record["image"], (record["width"], record["height"]), "; ".join(record["notes"])
    lines = []
    for number, face in enumerate(record["faces"], 1):
        probabilities = face["probabilities"] or {}
        state = ("ok", None) if probabilities else ("error", NOT_FINITE)
        found = (number, *face["box"], face["score"], face["expression"], "; ".join(face.get("expressions") or ()))
        lines.append(_csv_line(image, *state, *size, *found, *map(probabilities.get, class_names), notes))
    empty = [None] * (len(COLUMNS) - 5 + len(class_names))
    return "".join(lines) or _csv_line(image, record["status"], record["reason"], *size, *empty, notes)


def read_class_names(rows: Path) -> tuple[str, ...]:
    """Return the names of the classes in the first line of a CSV file; a `FaceExprError` where it is none of ours."""
    with rows.open(encoding="utf-8", newline="") as file:
        names = next(csv.reader(file), [])
    if tuple(names[: len(COLUMNS)]) != COLUMNS or names[-1] != "notes":
        raise FaceExprError(f"{rows} does not begin with the columns of an analysis; expected what one has written")
    return column_classes(names[len(COLUMNS) : -1], (*COLUMNS, "notes"))


def _csv_line(*cells: Any) -> str:
    text = io.StringIO()
    # With both characters as the end of a line, either of them in a file name is quoted; one is written.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"
