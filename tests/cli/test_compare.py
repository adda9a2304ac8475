"""``faceexpr compare``: runs side by side, from the predictions in their folders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import measured, read_table

from faceexpr.cli.compare import run as compare
from faceexpr.metrics.predictions import write_samples
from faceexpr.metrics.tables import SampleTable
from faceexpr.utils.errors import FaceExprError

NAMES = ("a", "b")
TRUTH = [0, 1] * 50
LEAKED = np.arange(100) < 20


def run_folder(name, wrong, stage="test", leaked=LEAKED):
    """Write a run that is wrong in some samples."""
    labels = np.array(TRUTH)
    predicted = labels.copy()
    predicted[list(wrong)] = 1 - predicted[list(wrong)]
    probabilities = np.eye(2, dtype=np.float32)[predicted] * 0.8 + 0.1
    write_samples(Path(name), stage, SampleTable(np.arange(100), probabilities, labels), NAMES, leaked)
    return name


def test_all_samples_and_those_without_leaks(workdir, capsys):
    first, second = run_folder("runs/first", range(10, 20)), run_folder("runs/second", range(10, 40))
    compare(["compare", first, second, "--out", "table.json", "--resamples", "500"])
    found = json.loads(Path("table.json").read_text())
    assert (found["split"], found["resamples"], found["seed"], found["confidence"]) == ("test", 500, 0, 0.95)
    whole, rest = found["samples"]["all samples"], found["samples"]["samples that are in no training data"]
    assert [(run["run"], run["count"], run["accuracy"]) for run in whole["runs"]] == [
        ("first", 100, 0.9), ("second", 100, 0.7),
    ]  # fmt: skip
    assert [(run["count"], run["accuracy"]) for run in rest["runs"]] == [(80, 1.0), (80, 0.75)]
    (pair,) = whole["pairs"]
    assert (pair["only_first"], pair["only_second"], pair["difference"]) == (20, 0, pytest.approx(0.2))
    assert pair["p"] == pair["p_holm"] == pytest.approx(2 / 2**20)
    assert 0.12 < pair["interval"][0] < 0.2 < pair["interval"][1] < 0.3
    printed = capsys.readouterr().out
    assert "20 of 100 samples are pixel-equal to a training image." in printed
    assert "all samples: 100" in printed
    assert "samples that are in no training data: 80" in printed
    line = next(line for line in printed.splitlines() if line.split()[:1] == ["second"])
    assert line.split()[1] == "70.00%"


def test_the_tables_as_csv_and_markdown(workdir):
    runs = [run_folder(f"runs/{name}", range(wrong)) for name, wrong in (("x", 5), ("y", 10), ("z", 30))]
    compare(["compare", *runs, "--out", "table.csv"])
    rows = read_table("table.csv")
    assert [(row["samples"], row["run"], row["against"]) for row in rows[:6]] == [
        ("all samples", *pair) for pair in (("x", ""), ("y", ""), ("z", ""), ("x", "y"), ("x", "z"), ("y", "z"))
    ]
    assert float(rows[4]["difference"]) == pytest.approx(0.25)
    assert float(rows[3]["p"]) == 0.0625  # 2 / 2^5
    assert float(rows[3]["p_holm"]) == 0.0625  # the largest of three
    assert len(rows) == 12
    compare(["compare", *runs, "--out", "table.md"])
    text = Path("table.md").read_text()
    assert "| x | y | +5.00 | " in text
    assert "## all samples: 100" in text
    assert text.count("\n|---|") == 4


def test_leaks_that_nobody_knows_of_are_said(workdir, capsys):
    first, second = (run_folder(name, range(wrong), leaked=None) for name, wrong in (("x", 5), ("y", 6)))
    compare(["compare", first, second, "--resamples=100"])
    printed = capsys.readouterr().out
    assert "Whether samples are in the training data too is not known" in printed
    assert "no training data:" not in printed


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["good"], "there is nothing to compare good with; expected two runs or more"),
        (["good", "other/../good"], r"other/\.\./good is given twice"),
        (["good", "nowhere"], "nowhere does not exist; expected the folder of a run"),
        (["good", "fitted"], "fitted has no predictions of the test split .*`faceexpr test --ckpt_path fitted`"),
        (["good", "detector"], "detector is a run of a detector"),
        (["good", "other", "--split=val"], "good has no predictions of the val split .*`faceexpr validate --ckpt"),
        (["good", "other", "--resamples=1"], "--resamples is 1; expected 2 to 1,000,000"),
        (["good/predictions_test.csv.gz", "other", "--split=val"], "good/.* is of the test split; .* or --split test"),
        (["good", "other", "--seed=-1"], "--seed is -1; expected 0 or more"),
        (["good", "other", "--out=table.txt"], r"--out is table\.txt; expected a file that ends in \.csv"),
        (["good", "other/metrics.json"], r"other/metrics\.json cannot be read \(Not a gzipped file"),
        (["good", "other", "--split=train"], "split"),
    ],
)
def test_what_cannot_be_compared_is_refused(workdir, args, reason):
    for name in ("good", "other"):
        run_folder(name, range(3))
    for name, entry in (("fitted", {"val": {"accuracy": 1}}), ("detector", {"test": {"ap50": 1}}), ("other", {})):
        Path(name).mkdir(exist_ok=True)
        (Path(name) / "metrics.json").write_text(json.dumps(entry))
    with pytest.raises(FaceExprError, match=reason):
        compare(["compare", *args])


def test_a_training_is_compared_on_its_validation_split(fitted):
    shutil.copytree(fitted, "copied")
    compare(["compare", str(fitted), "copied", "--split=val", "--out=table.json", "--resamples=100"])
    found = json.loads(Path("table.json").read_text())["samples"]["all samples"]
    recorded = measured(fitted, "val")
    assert [one["run"] for one in found["runs"]] == ["lightning_logs/version_0", "copied"]
    for one in found["runs"]:
        assert one["accuracy"] == pytest.approx(recorded["accuracy"])
        assert one["macro_f1"] == pytest.approx(recorded["macro_f1"])
    (pair,) = found["pairs"]
    assert (pair["difference"], pair["interval"], pair["p"], pair["p_holm"]) == (0, [0, 0], 1, 1)
