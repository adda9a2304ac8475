"""Ray's processes write what one process writes."""

import os
from functools import partial
from pathlib import Path

import pytest
from analysis_runs import analyzer, records, write

from faceexpr.utils.errors import FaceExprError


@pytest.fixture
def analyze(models, workdir):
    return partial(analyzer(models), "--batch_size=1")


def test_ray_that_is_not_installed_is_one_sentence(analyze, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    write("photos/a.png")
    with pytest.raises(FaceExprError, match=r"engine is ray, which is not installed: pip install 'faceexpr\[ray\]'"):
        analyze("photos", "--engine=ray")
    with pytest.raises(FaceExprError, match="workers is 0; expected at least 1"):
        analyze("photos", "--workers=0")


@pytest.mark.slow
def test_two_actors_write_what_one_process_writes_and_go_on_where_it_stopped(analyze, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("pyarrow")
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    for number in range(9):
        write(f"photos/{number}.png", (10 + number, 20, 60, 70) if number % 4 else None)
    Path("photos/3.png").write_bytes(b"no image")
    Path("photos/8.png").rename(Path(os.fsdecode(b"photos/\xff.png")))
    given = ["photos", "--pictures=true", "--crops=true"]
    assert analyze(*given, out="one") == 3
    assert analyze("photos/0.png", "photos/1.png", *given[1:]) == 0
    first = records()
    try:
        assert analyze(*given, "--engine=ray", "--workers=2") == 3
        assert records()[:2] == first
        for name in ("faces.jsonl", "faces.csv"):
            assert Path("out", name).read_bytes() == Path("one", name).read_bytes()
        for folder in ("pictures", "crops"):
            assert {path.name for path in Path("out", folder).iterdir()} == {
                path.name for path in Path("one", folder).iterdir()
            }
    finally:
        ray.shutdown()
