"""A run that goes on from a checkpoint: its schedule, its best epoch, and what it says."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY_DATA, TINY_NET, TINY_RUN, Run, exit_code

from faceexpr.cli.main import main
from faceexpr.utils.errors import INTERRUPTED

LAST = "lightning_logs/version_0/checkpoints/last.ckpt"
ONE_CYCLE = ["--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.1"]


def resume(*args: str, epochs: int = 4) -> Path:
    """Resume the first run and return the folder of the new one."""
    main(["fit", "--ckpt_path", LAST, *TINY_RUN[1:], f"--trainer.max_epochs={epochs}", *args])
    return max(Path("lightning_logs").iterdir(), key=lambda folder: int(folder.name.removeprefix("version_")))


def scheduler_state(folder: Path) -> dict[str, float]:
    state: dict[str, float] = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["lr_schedulers"][0]
    return state


@pytest.mark.parametrize(
    ("interval", "change", "total"),
    [
        ("step", [], 16),  # 4 epochs of 4 batches instead of 2
        ("step", ["--data.batch_size=7"], 8),
        ("step", ["--data.batch_size=2"], 28),
        ("step", ["--trainer.accumulate_grad_batches=2"], 8),
        ("epoch", [], 4),
    ],
)
def test_a_schedule_over_the_whole_training_follows_its_new_length(
    interval: str, change: list[str], total: int, run: Run, workdir: Path
) -> None:
    run("fit", "--trainer.max_epochs=2", *ONE_CYCLE, f"--model.scheduler_interval={interval}")
    state = scheduler_state(resume(*change))
    assert state["total_steps"] == total
    assert state["last_epoch"] == total - 1  # it ends with the training: the rate has come down
    assert state["_last_lr"][0] < 1e-4  # type: ignore[index]


def test_a_schedule_that_is_too_short_stays_at_its_end(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="OneCycleLR ends after 2 steps, before the training does"):
        run("fit", *ONE_CYCLE, "--model.scheduler.total_steps=2", "--model.scheduler_interval=step")


def test_a_schedule_that_needs_a_length_says_so(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: run("fit", *ONE_CYCLE, "--trainer.max_epochs=-1")) == 2
    assert "OneCycleLR, which has to know how long the training is; give trainer.max_epochs" in capsys.readouterr().err


def test_e04_a_scheduler_may_be_added(run: Run, workdir: Path) -> None:
    run("fit", "--trainer.max_epochs=2", "--model.optimizer=SGD", "--model.optimizer.lr=0.1")
    folder = resume(*ONE_CYCLE, "--model.scheduler_interval=step")
    assert scheduler_state(folder)["total_steps"] == 16


def best_accuracy(folder: Path) -> float:
    """Measure the best checkpoint of a run."""
    main(["validate", "--ckpt_path", str(folder), *TINY_RUN[1:], "--predictions.path=null"])
    newest = max(Path("lightning_logs").iterdir(), key=lambda path: int(path.name.removeprefix("version_")))
    return reported_accuracy(newest)


def reported_accuracy(folder: Path) -> float:
    return float(json.loads((folder / "metrics.json").read_text())["val"]["accuracy"])


@pytest.mark.parametrize("moved", [False, True])
def test_the_best_epoch_comes_along(moved: bool, run: Run, workdir: Path) -> None:
    run("fit", "--trainer.max_epochs=2", "--model.optimizer=SGD", "--model.optimizer.lr=0")  # the first epoch is best
    path = LAST
    if moved:
        shutil.move("lightning_logs/version_0", "elsewhere")
        path = "elsewhere/checkpoints/last.ckpt"
    main(["fit", "--ckpt_path", path, *TINY_RUN[1:], "--trainer.max_epochs=3"])
    folder = Path("lightning_logs/version_0" if moved else "lightning_logs/version_1")
    checkpoint = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 0
    assert json.loads((folder / "metrics.json").read_text())["val"]["epoch"] == 0


@pytest.mark.parametrize("change", [[], ["--checkpoint.monitor=val/nll", "--checkpoint.mode=min"]])
def test_what_is_reported_as_best_are_the_weights_that_are_kept(change: list[str], run: Run, workdir: Path) -> None:
    run("fit", "--trainer.max_epochs=2", "--data.val_size=50")
    folder = resume(*change)
    assert reported_accuracy(folder) == best_accuracy(folder)


def test_a_lost_best_checkpoint_is_said_and_the_choice_starts_again(run: Run, workdir: Path) -> None:
    run("fit", "--trainer.max_epochs=2", "--data.val_size=50")
    Path("lightning_logs/version_0/checkpoints/best.ckpt").unlink()
    with pytest.warns(UserWarning, match="the best epoch will be chosen among those from here on"):
        folder = resume()
    assert torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["epoch"] >= 2
    assert reported_accuracy(folder) == best_accuracy(folder)


def test_nothing_left_to_train_is_said(run: Run, workdir: Path) -> None:
    run("fit", "--trainer.max_epochs=2")
    with pytest.warns(UserWarning, match="nothing was left to train: the checkpoint has done 2 epochs and 8 steps"):
        resume(epochs=2)


def test_a_training_that_has_ended_early_does_not_go_on(run: Run, workdir: Path) -> None:
    # No epoch is better than the one before by 1, so that the second is the last.
    early = "{class_path: EarlyStopping, init_args: {monitor: val/accuracy, mode: max, min_delta: 1.0, patience: 1}}"
    Path("early.yaml").write_text(f"trainer: {{callbacks: [{early}]}}\n")
    run("fit", "--config=early.yaml", "--trainer.max_epochs=9")
    last = "lightning_logs/version_0/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 8
    with pytest.warns(UserWarning, match="has done 2 epochs and 8 steps; to go on, leave out EarlyStopping"):
        run("fit", "--config=early.yaml", "--trainer.max_epochs=9", f"--ckpt_path={last}")
    assert not Path("lightning_logs/version_1/checkpoints/last.ckpt").exists()
    run("fit", "--trainer.max_epochs=3", f"--ckpt_path={last}")
    assert torch.load("lightning_logs/version_2/checkpoints/last.ckpt", weights_only=True)["global_step"] == 12


def test_a_null_checkpoint_replaces_that_of_a_configuration(
    run: Run, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.yaml").write_text("ckpt_path: missing.ckpt\n")
    assert exit_code(lambda: run("fit", "--config", "a.yaml")) == 2
    assert "missing.ckpt does not exist" in capsys.readouterr().err
    run("fit", "--config", "a.yaml", "--ckpt_path=null")
    Path("b.yaml").write_text("ckpt_path: null\n")
    run("fit", "--config", "a.yaml", "--config", "b.yaml")


def test_callbacks_of_the_training_are_not_asked_for_when_measuring(run: Run, recwarn: pytest.WarningsRecorder) -> None:
    run("fit", "--trainer.callbacks+=EMAWeightAveraging")
    recwarn.clear()
    main(["test", "--ckpt_path", LAST, *TINY_RUN[1:]])
    main(["test", "--ckpt_path", LAST, *TINY_RUN[1:], "--trainer.callbacks+=EMAWeightAveraging"])
    assert not [warning for warning in recwarn if "EMAWeightAveraging" in str(warning.message)]


def test_an_interrupted_run_says_how_to_go_on(workdir: Path) -> None:
    args = ["fit", *TINY_DATA, *TINY_NET, *TINY_RUN[1:], "--trainer.max_epochs=100000"]
    command = [sys.executable, "-m", "faceexpr", *args]
    with Path("out").open("wb") as out, Path("err").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        while process.poll() is None and Path("out").read_bytes().count(b"\n") < 2:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == INTERRUPTED
    assert f"go on after the last whole epoch with: faceexpr fit --ckpt_path {LAST}" in Path("err").read_text()
    done = torch.load(LAST, weights_only=True)["epoch"] + 1
    resume(epochs=done + 1)
    assert torch.load("lightning_logs/version_1/checkpoints/last.ckpt", weights_only=True)["epoch"] == done
