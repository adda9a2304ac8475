"""What a run leaves on the console and in TensorBoard."""

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_RUN, Run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from faceexpr.cli.main import main
from faceexpr.data.synthetic.drawing import draw_face


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


@pytest.mark.parametrize("bar", [None, "RichProgressBar"])
def test_output_in_a_file_is_a_few_lines_an_epoch(bar: str | None, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("fit", "--trainer.max_epochs=2", "--data.train_size=80", *([f"--trainer.callbacks+={bar}"] if bar else []))
    text = "".join(capfd.readouterr())
    assert not [character for character in text if ord(character) < 32 and character != "\n"]
    epochs = [line for line in text.splitlines() if line.startswith("epoch ")]
    assert len(epochs) == 2
    assert "val/accuracy" in epochs[0]
    assert "train/loss" in epochs[1]
    assert len(text.splitlines()) < 40


def test_hparams_rows_hold_final_metrics(run: Run, workdir: Path) -> None:
    run("fit", "--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=runs", "--trainer.logger.name=a")
    accumulator = events(workdir / "runs/a/version_0")
    plugin = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"MLP" in plugin
    assert b"batch_size" in plugin
    assert "hp_metric" not in accumulator.Tags()["scalars"]
    assert 0 <= accumulator.Scalars("final/val_accuracy")[-1].value <= 1


def test_tensorboard_holds_scalars_images_and_the_configuration(run: Run, workdir: Path) -> None:
    run("fit", "--evaluation.figures=true", "--trainer.log_every_n_steps=1", "--trainer.max_epochs=2")
    accumulator = events(workdir / "lightning_logs/version_0")
    tags = accumulator.Tags()
    scalars = ("loss", "accuracy", "macro_f1", "ece", "nll", "balanced_accuracy", "top2_accuracy", "auroc")
    expected = {f"val/{name}" for name in scalars}
    expected |= {"train/loss_step", "train/loss", "train/accuracy", "lr-Adam"}
    assert expected <= set(tags["scalars"])
    assert len(accumulator.Scalars("val/accuracy")) == 2
    assert set(tags["images"]) >= {
        "train/faces", "val/confusion_matrix", "val/per_class_accuracy", "val/reliability", "val/wrong",
    }  # fmt: skip
    text = accumulator.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "class_path: faceexpr.models.mlp.MLP" in text


def test_test_writes_its_report(run: Run, fitted: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("test", f"--ckpt_path={fitted}", "--evaluation.figures=true")
    folder = workdir / "lightning_logs/version_1"
    assert {path.name for path in folder.iterdir()} >= {"metrics.json", "confusion_matrix_test.csv", "figures"}
    assert "95% interval" in capsys.readouterr().out


# Case C09
def test_names_outside_the_consoles_encoding(fitted: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workdir / "été"
    folder.mkdir()
    names = ["café 顔.png", "a b#1%.png"]
    for name in names:
        Image.fromarray(draw_face("Happy", np.random.default_rng(0))).save(folder / name)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), "ascii"))
    main(["predict", f"--ckpt_path={fitted}", "--data=FaceFiles", "--data.paths=été", *TINY_RUN[1:]])
    with (workdir / "lightning_logs/version_1/predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(Path(row["source"]).name for row in rows) == sorted(names)
    assert all(row["status"] == "ok" for row in rows)
