"""What goes wrong outside of a verb's own care: interruptions, closed outputs, unreadable files, bad configurations."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, exit_code
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
    [(">&-", 0, ""), ("> /dev/full", 2, "No space left on device"), ("| true", 141, "")],
    ids=["closed", "full", "unread"],
)
def test_output_that_goes_nowhere_leaves_no_traceback(annotations: Path, output: str, code: int, message: str) -> None:
    command = f"{sys.executable} -m faceexpr annotate boxes.txt --out drawn {output}; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert (result.returncode, "Traceback" in result.stderr) == (code, False)
    assert message in result.stderr


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
