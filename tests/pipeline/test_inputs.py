"""Lists of images, standard input, and what the files made from an image are called."""

import io
import os
import sys
from pathlib import Path

import pytest
from analysis_runs import records, write

from faceexpr.pipeline.inputs import Names, collect_inputs, place_below, read_list
from faceexpr.utils.errors import FaceExprError


def standard_input(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"a.png\nx/b c.png\n", [b"a.png", b"x/b c.png"]),
        (b"\xef\xbb\xbfa.png\r\n\n  \r\n\xff.png", [b"a.png", b"\xff.png"]),
        (b"line\nbreak.png\0 blank.png \0", [b"line\nbreak.png", b" blank.png "]),
    ],
)
def test_every_kind_of_list_and_its_names_come_back_exactly(workdir, data, names):
    Path("list.txt").write_bytes(data)
    assert [os.fsencode(name) for name in read_list("list.txt")] == names


def test_lists_that_are_none_are_named(workdir, monkeypatch):
    Path("empty.txt").write_text("\n \n")
    Path("wide.txt").write_bytes("a.png\n".encode("utf-16"))
    standard_input(monkeypatch, b"")
    for paths, name, message in (
        ([], "empty.txt", r"^empty\.txt has no path"),
        ([], "wide.txt", r"^wide\.txt.*UTF-16"),
        ([], "absent.txt", r"^absent\.txt.*No such file"),
        ([], "-", "^standard input has no path"),
        ([Path("-")], "-", "standard input is named more than once"),
        ([], None, "expected a PATH of images, or a list of them"),
    ):
        with pytest.raises(FaceExprError, match=message):
            collect_inputs(paths, name)


def test_a_list_gives_the_results_of_its_files_and_records_of_what_is_missing(analyze):
    for name in ("x/a.png", "y/a.png", "../outside.png"):
        write(name)
    Path("folder").mkdir()
    place = Path("y/a.png").resolve()
    Path("list.txt").write_text(f"y/a.png\nx/a.png\n./x/a.png\n../outside.png\nabsent.png\nfolder\n{place}\n")
    assert analyze("--list=list.txt", "--pictures=true") == 3
    assert [(record["image"], record["reason"]) for record in records()] == [
        ("y/a.png", None), ("x/a.png", None), ("../outside.png", None), ("absent.png", "no such file"),
        ("folder", "a folder, not a file; in Python sorted(Path(folder).rglob('*.jpg')) are its images"),
    ]  # fmt: skip
    drawn = {str(path.relative_to("out/pictures")) for path in Path("out/pictures").rglob("*.png")}
    assert drawn == {"y/a.png", "x/a.png", "outside.png"}
    both = collect_inputs([Path("x")], "list.txt")
    assert [*both.images] == ["x/a.png", "y/a.png", "../outside.png", "absent.png", "folder"]


@pytest.mark.parametrize("given", ["-", "--list=-"])
def test_standard_input_is_a_list(analyze, monkeypatch, given):
    for name in ("a.png", "b.png"):
        write(name)
    standard_input(monkeypatch, b"b.png\na.png\n")
    assert analyze(given) == 0
    assert [record["image"] for record in records()] == ["b.png", "a.png"]
    with pytest.raises(FaceExprError, match="a PATH is empty"):  # and does not mean the current folder
        analyze("")


def test_a_place_never_leaves_its_folder_and_can_be_written_whatever_its_length(workdir):
    assert [place_below(path) for path in ("/etc/b.png", "../../b.png", "./a//../b.png", "..", "a\0b.png")] == [
        "etc/b.png", "b.png", "a/b.png", "", "a_b.png",
    ]  # fmt: skip
    name = Names([]).take(place_below("/".join(["é" * 300] * 40) + "/" + "顔" * 300 + ".jpeg"))
    path = Path("pictures", name)
    path.parent.mkdir(parents=True)
    path.with_name(f".{path.name}.12345678").write_bytes(b"")
    assert path.suffix == ".jpeg"


def test_names_are_unique_whatever_their_case_and_never_those_of_folders():
    names = Names(["old/a.png", "b.png/c.png"])
    wanted = {
        "OLD/A.png": "OLD/A-2.png", "b.png": "b-2.png", "a.gif": "a.gif.jpg", "a.gif.jpg": "a.gif-2.jpg",
        "a.gif.jpg/x.png": "a.gif.jpg-3/x.png", "a.gif.jpg/y.png": "a.gif.jpg-3/y.png", "old": "old.jpg",
        "n.png": "n.png", "n.png/1.png": "n.png-2/1.png",
    }  # fmt: skip
    assert [names.take(place) for place in wanted] == [*wanted.values()]
    # Many of one name take little time.
    assert [names.take("image.png") for _ in range(30_000)][-1] == "image-30000.png"


def test_what_an_analysis_has_written_is_no_input_of_a_list_either(analyze, capsys, monkeypatch):
    write("a.png")
    for _ in range(2):
        Path("list.txt").write_text("\n".join(sorted(map(str, Path().rglob("*.png")))))
        assert analyze("--list=list.txt", "--pictures=true", "--crops=true") == 0
        assert [record["image"] for record in records()] == ["a.png"]
    assert "2 images were written by an analysis left out" in capsys.readouterr().out
    monkeypatch.chdir("out/pictures")
    for path in ("a.png", "."):
        with pytest.raises(FaceExprError, match="the only images there were written by an analysis"):
            collect_inputs([Path(path)])


def test_the_printed_configuration_is_one_that_can_be_given(analyze, capsys):
    write("a.png")
    assert analyze("a.png", "12", "--print_config") == 0
    Path("config.yaml").write_text(capsys.readouterr().out)
    assert analyze("--config=config.yaml") == 3
    assert [record["image"] for record in records()] == ["a.png", "12"]
