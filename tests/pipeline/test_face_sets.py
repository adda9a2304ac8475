"""Prediction sets of the faces of photographs: in results, in files and in captions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from analysis_runs import records, rows, write
from red_finder import save_task, tiny_classifier
from stub_steps import WHOLE, Levels, pipeline

from faceexpr.models.calibrator import Calibration
from faceexpr.pipeline.records import FaceResult, caption
from faceexpr.utils.errors import FaceExprError

FOUND = Calibration(1.5, {"0.5": 0.0, "0.9": 0.45, "0.99": 1.0}, 100, "drawn")


class Calibrated(Levels):
    calibration = FOUND


# Of (70, 42, 88) Blue has nothing before it, Red 0.44 and Green 0.79.
@pytest.mark.parametrize(
    ("coverage", "colour", "expected"),
    [
        (0.9, (70, 42, 88), ("Blue", "Red")),
        (0.9, (60, 40, 100), ("Blue",)),
        (0.5, (70, 42, 88), ("Blue",)),
        (0.99, (60, 40, 100), ("Blue", "Red", "Green")),
        (None, (60, 40, 100), None),
    ],
)
def test_a_face_has_its_set_with_the_most_probable_first(coverage, colour, expected):
    system = pipeline(WHOLE, classifier=Calibrated(), coverage=coverage)
    assert system(np.full((8, 8, 3), colour, np.uint8)).faces[0].expressions == expected


@pytest.mark.parametrize(("min_probability", "expression"), [(None, "Blue"), (0.43, "Blue"), (0.45, None)])
def test_a_face_that_is_not_surely_one_expression_has_none(min_probability, expression):
    system = pipeline(WHOLE, classifier=Calibrated(), coverage=0.9, min_probability=min_probability)
    (face,) = system(np.full((8, 8, 3), (70, 42, 88), np.uint8)).faces
    assert (face.expression, face.expressions) == (expression, ("Blue", "Red"))
    assert face.probabilities["Blue"] == pytest.approx(0.44)
    assert caption(replace(face, expressions=None)) == ("?" if expression is None else "Blue 44%")


@pytest.mark.parametrize(
    ("classifier", "coverage", "message"),
    [
        (Calibrated, 0.8, "coverage is 0.8, but the classifier was calibrated for 0.5, 0.9, 0.99;"),
        (Levels, 0.9, "coverage is 0.9, but the classifier was calibrated for none; `faceexpr validate"),
        (Calibrated, 90, "coverage has 90; expected numbers between 0 and 1, such as 0.9$"),
    ],
)
def test_other_levels_and_classifiers_without_any_are_refused(classifier, coverage, message):
    with pytest.raises(FaceExprError, match=f"^{message}"):
        pipeline(WHOLE, classifier=classifier(), coverage=coverage)


def test_records_and_rows_have_the_sets_and_belong_to_their_coverage(analyze, models):
    save_task(tiny_classifier(calibration=FOUND), models / "calibrated.ckpt")
    write("photos/a.png")
    write("photos/none.png", None)
    assert analyze("photos", "--coverage=0.9", classifier="calibrated.ckpt") == 0
    (face,), none = (record["faces"] for record in records())
    assert none == []
    ranked = sorted(face["probabilities"], key=face["probabilities"].__getitem__, reverse=True)
    before = np.cumsum([0, *(face["probabilities"][name] for name in ranked)])[:-1]
    assert face["expressions"] == [name for name, mass in zip(ranked, before, strict=True) if mass <= 0.45]
    assert face["expressions"][0] == face["expression"]
    assert [row["expressions"] for row in rows()] == ["; ".join(face["expressions"]), ""]

    with pytest.raises(FaceExprError, match=r"has: coverage 0\.9 -> null; expected"):
        analyze("photos", classifier="calibrated.ckpt")
    assert analyze("photos", classifier="calibrated.ckpt", out="plain") == 0
    assert records("plain")[0]["faces"] == [{**face, "expressions": None}]
    assert [row["expressions"] for row in rows("plain")] == ["", ""]


def test_records_of_an_earlier_version_are_understood(analyze):
    write("photos/a.png")
    write("photos/b.png")
    assert analyze("photos/a.png") == 0
    (record,) = records()
    for face in record["faces"]:
        del face["expressions"]
    Path("out/faces.jsonl").write_text(json.dumps(record) + "\n")
    assert analyze("photos/a.png", "photos/b.png") == 0
    assert [row["image"] for row in rows()] == ["photos/a.png", "photos/b.png"]


@pytest.mark.parametrize(
    ("expressions", "expected"),
    [
        (None, "Happy 62%"),
        (("Happy",), "Happy 62%"),
        (("Happy", "Surprise"), "Happy or Surprise"),
        (("Happy", "Surprise", "Fear"), "Happy, Surprise or Fear"),
        (("Happy", "Surprise", "Fear", "Sad", "Angry"), "Happy, Surprise or 3 more"),
    ],
)
def test_a_caption_says_what_it_may_be(expressions, expected):
    face = FaceResult((0, 0, 1, 1), 0.9, "Happy", {"Happy": 0.62, "Surprise": 0.38}, expressions)
    assert caption(face) == expected
