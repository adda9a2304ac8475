"""What a checkpoint remembers, what the user writes over it, and how a run goes on from it."""

import json
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY_RUN, Run, exit_code
from lightning.pytorch import Trainer

from faceexpr.cli.main import main
from faceexpr.data.synthetic.faces import SyntheticFaces
from faceexpr.models.mlp import MLP
from faceexpr.models.resnet import ResNet
from faceexpr.models.simple_cnn import SimpleCNN
from faceexpr.tasks.classify import ExpressionClassifier, Focal

BEST = "lightning_logs/version_0/checkpoints/best.ckpt"
LAST = "lightning_logs/version_0/checkpoints/last.ckpt"
ONE_CYCLE = ["--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.1"]


def resume(*args: str, epochs: int = 4) -> Path:
    """Resume the first run and return the folder of the new one."""
    main(["fit", "--ckpt_path", LAST, *TINY_RUN[1:], f"--trainer.max_epochs={epochs}", *args])
    return newest_run()


def newest_run() -> Path:
    return max(Path("lightning_logs").iterdir(), key=lambda folder: int(folder.name.removeprefix("version_")))


def last_of(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return state


def learning_rate(checkpoint: str | Path) -> float:
    state = torch.load(checkpoint, weights_only=True)
    return float(state["optimizer_states"][0]["param_groups"][0]["lr"])


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


# Checkpoints load safely, everywhere and without the configuration (cases E03, E14).


def test_a_checkpoint_loads_safely_everywhere(run: Run, workdir: Path) -> None:
    run("fit", "--model.net.batch_norm=true", "--data.train_size=8", "--model.loss=Focal", "--model.optimizer=SGD",
        "--model.optimizer.lr=0.01")  # fmt: skip
    checkpoint = torch.load(LAST, weights_only=True)
    assert plain(checkpoint["hyper_parameters"])
    assert plain(checkpoint["datamodule_hyper_parameters"])
    for verb in ("validate", "test", "predict"):
        main([verb, "--ckpt_path", LAST, *TINY_RUN[1:]])
    assert last_of(resume(epochs=2))["global_step"] == 2 * checkpoint["global_step"]
    assert isinstance(ExpressionClassifier.load_from_checkpoint(LAST).loss, Focal)


@pytest.mark.parametrize("net", [SimpleCNN, partial(ResNet, depth=18), partial(MLP, hidden=(4,))])
def test_models_built_in_python_load_with_the_path_only(net: Any, tmp_path: Path) -> None:
    model = ExpressionClassifier(net=net, optimizer=partial(torch.optim.SGD, lr=0.01)).eval()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.predict(model, datamodule=SyntheticFaces(test_size=7))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = ExpressionClassifier.load_from_checkpoint(tmp_path / "model.ckpt").eval()
    image = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(loaded(image), model(image), atol=1e-6, rtol=0)
    assert loaded.class_names == model.class_names


def test_the_learning_rate_finder_works(run: Run, workdir: Path) -> None:
    finder = "{class_path: LearningRateFinder, init_args: {num_training_steps: 20, early_stop_threshold: null}}"
    Path("finder.yaml").write_text(f"trainer: {{callbacks: [{finder}]}}")
    run("fit", "--config", "finder.yaml", "--data.train_size=28", "--trainer.max_epochs=5")
    assert learning_rate(LAST) != 0.001


# What the user writes beats what the checkpoint remembers (case E04).


def test_a_written_learning_rate_beats_the_checkpoints(
    run: Run, workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run("fit", "--model.optimizer=SGD", "--model.optimizer.lr=0.1", "--model.optimizer.momentum=0.9")
    for flag in ("--model.optimizer.lr=0.001", "--model.lr=0.001"):
        caplog.clear()
        state = last_of(resume(flag, epochs=2))["optimizer_states"][0]["param_groups"][0]
        assert (state["lr"], state["momentum"]) == (0.001, 0.9)
        assert "learning rate 0.001" in caplog.text
    assert learning_rate(resume(epochs=2) / "checkpoints/last.ckpt") == 0.1


def test_another_network_is_one_clear_message(run: Run, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("fit")
    Path("cnn.yaml").write_text("model: {class_path: ExpressionClassifier, init_args: {net: {class_path: SimpleCNN}}}")
    assert exit_code(lambda: main(["test", "--ckpt_path", BEST, "--config", "cnn.yaml", *TINY_RUN[1:]])) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1
    assert "MLP(" in error[0]
    assert "SimpleCNN" in error[0]


def test_evaluation_options_beat_the_checkpoint_too(run: Run, workdir: Path) -> None:
    run("fit")
    main(["test", "--ckpt_path", BEST, *TINY_RUN[1:], "--data.test_size=14", "--data.batch_size=3"])
    config = yaml.safe_load(Path("lightning_logs/version_1/config.yaml").read_text())
    assert (config["data"]["init_args"]["test_size"], config["data"]["init_args"]["batch_size"]) == (14, 3)
    assert config["model"]["init_args"]["net"]["init_args"]["hidden"] == [8]


def test_a_null_checkpoint_replaces_that_of_a_configuration(
    run: Run, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.yaml").write_text("ckpt_path: missing.ckpt\n")
    assert exit_code(lambda: run("fit", "--config", "a.yaml")) == 2
    assert "missing.ckpt does not exist" in capsys.readouterr().err
    Path("b.yaml").write_text("ckpt_path: null\n")
    run("fit", "--config", "a.yaml", "--config", "b.yaml")


def test_last_is_the_newest_run_and_best_needs_a_run(
    run: Run, workdir: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert exit_code(lambda: run("test", "--ckpt_path=last")) == 2
    assert "no last.ckpt below lightning_logs" in capsys.readouterr().err
    caplog.set_level(logging.INFO)
    run("fit", "--ckpt_path=last")
    assert "there is no last.ckpt to go on from below lightning_logs: training starts anew" in caplog.text
    main(["fit", "--ckpt_path", "last", *TINY_RUN[1:], "--trainer.max_epochs=3"])
    assert last_of(newest_run())["epoch"] == 2
    assert exit_code(lambda: main(["test", "--ckpt_path=best"])) == 2
    assert "knows of no run" in capsys.readouterr().err
    main(["test", "--ckpt_path=lightning_logs/version_1", *TINY_RUN[1:]])


@pytest.mark.parametrize(
    ("interval", "change", "total"),
    [
        ("step", [], 16),  # 4 epochs of 4 batches instead of 2
        ("step", ["--data.batch_size=7"], 8),
        ("step", ["--trainer.accumulate_grad_batches=2"], 8),
        ("epoch", [], 4),
    ],
)
def test_a_schedule_over_the_whole_training_follows_its_new_length(
    interval: str, change: list[str], total: int, run: Run, workdir: Path
) -> None:
    run("fit", "--trainer.max_epochs=2", *ONE_CYCLE, f"--model.scheduler_interval={interval}")
    state = last_of(resume(*change))["lr_schedulers"][0]
    assert state["total_steps"] == total
    assert state["last_epoch"] == total - 1  # it ends with the training: the rate has come down
    assert state["_last_lr"][0] < 1e-4


def test_a_scheduler_may_be_added(run: Run, workdir: Path) -> None:
    run("fit", "--trainer.max_epochs=2", "--model.optimizer=SGD", "--model.optimizer.lr=0.1")
    state = last_of(resume(*ONE_CYCLE, "--model.scheduler_interval=step"))
    assert state["lr_schedulers"][0]["total_steps"] == 16


def test_a_schedule_that_is_too_short_stays_at_its_end(run: Run) -> None:
    with pytest.warns(UserWarning, match="OneCycleLR ends after 2 steps, before the training does"):
        run("fit", *ONE_CYCLE, "--model.scheduler.total_steps=2", "--model.scheduler_interval=step")


def test_a_schedule_that_needs_a_length_says_so(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: run("fit", *ONE_CYCLE, "--trainer.max_epochs=-1")) == 2
    assert "OneCycleLR, which has to know how long the training is; expected max_epochs" in capsys.readouterr().err


# The best epoch of the run that is resumed.


def accuracy_of(folder: Path) -> float:
    return float(json.loads((folder / "metrics.json").read_text())["val"]["accuracy"])


@pytest.mark.parametrize("moved", [False, True])
def test_the_best_epoch_comes_along(moved: bool, run: Run, workdir: Path) -> None:
    run("fit", "--trainer.max_epochs=2", "--model.optimizer=SGD", "--model.optimizer.lr=0")  # the first epoch is best
    path = LAST
    if moved:
        shutil.move("lightning_logs/version_0", "elsewhere")
        path = "elsewhere/checkpoints/last.ckpt"
    main(["fit", "--ckpt_path", path, *TINY_RUN[1:], "--trainer.max_epochs=3"])
    folder = newest_run()
    assert torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["epoch"] == 0
    assert json.loads((folder / "metrics.json").read_text())["val"]["epoch"] == 0


@pytest.mark.parametrize("change", ["nothing", "monitor", "lost"])
def test_what_is_reported_as_best_are_the_weights_that_are_kept(change: str, run: Run, workdir: Path) -> None:
    run("fit", "--trainer.max_epochs=2", "--data.val_size=50")
    if change == "lost":
        Path(BEST).unlink()
        with pytest.warns(UserWarning, match="the best epoch will be chosen among those from here on"):
            folder = resume()
        assert torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["epoch"] >= 2
    else:
        folder = resume(*["--checkpoint.monitor=val/nll", "--checkpoint.mode=min"] if change == "monitor" else [])
    main(["validate", "--ckpt_path", str(folder), *TINY_RUN[1:], "--predictions.path=null"])
    assert accuracy_of(folder) == accuracy_of(newest_run())


def test_a_best_checkpoint_of_a_later_epoch_is_not_taken_for_that_of_an_earlier_one(run: Run, workdir: Path) -> None:
    # As after a kill between the best checkpoint of an epoch and the state that knows of it.
    run("fit", "--trainer.max_epochs=1", "--data.val_size=50", "--model.lr=0")
    state = torch.load(BEST, weights_only=True)
    torch.save(state | {"global_step": state["global_step"] + 4}, BEST)
    with pytest.warns(UserWarning, match=r"best\.ckpt is of an epoch after the checkpoint that is resumed"):
        folder = resume(epochs=2)
    assert torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["epoch"] == 1


# Where a run goes on, and when there is nothing to go on with.


def test_a_training_that_has_ended_early_does_not_go_on(run: Run, workdir: Path) -> None:
    # No epoch is better than the one before by 1, so that the second is the last.
    early = "{class_path: EarlyStopping, init_args: {monitor: val/accuracy, mode: max, min_delta: 1.0, patience: 1}}"
    Path("early.yaml").write_text(f"trainer: {{callbacks: [{early}]}}\n")
    run("fit", "--config=early.yaml", "--trainer.max_epochs=9")
    assert torch.load(LAST, weights_only=True)["global_step"] == 8
    with pytest.warns(UserWarning, match="has done 8 steps; to go on, leave out EarlyStopping"):
        run("fit", "--config=early.yaml", "--trainer.max_epochs=9", f"--ckpt_path={LAST}")
    assert not (newest_run() / "checkpoints/last.ckpt").exists()
    assert last_of(resume(epochs=3))["global_step"] == 12


def test_a_second_run_into_the_same_folder_keeps_the_first_config(run: Run, workdir: Path) -> None:
    fixed = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=runs", "--trainer.logger.name=a",
             "--trainer.logger.version=x"]  # fmt: skip
    for lr in (0.1, 0.2):
        run("fit", *fixed, f"--model.lr={lr}")
    run("test", *fixed, "--ckpt_path=runs/a/x", "--model.lr=0.3")
    folder = Path("runs/a/x")
    rates = [
        yaml.safe_load((folder / name).read_text())["model"]["init_args"]["lr"]
        for name in ("config.1.yaml", "config.2.yaml", "config.yaml")
    ]
    assert rates == [0.1, 0.2, 0.3]
    assert set(json.loads((folder / "metrics.json").read_text())) == {"val", "test"}
    assert sorted(path.name for path in folder.glob("checkpoints/last*")) == ["last-v1.ckpt", "last.ckpt"]


def test_callbacks_of_the_training_are_not_asked_for_when_measuring(run: Run, recwarn: pytest.WarningsRecorder) -> None:
    run("fit", "--trainer.callbacks+=EMAWeightAveraging")
    recwarn.clear()
    main(["test", "--ckpt_path", LAST, *TINY_RUN[1:]])
    main(["test", "--ckpt_path", LAST, *TINY_RUN[1:], "--trainer.callbacks+=EMAWeightAveraging"])
    assert not [warning for warning in recwarn if "EMAWeightAveraging" in str(warning.message)]
