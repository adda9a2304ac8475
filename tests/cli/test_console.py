"""What a run leaves on the console and in TensorBoard."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_NET, TINY_RUN, Run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from faceexpr.data.synthetic.drawing import draw_face


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


@pytest.mark.parametrize("bar", [None, "RichProgressBar"])
def test_output_in_a_file_is_a_few_lines_an_epoch(bar: str | None, workdir: Path) -> None:
    args = ["fit", *TINY_NET, *TINY_RUN, "--trainer.max_epochs=2", "--data.train_size=100", "--data.batch_size=2"]
    args += ["--data.val_size=7", *([f"--trainer.callbacks+={bar}"] if bar else [])]
    with Path("run.log").open("wb") as log:
        subprocess.run([sys.executable, "-m", "faceexpr", *args], check=True, stdout=log, stderr=log)
    text = Path("run.log").read_text(encoding="utf-8")
    assert not [character for character in text if ord(character) < 32 and character != "\n"]
    epochs = [line for line in text.splitlines() if line.startswith("epoch ")]
    assert len(epochs) == 2
    assert "val/accuracy" in epochs[0]
    assert "train/loss" in epochs[1]
    assert len(text.splitlines()) < 40


def test_hparams_rows_hold_final_metrics(run: Run, workdir: Path) -> None:
    values = []
    for number, lr in enumerate((0.01, 0.02)):
        run("fit", f"--model.lr={lr}", "--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=lightning_logs",
            "--trainer.logger.name=", f"--trainer.logger.version={number}")  # fmt: skip
        accumulator = events(workdir / f"lightning_logs/version_{number}")
        plugin = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        assert b"MLP" in plugin
        assert b"batch_size" in plugin
        tags = accumulator.Tags()["scalars"]
        assert "hp_metric" not in tags
        final = accumulator.Scalars("final/val_accuracy")[-1].value
        assert 0 <= final <= 1
        values.append(plugin)
    assert values[0] != values[1]


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


def test_test_writes_its_report(run: Run, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("fit")
    run("test", "--ckpt_path=lightning_logs/version_0", "--evaluation.figures=true")
    folder = workdir / "lightning_logs/version_1"
    assert {path.name for path in folder.iterdir()} >= {"metrics.json", "confusion_matrix_test.csv", "figures"}
    assert "95% interval" in capsys.readouterr().out


# Case C09
def test_names_outside_the_consoles_encoding(run: Run, workdir: Path) -> None:
    run("fit")
    folder = workdir / "été"
    folder.mkdir()
    names = ["café 顔.png", "a b#1%.png"]
    for name in names:
        Image.fromarray(draw_face("Happy", np.random.default_rng(0))).save(folder / name)
    args = ["--ckpt_path=lightning_logs/version_0", "--data=FaceFiles", "--data.paths=été", *TINY_RUN[1:]]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "faceexpr", "predict", *args]
    result = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode(errors="replace")
    with (workdir / "lightning_logs/version_1/predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(Path(row["source"]).name for row in rows) == sorted(names)
    assert all(row["status"] == "ok" for row in rows)
