"""``faceexpr analyze`` over files and folders: what is written, what becomes of bad files, and going on."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from analysis_runs import BOX, records, rows, write
from conftest import exit_code
from image_files import encoded, smooth_image
from PIL import Image
from red_finder import RED, red_picture

from faceexpr.cli.main import main
from faceexpr.pipeline.inputs import collect_inputs
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

FIELDS = ["image", "name", "status", "reason", "width", "height", "faces", "notes"]


def test_a_folder_with_and_without_faces_of_which_crops_and_drawings_keep_red_red(analyze, capsys):
    for name, box in (("a", None), ("b", BOX), ("c", None)):
        write(f"photos/{name}.png", box)
    assert analyze("photos", "--crops=true", "--pictures=true", "--margin=0", "--shape=stretched") == 0
    assert [(record["image"], record["status"], len(record["faces"])) for record in records()] == [
        ("photos/a.png", "ok", 0), ("photos/b.png", "ok", 1), ("photos/c.png", "ok", 0),
    ]  # fmt: skip
    found, written = capsys.readouterr().out.splitlines()
    assert found == "1 face in 3 images; 2 of 3 without face"
    assert written == "written to out/faces.jsonl, out/faces.csv, out/pictures and out/crops"
    assert [(row["status"], row["face"]) for row in rows()] == [("ok", ""), ("ok", "1"), ("ok", "")]
    crop, drawing = (np.asarray(Image.open(f"out/{name}")) for name in ("crops/b.png.1.png", "pictures/b.png"))
    assert np.array_equal(crop, np.full((50, 40, 3), RED))
    assert drawing[45, 50].tolist() == list(RED)
    assert analyze("photos", "--min_score=0.95", classifier="eight.ckpt", out="surer") == 0
    assert [record["faces"] for record in records("surer")] == [[], [], []]
    assert "Contempt" in rows("surer")[0]
    assert analyze("photos", "--suppression=none", "--min_score=0.1", "--max_faces=1", out="one") == 0
    assert records("one")[1]["notes"] == ["more than 1 faces were found; the surest are given (max_faces)"]
    assert analyze("photos", "--inside=0.8", out="inside") == 0
    used = [json.loads(Path(folder, "analysis.json").read_text())["suppression"] for folder in ("one", "inside")]
    assert [options.get("inside") for options in used] == [None, 0.8]


def test_bad_files_have_records_of_their_own_and_the_exit_code_tells(analyze, capsys):
    ok = write("photos/ok.jpg")
    Path("photos/cut.jpg").write_bytes(ok.read_bytes()[: ok.stat().st_size * 6 // 10])
    Path("photos/empty.jpg").write_bytes(b"")
    Path("photos/text.jpg").write_text("no image")
    face, blank = (Image.fromarray(red_picture(box)) for box in (BOX, None))
    face.save("photos/two.GIF", save_all=True, append_images=[blank])
    write("photos/wide.png", width=400, height=300)
    assert analyze("photos", "absent.jpg", "--pictures=true", "--crops=true", "--max_pixels=50000") == 3
    assert [(record["image"], record["status"], record["reason"]) for record in records()] == [
        ("photos/cut.jpg", "error", "truncated"),
        ("photos/empty.jpg", "error", "empty file"),
        ("photos/ok.jpg", "ok", None),
        ("photos/text.jpg", "error", "not an image"),
        ("photos/two.GIF", "ok", None),
        ("photos/wide.png", "error", "too large: 400 x 300 pixels, the limit is 50,000 (max_pixels)"),
        ("absent.jpg", "error", "no such file"),
    ]
    assert [rows()[0][column] for column in ("status", "reason", "expression")] == ["error", "truncated", ""]
    assert records()[4]["notes"] == ["first of 2 frames"]
    assert "5 of 7 could not be analysed" in capsys.readouterr().out
    assert {path.name for path in Path("out/pictures").rglob("*.*")} == {"ok.jpg", "two.GIF.jpg"}


def test_names_of_any_script_or_bytes_are_read_drawn_and_written(analyze, monkeypatch):
    names = ["a b#1%.png", "café 顔.png", os.fsdecode(b"\xff.png")]
    for name in names:
        write(f"été/{name}")
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", console)
    out = Path("sortie 顔")
    for _ in range(2):
        assert analyze("été", "--pictures=true", "--crops=true", out=str(out)) == 0
        assert [(record["image"], len(record["faces"])) for record in records(out)] == [
            (f"été/{name}", 1) for name in names
        ]
    console.flush()
    assert b"sortie \\u9854" in console.buffer.getvalue()
    assert "été/café 顔.png".encode() in (out / "faces.csv").read_bytes()
    assert sorted(path.name for path in (out / "pictures").iterdir()) == names
    assert sorted(path.name for path in (out / "crops").iterdir()) == [f"{name}.1.png" for name in names]


def test_the_same_fields_whatever_was_found_and_exact_names_and_numbers(analyze):
    odd = ['quo"te, comma.png', "line\nbreak.png", "return\rand\u2028separator.png", "[1, 2].png", "1.png", "null.png"]
    for name in odd:
        write(f"photos/{name}")
    write("photos/none.png", None)
    assert analyze("photos", *[f"photos/{name}" for name in odd[3:]]) == 0
    found, table = records(), rows()
    assert {record["image"] for record in found} == {f"photos/{name}" for name in [*odd, "none.png"]}
    assert all(list(record) == FIELDS for record in found)
    assert [row["image"] for row in table] == [record["image"] for record in found]
    columns = (
        "image", "status", "reason", "width", "height", "face", "left", "top", "right", "bottom", "score", "expression",
        "expressions", *FER_NAMES, "notes",
    )  # fmt: skip
    assert tuple(table[0]) == columns
    for row, record in zip(table, found, strict=True):
        for face in record["faces"]:
            assert {name: float(row[name]) for name in FER_NAMES} == face["probabilities"]
            assert [float(row[side]) for side in ("left", "top", "right", "bottom")] == face["box"] == list(BOX)
            assert sum(face["probabilities"].values()) == pytest.approx(1, abs=1e-5)
            assert (row["expression"], float(row["score"])) == (face["expression"], face["score"])


def test_drawings_mirror_the_folders_and_none_takes_the_place_of_another(analyze):
    wanted = {
        "x/a.png": "x/a.png", "x/a/1.png": "x/a/1.png", "y/a.png": "y/a.png", "y/b.gif": "y/b.gif.jpg",
        "y/b.gif.jpg": "y/b.gif-2.jpg", "z/a.png": "a.png", "w/a.png": "a-2.png",
    }  # fmt: skip
    for path in wanted:
        write(path, None)
    assert analyze("x", "y", "z/a.png", "w/a.png", "--pictures=true") == 0
    assert {record["image"]: record["name"] for record in records()} == wanted
    assert {str(path.relative_to("out/pictures")) for path in Path("out/pictures").rglob("*.*")} == {*wanted.values()}


def test_files_of_the_users_own_are_never_overwritten(analyze):
    write("photos/pictures/a.png")
    with pytest.raises(FaceExprError, match=r"photos/pictures is there already, and no analysis has written it"):
        analyze("photos", "--pictures=true", out="photos")
    place = Path("out", "detections.json")
    place.parent.mkdir()
    place.write_text("mine")
    with pytest.raises(FaceExprError, match=f"{place} is there already"):
        analyze("photos", "--coco=true")
    assert place.read_text() == "mine"


def test_coco_detections_have_the_ids_of_the_annotations(analyze):
    for name, box in (("a", BOX), ("b", None), ("c", BOX)):
        write(f"photos/{name}.png", box)
    size = {"width": 120, "height": 90}
    truth = {
        "images": [{"id": 70, "file_name": "c.png", **size}, {"id": 80, "file_name": "b.png", **size}],
        "annotations": [{"id": 1, "image_id": 70, "category_id": 7, "bbox": [30, 20, 40, 50]}],
        "categories": [{"id": 7, "name": "face"}],
    }  # fmt: skip
    Path("truth.json").write_text(json.dumps(truth))
    row = {"bbox": [30, 20, 40, 50], "score": 0.9}
    assert analyze("photos", "--coco=true") == 0
    found = json.loads(Path("out/detections.json").read_text())
    assert found == [{"image_id": number, "category_id": 1, **row} for number in (1, 3)]
    assert analyze("photos", "--coco=true", "--annotations=truth.json", "--images=photos") == 0
    assert json.loads(Path("out/detections.json").read_text()) == [{"image_id": 70, "category_id": 7, **row}]


def test_annotations_may_stand_in_for_the_detector(analyze):
    write("photos/a.png")
    write("photos/b.png")
    Path("truth.txt").write_text("a.png\n1\n10 20 30 40 0 0 0 0 0 0\n")
    assert analyze("photos", "--detector=truth.txt", "--images=photos") == 3
    known, unknown = records()
    assert [(face["box"], face["score"]) for face in known["faces"]] == [([10, 20, 40, 60], 1.0)]
    assert unknown["reason"] == "photos/b.png: truth.txt does not say where its faces are"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--min_score=2", "min_score is 2"), ("--margin=-1", "margin is -1"), ("--device=warp", "device is warp"),
        ("--no_such=1", "no_such"), ("--classifier=absent.ckpt", r"classifier: absent\.ckpt does not exist"),
        ("--detector=wider_ligth", "; the nearest is wider_light$"),
        ("--images=elsewhere", "images is for the images that annotations name"),
        ("--annotations=truth.json", "expected coco true with it"),
        ("--coverage=0.7", "^--coverage is 0.7, but the classifier was calibrated for none;"),
    ],
)  # fmt: skip
def test_a_bad_option_is_one_sentence_and_nothing_is_written(analyze, option, message):
    write("photos/a.png")
    with pytest.raises(FaceExprError, match=message):
        analyze("photos", option)
    assert not Path("out").exists()


def test_without_the_extra_nothing_is_promised_before_it_is_named(analyze, workdir, monkeypatch, capsys):
    write("photos/a.png")
    monkeypatch.setenv("XDG_CACHE_HOME", str(workdir))
    monkeypatch.setattr("faceexpr.weights.onnx_file.find_spec", lambda name: None)
    with pytest.raises(FaceExprError, match=r"^onnx is not installed; install it with pip"):
        analyze("photos", "--runtime=onnx")
    assert capsys.readouterr().out == ""


def test_without_a_folder_each_face_is_printed_and_nothing_is_written(analyze, capsys):
    write("photos/a.png")
    write("photos/b.png", None)
    Path("photos/text.jpg").write_text("no image")
    assert analyze("photos", out=None) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["image", "left", "top", "right", "bottom", "score", "expressions"]
    name, *numbers, expressions = lines[1].split(maxsplit=6)
    assert [name, *map(float, numbers)] == ["photos/a.png", *BOX, 0.9]
    assert all(part.split()[0] in FER_NAMES and part.endswith("%") for part in expressions.split(", "))
    assert [line.split(maxsplit=1) for line in lines[2:4]] == [
        ["photos/b.png", "no face"], ["photos/text.jpg", "failed: not an image"]
    ]  # fmt: skip
    assert {line.index(word) for line, word in zip(lines[2:4], ("no face", "failed"), strict=True)} == {17}
    assert lines[4:] == ["1 face in 3 images; 1 of 3 without face", "1 of 3 could not be analysed"]
    assert [path.name for path in Path().iterdir()] == ["photos"]
    with pytest.raises(FaceExprError, match=r"^--crops is True; expected --out with it"):
        analyze("photos", "--crops", out=None)


def test_images_are_drawn_later_from_their_records_as_they_would_have_been(analyze, capsys):
    write("photos/a.png")
    write("photos/gone.png")
    write("photos/wide.png", width=1100, height=1050)
    Path("photos/text.jpg").write_text("no image")
    options = ["photos", "--reduce_to=500"]
    assert analyze(*options, "--pictures=true", out="whole") == 3
    assert analyze(*options) == 3
    assert "1 of 4 could not be analysed:\n  photos/text.jpg: not an image\n" in capsys.readouterr().out
    before = Path("out/faces.jsonl").read_bytes()
    write("photos/gone.png", width=50)
    assert analyze("--pictures", *options) == 3
    printed = capsys.readouterr().out
    assert "2 drawn from records\nphotos/gone.png is not drawn: another image than the one that was analysed" in printed
    assert Path("out/faces.jsonl").read_bytes() == before
    for name in ("a.png", "wide.png"):
        assert Path("out/pictures", name).read_bytes() == Path("whole/pictures", name).read_bytes()
    assert not Path("out/pictures/gone.png").exists()
    assert analyze(*options, "--pictures") == 3
    assert "0 drawn from records" in capsys.readouterr().out


def test_a_file_that_is_reached_in_two_ways_is_taken_once(workdir):
    write("photos/a.png")
    Path("link").symlink_to("photos")
    found = collect_inputs([Path("photos/a.png"), Path("photos/../photos/a.png"), Path("link/a.png")])
    assert found.notes() == ["2 images were named more than once, and taken once"]
    assert [*found.images] == ["photos/a.png"]


def test_a_broken_exif_block_is_passed_over_in_silence(models, workdir, capsys):
    Path("a.jpg").write_bytes(encoded(smooth_image(40, 30), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff"))
    steps = ["--detector", str(models / "detector.ckpt"), "--classifier", str(models / "classifier.ckpt")]
    assert exit_code(lambda: main(["analyze", "a.jpg", *steps, "--device=cpu", "--out=out"])) == 0
    assert records()[0]["status"] == "ok"
    assert "EXIF" not in capsys.readouterr().err
