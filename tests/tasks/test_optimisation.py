"""Learning rates that follow the number of samples in a step, and schedules that follow what is measured."""

import re
from functools import partial

import pytest
import torch
from conftest import TINY_RUN, exit_code
from lightning.pytorch import Trainer
from torch.optim import lr_scheduler

from faceexpr.cli.main import main
from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.models.mlp import MLP
from faceexpr.tasks.classify import ExpressionClassifier

LAST = "lightning_logs/version_{}/checkpoints/last.ckpt"
SCHEDULES = {
    "one cycle": partial(lr_scheduler.OneCycleLR, max_lr=0.3, total_steps=12),
    "cyclic": partial(lr_scheduler.CyclicLR, base_lr=0.02, max_lr=0.3, step_size_up=3, cycle_momentum=False),
    "cosine": partial(lr_scheduler.CosineAnnealingLR, T_max=8, eta_min=0.01),
    "restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=4, eta_min=0.01),
    "step": partial(lr_scheduler.StepLR, step_size=3, gamma=0.3),
    "linear": partial(lr_scheduler.LinearLR, start_factor=0.1, total_iters=6),
    "none": None,
}


def rates(scheduler, factor, monkeypatch):
    """Return the learning rates of ten steps."""
    monkeypatch.setattr(ExpressionClassifier, "lr_factor", factor)
    task = ExpressionClassifier(
        partial(MLP, hidden=[4]), optimizer=partial(torch.optim.SGD, lr=0.1), scheduler=scheduler, lr_scaling="linear"
    )
    task.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1)
    optimizer, schedule = task.build_optimizer()
    found = []
    for _ in range(10):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_rate_of_a_schedule_is_scaled(name, monkeypatch):
    scheduler = SCHEDULES[name]
    plain = rates(scheduler, 1.0, monkeypatch)
    assert rates(scheduler, 3.0, monkeypatch) == pytest.approx([3 * rate for rate in plain], rel=1e-9)
    assert len(set(plain)) > 2 or scheduler is None


def test_the_floor_of_a_plateau_is_scaled(monkeypatch):
    monkeypatch.setattr(ExpressionClassifier, "lr_factor", 2.0)
    floor = partial(lr_scheduler.ReduceLROnPlateau, min_lr=[1e-4], factor=0.5)
    task = ExpressionClassifier(partial(MLP, hidden=[4]), scheduler=floor)
    assert task.build_optimizer()[1].min_lrs == [2e-4]


SCALED = ["--model.optimizer=SGD", "--model.optimizer.lr=0.01", "--model.lr_scaling=linear"]


def groups(version):
    state = torch.load(LAST.format(version), weights_only=True)
    return state["optimizer_states"][0]["param_groups"][0]


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_the_rate_follows_the_images_of_an_optimizer_step(scaling, factor):
    task = ExpressionClassifier(partial(MLP, hidden=[4]), lr=0.01, lr_scaling=scaling)
    task.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, accumulate_grad_batches=2)
    task.trainer.datamodule = SyntheticFaces(batch_size=4, global_batch_size=8)
    assert task.build_optimizer()[0].param_groups[0]["lr"] == pytest.approx(0.01 * factor)


def test_a_resumed_run_with_other_steps_takes_their_rate(run, workdir, caplog):
    schedule = ["--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.1", "--model.scheduler_interval=step"]
    run("fit", *SCALED, *schedule, "--data.global_batch_size=8")
    assert groups(0)["max_lr"] == pytest.approx(0.2)
    assert re.search(r"SGD with learning rate .*, with rates 2 times those written, linear scaling", caplog.text)
    going_on = ["fit", "--ckpt_path", LAST.format(0), *TINY_RUN[1:], "--trainer.max_epochs=2"]
    caplog.clear()
    main(going_on)
    assert groups(1)["max_lr"] == pytest.approx(0.2)
    assert "differs from the checkpoint" not in caplog.text
    main([*going_on, "--data.global_batch_size=12"])
    assert groups(2)["max_lr"] == pytest.approx(0.3)
    assert "differs from the checkpoint in the samples in a step" in caplog.text


def test_a_rate_that_is_looked_for_cannot_be_scaled(run, workdir, capsys):
    assert exit_code(lambda: run("fit", *SCALED, "--trainer.callbacks+=LearningRateFinder")) == 2
    assert "lr_scaling is linear, but LearningRateFinder" in capsys.readouterr().err


def test_a_plateau_has_moved_on_before_the_checkpoint_of_its_epoch(run, workdir):
    plateau = "--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau"
    options = ["monitor=val/accuracy", "mode=max", "patience=0", "threshold=1.0", "threshold_mode=abs"]
    written = [plateau, *(f"--model.scheduler.{option}" for option in options)]
    run("fit", *written, "--model.lr=0.01", "--trainer.max_epochs=2")
    # No epoch is better than the first by 1, so the second lowers the rate.
    assert groups(0)["lr"] == pytest.approx(0.001)
    state = torch.load(LAST.format(0), weights_only=True)
    assert state["lr_schedulers"][0]["last_epoch"] == 2
