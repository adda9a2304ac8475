"""What a run leaves on the console and in TensorBoard."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_DATA, TINY_RUN, exit_code, read_table
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from faceexpr.callbacks.runs import EpochBar
from faceexpr.cli.main import main
from faceexpr.cli.train import FaceExprCLI
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
    assert " lr 0.001 " in epochs[0]
    assert len(text.splitlines()) < 40
    for part in ("Seed set", "TPU", "GPU", "`Trainer"):
        assert part not in text


def test_the_bar_has_the_loss_and_the_rate_from_the_first_step_on(run, monkeypatch):
    shown = []

    class Watched(EpochBar):
        EVERY = 0

        def on_train_batch_end(self, trainer, pl_module, *args):
            super().on_train_batch_end(trainer, pl_module, *args)
            shown.append((self.train_progress_bar.desc, *self.get_metrics(trainer, pl_module)))

    monkeypatch.setattr("faceexpr.cli.train.on_terminal", lambda: True)
    monkeypatch.setattr("faceexpr.cli.train.EpochBar", Watched)
    run("fit", "--trainer.max_epochs=2", "--data.train_size=8")
    assert [description for description, *_ in shown] == ["epoch 1/2: ", "epoch 1/2: ", "epoch 2/2: ", "epoch 2/2: "]
    assert shown[0][1:] == ("loss", "lr")
    assert set(shown[-1][1:]) == {"loss", "lr", "train/loss", "val/loss", "val/accuracy"}


@pytest.mark.parametrize("length", [None, "max_steps", "max_epochs"])
def test_a_training_of_no_given_length_has_a_usual_one(length, workdir):
    (workdir / "old.yaml").write_text("trainer: {max_epochs: null}\n")
    own = [] if length is None else [f"--trainer.{length}=1"]
    config = FaceExprCLI("fit", ["--config", "old.yaml", *own]).config.trainer
    assert config.max_epochs == {None: 20, "max_steps": None, "max_epochs": 1}[length]


def test_a_training_says_what_nobody_has_asked_for(workdir, caplog):
    main(["fit", *TINY_DATA, *TINY_RUN[1:], "--model=KNNClassifier", "--evaluation.figures=false"])
    notes = [record.getMessage() for record in caplog.records if record.getMessage().startswith("note: ")]
    assert notes[0].startswith("note: no --data is given: this training is on drawn faces (SyntheticFaces); ")
    assert notes[1:] == ["note: no --trainer.max_epochs is given: this training has 1 epoch"]


def test_several_devices_without_a_gpu_are_asked_back_about(run, capsys):
    devices = ["--trainer.accelerator=auto", "--trainer.devices=8"]
    assert exit_code(lambda: run("fit", *devices)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "--trainer.devices is 8, and this machine has no GPU that torch can use, but" in line
    assert line.endswith("or --trainer.accelerator cpu beside it for 8 processes on the CPU")


def test_tensorboard_holds_scalars_images_hyper_parameters_and_the_configuration(run, workdir):
    logger = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=runs", "--trainer.logger.name=a"]
    run("fit", *logger, "--evaluation.figures=true", "--trainer.log_every_n_steps=1", "--trainer.max_epochs=2")
    accumulator = EventAccumulator(str(workdir / "runs/a/version_0")).Reload()
    tags = accumulator.Tags()
    scalars = ("loss", *OVERALL)
    expected = {f"val/{name}" for name in scalars}
    expected |= {"train/loss_step", "train/loss", "train/accuracy", "train/lr-Adam", "train/epoch"}
    assert expected <= set(tags["scalars"])
    assert {name.partition("/")[0] for name in tags["scalars"]} == {"train", "val"}  # which it opens, of all groups
    assert len(accumulator.Scalars("val/accuracy")) == 2
    assert set(tags["images"]) >= {
        "train/faces", "val/confusion_matrix", "val/per_class_accuracy", "val/reliability", "val/wrong",
    }  # fmt: skip
    assert b"MLP" in accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    text = accumulator.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "class_path: faceexpr.models.MLP" in text


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
