"""An analysis by several processes: the parts of any number of them are together what one process writes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from analysis_runs import BOX, analyzer, records, write
from conftest import exit_code
from processes import free_port, run_together, start, torchrun

from faceexpr.cli.merge import run as run_merge
from faceexpr.pipeline import pipeline as pipeline_module
from faceexpr.pipeline.output import Output
from faceexpr.pipeline.shard import PARTS
from faceexpr.utils.errors import FaceExprError

EXTRA = ("--pictures=true", "--crops=true")


@pytest.fixture
def analyze(models, workdir):
    # With one image a batch the last digit of a probability does not depend on what else is in it.
    return partial(analyzer(models), "--batch_size=1")


def merge(out, *args):
    return exit_code(lambda: run_merge(["merge", str(out), *args]))


def photos(number, folder="photos"):
    for index in range(number):
        write(f"{folder}/{index % 2}/{index:03}.png", (10 + index % 7, 20, 60, 70) if index % 5 else None)
    return [f"{folder}/{half}/{index:03}.png" for half in (0, 1) for index in range(half, number, 2)]


def results(out):
    """What a folder holds but for the parts."""
    return {
        name: path.read_bytes()
        for path in sorted(Path(out).rglob("*"))
        if path.is_file() and not (name := str(path.relative_to(out))).startswith(PARTS)
    }


def parts(out):
    return [
        json.loads(line)["image"] for path in sorted(Path(out, PARTS).glob("*/faces.jsonl")) for line in path.open("rb")
    ]


def command(models, *args, out="out"):
    steps = ["--detector", str(models / "detector.ckpt"), "--classifier", str(models / "classifier.ckpt")]
    return ["analyze", *args, *steps, "--out", out, "--device=cpu", "--batch_size=1"]


def test_merged_parts_are_byte_for_byte_what_one_process_writes(analyze):
    photos(11)
    Path("photos/1/005.png").write_bytes(b"no picture")
    given = ["photos", "photos/0/002.png", "absent.jpg", *EXTRA]
    assert analyze(*given, "--coco=true", out="one") == 3
    for count in (2, 3):
        out = f"of{count}"
        assert [analyze(*given, f"--shard={index}/{count}", out=out) for index in range(count)] == [0] * count
        assert sorted(parts(out)) == sorted(record["image"] for record in records("one"))
        assert merge(out, "--coco=true") == 3
        assert results(out) == results("one")
        assert merge(out, "--coco=true") == 3
        assert results(out) == results("one")


def test_processes_that_begin_together_agree_on_options_names_and_order(analyze, models, workdir):
    photos(9)
    write("more/0/000.png")
    assert analyze("photos", "more", *EXTRA, out="one") == 0
    assert run_together(command(models, "photos", "more", *EXTRA), workdir, 3) == [0, 0, 0]
    assert len(parts("out")) == 10
    assert merge("out") == 0
    assert results("out") == results("one")
    log = Path("process-1.log").read_text()
    assert "part 1-of-3: " in log
    assert "`faceexpr merge out` puts all parts together" in log


def test_nothing_is_doubled_or_lost_when_killed_at_random_and_started_in_other_numbers(analyze, models, workdir):
    sources = photos(60)
    assert analyze("photos", out="one") == 0
    seed = random.randrange(10**6)
    print("seed", seed)
    draw = random.Random(seed)
    for count in (3, 2, 4):
        running = [
            start(command(models, "photos"), workdir, workdir / "log", torchrun(rank, count, 1))
            for rank in range(count)
        ]
        before, deadline = len(parts_whole("out")), time.monotonic() + 60
        target = before + draw.randint(1, 12)
        while len(parts_whole("out")) < target and time.monotonic() < deadline:
            time.sleep(0.002)
        for process in draw.sample(running, count):
            process.kill()
            process.join()
        assert merge("out", "--partial=true") in (0, 3)  # what is merged early is not in the way
    assert analyze("photos", "--shard=0/1") == 0
    assert sorted(parts("out")) == sorted(sources)
    assert merge("out") == 0
    assert results("out") == results("one")


def parts_whole(out):
    return [line for path in Path(out, PARTS).glob("*/faces.jsonl") for line in path.open("rb") if line.endswith(b"\n")]


def test_a_torn_line_in_the_part_of_a_process_that_is_gone_is_done_by_another(analyze):
    sources = photos(12)
    assert [analyze("photos", f"--shard={index}/3") for index in range(3)] == [0, 0, 0]
    part = Path("out/parts/1-of-3/faces.jsonl")
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    assert [analyze("photos", f"--shard={index}/2") for index in range(2)] == [0, 0]
    assert analyze("photos", "--shard=1/3") == 0
    assert sorted(parts("out")) == sorted(sources)
    assert merge("out") == 0


def test_what_one_process_began_several_finish_and_one_goes_on_after_merging(analyze):
    photos(4)
    assert analyze("photos") == 0
    sources = photos(9)
    first = [record["image"] for record in records()]
    assert [analyze("photos", f"--shard={index}/2") for index in range(2)] == [0, 0]
    assert len(parts("out")) == 5
    assert merge("out") == 0
    merged = [record["image"] for record in records()]
    assert merged[:4] == first
    assert sorted(merged) == sorted(sources)
    write("photos/9.png")
    assert analyze("photos") == 0
    assert Path("out/parts/0-of-1/faces.jsonl").read_bytes().count(b"\n") == 1
    assert len(records()) == 9
    assert merge("out", "--remove_parts=true") == 0
    assert not Path("out/parts").exists()
    assert [record["image"] for record in records()] == [*merged, "photos/9.png"]
    write("photos/99.png")
    assert analyze("photos") == 0
    assert len(records()) == 11


def test_paths_that_are_added_follow_the_others_and_never_take_their_names(analyze):
    write("x/a.png")
    write("y/a.png")
    assert analyze("y/a.png", "--pictures=true", "--shard=0/2") == analyze("y/a.png", "--pictures=true", "--shard=1/2")
    for index in range(2):
        assert analyze("x/a.png", "y/a.png", "--pictures=true", f"--shard={index}/2") == 0
    assert merge("out") == 0
    assert [(record["image"], record["name"]) for record in records()] == [("y/a.png", "a.png"), ("x/a.png", "a-2.png")]
    assert sorted(path.name for path in Path("out/pictures").iterdir()) == ["a-2.png", "a.png"]


def test_failed_images_do_not_end_the_other_processes_and_merging_tells_of_them(analyze, capsys):
    photos(3)
    for index in range(2):
        assert analyze("photos", "absent.jpg", f"--shard={index}/2") == 0
    assert "1 of 2 could not be analysed" in capsys.readouterr().out
    assert merge("out") == 3
    assert "1 of 4 could not be analysed; the reason of each is in its record" in capsys.readouterr().out


def test_merging_says_what_is_missing_and_writes_nothing_or_what_there_is(analyze, capsys):
    sources = photos(4)
    assert analyze("photos", "--shard=1/2") == 0
    capsys.readouterr()
    assert merge("out") == 3
    said = capsys.readouterr().out
    missing = sorted(set(sources) - set(parts("out")))
    assert f"2 of 4 images are not analysed yet: {', '.join(missing)}" in said
    assert "the command of the analysis goes on with what is still there" in said
    assert not Path("out/faces.jsonl").exists()
    assert merge("out", "--partial=true", "--remove_parts=true") == 3
    assert "the parts are kept" in capsys.readouterr().out
    assert [record["image"] for record in records()] == [source for source in sources if source not in missing]
    assert analyze("photos", "--shard=0/2") == 0
    assert merge("out") == 0
    assert [record["image"] for record in records()] == sources


def test_merging_keeps_nobody_else_from_writing_unnoticed(analyze):
    photos(2)
    assert analyze("photos", "--shard=0/1") == 0  # one process without others writes no part
    assert not Path("out/parts").exists()
    output = Output(Path("out"), ["a"])
    with pytest.raises(FaceExprError, match="another analysis is writing to out"):
        merge("out")
    output.close()


def test_processes_of_another_number_are_not_begun_beside_others(analyze):
    photos(4)
    assert analyze("photos", "--shard=0/3") == 0
    busy = Output(Path("out/parts/0-of-3"), ["a"])
    for shard in ("0/2", "0/1"):
        with pytest.raises(FaceExprError, match=r"in another way, is writing to out/parts/0-of-3"):
            analyze("photos", f"--shard={shard}")
    assert analyze("photos", "--shard=1/3") == 0
    with pytest.raises(FaceExprError, match="another analysis is writing to out/parts/0-of-3"):
        analyze("photos", "--shard=0/3")
    busy.close()
    assert analyze("photos", "--shard=0/2") == 0


def test_other_options_are_refused_in_every_part(analyze):
    photos(3)
    assert analyze("photos", "--shard=0/2") == 0
    with pytest.raises(FaceExprError, match="holds results with margin"):
        analyze("photos", "--shard=1/2", "--margin=0.5")
    with pytest.raises(FaceExprError, match="expected it with `faceexpr merge`"):
        analyze("photos", "--shard=1/2", "--coco=true")


def test_more_processes_than_images_and_none_with_a_face(analyze, capsys):
    write("photos/a.png", None)
    assert [analyze("photos", f"--shard={index}/3") for index in range(3)] == [0, 0, 0]
    assert merge("out") == 0
    assert analyze("photos", out="one") == 0
    assert results("out") == results("one")


def test_a_name_whose_bytes_are_no_text_is_in_the_list_of_images_too(analyze):
    write("photos/a.png")
    Path("photos/a.png").rename(Path(os.fsdecode(b"photos/\xff.png")))
    assert [analyze("photos", f"--shard={index}/2", "--pictures=true") for index in range(2)] == [0, 0]
    assert merge("out") == 0
    assert [os.fsencode(record["image"]) for record in records()] == [b"photos/\xff.png"]


def test_sigterm_ends_after_the_record_with_a_code_of_its_own(analyze, monkeypatch, capsys):
    photos(9)
    read, calls, before = pipeline_module.find, iter(range(10)), signal.getsignal(signal.SIGTERM)

    def told_to_end(*args):
        if next(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(*args)

    monkeypatch.setattr(pipeline_module, "find", told_to_end)
    assert analyze("photos", "--batch_size=4", "--shard=0/1") == 75
    assert "stopped by SIGTERM: 4 of 9 images are done; the same command goes on" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before
    assert analyze("photos", "--batch_size=4") == 0
    assert len(records()) == 9


def test_sigterm_within_a_record_lets_it_end(analyze, monkeypatch):
    photos(5)
    write_one = Output.write

    def told_to_end(self, record):
        os.kill(os.getpid(), signal.SIGTERM)
        write_one(self, record)

    monkeypatch.setattr(Output, "write", told_to_end)
    assert analyze("photos") == 75
    assert len(records()) == 1
    assert Path("out/faces.csv").read_bytes().count(b"\n") == 2


def test_sigterm_before_the_first_image(analyze, monkeypatch, capsys):
    write("photos/a.png", BOX)
    monkeypatch.setattr(
        "faceexpr.cli.analyze.collect", lambda *args: os.kill(os.getpid(), signal.SIGTERM), raising=True
    )
    assert analyze("photos") == 75
    assert "stopped by SIGTERM; the same command goes on" in capsys.readouterr().out


@pytest.mark.slow
def test_torchrun_starts_the_processes(analyze, models, workdir):
    photos(6)
    given = command(models, "photos", "absent.png")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port", str(free_port())]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*launcher, "-m", "faceexpr", *given], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in Path("out/parts").iterdir()) == ["0-of-2", "1-of-2", "inputs-1.jsonl"]
    assert merge("out") == 3
    assert analyze("photos", "absent.png", out="one") == 3
    assert results("out") == results("one")
