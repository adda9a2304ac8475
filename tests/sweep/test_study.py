"""Sweeps of tiny trainings: what they leave, how they go on, and what goes wrong."""

import io
import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from conftest import exit_code, measured
from sweep_runs import FIT, FOLDER, curve, here, sweep, table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from faceexpr.cli.main import main
from faceexpr.sweep import study as study_module
from faceexpr.sweep import trial
from faceexpr.utils.errors import INTERRUPTED, PREEMPTED, SOME_FAILED, FaceExprError

ACTIVATIONS = {"model.net.activation": ["relu", "tanh"]}
RATES = {"model.lr": [0.1, 0.2, 0.3]}
as_rated = curve(lambda options: [float(options["model.lr"])])


@pytest.fixture
def unresolved(monkeypatch):
    """Do not have `fit` read the options of all points, which takes longer than what is tested, and wait shortly."""
    monkeypatch.setattr(study_module, "resolve", lambda args: "")
    monkeypatch.setattr(study_module, "POLL_SECONDS", 0.2)


def test_a_grid_leaves_ordinary_runs_a_table_a_figure_and_the_best_configuration(workdir, capsys):
    sweep(parameters=ACTIVATIONS).run()
    printed = capsys.readouterr().out
    runs = {f"trial_{index:03d}" for index in range(2)}
    assert {path.name for path in FOLDER.iterdir()} == {"table.csv", "sweep.png", "best.yaml", "study.db", *runs}
    rows = table()
    assert [row["model.net.activation"] for row in rows] == ACTIVATIONS["model.net.activation"]
    for row in rows:
        run = FOLDER / row["trial"]
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["model"]["init_args"]["net"]["init_args"]["activation"] == row["model.net.activation"]
        assert config["trainer"]["callbacks"] is None  # the report to the study is no part of the run
        assert (run / "checkpoints/best.ckpt").is_file()
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece"):
            assert float(row[f"val/{name}"]) == pytest.approx(measured(run, "val")[name], abs=1e-6)
        assert json.loads((run / "metrics.json").read_text()).keys() == {"val"}  # the test split is not touched
    best = max(rows, key=lambda row: float(row["val/accuracy"]))
    assert f"faceexpr test --ckpt_path {FOLDER / best['trial']}" in printed
    main(["fit", "--config", str(FOLDER / "best.yaml")])
    assert measured("lightning_logs/version_0", "val") == measured(FOLDER / best["trial"], "val")


@pytest.mark.parametrize("logger", ["TensorBoardLogger", "[TensorBoardLogger, CSVLogger]"])
def test_a_logger_that_is_not_used_is_said(logger, workdir, capsys):
    sweep(as_rated, [f"--trainer.logger={logger}"], parameters={"model.lr": [0.1]}).run()
    assert ("in the place of trainer.logger" in capsys.readouterr().out) == (logger != "TensorBoardLogger")


@pytest.mark.parametrize("ending", [KeyboardInterrupt, PREEMPTED])
def test_an_interrupted_sweep_does_what_is_missing_and_nothing_again(ending, workdir, capsys, unresolved):
    calls = []

    def interrupted(args, monitor, folder, report):
        calls.append(folder.name)
        if len(calls) != 2:
            return as_rated(args, monitor, folder, report)
        folder.mkdir(parents=True)
        if isinstance(ending, int):  # the trial has received SIGTERM
            return ending
        raise ending

    expected = ending if isinstance(ending, int) else INTERRUPTED
    assert exit_code(sweep(interrupted, parameters=RATES).run) == expected
    assert "the same command goes on" in capsys.readouterr().out
    assert [row["trial"] for row in table()] == ["trial_000"]
    sweep(interrupted, parameters=RATES).run()
    sweep(interrupted, parameters=RATES).run()
    assert calls == ["trial_000", "trial_001", "trial_002", "trial_001"]
    assert [row["status"] for row in table()] == ["done"] * 3


def test_a_limit_ends_early_and_other_options_of_fit_are_announced(workdir, capsys, unresolved):
    sweep(as_rated, parameters=RATES, limit=2).run()
    assert len(table()) == 2
    assert "2 of 3 trials are over" in capsys.readouterr().out
    sweep(as_rated, fit=["--trainer.max_epochs=2"], parameters=RATES).run()
    assert len(table()) == 3
    assert "warning: the trials of this sweep began with other options of fit" in capsys.readouterr().out


def test_another_sweep_in_the_same_folder_is_refused(workdir, unresolved):
    sweep(as_rated, parameters=RATES).run()
    before = table()
    for changed, said in (
        ({"parameters": {"model.lr": [0.1]}}, "differs in parameters"),
        ({"parameters": RATES, "monitor": "val/macro_f1"}, "differs in monitor"),
    ):
        with pytest.raises(FaceExprError, match=said):
            sweep(as_rated, **changed).run()
    assert table() == before
    (FOLDER / "study.db").unlink()
    with pytest.raises(FaceExprError, match="no record of its sweep"):
        sweep(as_rated, parameters=RATES).run()


def test_a_hopeless_trial_is_pruned_and_is_an_ordinary_run(workdir, unresolved):
    def launch(args, monitor, folder, report):
        # The others are far better than any training of one step.
        return (here if folder.name == "trial_002" else curve(lambda options: [0.1] * 3))(args, monitor, folder, report)

    options = {"prune": True, "prune_startup": 2, "prune_warmup": 1}
    sweep(launch, ["--trainer.max_epochs=4"], parameters=RATES, monitor="val/nll", mode="min", **options).run()
    rows = table()
    assert [row["status"] for row in rows] == ["done", "done", "pruned"]
    assert rows[2]["reason"] == "worse than the median after 2 epochs"
    run = FOLDER / "trial_002"
    nll = [event.value for event in EventAccumulator(str(run)).Reload().Scalars("val/nll")]
    assert len(nll) == 2
    assert float(rows[2]["val/nll"]) == pytest.approx(min(nll), rel=1e-5)
    assert (run / "checkpoints/best.ckpt").is_file()
    assert "trial_002" not in (FOLDER / "best.yaml").read_text()


def test_a_trial_that_fails_or_diverges_is_a_row_with_its_reason_and_the_sweep_goes_on(workdir, capsys, unresolved):
    calls = []
    reported = curve(lambda options: [float("nan")] * 2 if options["data.batch_size"] == "7" else [0.5])

    def launch(args, monitor, folder, report):
        calls.append(folder.name)
        return (here if "--data.batch_size=0" in args else reported)(args, monitor, folder, report)

    parameters = {"data.batch_size": [4, 0, 7]}
    assert exit_code(sweep(launch, parameters=parameters).run) == SOME_FAILED
    rows = table()
    assert [row["status"] for row in rows] == ["done", "failed", "failed"]
    assert "batch_size is 0" in rows[1]["reason"]
    assert rows[1]["val/accuracy"] == ""
    assert "val/accuracy was never a finite number" in rows[2]["reason"]
    assert "trial_001  failed" in capsys.readouterr().out
    assert exit_code(sweep(launch, parameters=parameters).run) == SOME_FAILED
    assert len(calls) == 3  # failed is finished
    assert exit_code(sweep(launch, parameters=parameters, retry_failed=True).run) == SOME_FAILED
    assert calls[3:] == ["trial_001", "trial_002"]
    assert len(table()) == 3


def test_the_reason_of_a_failure_is_one_line(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("faceexpr fit: error: first\nfaceexpr fit: error: second\nlater\n")
    assert trial.failure(2, log) == "second"
    log.write_text("Traceback\n  line\nValueError: broken\n\n")
    assert trial.failure(1, log) == "ValueError: broken"
    assert trial.failure(-9, log) == "ended by SIGKILL, as when memory runs out"


@pytest.mark.parametrize(
    ("parameters", "method", "said"),
    [
        ({"model.net.activaton": ["relu"]}, "grid", "activaton"),
        ({"model.net": ["MLP", "NoSuchNet"]}, "grid", "NoSuchNet"),
        ({"data.batch_size": {"low": 1.5, "high": 8.5}}, "search", "batch_size"),
    ],
)
def test_what_fit_does_not_take_is_refused_before_the_first_trial(parameters, method, said, workdir):
    with pytest.raises(FaceExprError, match=said) as error:
        sweep(Mock(side_effect=AssertionError), parameters=parameters, method=method).run()
    assert "\n" not in str(error.value)
    assert list(workdir.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_ends_the_trial_and_the_same_command_runs_each_in_a_process_of_its_own(workdir):
    command = [sys.executable, "-m", "faceexpr", "sweep", "--name=s", "--parameters={model.lr: [1e-2, 1e30]}", *FIT]
    command += ["--model.optimizer=SGD", "--trainer.log_every_n_steps=1"]
    process = subprocess.Popen([*command, "--trainer.max_epochs=100000"], stdout=subprocess.PIPE, text=True)
    log = FOLDER / "trial_000/log.txt"
    deadline = time.monotonic() + 120
    while not (log.exists() and "epoch 2/" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)  # to the sweep alone: the trial has to end with it
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "the same command goes on" in printed
    length = len(log.read_text())
    time.sleep(0.5)
    assert len(log.read_text()) == length
    assert table() == []
    result = subprocess.run([*command, "--trainer.max_epochs=2"], capture_output=True, text=True, timeout=300)
    assert result.returncode == SOME_FAILED, result.stderr
    rows = table()
    assert {row["trial"]: row["status"] for row in rows} == {"trial_000": "done", "trial_001": "failed"}
    assert "training has diverged" in rows[1]["reason"]
    assert "epoch 2/2" in log.read_text()
    assert "Traceback" not in (FOLDER / "trial_001/log.txt").read_text()


@pytest.mark.slow
def test_a_point_whose_process_was_killed_is_taken_over(workdir, capsys, monkeypatch, unresolved):
    parameters = {"model.lr": {"low": 1e-4, "high": 1.0, "log": True}, "model.net.activation": ["relu", "tanh"]}
    options = {"method": "search", "trials": 2, "parameters": parameters}

    def killed(args, monitor, folder, report):
        Path("args").write_text(" ".join(args[-8:-6]))
        with sqlite3.connect(FOLDER / "study.db") as database:
            # A thread of Optuna says that this trial is alive; nobody could tell that one is dead that never was.
            while not database.execute("SELECT 1 FROM trial_heartbeats").fetchall():
                time.sleep(0.05)
        os._exit(9)

    context = multiprocessing.get_context("fork")
    process = context.Process(target=sweep(killed, **options).run)
    process.start()
    process.join(60)
    assert process.exitcode == 9
    monkeypatch.setattr(study_module, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(study_module, "GRACE_SECONDS", 2)
    ran = []

    def rest(args, monitor, folder, report):
        ran.append(" ".join(args[-8:-6]))
        return as_rated(args, monitor, folder, report)

    sweep(rest, **options).run()
    assert [row["status"] for row in table()] == ["done"] * 2
    assert len(ran) == 2
    assert Path("args").read_text().startswith("--model.lr=")
    assert Path("args").read_text() in ran  # a search runs what it had drawn


@pytest.mark.slow
def test_draws_depend_on_seed_and_point_and_not_on_when_they_are_made(workdir, unresolved):
    parameters = {
        "model.lr": {"low": 1e-4, "high": 1e-1, "log": True},
        "data.batch_size": {"low": 2, "high": 8, "step": 2},
    }

    def drawn(name, seed, sessions):
        for limit in sessions:
            sweep(as_rated, parameters=parameters, method="search", trials=12, name=name, seed=seed, limit=limit).run()
        return [(row["model.lr"], row["data.batch_size"]) for row in table(Path("lightning_logs") / name)]

    whole = drawn("a", 0, [12])
    assert whole == drawn("b", 0, [4, 8])
    assert whole[:3] != drawn("c", 1, [3])
    assert len({rate for rate, _ in whole}) == 12
    assert all(1e-4 <= float(rate) <= 1e-1 and size in ("2", "4", "6", "8") for rate, size in whole)


def _share(folder, log):
    os.chdir(folder)

    def values(options):
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()} {options['model.lr']}\n")
        time.sleep(0.3)
        return [float(options["model.lr"])]

    sweep(curve(values), parameters={"model.lr": [0.1, 0.2, 0.3, 0.4]}).run()


@pytest.mark.slow
def test_two_processes_share_a_grid(workdir, unresolved):
    # Nothing is computed with torch in the children, so that they may be forked, which is fast.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_share, args=(str(workdir), "ran.txt")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    ran = [line.split() for line in Path("ran.txt").read_text().splitlines()]
    assert sorted(rate for _, rate in ran) == ["0.1", "0.2", "0.3", "0.4"]
    assert len({pid for pid, _ in ran}) == 2


def test_a_trial_whose_sweep_is_gone_ends_at_its_next_validation(workdir, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["trial", "val/accuracy", "fit", *FIT, "--trainer.max_epochs=100000"])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    trial.main()
    assert len(capsys.readouterr().out.splitlines()) == 1
