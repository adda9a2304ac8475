"""What is known of a picture after the two steps, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

NOT_FINITE = "the classifier's probabilities are not finite"

Status = Literal["ok", "error"]


@dataclass(frozen=True)
class FaceResult:
    """A face.

    Attributes:
        box: left, top, right, bottom in pixels of the upright picture, inside it.
        score: how sure the detector is, from 0 to 1.
        expression: the most probable one; None where the classifier has given no finite probabilities.
        probabilities: of each of the classifier's classes, in its order; they sum to 1. None as above.
        expressions: those that it may be, the most probable first: the prediction set of the stated coverage. None
            where no coverage was stated, or as above.
    """

    box: tuple[float, float, float, float]
    score: float
    expression: str | None
    probabilities: Mapping[str, float] | None
    expressions: tuple[str, ...] | None = None


@dataclass(frozen=True)
class PictureResult:
    """A picture.

    Attributes:
        source: its path, or what it was given as.
        status: ``ok``, also where there is no face, or ``error``.
        reason: what was wrong; None where nothing was.
        size: width and height in pixels of the upright picture; None where it could not be read.
        faces: the faces, the surest first.
        notes: remarks, such as "first of 2 frames".
    """

    source: str
    status: Status
    reason: str | None
    size: tuple[int, int] | None
    faces: tuple[FaceResult, ...]
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the result as plain values, ready for JSON; every result has the same fields."""
        width, height = self.size or (None, None)
        return {
            "image": self.source,
            "status": self.status,
            "reason": self.reason,
            "width": width,
            "height": height,
            "faces": [
                {
                    "box": list(face.box),
                    "score": face.score,
                    "expression": face.expression,
                    "expressions": None if face.expressions is None else list(face.expressions),
                    "probabilities": None if face.probabilities is None else dict(face.probabilities),
                }
                for face in self.faces
            ],
            "notes": list(self.notes),
        }


def failed(source: str, reason: str) -> PictureResult:
    """Return the result of a picture that could not be read."""
    return PictureResult(source, "error", reason, None, ())


def significant(value: float) -> float:
    """Return a number with six significant digits: beyond them two machines differ."""
    return float(f"{value:.6g}")
