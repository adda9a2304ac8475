"""What a run leaves on the console and in TensorBoard."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_RUN, read_table
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from faceexpr.cli.main import main
from faceexpr.data.synthetic.drawing import draw_face
from faceexpr.metrics.classification import OVERALL


@pytest.mark.parametrize("bar", [None, "RichProgressBar"])
def test_output_in_a_file_is_a_few_lines_an_epoch(bar, run, capfd):
    run("fit", "--trainer.max_epochs=2", "--data.train_size=80", *([f"--trainer.callbacks+={bar}"] if bar else []))
    text = "".join(capfd.readouterr())
    assert not [character for character in text if ord(character) < 32 and character != "\n"]
    epochs = [line for line in text.splitlines() if line.startswith("epoch ")]
    assert len(epochs) == 2
    assert "val/accuracy" in epochs[0]
    assert "train/loss" in epochs[1]
    assert len(text.splitlines()) < 40


def test_tensorboard_holds_scalars_images_hyper_parameters_and_the_configuration(run, workdir):
    logger = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=runs", "--trainer.logger.name=a"]
    run("fit", *logger, "--evaluation.figures=true", "--trainer.log_every_n_steps=1", "--trainer.max_epochs=2")
    accumulator = EventAccumulator(str(workdir / "runs/a/version_0")).Reload()
    tags = accumulator.Tags()
    scalars = ("loss", *OVERALL)
    expected = {f"val/{name}" for name in scalars}
    expected |= {"train/loss_step", "train/loss", "train/accuracy", "lr-Adam"}
    expected |= {"best/val_accuracy", "final/val_accuracy"}
    assert expected <= set(tags["scalars"])
    assert "hp_metric" not in tags["scalars"]
    assert len(accumulator.Scalars("val/accuracy")) == 2
    assert set(tags["images"]) >= {
        "train/faces", "val/confusion_matrix", "val/per_class_accuracy", "val/reliability", "val/wrong",
    }  # fmt: skip
    assert b"MLP" in accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    text = accumulator.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "class_path: faceexpr.models.mlp.MLP" in text


# Case C09
def test_names_outside_the_consoles_encoding(fitted, workdir, monkeypatch):
    folder = workdir / "été"
    folder.mkdir()
    names = ["café 顔.png", "a b#1%.png"]
    for name in names:
        Image.fromarray(draw_face("Happy", np.random.default_rng(0))).save(folder / name)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), "ascii"))
    main(["predict", f"--ckpt_path={fitted}", "--data=FaceFiles", "--data.paths=été", *TINY_RUN[1:]])
    rows = read_table("lightning_logs/version_0-FaceFiles-predict/version_0/predictions.csv")
    assert sorted(Path(row["source"]).name for row in rows) == sorted(names)
    assert all(row["status"] == "ok" for row in rows)
