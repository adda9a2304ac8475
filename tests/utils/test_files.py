"""What files and the console are told: escapes for what nobody can see, and the reason that a file is not written."""

import errno
from pathlib import Path

import pytest

from faceexpr.cli.main import main
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import progress, replacing, say, write_file
from faceexpr.utils.text import printable


def test_what_steers_a_terminal_is_escaped_also_in_errors_and_every_script_stays(workdir, capsys):
    assert printable("a b/顔 é.jpg") == "a b/顔 é.jpg"
    assert printable("\x1b]0;t\x07\u202egpj\n\udcff") == r"\x1b]0;t\x07\u202egpj\n\udcff"
    say("first\nsecond \x1b[2J")
    assert capsys.readouterr().out == "first\nsecond \\x1b[2J\n"
    with pytest.raises(SystemExit):
        main(["annotate", "\x1b[2J", "--out", "out"])
    assert r"\x1b[2J" in capsys.readouterr().err


def test_a_full_disk_is_told_from_a_wrong_place(tmp_path):
    with pytest.raises(FaceExprError, match=r"expected more room there$"), replacing(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FaceExprError, match="expected a file name in a folder"):
        write_file(Path("/dev/null/a"), b"")


def test_progress_is_a_line_a_minute_where_there_is_no_terminal(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    for _ in progress(range(10), unit="link"):
        now[0] += 20
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("| ")[1].split(" ")[0] for line in lines] == ["3/10", "6/10", "9/10", "10/10"]
    for _ in progress(range(10)):
        pass
    assert not capsys.readouterr().err
