"""``faceexpr runs``: a table of made-up runs, and the names of the folders that measurements go into."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import TINY_RUN, read_table

from faceexpr.cli.list_runs import run as runs
from faceexpr.cli.main import main
from faceexpr.utils.errors import FaceExprError


def config(net, data="FERPlus", **options):
    model = {"class_path": "faceexpr.tasks.classify.ExpressionClassifier", "init_args": {"net": net}}
    data = {"class_path": f"faceexpr.data.{data.lower()}.{data}", "init_args": {}}
    return {"seed_everything": 7, "trainer": {"max_epochs": 20}, "model": model, "data": data, **options}


def write_run(folder, record, metrics, config):
    folder = Path("logs", folder)
    folder.mkdir(parents=True)
    for name, content in (("run.json", record), ("metrics.json", metrics)):
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def stored(workdir):
    """Two trainings and a test of one of them, in ``logs``; the first is of version 0.1 and has no record."""
    mlp = {"class_path": "faceexpr.models.mlp.MLP", "init_args": {}}
    timm = {"class_path": "faceexpr.models.timm_net.TimmNet", "init_args": {"name": "resnet18"}}
    write_run("old/version_2", None, {"val": {"accuracy": 0.25, "epoch": 3}}, config(mlp, "FER2013"))
    times = {"started": "2026-11-30T10:00:00+00:00", "ended": "2026-11-30T11:30:30+00:00"}
    record = {"faceexpr": "0.2", "verb": "fit", "commit": "0123456789abcdef", "best": {"epoch": 11}, **times}
    write_run("new/version_10", record, {"val": {"accuracy": 0.5}}, config(timm))
    record = {"faceexpr": "0.2", "verb": "test", "checkpoint": "../../new/version_10/checkpoints/best.ckpt", **times}
    measured = {"test": {"accuracy": 0.625, "accuracy_interval": [0.5, 0.75], "ece": 0.1, "per_class": {"a": 1}}}
    write_run("new-v10-test/version_0", record, measured, config(timm, seed_everything=0))


def table(capsys, *args):
    capsys.readouterr()
    runs(["runs", "logs", "--format=csv", *args])
    Path("table.csv").write_text(capsys.readouterr().out)
    return read_table("table.csv")


def test_each_run_has_a_row_and_a_test_has_its_trainings_numbers(stored, capsys):
    tested, new, old = table(capsys)
    assert (new["run"], new["verb"], new["data"], new["network"]) == (
        "new/version_10", "fit", "FERPlus", "TimmNet resnet18"
    )  # fmt: skip
    assert (new["seed"], new["best_epoch"], new["epochs"], new["val/accuracy"]) == ("7", "12", "20", "0.5")
    assert (float(new["minutes"]), new["commit"], new["test/accuracy"]) == (90.5, "0123456789abcdef", "")
    assert (tested["run"], tested["verb"], tested["test/accuracy"]) == ("new-v10-test/version_0", "test", "0.625")
    assert [tested[name] for name in ("seed", "best_epoch", "epochs", "val/accuracy")] == ["7", "12", "20", "0.5"]
    assert (old["run"], old["network"], old["best_epoch"], old["faceexpr"]) == ("old/version_2", "MLP", "4", "")


def test_rows_are_chosen_and_sorted_and_columns_are_named(stored, capsys):
    def names(*args):
        return [row["run"] for row in table(capsys, "--columns", "run", "test/ece", *args)]

    new, tested, old = "new/version_10", "new-v10-test/version_0", "old/version_2"
    assert names("--sort=val/accuracy")[0] == old
    assert names("--sort=val/accuracy", "--descending=true")[-1] == old
    assert names("--sort=minutes", "--descending=true")[-1] == old  # which has none
    assert names("--where", "verb=test") == [tested]
    assert names("--where", "network=*resnet*", "verb!=test") == [new]
    assert sorted(names("--where", "val/accuracy>=0.5")) == sorted([new, tested])
    assert names("--where", "val/accuracy<0.5") == [old]
    assert names("--where", "test/accuracy>nothing") == []
    assert table(capsys, "--columns", "test/accuracy_interval", "--where", "verb=test") == [
        {"test/accuracy_interval": "0.5000 to 0.7500"}
    ]


def test_text_and_markdown(stored, capsys):
    columns = ["--columns", "run", "test/accuracy", "minutes", "commit", "--sort=run"]
    main(["runs", "logs", *columns, "--format=markdown", "--where", "run=new*"])
    assert capsys.readouterr().out.splitlines() == [
        "| run | test/accuracy | minutes | commit |", "|---|---|---|---|",
        "| new-v10-test/version_0 | 0.6250 | 90.5 |  |", "| new/version_10 |  | 90.5 | 012345678 |",
    ]  # fmt: skip
    main(["runs", "logs/old", *columns])
    assert capsys.readouterr().out.splitlines() == ["  run        test/accuracy  minutes  commit", "  version_2"]


def test_broken_files_are_named_and_passed_over(stored, capsys):
    Path("logs/old/version_2/config.yaml").write_text("a: [")
    Path("logs/new/version_10/metrics.json").write_text("{")
    row = next(row for row in table(capsys) if row["run"] == "old/version_2")
    assert (row["network"], row["val/accuracy"]) == ("", "0.25")
    runs(["runs", "logs"])
    said = capsys.readouterr().err
    assert "note: logs/old/version_2/config.yaml is passed over (while parsing" in said
    assert "note: logs/new/version_10/metrics.json is passed over (Expecting" in said


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["nowhere"], r"--folder: nowhere holds no run; expected a folder with a run\.json"),
        (["logs", "--sort=speed"], r"--sort has speed, which is no column here; expected of run, verb, data"),
        (["logs", "--columns", "run", "speed"], "--columns has speed, which is no column"),
        (["logs", "--where", "speed>1"], "--where has speed, which is no column"),
        (["logs", "--where", "verb"], "--where has verb alone; expected =, !=, <, <=, > or >= and a value"),
        (["logs", "--format=html"], "format"),
    ],
)
def test_wrong_options_are_refused(stored, args, reason):
    with pytest.raises(FaceExprError, match=reason):
        runs(["runs", *args])


def test_measurements_go_into_folders_named_after_what_they_measure(fitted, capsys):
    named = Path("lightning_logs/mine/version_0")
    named.parent.mkdir()
    fitted.rename(named)
    for options in (["test"], ["test", "--data=SyntheticFaces"], ["validate", "--trainer.logger.name=other"]):
        main([*options, f"--ckpt_path={named}", *TINY_RUN[1:]])
    main(["test", f"--ckpt_path={named}/checkpoints/last.ckpt", *TINY_RUN[1:]])
    main(["predict", f"--ckpt_path={named}", "--trainer.logger=CSVLogger", *TINY_RUN[1:]])
    found = {path.parent.relative_to("lightning_logs").as_posix() for path in Path("lightning_logs").rglob("run.json")}
    assert found == {
        "mine/version_0", "mine-v0-test/version_0", "mine-v0-test/version_1", "mine-v0-test/version_2",
        "mine-v0-predict/version_0", "other/version_0",
    }  # fmt: skip
    capsys.readouterr()
    runs(["runs", "--where", "verb=test", "--columns", "run", "network", "epochs", "--format=csv"])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "mine-v0-test/version_0,MLP,1", "mine-v0-test/version_1,MLP,1", "mine-v0-test/version_2,MLP,1",
    ]  # fmt: skip
