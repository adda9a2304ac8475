"""What is kept of a run: all of its numbers, none of its pictures."""

import json
import subprocess

import pytest
from conftest import REPOSITORY
from stored_runs import MODEL, classifier, recorded
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.paper import reference
from experiments.paper.experiments import RUNS, experiment
from experiments.paper.runs import curves
from faceexpr.utils.errors import FaceExprError


@pytest.fixture
def out(tmp_path):
    """A folder with a finished run of the simple CNN."""
    classifier(recorded(tmp_path / "out", "simple_cnn", 0), 0, 0.6, MODEL)
    return tmp_path / "out"


def kept(project):
    return sorted(path.relative_to(project / RUNS).as_posix() for path in (project / RUNS).rglob("*") if path.is_file())


def test_all_numbers_are_kept_and_no_picture(out, tmp_path):
    project = tmp_path / "project"
    (out / RUNS / "simple_cnn/seed_0/checkpoints").mkdir()
    (out / RUNS / "simple_cnn/seed_0/checkpoints/best.ckpt").write_bytes(b"weights")
    assert reference.keep(out, project, (experiment("simple_cnn"),)) == ["simple_cnn/seed_0"]
    folder = "simple_cnn/seed_0"
    (events,) = (path for path in kept(project) if "tfevents" in path)
    assert kept(project) == sorted(
        [
            f"{folder}/config.yaml", f"{folder}/metrics.json", f"{folder}/experiment.json",
            f"{folder}/test/metrics.json", f"{folder}/test/predictions_test.csv.gz", events,
        ]
    )  # fmt: skip
    before, after = out / RUNS / folder, project / RUNS / folder
    tags = ("train/loss", "val/loss", "val/accuracy")
    assert curves(after, tags) == curves(before, tags)
    assert curves(after, tags)["train/loss"] == [(0, 2.0), (1, 1.5), (2, 1.0)]
    read = EventAccumulator(str(after), size_guidance={"images": 0}).Reload()
    assert read.Tags()["images"] == []
    assert read.Tags()["scalars"] == list(tags)
    whole = EventAccumulator(str(before)).Reload()
    assert whole.Tags()["images"] == ["val/faces"]
    assert [event.wall_time for event in read.Scalars("val/loss")] == [
        event.wall_time for event in whole.Scalars("val/loss")
    ]


def test_facts_of_another_folder_of_runs_stay(out, tmp_path):
    here = {"wider": {}, "dataset1": {"images": 2, "runs": {"b": 2, "c": 3}}}
    kept = {"two_step": {}, "dataset1": {"images": 1, "runs": {"a": 1, "b": 1}}}
    for folder, facts in ((out, here), (tmp_path / "project", kept)):
        (folder / RUNS).mkdir(parents=True, exist_ok=True)
        (folder / RUNS / "facts.json").write_text(json.dumps(facts))
    reference.keep(out, tmp_path / "project", ())
    facts = json.loads((tmp_path / "project" / RUNS / "facts.json").read_text())
    assert facts == {"two_step": {}, "wider": {}, "dataset1": {"images": 2, "runs": {"a": 1, "b": 2, "c": 3}}}


def test_unfinished_runs_predictions_of_further_seeds_and_what_is_too_large_are_not_kept(out, tmp_path, monkeypatch):
    for seed in (1, 2):
        classifier(recorded(out, "simple_cnn", seed), seed, 0.6, MODEL)
    (out / RUNS / "simple_cnn/seed_2/test/metrics.json").unlink()
    arguments = out, tmp_path / "project", (experiment("simple_cnn"),)
    assert reference.keep(*arguments) == ["simple_cnn/seed_0", "simple_cnn/seed_1"]
    predictions = [path for path in kept(tmp_path / "project") if "predictions" in path]
    assert predictions == ["simple_cnn/seed_0/test/predictions_test.csv.gz"]
    monkeypatch.setattr(reference, "LIMIT", 1000)
    with pytest.raises(FaceExprError, match="expected at most 1,000: remove some"):
        reference.keep(*arguments)


def test_the_reference_runs_are_small_and_name_no_machine():
    files = [path for path in (REPOSITORY / RUNS).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= reference.LIMIT
    for path in files:
        assert path.suffix not in (".ckpt", ".png", ".jpg")
        if path.name == "config.yaml":
            assert "save_dir: /" not in path.read_text(encoding="utf-8")


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="not a clone")
def test_git_takes_reference_files_and_no_others():
    folder = "lightning_logs/paper/simple_cnn/seed_0"
    taken = [f"{folder}/{name}" for name in (*reference.KEPT, "test/predictions_test.csv.gz", "events.out.tfevents.1")]
    ignored = [f"{folder}/{name}" for name in ("checkpoints/best.ckpt", "figures/a.png", "log.txt")]
    ignored += ["lightning_logs/fer2013_mlp/version_0/metrics.json", "other/lightning_logs/version_0/config.yaml"]
    asked = "\n".join([*taken, *ignored])
    command = ["git", "check-ignore", "--stdin", "--no-index"]
    told = subprocess.run(command, input=asked, capture_output=True, text=True, cwd=REPOSITORY)
    assert told.stdout.split() == ignored
