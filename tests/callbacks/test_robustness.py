"""Accuracy under corruptions: the numbers of a model that knows the pixel, and whole runs through the command line."""

import json
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, exit_code, measured, read_table
from evaluation_runs import SEVEN, ReadsThePixel, make_split, pixel_faces, read_events
from processes import run_together

from faceexpr.callbacks.robustness import MEASURED, Robustness
from faceexpr.cli.main import main
from faceexpr.data.corruptions import CORRUPTIONS
from faceexpr.utils.errors import FaceExprError

# The pixel is the class, and everything above 6 is a 6: with 1.2 times the light, 5 becomes 6, and 6 becomes 7.
BRIGHTER = [6 / 7, 4 / 7, 3 / 7, 2 / 7, 2 / 7]
DARKER = [1 / 7] * 5
BEST = "lightning_logs/version_0/checkpoints/best.ckpt"


def measure(make_trainer, given=SEVEN, figures=False, **options):
    trainer = make_trainer(Robustness(enabled=True, figures=figures, **options))
    data = pixel_faces({"test": given}, batch_size=3)
    trainer.test(ReadsThePixel(), datamodule=data, verbose=False)
    return trainer


def stored(folder):
    (path,) = folder.rglob("robustness.json")
    return json.loads(path.read_text(encoding="utf-8"))


def accuracies(record, name):
    return [row["accuracy"] for row in record["corruptions"][name]["strengths"]]


def test_each_pass_is_measured_written_printed_and_drawn(make_trainer, tmp_path, capsys):
    trainer = measure(make_trainer, corruptions=["brighter", "darker"], figures=True)
    record = stored(tmp_path)
    assert record["clean"] == {"accuracy": 1, "balanced_accuracy": 1, "macro_f1": 1}
    assert accuracies(record, "brighter") == pytest.approx(BRIGHTER)
    assert accuracies(record, "darker") == pytest.approx(DARKER)
    assert record["corruptions"]["brighter"]["mean"]["accuracy"] == pytest.approx(17 / 35)
    assert [row["value"] for row in record["corruptions"]["darker"]["strengths"]] == [0.8, 0.6, 0.4, 0.25, 0.15]
    assert {row["n"] for name in record["corruptions"].values() for row in name["strengths"]} == {record["n"]} == {7}
    mean = (17 + 5) / 70
    assert record["mean"]["accuracy"] == pytest.approx(mean)
    assert record["relative_drop"]["accuracy"] == pytest.approx(1 - mean)
    assert float(trainer.callback_metrics["test/corrupted_accuracy"]) == pytest.approx(mean)

    rows = read_table(next(tmp_path.rglob("robustness.csv")))
    assert (rows[0]["corruption"], rows[0]["strength"], rows[0]["accuracy"]) == ("none", "0", "1.0")
    assert [(row["corruption"], row["strength"]) for row in rows[1:]] == [
        (name, str(strength)) for name in ("brighter", "darker") for strength in range(1, 6)
    ]
    assert [float(row["accuracy"]) for row in rows[1:]] == pytest.approx(BRIGHTER + DARKER)

    printed = capsys.readouterr().out.splitlines()
    line = next(line for line in printed if line.split()[:1] == ["brighter"])
    assert line.split() == ["brighter", "85.71%", "57.14%", "42.86%", "28.57%", "28.57%", "48.57%"]
    assert "mean accuracy under 2 corruptions: 31.43%, 68.6% below the clean one" in printed[-1]

    assert set(read_events(tmp_path).Tags()["images"]) == {"test/robustness", "test/robustness_examples"}
    names = {path.name for path in tmp_path.rglob("*.png")}
    assert names == {"test_robustness.png", "test_robustness_examples.png"}


def test_metrics_are_those_of_the_counts_and_distributions_count_as_their_class(make_trainer, tmp_path):
    # Doubled, 0 stays, 1 becomes 2 and 2 becomes 4: of three classes one is found, with one of three samples each.
    soft = (torch.eye(7) * 0.9 + 0.1 / 7)[[0, 0, 1, 2]].tolist()
    measure(make_trainer, make_split([0, 0, 1, 2], soft), corruptions=["brighter"])
    row = stored(tmp_path)["corruptions"]["brighter"]["strengths"][3]
    assert row == {
        "strength": 4, "value": 2, "n": 4, "accuracy": 0.5, "balanced_accuracy": pytest.approx(1 / 3),
        "macro_f1": pytest.approx(1 / 4),  # of Angry, Disgust, Fear and Sad, which is predicted
    }  # fmt: skip


def test_a_model_that_is_always_wrong_has_no_relative_drop(make_trainer, tmp_path, capsys):
    measure(make_trainer, [(0, 1), (1, 0)], corruptions=["jpeg"])
    assert stored(tmp_path)["relative_drop"]["accuracy"] is None
    assert "below" not in capsys.readouterr().out


def test_it_is_off_unless_it_is_asked_for_and_fast_dev_run_writes_nothing(make_trainer, tmp_path):
    data = pixel_faces({"test": SEVEN})
    for callback, options in ((Robustness(), {}), (Robustness(enabled=True), {"fast_dev_run": True})):
        make_trainer(callback, **options).test(ReadsThePixel(), datamodule=data, verbose=False)
    assert [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".png", ".csv")] == []


def test_detectors_and_pixels_of_another_kind_are_refused(make_trainer):
    model, split = ReadsThePixel(), make_split(list(range(7)), list(range(7)))
    split.images = split.images.float()
    with pytest.raises(FaceExprError, match=r"the test images are torch.float32; expected uint8"):
        measure(make_trainer, split)
    model.gives = "detections"
    with pytest.raises(FaceExprError, match="ReadsThePixel, which is a detector; expected a classifier of expressions"):
        make_trainer(Robustness(enabled=True)).test(model, datamodule=pixel_faces({"test": SEVEN}))


def test_probabilities_that_are_not_finite_are_told_with_the_corruption(make_trainer):
    # White makes this model's probabilities NaN.
    with pytest.raises(FaceExprError, match="1 of 2 samples are not finite under brighter of strength 4"):
        measure(make_trainer, [(1, 1), (128, 6)], corruptions=["brighter"])


def test_the_page_has_the_table():
    page = (REPOSITORY / "docs" / "robustness.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    table = {name.strip("`"): tuple(map(float, values)) for name, _, *values in rows if len(values) == 5}
    assert table == {name: corruption.values for name, corruption in CORRUPTIONS.items()}


@pytest.mark.slow
def test_the_same_to_the_byte_with_two_processes_and_other_batches(run):
    run("fit", "--model=KNNClassifier", "--data.test_size=23", net=False)
    test = ["test", "--ckpt_path", BEST, "--trainer.accelerator=cpu", "--evaluation.figures=false",
            "--robustness.enabled=true", "--robustness.figures=false",
            "--robustness.corruptions=[noise,rotation,shift]"]  # fmt: skip
    main([*test, "--trainer.devices=1", "--trainer.logger.version=one"])
    two = [*test, "--data.batch_size=5", "--trainer.devices=2", "--trainer.strategy=ddp"]
    codes = run_together([*two, "--trainer.logger.version=two"], Path.cwd(), 2)
    assert codes == [0, 0], Path("process-0.log").read_text()
    one, other = (Path("lightning_logs") / name for name in ("one", "two"))
    for name in ("robustness.json", "robustness.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    record, metrics = stored(one), measured(one, "test")
    assert record["n"] == metrics["n"] == 23
    assert record["clean"] == {name: metrics[name] for name in MEASURED}
    assert record["mean"]["accuracy"] != record["clean"]["accuracy"]


@pytest.mark.parametrize("names", ["blur,blurr", ""])
def test_unknown_corruptions_are_refused(run, capsys, names):
    assert exit_code(lambda: run("fit", f"--robustness.corruptions=[{names}]")) == 2
    assert "expected one or more of blur, noise" in capsys.readouterr().err
