"""Learning rates that follow the number of samples in a step, and schedules that follow what is measured."""

from functools import partial

import pytest
import torch
from conftest import TINY_RUN, exit_code
from lightning.pytorch import Trainer
from torch.optim import lr_scheduler

from faceexpr.cli.main import main
from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.models.compact_resnet import CompactResNet
from faceexpr.models.mlp import MLP
from faceexpr.models.simple_cnn import SimpleCNN
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.errors import FaceExprError

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
    said = "SGD with peak learning rate 0.2 (OneCycleLR), with rates 2 times those written, linear scaling"
    assert said in caplog.text
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


FINDER = [
    "--trainer.callbacks+=LearningRateFinder", "--trainer.callbacks.num_training_steps=30",
    "--trainer.callbacks.early_stop_threshold=null", "--model.optimizer=SGD", "--data.train_size=160",
    "--model.scheduler_interval=step",
]  # fmt: skip


@pytest.mark.parametrize(
    "schedule",
    [
        ["OneCycleLR", "max_lr=0.3"],
        pytest.param(["WarmupMultiStepLR", "warmup_steps=2"], marks=pytest.mark.slow),
        pytest.param(["CyclicLR", "base_lr=0.1", "max_lr=0.3"], marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0],
)
def test_the_rate_that_is_found_rules_the_whole_schedule(schedule, run, workdir, caplog):  # case N03
    name = schedule[0] if schedule[0] != "WarmupMultiStepLR" else "faceexpr.tasks.schedules.WarmupMultiStepLR"
    options = [f"--model.scheduler={name}", *(f"--model.scheduler.{option}" for option in schedule[1:])]
    run("fit", *FINDER, *options)
    found = torch.load(LAST.format(0), weights_only=True)["hyper_parameters"]["lr"]
    group, state = groups(0), torch.load(LAST.format(0), weights_only=True)["lr_schedulers"][0]
    assert found not in (None, 0.3)
    if name == "OneCycleLR":
        assert group["max_lr"] == pytest.approx(found)
        assert (group["initial_lr"], state["total_steps"]) == (pytest.approx(found / 25), 40)
        assert group["lr"] < found / 1000  # the end of the cycle
    elif name == "CyclicLR":
        assert (state["base_lrs"], group["initial_lr"]) == ([pytest.approx(found / 3)], pytest.approx(found / 3))
    else:
        assert group["lr"] == pytest.approx(found)
    # A training that goes on has its rate already.
    run("fit", *FINDER, *options, "--ckpt_path", LAST.format(0), "--trainer.max_epochs=2")
    again = torch.load(LAST.format(1), weights_only=True)
    assert (again["hyper_parameters"]["lr"], again["global_step"]) == (found, 80)
    assert "the training goes on with its learning rate; LearningRateFinder is left out" in caplog.text
    assert groups(1)["initial_lr"] == pytest.approx(group["initial_lr"])


def test_a_written_rate_is_the_highest_of_a_schedule_with_rates_of_its_own(monkeypatch):
    monkeypatch.setattr(ExpressionClassifier, "lr_factor", 1.0)
    for name, first in (("one cycle", 0.6 / 25), ("cyclic", 0.02 * 0.6 / 0.3)):
        task = ExpressionClassifier(partial(MLP, hidden=[4]), scheduler=SCHEDULES[name], lr=0.6)
        task.optimizer = partial(torch.optim.SGD, lr=0.1)
        optimizer, schedule = task.build_optimizer()
        highest = optimizer.param_groups[0]["max_lr"] if name == "one cycle" else schedule.max_lrs[0]
        assert (highest, optimizer.param_groups[0]["lr"]) == (pytest.approx(0.6), pytest.approx(first))


def test_a_model_without_a_rate_refuses_to_look_for_one(run, workdir, capsys):
    options = ["--model=KNNClassifier", "--trainer.callbacks+=LearningRateFinder"]
    assert exit_code(lambda: run("fit", *options, net=False)) == 2
    error = capsys.readouterr().err
    assert "error: LearningRateFinder cannot be used with this model: " in error
    assert "Traceback" not in error


# Parts that are frozen (case N09).


def trained_parts(frozen):
    """Train for an epoch, and return the parts of the network whose state has changed."""
    torch.manual_seed(0)
    net = partial(CompactResNet, stem=8, widths=(8, 16), depths=(1, 1))
    task = ExpressionClassifier(net, optimizer=partial(torch.optim.SGD, lr=0.1, weight_decay=0.1), frozen=frozen)
    before = {name: value.clone() for name, value in task.net.state_dict().items()}
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=2, enable_model_summary=False, **options)
    trainer.fit(task, datamodule=SyntheticFaces(train_size=14, val_size=7, batch_size=7))
    after = task.net.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}, task


def test_what_is_frozen_keeps_its_weights_and_its_statistics():
    changed, task = trained_parts(["features.0", "features.1", "features.3", "head.2.bias"])
    assert not [name for name in changed if name.startswith(("features.0", "features.1.", "features.3"))]
    assert "head.2.bias" not in changed  # a single weight
    assert {"head.2.weight", "features.2.before.0.running_mean", "features.2.before.0.weight"} <= changed
    assert task.net.training
    assert not task.net.get_submodule("features.1").training
    assert trained_parts([])[0] > changed


def test_a_frozen_part_that_the_network_does_not_have_is_refused():
    with pytest.raises(
        FaceExprError,
        match=r"frozen is backbone; expected parts of the network, such as preprocess, features, features",
    ):
        ExpressionClassifier(SimpleCNN, frozen=["backbone"])
    with pytest.raises(FaceExprError, match=r"frozen is \['features', 'head'\]; expected parts that leave others"):
        ExpressionClassifier(SimpleCNN, frozen=["features", "head"])


def test_a_callback_that_the_task_cannot_serve_is_one_sentence(run, workdir, capsys):
    assert exit_code(lambda: run("fit", "--trainer.callbacks+=BackboneFinetuning")) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "rror" in line]
    assert lines == [
        "faceexpr fit: error: BackboneFinetuning cannot be used with this model: 'ExpressionClassifier' object has no "
        "attribute 'backbone'"
    ]
