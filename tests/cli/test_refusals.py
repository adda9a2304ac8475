"""What goes wrong outside of a verb's own care: interruptions, closed outputs, unreadable files, bad configurations."""

import errno
import os
import re
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import exit_code
from image_files import encoded, smooth_image

from faceexpr.cli import annotate
from faceexpr.cli.main import main


@pytest.fixture
def annotations(workdir):
    Path("a.png").write_bytes(encoded(smooth_image(40, 30), "PNG"))
    Path("boxes.txt").write_text("a.png\n1\n4 4 20 20 0 0 0 0 0 0\n")


REFUSED = PermissionError(errno.EACCES, "Permission denied", "secret.txt")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (REFUSED, 2, "faceexpr annotate: error: secret.txt cannot be read or written: Permission denied\n"),
    ],
)
def test_ctrl_c_and_the_system_end_a_verb_in_a_line(error, code, message, annotations, monkeypatch, capsys):
    monkeypatch.setattr(annotate, "read_annotations", Mock(side_effect=error))
    assert exit_code(lambda: main(["annotate", "boxes.txt", "--out", "drawn"])) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("rank", ["RANK=abc", "LOCAL_RANK="])
def test_a_rank_that_is_no_number_is_refused(rank, annotations, monkeypatch, capsys):
    name, _, value = rank.partition("=")
    monkeypatch.setenv(name, value)
    assert exit_code(lambda: main(["fit"])) == 2
    assert capsys.readouterr().err.startswith(
        f"faceexpr fit: error: the environment says {rank}; expected a whole number"
    )
    monkeypatch.setenv(name, " 0 ")
    main(["annotate", "boxes.txt", "--out", "drawn"])


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [("closed", 0, ""), ("full", 2, "No space left on device"), ("unread", 141, "")],
)
def test_output_that_goes_nowhere_ends_without_a_traceback(annotations, output, code, message, monkeypatch, capsys):
    full = os.open("/dev/full", os.O_WRONLY)
    reader, unread = os.pipe()
    os.close(reader)
    stream = None if output == "closed" else os.fdopen({"full": full, "unread": unread}[output], "w")
    monkeypatch.setattr(sys, "stdout", stream)
    assert exit_code(lambda: main(["annotate", "boxes.txt", "--out", "drawn"])) == code
    assert message in capsys.readouterr().err
    if output == "unread" and stream is not None:
        stream.close()  # as the interpreter does at its end: what it still holds goes nowhere


@pytest.mark.parametrize(
    ("verb", "text", "message"),
    [
        (["analyze", "photos", "--config"], b"- 1\n", "bad.yaml holds list values; expected options"),
        (["detectron2", "fit", "--config"], b"", "bad.yaml is empty; expected options"),
        (["sweep", "--sweep"], b"a: [1\nb: 2", "bad.yaml, line 2: "),
        (["fit", "--config"], b"a: [1\nb: 2", "bad.yaml, line 2: "),
        (["fit", "--config"], b"\xff\xfe\x00", "bad.yaml"),
        (["fit", "--config"], b"trainr: {max_epochs: 1}", "bad.yaml: --trainr.max_epochs is no option; the nearest"),
        (["fit", "--config"], b"model: {class_path: KNNClassifier, init_args: {kk: 3}}", "yaml: --model.kk is no "),
    ],
)
def test_a_wrong_configuration_is_named_by_every_verb(workdir, verb, text, message, capsys):
    Path("bad.yaml").write_bytes(text)
    assert exit_code(lambda: main([*verb, "bad.yaml"])) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["analyze", "https://host/a.JPG?x=1"], "https://host/a.JPG?x=1 is a link to an image; expected a file: "),
        (["analyze", "rtsp://host/a"], "--out is not given; expected a folder for the results of a video"),
        (["analyze", "absent.mp4", "--out=o"], "absent.mp4 does not exist; expected a video\n"),  # without the extra
        (["analyze", "a.png", "--detector=fer2013_compact"], "error: fer2013_compact cannot be loaded as a detector: "),
        (["annotate", "boxes.txt", "--out=a.png"], "a.png is a file; expected a folder\n"),
        (["annotate", "boxes.txt", "--out=a.png/drawn"], "a.png is a file; expected a folder\n"),
        (["audit", "absent", "--out=o"], "absent is not there; expected a folder of faces, FER-"),
        (["audit", "empty", "--out=o"], "empty is empty; expected a folder of faces"),
        (["audit", "lost.txt", "--out=o"], "lost.txt: 1 of 1 image missing or unreadable: b.png (no such file); "
            "expected them beside the annotations, in a folder named for them, or in FOLDER by --data FaceBoxes "
            "--data.train lost.txt --data.images FOLDER\n"),
        (["audit", "--data=FaceBoxes", "--data.train=lost.txt", "--out=o"], "or in FOLDER by --data.images FOLDER\n"),
        (["export"], "error: missing: --out; see `faceexpr export --help`\n"),
        (["annotate"], "error: missing: annotations and --out; see `faceexpr annotate --help`\n"),
    ],
)  # fmt: skip
def test_inputs_and_outputs_that_are_not_there_or_are_something_else_are_named(args, message, annotations, capsys):
    Path("empty").mkdir()
    Path("lost.txt").write_text(Path("boxes.txt").read_text().replace("a.png", "b.png"))
    assert exit_code(lambda: main(args)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict", "analyze"])
def test_variables_of_a_batch_system_without_its_launcher_are_refused(verb, fitted, monkeypatch, capsys):  # case N30
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    args = ["photos", "--out=out"] if verb == "analyze" else ["--ckpt_path", str(fitted / "checkpoints/last.ckpt")]
    assert exit_code(lambda: main([verb, *args])) == 2
    assert re.search(r"error: .*(ntasks=4|SLURM_NTASKS is 4)", capsys.readouterr().err)
    assert not Path("out").exists()
