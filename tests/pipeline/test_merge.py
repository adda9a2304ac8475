"""``faceexpr merge`` where files are damaged or missing, or images have names that nobody should see as they are."""

from pathlib import Path

import pytest
from analysis_runs import write
from conftest import exit_code

from faceexpr.cli.merge import run as run_merge
from faceexpr.utils.errors import FaceExprError


def merge(out, *args):
    return exit_code(lambda: run_merge(["merge", out, *args]))


@pytest.mark.parametrize("line", ["x", "1", '["a.png"]', "[1, 2]", '"ab"', '{"a": 1, "b": 2}'])
def test_a_damaged_list_of_the_images_is_named_by_its_line(analyze, line):
    for name in "ab":
        write(f"photos/{name}.png")
    assert analyze("photos", "--shard=0/2") == 0
    with Path("out/parts/inputs-1.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(FaceExprError, match=r"out/parts/inputs-1\.jsonl, line 3 is not an image and its name"):
        run_merge(["merge", "out"])


def test_names_that_would_steer_the_terminal_are_told_with_escapes(analyze, capsys):
    names = [b"a.png", b"\x1b[2J.png", b"line\nbreak.png", b"\xff.png", "顔 é.png".encode()]
    Path("list.txt").write_bytes(b"\0".join(names))
    assert analyze("--list=list.txt", "--shard=0/5") == 0
    capsys.readouterr()
    assert merge("out") == 3
    said = capsys.readouterr().out
    assert r"4 of 5 images are not analysed yet: \x1b[2J.png, line\nbreak.png, \udcff.png, 顔 é.png" in said


def test_merging_without_anything_to_merge_is_one_sentence(workdir):
    with pytest.raises(FaceExprError, match="out holds no results; expected --out of an analysis"):
        merge("out")
    with pytest.raises(FaceExprError, match="expected --coco true with it"):
        merge("out", "--annotations=truth.json")
    with pytest.raises(FaceExprError, match="expected --annotations with it"):
        merge("out", "--images=photos")
