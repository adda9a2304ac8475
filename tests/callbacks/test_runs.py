"""Runs that would end without a usable result are stopped, and what cannot be chosen is said."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, exit_code
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from faceexpr.callbacks.runs import RunChecks
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.errors import FaceExprError

CHECKPOINTS = Path("lightning_logs/version_0/checkpoints")


def test_an_unknown_monitor_is_found_at_the_first_batch(
    run: Run, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(lambda: run("fit", "--checkpoint.monitor=val_acc")) == 2
    error = capsys.readouterr().err
    assert "BestCheckpoint watches val_acc" in error
    assert "val/accuracy" in error
    assert not list(workdir.rglob("*.ckpt"))  # before the end of the first epoch


def test_other_monitors_are_checked_as_well(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    early = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"]
    assert exit_code(lambda: run("fit", *early)) == 2
    assert "EarlyStopping watches val_loss" in capsys.readouterr().err
    plateau = ["--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor=val/los"]
    assert exit_code(lambda: run("fit", *plateau)) == 2
    assert "ReduceLROnPlateau watches val/los" in capsys.readouterr().err


def test_a_mode_that_prefers_the_worst_model_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: run("fit", "--checkpoint.mode=min")) == 2
    assert "val/accuracy is better when it is higher; use mode max" in capsys.readouterr().err
    assert exit_code(lambda: run("fit", "--checkpoint.monitor=val/nll")) == 2
    assert "use mode min" in capsys.readouterr().err
    run("fit", "--checkpoint.monitor=val/nll", "--checkpoint.mode=min")


@pytest.mark.parametrize(
    "args", [["--trainer.limit_val_batches=0"], ["--trainer.check_val_every_n_epoch=5", "--trainer.max_epochs=3"]]
)
def test_without_validation_the_last_epoch_is_saved_and_said(
    args: list[str], run: Run, workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run("fit", *args)
    assert "no epoch can be the best by val/accuracy: the last epoch is saved" in caplog.text
    best = torch.load(CHECKPOINTS / "best.ckpt", weights_only=True)
    last = torch.load(CHECKPOINTS / "last.ckpt", weights_only=True)
    assert last["epoch"] == (2 if len(args) > 1 else 0)
    assert all(torch.equal(best["state_dict"][name], value) for name, value in last["state_dict"].items())


def test_the_last_epoch_is_saved_also_where_it_is_not_the_best(run: Run, workdir: Path) -> None:
    run("fit", "--trainer.max_epochs=4", "--model.lr=0")  # nothing is learnt: the first epoch stays the best
    assert torch.load(CHECKPOINTS / "best.ckpt", weights_only=True)["epoch"] == 0
    assert torch.load(CHECKPOINTS / "last.ckpt", weights_only=True)["epoch"] == 3


def test_a_diverged_training_stops_and_keeps_nothing_of_it(
    run: Run, workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverged(self: ExpressionClassifier, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
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
        (["--data.train_size=9", "--data.batch_size=4"], 3),
    ],
)
def test_small_data_train_with_batch_norm(args: list[str], steps: int, run: Run, workdir: Path) -> None:
    run("fit", *args, "--model.net.batch_norm=true")
    assert torch.load(CHECKPOINTS / "last.ckpt", weights_only=True)["global_step"] == steps


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.train_size=1", "the train split holds 1 image; training needs at least 2 images"),
        ("--data.batch_size=1", "batch normalisation has nothing to compare"),
    ],
)
def test_one_image_in_a_step_is_a_clear_message(
    option: str, message: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(lambda: run("fit", option, "--model.net.batch_norm=true")) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "option"),
    [
        ("fit", "max_epochs"),
        ("fit", "max_steps"),
        ("fit", "limit_train_batches"),
        ("fit", "check_val_every_n_epoch"),
        ("validate", "limit_val_batches"),
        ("test", "limit_test_batches"),
    ],
)
def test_a_run_of_nothing_is_refused(stage: str, option: str) -> None:
    nothing: Any = {option: 0}
    trainer = Trainer(**nothing, logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(FaceExprError, match=f"{option} is 0; expected more than 0"):
        RunChecks().setup(trainer, LightningModule(), stage)


def test_steps_that_end_before_the_first_validation_are_saved(run: Run, workdir: Path) -> None:
    run("fit", "--trainer.max_steps=2")  # an epoch has four
    assert torch.load(CHECKPOINTS / "best.ckpt", weights_only=True)["global_step"] == 2


def test_checkpoints_can_be_switched_off_and_that_is_said(
    run: Run, workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run("fit", "--trainer.enable_checkpointing=false")
    assert "no checkpoint is kept" in caplog.text
    assert not list(workdir.rglob("*.ckpt"))


def test_a_run_without_a_logger_keeps_its_results_in_the_current_folder(run: Run, workdir: Path) -> None:
    run("fit", "--trainer.logger=false")
    assert {"checkpoints", "config.yaml", "metrics.json"} <= {path.name for path in workdir.iterdir()}
