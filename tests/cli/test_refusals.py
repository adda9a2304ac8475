"""What goes wrong outside of a verb's own care: interruptions, closed outputs, unreadable files, bad configurations."""

import errno
import os
import sys
from pathlib import Path

import pytest
from conftest import exit_code
from image_files import encoded, smooth_image

from faceexpr.cli import annotate
from faceexpr.cli.main import _check_ranks, main


@pytest.fixture
def annotations(workdir: Path) -> Path:
    Path("a.png").write_bytes(encoded(smooth_image(40, 30), "PNG"))
    Path("boxes.txt").write_text("a.png\n1\n4 4 20 20 0 0 0 0 0 0\n")
    return Path("boxes.txt")


def test_ctrl_c_ends_every_verb_in_a_word(
    annotations: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(annotate, "read_annotations", interrupt)
    assert exit_code(lambda: main(["annotate", "boxes.txt", "--out", "drawn"])) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("rank", ["RANK=abc", "LOCAL_RANK="])
def test_a_rank_that_is_no_number_is_refused(
    rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _, value = rank.partition("=")
    monkeypatch.setenv(name, value)
    assert exit_code(lambda: main(["fit"])) == 2
    assert capsys.readouterr().err.startswith(
        f"faceexpr fit: error: the environment says {rank}; expected a whole number"
    )
    monkeypatch.setenv(name, " 0 ")
    _check_ranks()


def test_a_file_that_the_system_refuses_is_named(
    annotations: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "secret.txt")

    monkeypatch.setattr(annotate, "read_annotations", refuse)
    assert exit_code(lambda: main(["annotate", "boxes.txt", "--out", "drawn"])) == 2
    error = "faceexpr annotate: error: secret.txt cannot be read or written: Permission denied\n"
    assert capsys.readouterr().err == error


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [("closed", 0, ""), ("full", 2, "No space left on device"), ("unread", 141, "")],
)
def test_output_that_goes_nowhere_ends_without_a_traceback(
    annotations: Path,
    output: str,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
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
        (["analyze", "photos", "--config"], "- 1\n", "bad.yaml holds list values; expected options"),
        (["detectron2", "fit", "--config"], "", "bad.yaml is empty; expected options"),
        (["sweep", "--sweep"], "a: [1\nb: 2", "bad.yaml, line 2: "),
        (["fit", "--config"], "a: [1\nb: 2", "bad.yaml, line 2: "),
    ],
)
def test_a_configuration_that_is_none_is_named_by_every_verb(
    workdir: Path, verb: list[str], text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text(text)
    assert exit_code(lambda: main([*verb, "bad.yaml"])) == 2
    assert message in capsys.readouterr().err
