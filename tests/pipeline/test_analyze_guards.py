"""``faceexpr analyze`` beside another one, on a full disk, in a folder that was tampered with, with wrong files."""

import json
import os
from pathlib import Path

import pytest
import torch
from analysis_runs import records, write
from conftest import exit_code
from image_files import encoded, smooth_image

from faceexpr.cli.main import main
from faceexpr.pipeline.load import load_detector
from faceexpr.pipeline.output import Output
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

RECORD = {"image": "a", "name": "a", "status": "ok", "reason": None, "width": 9, "height": 9, "faces": [], "notes": []}


def command(models, *paths, out="out"):
    options = ["--detector", str(models / "detector.ckpt"), "--classifier", str(models / "classifier.ckpt")]
    return lambda: main(["analyze", *map(str, paths), *options, "--device=cpu", "--out", out])


def test_two_analyses_never_write_to_one_folder(workdir):
    first = Output(Path("out"), FER_NAMES)
    with pytest.raises(FaceExprError, match="another analysis is writing to out"):
        Output(Path("out"), FER_NAMES)
    first.write(RECORD)
    first.close()
    second = Output(Path("out"), FER_NAMES)
    assert list(second.done) == ["a"]
    second.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(analyze, models, capsys):
    write("photos/a.png")
    Path("out").mkdir()
    Path("out/faces.jsonl").symlink_to("/dev/full")
    assert exit_code(command(models, "photos")) == 2
    assert capsys.readouterr().err == (
        "faceexpr analyze: error: --out: out cannot be written to: No space left on device\n"
    )
    Path("out/faces.jsonl").unlink()
    assert analyze("photos") == 0
    assert len(records()) == 1


@pytest.mark.parametrize("content", [b"mine", b"[]", b"\xff\xfe"])
def test_options_that_no_analysis_has_written_are_named(analyze, content):
    write("photos/a.png")
    Path("out").mkdir()
    Path("out/analysis.json").write_bytes(content)
    with pytest.raises(FaceExprError, match=r"out/analysis\.json does not hold the options of an analysis"):
        analyze("photos")


@pytest.mark.parametrize(
    "change",
    [
        {"width": ...}, {"faces": [1]}, {"faces": None}, {"faces": [{"box": [0, 0, 1, 1]}]}, {"image": 1},
        {"faces": [{"box": None, "score": 1, "expression": None, "probabilities": None}]}, {"name": None},
        {"notes": None},
    ],
)  # fmt: skip
def test_a_record_that_lacks_something_is_named_by_its_line(analyze, change):
    write("photos/a.png")
    assert analyze("photos") == 0
    record = {name: value for name, value in {**RECORD, **change}.items() if value is not ...}
    with Path("out/faces.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    with pytest.raises(FaceExprError, match=r"faces\.jsonl, line 2 is not a record of an image"):
        analyze("photos")


def test_a_folder_in_the_place_of_the_records_is_named(analyze, models, capsys):
    write("photos/a.png")
    assert analyze("photos") == 0
    Path("out/faces.jsonl").unlink()
    Path("out/faces.jsonl").mkdir()
    assert exit_code(command(models, "photos")) == 2
    assert "out/faces.jsonl cannot be read or written: Is a directory" in capsys.readouterr().err


def test_a_detector_that_is_none_is_refused_with_the_reason(models, tmp_path):
    whole = (models / "detector.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    stored = torch.load(models / "detector.ckpt", weights_only=True)
    torch.save({**stored, "state_dict": {"foreign": torch.zeros(1)}}, tmp_path / "foreign.ckpt")
    for path, reason in (
        (tmp_path / "cut.ckpt", r"cut\.ckpt cannot be loaded as a checkpoint .*: it is damaged"),
        (tmp_path / "bare.ckpt", r"bare\.ckpt does not say what model it holds"),
        (tmp_path / "foreign.ckpt", r"foreign\.ckpt cannot be loaded as a detector: its weights do not fit"),
        (models / "classifier.ckpt", "it holds ExpressionClassifier; expected the checkpoint of a FaceDetector"),
    ):
        with pytest.raises(FaceExprError, match=reason):
            load_detector(path)


@pytest.mark.parametrize(
    ("option", "message"),
    [("--images=elsewhere", "--images is for the images that annotations name"), ("--device=meta", "--device is meta")],
)
def test_options_that_could_have_no_effect_are_refused(analyze, option, message):
    write("photos/a.png")
    with pytest.raises(FaceExprError, match=message):
        analyze("photos", option)
    assert not Path("out").exists()


def test_a_file_that_is_reached_in_two_ways_is_taken_once(analyze, capsys):
    write("photos/a.png")
    Path("link").symlink_to("photos")
    assert analyze("photos/a.png", "photos/../photos/a.png", "link/a.png") == 0
    assert "2 images were named more than once, and taken once" in capsys.readouterr().out
    assert [record["image"] for record in records()] == ["photos/a.png"]


def test_c09_a_name_whose_bytes_are_no_text_may_be_given_itself(models, workdir):
    name = os.fsdecode(b"bad\xff.png")
    write(name)
    assert exit_code(command(models, name)) == 0
    assert [record["image"] for record in records()] == [name]


def test_c01_a_broken_exif_block_is_passed_over_in_silence(models, workdir, recwarn):
    Path("a.jpg").write_bytes(encoded(smooth_image(40, 30), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff"))
    assert exit_code(command(models, "a.jpg")) == 0
    assert records()[0]["status"] == "ok"
    assert not [warning for warning in recwarn if "EXIF" in str(warning.message)]
