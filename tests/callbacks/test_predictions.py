"""The CSV of predictions: one row for each input, whatever happened to it."""

import csv
import io
import sys

import numpy as np
import pytest
from evaluation_runs import ReadsThePixel, make_split, pixel_faces

from faceexpr.callbacks.predictions import PredictionWriter
from faceexpr.data.loading import FaceSplit, Failure
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES, FERPLUS_NAMES


def predict(make_trainer, split, writer, model=None, **options):
    trainer = make_trainer(writer, **options)
    trainer.predict(model or ReadsThePixel(), datamodule=pixel_faces({"predict": split}), return_predictions=False)


def read_rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_rows_are_the_inputs_in_their_order(make_trainer, tmp_path, capsys, devices):
    split = make_split(
        [3, 0, 255, 6, 1],
        sources=["b.png", "a.png", "nan.png", "d.png", "d.png"],
        failures=[Failure(0, "broken.jpg", "not an image"), Failure(4, "gone.jpg", "no such file")],
        notes={3: "first of 2 frames"},
    )
    path = tmp_path / "out" / "predictions.csv"
    writer = PredictionWriter(str(path))
    predict(make_trainer, split, writer, devices=devices, strategy="ddp_spawn" if devices == 2 else "auto")
    if devices == 1:
        # Spawned processes print past the capture and keep their own callback.
        assert writer.failed == 3
        printed = capsys.readouterr().out
        assert "2 of 7 inputs could not be read" in printed
        assert "1 of 7 inputs have probabilities that are not finite" in printed
    rows = read_rows(path)
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


def test_all_inputs_broken_is_still_a_file(make_trainer, tmp_path):
    split = make_split([0], failures=[Failure(0, "a.jpg", "truncated"), Failure(1, "b.jpg", "empty file")])
    split = FaceSplit(split.images[:0], None, [], split.failures)
    writer = PredictionWriter()
    predict(make_trainer, split, writer)
    rows = read_rows(tmp_path / "runs" / "version_0" / "predictions.csv")
    assert [(row["source"], row["status"], row["note"]) for row in rows] == [
        ("a.jpg", "error", "truncated"),
        ("b.jpg", "error", "empty file"),
    ]
    assert writer.failed == 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_are_written_exactly_and_printed_on_any_console(make_trainer, tmp_path, monkeypatch, encoding):
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", console)
    names = ["été/café 顔.jpg", "a b#1%.jpg", 'quote", comma\nand line.png']
    path = tmp_path / "été.csv"
    predict(make_trainer, make_split([0, 1, 2], sources=names), PredictionWriter(str(path)))
    console.flush()
    printed = console.buffer.getvalue().decode(encoding)
    assert [row["source"] for row in read_rows(path)] == names
    assert r"\u9854.jpg: Angry 77.0%" in printed


def test_a_name_whose_bytes_are_no_text_is_escaped(make_trainer, tmp_path):
    path = tmp_path / "predictions.csv"
    predict(make_trainer, make_split([0], sources=["a\udcff.jpg"]), PredictionWriter(str(path)))
    assert read_rows(path)[0]["source"] == r"a\udcff.jpg"


def test_eight_classes_have_eight_columns_under_the_models_names(make_trainer, tmp_path):
    names = FERPLUS_NAMES[::-1]
    path = tmp_path / "predictions.csv"
    predict(make_trainer, make_split([0, 7]), PredictionWriter(str(path)), ReadsThePixel(names))
    rows = read_rows(path)
    assert tuple(rows[0])[2:-2] == names
    assert [row["predicted"] for row in rows] == ["Contempt", "Angry"]


def test_inputs_beyond_the_limit_of_batches_are_marked(make_trainer, tmp_path, capsys):
    path = tmp_path / "predictions.csv"
    writer = PredictionWriter(str(path))
    predict(make_trainer, make_split([0, 1, 2]), writer, limit_predict_batches=1)
    assert "1 of 3 inputs were left out" in capsys.readouterr().out
    assert [row["status"] for row in read_rows(path)] == ["ok", "ok", "skipped"]
    assert writer.failed == 0


def test_ten_predictions_are_shown_and_the_rest_counted(make_trainer, tmp_path, capsys):
    predict(make_trainer, make_split([3] * 12), PredictionWriter(str(tmp_path / "p.csv")))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "image 0: Happy 77.0%, Angry 3.8%, Disgust 3.8%"
    assert [line for line in lines if line.startswith("... and")] == ["... and 2 more"]
    assert len([line for line in lines if line.startswith("image ")]) == 10


def test_a_path_that_cannot_be_written_is_named(make_trainer, tmp_path):
    with pytest.raises(FaceExprError, match="is a folder"):
        PredictionWriter(str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(FaceExprError, match=r"file/p\.csv cannot be written"):
        predict(make_trainer, make_split([0]), PredictionWriter(str(tmp_path / "file" / "p.csv")))
    assert (tmp_path / "file").read_text() == ""
