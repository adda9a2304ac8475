"""What an analysis leaves when it is stopped, how it goes on, and how the parts of several processes are merged."""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from analysis_runs import analyzer, records, rows, write
from conftest import exit_code
from processes import start

from faceexpr.cli.analyze import refuse_several_tasks
from faceexpr.cli.main import main
from faceexpr.cli.merge import run as run_merge
from faceexpr.pipeline.output import Output, Shard, Summary, report
from faceexpr.pipeline.pipeline import FacePipeline
from faceexpr.pipeline.records import PARTS
from faceexpr.utils.errors import FaceExprError

RECORD = {"image": "a", "name": "a", "status": "ok", "reason": None, "width": 9, "height": 9, "faces": [], "notes": []}


@pytest.fixture
def analyze(models, workdir):
    # With one image a batch the last digit of a probability does not depend on what else is in it.
    return partial(analyzer(models), "--batch_size=1")


def merge(out, *args):
    return exit_code(lambda: run_merge(["merge", str(out), *args]))


def photos(number):
    for index in range(number):
        write(f"photos/{index % 2}/{index:03}.png", (10 + index % 7, 20, 60, 70) if index % 5 else None)
    return [f"photos/{half}/{index:03}.png" for half in (0, 1) for index in range(half, number, 2)]


def images():
    return [record["image"] for record in records()]


def results(out):
    """What a folder holds but for the parts and the options, which tell of them."""
    return {
        name: path.read_bytes()
        for path in sorted(Path(out).rglob("*"))
        if path.is_file() and not (name := str(path.relative_to(out))).startswith((PARTS, "analysis.json"))
    }


def command(models, path):
    steps = ["--detector", str(models / "detector.ckpt"), "--classifier", str(models / "classifier.ckpt")]
    return ["analyze", path, *steps, "--device=cpu", "--out=out"]


@pytest.mark.parametrize(
    ("failed", "lines"),
    [
        (None, ["0 faces in 1 image; 1 of 1 without face"]),
        ("no such file", ["0 faces in 1 image", "1 of 1 could not be analysed:", "  a: no such file"]),
    ],
)
def test_only_images_that_were_analysed_are_without_a_face(failed, lines, capsys):
    assert report([Summary("a", "a", failed, 0)]) == len(lines) // 2
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize("torn", [b'{"image": "photos/2.png", "na', b""])
def test_a_run_that_was_killed_in_the_middle_of_a_line_goes_on(analyze, torn, capsys):
    for number in range(4):
        write(f"photos/{number}.png")
    assert analyze("photos") == 0
    whole = results("out")
    lines = Path("out/faces.jsonl").read_bytes().splitlines(keepends=True)
    Path("out/faces.jsonl").write_bytes(b"".join(lines[:2]) + torn)
    Path("out/faces.csv").write_bytes(Path("out/faces.csv").read_bytes()[:-150])
    for _ in range(2):
        assert analyze("photos") == 0
        assert results("out") == whole
    assert "2 images were done before; 2 to go" in capsys.readouterr().out


def test_ctrl_c_ends_with_what_is_done_and_the_same_command_goes_on(analyze, monkeypatch, capsys):
    for number in range(12):
        write(f"photos/{number:02}.png")
    real, calls = FacePipeline._analyze, iter(range(10))

    def interrupt(*args):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(FacePipeline, "_analyze", interrupt)
    assert analyze("photos", "--batch_size=5") == 130
    assert "5 of 12 images are done; the same command goes on from there" in capsys.readouterr().out
    assert len(records()) == 5
    assert analyze("photos", "--batch_size=5") == 0
    assert images() == [row["image"] for row in rows()] == [f"photos/{number:02}.png" for number in range(12)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_loses_and_doubles_no_row(analyze, models, number):
    for index in range(200):
        write(f"photos/{index:03}.png")
    process = start([*command(models, "photos"), "--pictures=true"], Path.cwd(), Path("log").absolute())
    target, deadline = Path("out/faces.jsonl"), time.monotonic() + 90
    while time.monotonic() < deadline and process.is_alive() and not (target.is_file() and target.stat().st_size):
        time.sleep(0.005)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == -number, Path("log").read_text()
    assert 0 < target.read_bytes().count(b"\n") < 200
    assert analyze("photos", "--pictures=true") == 0
    assert images() == [row["image"] for row in rows()] == [f"photos/{index:03}.png" for index in range(200)]


def test_going_on_with_other_options_or_weights_is_refused(analyze):
    write("photos/a.png")
    assert analyze("photos") == 0
    with pytest.raises(FaceExprError, match=r"out holds .* than this run has: margin 0\.05 -> 0\.3; expected"):
        analyze("photos", "--margin=0.3")
    with pytest.raises(FaceExprError, match=r"has: classifier .*/classifier\.ckpt \(\w{8}\) -> .*/eight"):
        analyze("photos", classifier="eight.ckpt")
    # An option that was not there when the folder was begun was off.
    place = Path("out/analysis.json")
    options = json.loads(place.read_bytes())
    del options["explain"]
    del options["suppression"]  # as of 0.1, which kept only what was given
    place.write_text(json.dumps(options))
    with pytest.raises(FaceExprError, match="has: explain null -> true; expected"):
        analyze("photos", "--explain=true")
    write("photos/b.png")
    assert analyze("photos", "--batch_size=2", "--face_batch=3") == 0
    assert images() == ["photos/a.png", "photos/b.png"]
    for content in (b"mine", b"[]", b"\xff\xfe"):
        place.write_bytes(content)
        with pytest.raises(FaceExprError, match=r"out/analysis\.json does not hold the options of an analysis"):
            analyze("photos")


FACE = {"box": [0, 0, 1, 1], "score": 1, "expression": None, "expressions": None, "probabilities": None}


def test_the_suppression_is_recorded_whoever_has_chosen_it(analyze):  # case N14
    write("photos/a.png")
    used = {"method": "nms", "iou": 0.5, "min_score": 0.5, "max_faces": 300, "sigma": 0.5}
    for out, options, changes in (
        ("out", [], {}),
        ("two", ["--suppression=wbf", "--iou=0.4", "--max_faces=9"], {"method": "wbf", "iou": 0.4, "max_faces": 9}),
    ):
        assert analyze("photos", *options, out=out) == 0
        options = json.loads(Path(out, "analysis.json").read_bytes())
        assert options["suppression"] == used | changes
        assert options["max_faces"] == options["suppression"]["max_faces"]
    with pytest.raises(FaceExprError, match=r"has: iou 0\.4 -> 0\.5, suppression wbf -> nms; expected"):
        analyze("photos", "--max_faces=9", out="two")


@pytest.mark.parametrize(
    "change",
    [
        {"width": ...}, {"faces": None}, {"faces": [1]}, {"faces": [{"box": [0, 0, 1, 1]}]},
        {"image": 3}, {"notes": "a text"}, {"notes": [1]}, {"width": "9"},
        *({"faces": [FACE | wrong]} for wrong in (
            {"box": None}, {"box": [0, 1, 2]}, {"box": [0, 0, 1, "1"]}, {"score": None}, {"expression": 1},
            {"expressions": [1]}, {"probabilities": [1]}, {"probabilities": {"Happy": "1"}},
        )),
    ],
)  # fmt: skip
def test_a_record_that_lacks_something_is_named_by_its_line(tmp_path, change):
    wrong = {name: value for name, value in {**RECORD, **change}.items() if value is not ...}
    (tmp_path / "faces.jsonl").write_text(f"{json.dumps(RECORD)}\n{json.dumps(wrong)}\n")
    with pytest.raises(FaceExprError, match=r"faces\.jsonl, line 2 is not a record of an image"):
        Output(tmp_path, ["Happy"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(analyze, models, capsys):
    write("photos/a.png")
    Path("out").mkdir()
    Path("out/faces.jsonl").symlink_to("/dev/full")
    assert exit_code(lambda: main(command(models, "photos"))) == 2
    error = "faceexpr analyze: error: --out: out cannot be written to: No space left on device\n"
    assert error in capsys.readouterr().err
    Path("out/faces.jsonl").unlink()
    assert analyze("photos") == 0
    assert len(records()) == 1


@pytest.mark.parametrize("text", ["3", "a/b", "16/16", "-1/4", "1/", "²/3", "1/2/3"])
def test_a_shard_that_makes_no_sense_is_named(text):
    with pytest.raises(FaceExprError, match=f"^shard is {text}; expected INDEX/COUNT"):
        Shard.parse(text)


def test_several_tasks_of_a_launcher_need_a_shard(analyze, monkeypatch):
    write("photos/a.png")
    for announced in ({"WORLD_SIZE": "2"}, {"SLURM_NTASKS": "8"}, {"SLURM_STEP_NUM_TASKS": "3", "SLURM_NTASKS": "1"}):
        with pytest.raises(FaceExprError, match=r"each of these tasks would analyse all images; expected --shard"):
            refuse_several_tasks(announced)
    for announced in ({}, {"WORLD_SIZE": "1"}, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}):
        refuse_several_tasks(announced)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(FaceExprError, match=r"^WORLD_SIZE is 2"):
        analyze("photos")
    assert analyze("photos", "--shard=0/1") == 0


def test_merged_parts_are_byte_for_byte_what_one_process_writes(analyze):
    photos(7)
    Path("photos/1/005.png").write_bytes(b"no image")
    Path("photos/1/003.png").rename(Path(os.fsdecode(b"photos/1/\xff.png")))
    given = ["photos", "photos/0/002.png", "absent.jpg", "--pictures=true", "--crops=true"]
    assert analyze(*given, "--coco=true", out="one") == 3
    for count in (2, 10):  # the second is more than there are images
        out = f"of{count}"
        assert [analyze(*given, f"--shard={index}/{count}", out=out) for index in range(count)] == [0] * count
        for _ in range(2):
            assert merge(out, "--coco=true") == 3
            assert results(out) == results("one")
    assert merge("one", "--coco=true") == 3  # without parts its own records are written anew
    assert results("one") == results("of2")


def test_a_part_goes_on_where_it_was_stopped_and_merging_tells_what_is_missing(analyze, capsys):
    sources = photos(12)
    assert [analyze("photos", f"--shard={index}/3") for index in (0, 2)] == [0, 0]
    part = Path("out/parts/2-of-3/faces.jsonl")
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    capsys.readouterr()
    assert merge("out") == 3
    assert "5 of 12 images are not analysed yet; they are those of 1-of-3 (4), 2-of-3 (1)" in capsys.readouterr().out
    assert not Path("out/faces.jsonl").exists()
    assert merge("out", "--partial=true", "--remove_parts=true") == 3
    assert "the parts are kept" in capsys.readouterr().out
    assert images() == [source for place, source in enumerate(sources) if place % 3 != 1 and place != 11]
    assert [analyze("photos", f"--shard={index}/3") for index in (1, 2)] == [0, 0]
    assert merge("out", "--remove_parts=true") == 0
    assert images() == sources
    # What is merged is then a folder of one process, which goes on in it.
    assert not Path("out/parts").exists()
    write("photos/9.png")
    assert analyze("photos") == 0
    assert images() == [*sources, "photos/9.png"]
    assert merge("out") == 0
    assert len(records()) == 13


def test_parts_belong_to_one_list_of_images_and_one_number_of_processes(analyze):
    photos(4)
    assert analyze("photos", "--shard=0/2") == 0
    for other, count in (("0/3", 3), ("0/1", "null")):
        with pytest.raises(FaceExprError, match=f"has: shards 2 -> {count}[,;]"):
            analyze("photos", f"--shard={other}")
    write("photos/more.png")
    with pytest.raises(FaceExprError, match=r"has: inputs 4 \(\w{8}\) -> 5 \("):
        analyze("photos", "--shard=1/2")
    with pytest.raises(FaceExprError, match="expected it with `faceexpr merge`"):
        analyze("photos", "--shard=1/2", "--coco=true")


def test_merging_without_anything_to_merge_is_one_sentence(workdir):
    for options, message in (
        ([], "out holds no results; expected the folder of an analysis"),
        (["--annotations=truth.json"], "expected coco true with it"),
        (["--images=photos"], "expected annotations with it"),
    ):
        with pytest.raises(FaceExprError, match=message):
            merge("out", *options)
