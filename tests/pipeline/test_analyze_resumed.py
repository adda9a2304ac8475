"""An analysis that was stopped goes on, and two are equal."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from analysis_runs import records, rows, write

from faceexpr.pipeline import pipeline as pipeline_module
from faceexpr.utils.errors import FaceExprError


def folder_bytes(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(Path(out).rglob("*")) if path.is_file()}


def test_two_runs_are_equal_byte_for_byte(analyze):
    for number in range(10):
        write(f"photos/{number}.png", (10 + number, 20, 60, 70), width=100 + number % 3)
    extra = ["--pictures=true", "--crops=true", "--coco=true"]
    assert analyze("photos", *extra, out="one") == analyze("photos", *extra, out="two") == 0
    assert folder_bytes("one") == folder_bytes("two")
    assert len(folder_bytes("one")) == 24


@pytest.mark.parametrize("torn", [b'{"image": "photos/2.png", "na', b"\xc3", b""])
def test_a_run_that_was_killed_in_the_middle_of_a_line_goes_on(analyze, torn, capsys):
    for number in range(4):
        write(f"photos/{number}.png")
    assert analyze("photos", out="whole") == 0
    assert analyze("photos") == 0
    lines = Path("out/faces.jsonl").read_bytes().splitlines(keepends=True)
    Path("out/faces.jsonl").write_bytes(b"".join(lines[:2]) + torn)
    Path("out/faces.csv").write_bytes(Path("out/faces.csv").read_bytes()[:-150])
    capsys.readouterr()
    assert analyze("photos") == 0
    assert "2 images were done before; 2 to go" in capsys.readouterr().out
    assert folder_bytes("out") == folder_bytes("whole")
    assert analyze("photos") == 0
    assert folder_bytes("out") == folder_bytes("whole")


def test_ctrl_c_ends_with_what_is_done_and_the_same_command_goes_on(analyze, monkeypatch, capsys):
    for number in range(12):
        write(f"photos/{number:02}.png")
    read = pipeline_module.find
    calls = iter(range(10))

    def interrupted(*args):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return read(*args)

    monkeypatch.setattr(pipeline_module, "find", interrupted)
    assert analyze("photos", "--batch_size=5") == 130
    assert "5 of 12 images are done; the same command goes on from there" in capsys.readouterr().out
    assert len(records()) == 5
    assert analyze("photos", "--batch_size=5") == 0
    assert [record["image"] for record in records()] == [f"photos/{number:02}.png" for number in range(12)]
    assert len(rows()) == 12


def environment():
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_sigkill_loses_and_doubles_no_row(analyze, models):
    for number in range(400):
        write(f"photos/{number:03}.png")
    script = "import sys; from faceexpr.cli.analyze import run; run(sys.argv[1:])"
    command = [
        sys.executable, "-c", script, "analyze", "photos", "--detector", str(models / "detector.ckpt"), "--classifier",
        str(models / "classifier.ckpt"), "--out", "out", "--pictures=true", "--device=cpu",
    ]  # fmt: skip
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    target = Path("out/faces.jsonl")
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None and not (target.is_file() and target.stat().st_size):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < target.read_bytes().count(b"\n") < 400
    assert analyze("photos", "--pictures=true") == 0
    expected = [f"photos/{number:03}.png" for number in range(400)]
    assert [record["image"] for record in records()] == expected
    assert [row["image"] for row in rows()] == expected


def test_going_on_with_other_options_or_weights_is_refused(analyze, models, tmp_path):
    write("photos/a.png")
    assert analyze("photos") == 0
    with pytest.raises(FaceExprError, match=r"out holds results with margin 0\.05, and this run has 0\.3"):
        analyze("photos", "--margin=0.3")
    with pytest.raises(FaceExprError, match="holds results with classifier"):
        analyze("photos", classifier="eight.ckpt")
    write("photos/b.png")
    assert analyze("photos", "--batch_size=1") == 0
    assert len(records()) == 2


def test_a_folder_from_before_an_option_was_there_goes_on_without_it(analyze):
    write("photos/a.png")
    assert analyze("photos") == 0
    place = Path("out/analysis.json")
    options = json.loads(place.read_bytes())
    del options["explain"]
    place.write_text(json.dumps(options))
    write("photos/b.png")
    assert analyze("photos") == 0
    assert len(records()) == 2
    with pytest.raises(FaceExprError, match="holds results with explain None, and this run has True"):
        analyze("photos", "--explain=true")


def test_a_record_that_is_none_is_named_by_its_line(analyze):
    write("photos/a.png")
    assert analyze("photos") == 0
    with Path("out/faces.jsonl").open("ab") as file:
        file.write(b"[1, 2]\n")
    with pytest.raises(FaceExprError, match=r"faces\.jsonl, line 2 is not a record of an image"):
        analyze("photos")
