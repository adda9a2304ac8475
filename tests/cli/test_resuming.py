"""What a checkpoint remembers, what the user writes over it, and how a run goes on from it."""

import json
import logging
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY_RUN, exit_code, measured

from faceexpr.cli.main import main
from faceexpr.tasks.classify import ExpressionClassifier, Focal

BEST = "lightning_logs/version_0/checkpoints/best.ckpt"
LAST = "lightning_logs/version_0/checkpoints/last.ckpt"
ONE_CYCLE = ["--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.1"]


def resume(*args, epochs=2):
    """Resume the first run and return the folder of the new one."""
    main(["fit", "--ckpt_path", LAST, *TINY_RUN[1:], f"--trainer.max_epochs={epochs}", *args])
    return newest_run()


def newest_run():
    numbers = [folder.name.removeprefix("version_") for folder in Path("lightning_logs").iterdir()]
    return Path(f"lightning_logs/version_{max(int(number) for number in numbers if number.isdigit())}")


def last_of(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def rates_of(folder):
    return last_of(folder)["optimizer_states"][0]["param_groups"][0]


# Checkpoints load safely, everywhere and without the configuration (cases E03, E14).


def test_a_checkpoint_loads_safely_everywhere(run):
    run("fit", "--model.net.batch_norm=true", "--data.train_size=8", "--model.loss=Focal", "--model.optimizer=SGD",
        "--model.optimizer.lr=0.01")  # fmt: skip
    checkpoint = torch.load(LAST, weights_only=True)
    for name in ("hyper_parameters", "datamodule_hyper_parameters"):
        assert json.loads(json.dumps(checkpoint[name])) == checkpoint[name]  # plain values
    for verb in ("validate", "predict"):
        main([verb, "--ckpt_path", LAST, *TINY_RUN[1:]])
    assert last_of(resume())["global_step"] == 2 * checkpoint["global_step"]
    assert isinstance(ExpressionClassifier.load_from_checkpoint(LAST).loss, Focal)


@pytest.mark.slow
def test_the_learning_rate_finder_works(run):
    finder = ["--trainer.callbacks+=LearningRateFinder", "--trainer.callbacks.num_training_steps=20"]
    run("fit", *finder, "--trainer.callbacks.early_stop_threshold=null", "--trainer.max_epochs=5")
    assert rates_of(newest_run())["lr"] != 0.001


# What the user writes beats what the checkpoint remembers (case E04).


def test_a_written_learning_rate_beats_the_checkpoints(run, caplog):
    run("fit", "--model.optimizer=SGD", "--model.optimizer.lr=0.1", "--model.optimizer.momentum=0.9")
    for flag in ("--model.optimizer.lr=0.001", "--model.lr=0.001"):
        caplog.clear()
        rates = rates_of(resume(flag))
        assert (rates["lr"], rates["momentum"]) == (0.001, 0.9)
        assert "learning rate 0.001" in caplog.text
    assert rates_of(resume())["lr"] == 0.1


def test_another_network_is_one_clear_message(fitted, capsys):
    Path("cnn.yaml").write_text("model: {class_path: ExpressionClassifier, init_args: {net: {class_path: SimpleCNN}}}")
    assert exit_code(lambda: main(["test", "--ckpt_path", BEST, "--config", "cnn.yaml", *TINY_RUN[1:]])) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "MLP(" in error
    assert "SimpleCNN" in error


def test_evaluation_options_beat_the_checkpoint_too(fitted):
    main(["test", "--ckpt_path", BEST, *TINY_RUN[1:], "--data.test_size=14", "--data.batch_size=3"])
    config = yaml.safe_load(Path("lightning_logs/version_0-test/version_0/config.yaml").read_text())
    assert (config["data"]["init_args"]["test_size"], config["data"]["init_args"]["batch_size"]) == (14, 3)
    assert config["model"]["init_args"]["net"]["init_args"]["hidden"] == [8]


def test_a_null_checkpoint_replaces_that_of_a_configuration(run, workdir, capsys):
    Path("a.yaml").write_text("ckpt_path: missing.ckpt\n")
    Path("b.yaml").write_text("ckpt_path: null\n")
    assert exit_code(lambda: run("fit", "--config=a.yaml", "--print_config")) == 2
    assert "missing.ckpt does not exist" in capsys.readouterr().err
    assert exit_code(lambda: run("fit", "--config=a.yaml", "--config=b.yaml", "--print_config")) == 0


def test_last_is_the_newest_run_and_best_needs_a_run(run, workdir, capsys, caplog):
    assert exit_code(lambda: run("test", "--ckpt_path=last")) == 2
    assert "no run below lightning_logs has a last.ckpt" in capsys.readouterr().err
    caplog.set_level(logging.INFO)
    run("fit", "--ckpt_path=last")
    assert "there is no last.ckpt to go on from below lightning_logs: training starts anew" in caplog.text
    assert exit_code(lambda: main(["test", "--ckpt_path=best"])) == 2
    assert "knows of no run" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("interval", "change", "total"),
    [
        ("step", ["--data.batch_size=7"], 6),  # 3 epochs of 2 batches; they were 1 of 4
        ("step", ["--trainer.accumulate_grad_batches=2"], 6),
        ("epoch", [], 3),
    ],
)
def test_a_schedule_over_the_whole_training_follows_its_new_length(interval, change, total, run):
    run("fit", *ONE_CYCLE, f"--model.scheduler_interval={interval}")
    state = last_of(resume(*change, epochs=3))["lr_schedulers"][0]
    assert state["total_steps"] == total
    assert state["last_epoch"] == total - 1  # it ends with the training: the rate has come down
    assert state["_last_lr"][0] < 1e-4


def test_a_scheduler_may_be_added(fitted):
    state = last_of(resume(*ONE_CYCLE, "--model.scheduler_interval=step"))
    assert state["lr_schedulers"][0]["total_steps"] == 8


def test_a_schedule_that_is_too_short_stays_at_its_end_and_says_so_in_a_line(run, capsys):
    run("fit", *ONE_CYCLE, "--model.scheduler.total_steps=2", "--model.scheduler_interval=step")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "OneCycleLR" in line]
    end = "the learning rate stays where it is"
    assert line == f"warning: OneCycleLR ends after 2 steps, before the training does: {end}"


def test_a_schedule_that_needs_a_length_says_so(run, capsys):
    assert exit_code(lambda: run("fit", *ONE_CYCLE, "--trainer.max_epochs=-1")) == 2
    assert "OneCycleLR, which has to know how long the training is; expected max_epochs" in capsys.readouterr().err


# The best epoch of the run that is resumed.


def best_epoch(folder):
    return int(torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["epoch"])


@pytest.mark.parametrize("moved", [False, True])
def test_the_best_epoch_comes_along(moved, fitted):
    folder = fitted.rename("elsewhere") if moved else fitted
    still = "--model.lr=0"  # no later epoch is better
    main(["fit", f"--ckpt_path={folder}/checkpoints/last.ckpt", *TINY_RUN[1:], "--trainer.max_epochs=2", still])
    assert (best_epoch(newest_run()), measured(newest_run(), "val")["epoch"]) == (0, 0)


@pytest.mark.parametrize("change", [pytest.param("nothing", marks=pytest.mark.slow), "monitor", "lost"])
def test_what_is_reported_as_best_are_the_weights_that_are_kept(change, fitted, capsys):
    if change == "lost":
        Path(BEST).unlink()
        folder = resume()
        assert "the best epoch will be chosen among those from here on\n" in capsys.readouterr().err
        assert best_epoch(folder) >= 1
    else:
        folder = resume(*["--checkpoint.monitor=val/nll", "--checkpoint.mode=min"] if change == "monitor" else [])
    main(["validate", "--ckpt_path", str(folder), *TINY_RUN[1:], "--predictions.path=null"])
    assert measured(folder, "val")["accuracy"] == measured(f"{folder}-validate/version_0", "val")["accuracy"]


def test_a_best_checkpoint_of_a_later_epoch_is_not_taken_for_that_of_an_earlier_one(fitted, capsys):
    # As after a kill between the best checkpoint of an epoch and the state that knows of it.
    state = torch.load(BEST, weights_only=True)
    torch.save(state | {"global_step": state["global_step"] + 4}, BEST)
    folder = resume()
    assert "best.ckpt is of an epoch after the checkpoint that is resumed" in capsys.readouterr().err
    assert best_epoch(folder) == 1


# Where a run goes on, and when there is nothing to go on with.


@pytest.mark.slow
def test_a_training_that_has_ended_early_does_not_go_on(run, capsys):
    # No epoch is better than the one before by 1, so that the second is the last.
    options = {"monitor": "val/accuracy", "mode": "max", "min_delta": 1, "patience": 1}
    early = ["--trainer.max_epochs=9", "--trainer.callbacks+=EarlyStopping"]
    early += [f"--trainer.callbacks.{name}={value}" for name, value in options.items()]
    run("fit", *early)
    assert torch.load(LAST, weights_only=True)["global_step"] == 8
    run("fit", *early, f"--ckpt_path={LAST}")
    assert "has done 8 steps; to go on, leave out EarlyStopping" in capsys.readouterr().err
    assert not (newest_run() / "checkpoints/last.ckpt").exists()
    assert last_of(resume(epochs=3))["global_step"] == 12


def test_what_goes_on_in_the_same_folder_keeps_the_first_config(run, workdir):
    fixed = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=runs", "--trainer.logger.name=a",
             "--trainer.logger.version=x"]  # fmt: skip
    for epochs in (1, 2):
        run("fit", *fixed, "--ckpt_path=last", "--model.lr=0.1", f"--trainer.max_epochs={epochs}")
    run("test", *fixed, "--ckpt_path=runs/a/x", "--model.lr=0.3")
    folder = Path("runs/a/x")
    kept = [yaml.safe_load((folder / f"config{name}.yaml").read_text()) for name in (".1", ".2", "")]
    assert [config["trainer"]["max_epochs"] for config in kept] == [1, 2, 1]
    assert set(json.loads((folder / "metrics.json").read_text())) == {"val", "test"}
    assert sorted(path.name for path in folder.glob("checkpoints/last*")) == ["last.ckpt"]


def test_callbacks_of_the_training_are_not_asked_for_when_measuring(run, capsys):
    run("fit", "--trainer.callbacks+=EMAWeightAveraging")
    capsys.readouterr()
    main(["test", "--ckpt_path", LAST, *TINY_RUN[1:], "--trainer.callbacks+=EMAWeightAveraging"])
    assert "EMAWeightAveraging" not in capsys.readouterr().err
