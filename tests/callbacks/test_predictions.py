"""The CSV of predictions: one row for each input, whatever happened to it."""

import io
import sys

import numpy as np
import pytest
from conftest import read_table
from evaluation_runs import ReadsThePixel, make_split, pixel_faces

from faceexpr.callbacks.predictions import PredictionWriter
from faceexpr.data.loading import FaceSplit, Failure
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES


@pytest.fixture
def predict(make_trainer, tmp_path):
    """Write the predictions of a split, and return the callback and the rows of its file."""

    def write(split, path=tmp_path / "out" / "p.csv", **options):
        writer = PredictionWriter(path and str(path))
        trainer = make_trainer(writer, **options)
        trainer.predict(ReadsThePixel(), datamodule=pixel_faces({"predict": split}), return_predictions=False)
        return writer, read_table(path or tmp_path / "runs/version_0/predictions.csv")

    return write


def test_rows_are_the_inputs_in_their_order(predict, capsys):
    split = make_split(
        [3, 0, 255, 6, 1],
        sources=["b.png", "a.png", "nan.png", "d.png", "d.png"],
        failures=[Failure(0, "broken.jpg", "not an image"), Failure(4, "gone.jpg", "no such file")],
        notes={3: "first of 2 frames"},
    )
    writer, rows = predict(split)
    assert writer.failed == 3
    printed = capsys.readouterr().out
    assert "2 of 7 inputs could not be read" in printed
    assert "1 of 7 inputs have probabilities that are not finite" in printed
    sources = ["broken.jpg", "b.png", "a.png", "nan.png", "gone.jpg", "d.png", "d.png"]
    assert [row["source"] for row in rows] == sources
    assert [row["predicted"] for row in rows] == ["", "Happy", "Angry", "", "", "Neutral", "Disgust"]
    assert [row["status"] for row in rows] == ["error", "ok", "ok", "error", "error", "ok", "ok"]
    notes = ["not an image", "", "", "probabilities are not finite", "no such file", "first of 2 frames", ""]
    assert [row["note"] for row in rows] == notes
    assert list(rows[0]) == ["source", "predicted", *FER_NAMES, "status", "note"]
    for row in rows:
        values = [row[name] for name in FER_NAMES]
        if row["status"] == "ok":
            assert sum(map(float, values)) == pytest.approx(1, abs=1e-5)
            assert float(row[row["predicted"]]) == pytest.approx(np.exp(3) / (np.exp(3) + 6), rel=1e-5)
        else:
            assert values == [""] * 7


def test_all_inputs_broken_is_still_a_file(predict):
    split = make_split([0], failures=[Failure(0, "a.jpg", "truncated"), Failure(1, "b.jpg", "empty file")])
    writer, rows = predict(FaceSplit(split.images[:0], None, [], split.failures), path=None)
    assert [(row["source"], row["note"]) for row in rows] == [("a.jpg", "truncated"), ("b.jpg", "empty file")]
    assert {row["status"] for row in rows} == {"error"}
    assert writer.failed == 2


def test_names_are_written_exactly_and_printed_on_any_console(predict, tmp_path, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", errors="strict")
    monkeypatch.setattr(sys, "stdout", console)
    # What is no text at all is escaped.
    names = ["été/café 顔.jpg", "a b#1%.jpg", 'quote", comma\nand line.png', "a\udcff.jpg"]
    _, rows = predict(make_split([0, 1, 2, 3], sources=names), path=tmp_path / "été.csv")
    console.flush()
    assert [row["source"] for row in rows] == [*names[:3], r"a\udcff.jpg"]
    assert r"\u9854.jpg: Angry 77.0%" in console.buffer.getvalue().decode("cp1252")


def test_inputs_beyond_the_limit_of_batches_are_marked(predict, capsys):
    writer, rows = predict(make_split([0, 1, 2]), limit_predict_batches=1)
    assert "1 of 3 inputs were left out" in capsys.readouterr().out
    assert [row["status"] for row in rows] == ["ok", "ok", "skipped"]
    assert writer.failed == 0


def test_ten_predictions_are_shown_and_the_rest_counted(predict, capsys):
    predict(make_split([3] * 12))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "image 0: Happy 77.0%, Angry 3.8%, Disgust 3.8%"
    assert [line for line in lines if line.startswith("... and")] == ["... and 2 more"]
    assert len([line for line in lines if line.startswith("image ")]) == 10


def test_a_path_that_cannot_be_written_is_named(predict, tmp_path):
    with pytest.raises(FaceExprError, match="is a folder"):
        PredictionWriter(str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(FaceExprError, match="file is a file; expected a folder"):
        predict(make_split([0]), path=tmp_path / "file" / "p.csv")
    assert (tmp_path / "file").read_text() == ""
