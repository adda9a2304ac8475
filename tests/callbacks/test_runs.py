"""Runs that would end without a usable result are stopped, and what cannot be chosen is said."""

import math

import pytest
import torch
from conftest import exit_code
from lightning.pytorch import LightningModule, Trainer

from faceexpr.callbacks.runs import RunChecks
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.errors import FaceExprError


def stored(name):
    return torch.load(f"lightning_logs/version_0/checkpoints/{name}.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint.monitor=val_acc"], "BestCheckpoint watches val_acc, which this run does not measure; expected"),
        (
            ["--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor=val/los"],
            "ReduceLROnPlateau watches val/los",
        ),
        (["--checkpoint.mode=min"], "val/accuracy is better when it is higher; use mode max"),
        (["--checkpoint.monitor=val/nll"], "val/nll is better when it is lower; use mode min"),
        (["--data.train_size=1"], "the train split holds 1 image; training needs at least 2 images"),
        (["--data.batch_size=1", "--model.net.batch_norm=true"], "batch normalisation has nothing to compare"),
    ],
)
def test_a_run_that_cannot_end_well_is_stopped_at_its_first_batch(options, message, run, workdir, capsys):
    assert exit_code(lambda: run("fit", *options)) == 2
    assert message in capsys.readouterr().err
    assert not list(workdir.rglob("*.ckpt"))  # before the end of the first epoch


@pytest.mark.parametrize(
    "args", [["--trainer.limit_val_batches=0"], ["--trainer.check_val_every_n_epoch=5", "--trainer.max_epochs=3"]]
)
def test_without_validation_the_last_epoch_is_saved_and_said(args, run, caplog):
    run("fit", *args)
    assert "no epoch can be the best by val/accuracy: the last epoch is saved" in caplog.text
    assert "\nthe last epoch: lightning_logs/version_0/checkpoints/best.ckpt\n" in "\n".join(caplog.messages)
    best, last = stored("best"), stored("last")
    assert last["epoch"] == (2 if len(args) > 1 else 0)
    assert all(torch.equal(best["state_dict"][name], value) for name, value in last["state_dict"].items())


def test_a_diverged_training_stops_and_keeps_nothing_of_it(run, workdir, capsys, monkeypatch):
    def diverged(self, batch, batch_idx):
        return {"loss": sum(p.sum() for p in self.parameters()) * math.nan}

    monkeypatch.setattr(ExpressionClassifier, "training_step", diverged)
    assert exit_code(lambda: run("fit")) == 2
    assert "the training loss is nan at step" in capsys.readouterr().err
    assert not list(workdir.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("args", "steps"),
    [
        (["--data.train_size=3", "--data.batch_size=2"], 2),  # the second batch is filled up to two
        (["--data.train_size=3", "--data.batch_size=8", "--data.drop_last=true"], 1),
        (["--trainer.max_steps=2"], 2),  # ends before the first validation
    ],
)
def test_short_trainings_train_with_batch_norm_and_are_saved(args, steps, run):
    run("fit", *args, "--model.net.batch_norm=true")
    assert stored("last")["global_step"] == stored("best")["global_step"] == steps


@pytest.mark.parametrize(
    ("stage", "option"), [("fit", "max_epochs"), ("fit", "limit_train_batches"), ("validate", "limit_val_batches")]
)
def test_a_run_of_nothing_is_refused(stage, option):
    trainer = Trainer(**{option: 0}, logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(FaceExprError, match=f"{option} is 0; expected more than 0"):
        RunChecks().setup(trainer, LightningModule(), stage)


def test_without_checkpoints_a_run_keeps_the_rest(run, workdir, caplog):
    run("fit", "--trainer.enable_checkpointing=false")
    assert "no checkpoint is kept" in caplog.text
    assert not list(workdir.rglob("*.ckpt"))
    folder = workdir / "lightning_logs/version_0"
    assert {"run.json", "config.yaml", "metrics.json"} <= {path.name for path in folder.iterdir()}
