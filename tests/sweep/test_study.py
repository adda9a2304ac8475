"""Sweeps of tiny trainings: what they leave, how they go on, and what goes wrong."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import exit_code
from sweep_runs import FIT, FOLDER, curve, here, sweep, table, val
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from faceexpr.cli.main import main
from faceexpr.sweep import study as study_module
from faceexpr.sweep.trial import Report
from faceexpr.utils.errors import PREEMPTED, FaceExprError

GRID = {"model.net.activation": ["relu", "tanh"], "model.lr": [1e-3, 1e-2]}
EPOCHS = ["--trainer.max_epochs=2"]


def test_a_grid_leaves_ordinary_runs_a_table_a_figure_and_the_best_configuration(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(fit=EPOCHS, parameters=GRID).run()
    printed = capsys.readouterr().out
    assert {path.name for path in FOLDER.iterdir()} == {
        "table.csv", "sweep.png", "best.yaml", "study.db", *(f"trial_{index:03d}" for index in range(4)),
    }  # fmt: skip
    rows = table()
    assert [(row["model.net.activation"], row["model.lr"]) for row in rows] == [
        ("relu", "0.001"), ("relu", "0.01"), ("tanh", "0.001"), ("tanh", "0.01"),
    ]  # fmt: skip
    for row in rows:
        run = FOLDER / row["trial"]
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["model"]["init_args"]["net"]["init_args"]["activation"] == row["model.net.activation"]
        assert config["model"]["init_args"]["lr"] == float(row["model.lr"])
        assert config["trainer"]["callbacks"] is None  # the report to the study is no part of the run
        assert (run / "checkpoints/best.ckpt").is_file()
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece"):
            assert float(row[f"val/{name}"]) == pytest.approx(val(run)[name], abs=1e-6)
        events = EventAccumulator(str(run))
        events.Reload()
        hparams = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        assert row["model.net.activation"].encode() in hparams
        assert json.loads((run / "metrics.json").read_text()).keys() == {"val"}  # the test split is not touched
    best = max(rows, key=lambda row: float(row["val/accuracy"]))
    assert f"faceexpr test --ckpt_path {FOLDER / best['trial']}" in printed
    main(["fit", "--config", str(FOLDER / "best.yaml")])
    assert val(Path("lightning_logs/version_0")) == val(FOLDER / best["trial"])


def test_the_same_command_does_what_is_missing_and_nothing_again(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def interrupted(args: Sequence[str], monitor: str, folder: Path, report: Report) -> int:
        calls.append(folder.name)
        folder.mkdir(parents=True)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return curve(lambda options: [float(options["model.lr"])])(args, monitor, folder, report)

    assert exit_code(sweep(interrupted, parameters=GRID).run) == 130
    assert "the same command goes on" in capsys.readouterr().out
    assert [row["trial"] for row in table()] == ["trial_000", "trial_001"]

    def rest(args: Sequence[str], monitor: str, folder: Path, report: Report) -> int:
        calls.append(folder.name)
        return curve(lambda options: [float(options["model.lr"])])(args, monitor, folder, report)

    sweep(rest, parameters=GRID).run()
    sweep(rest, parameters=GRID).run()
    assert calls == ["trial_000", "trial_001", "trial_002", "trial_003", "trial_002"]
    assert [row["status"] for row in table()] == ["done"] * 4


def test_a_limit_ends_early_and_the_rest_comes_later(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch = curve(lambda options: [0.5])
    sweep(launch, parameters=GRID, limit=3).run()
    assert len(table()) == 3
    assert "3 of 4 trials are over" in capsys.readouterr().out
    sweep(launch, parameters=GRID).run()
    assert len(table()) == 4


def test_another_sweep_in_the_same_folder_is_refused(workdir: Path) -> None:
    launch, parameters = curve(lambda options: [0.5]), {"model.lr": [0.1, 0.2]}
    sweep(launch, parameters=parameters).run()
    before = table()
    for changed, said in (
        ({"parameters": {"model.lr": [0.1]}}, "differs in parameters"),
        ({"parameters": parameters, "monitor": "val/macro_f1"}, "differs in monitor"),
        ({"parameters": parameters, "method": "search"}, "differs in method"),
    ):
        with pytest.raises(FaceExprError, match=said):
            sweep(launch, **changed).run()
    assert table() == before


def test_runs_without_a_record_are_not_overwritten(workdir: Path) -> None:
    sweep(curve(lambda options: [0.5]), parameters={"model.lr": [0.1]}).run()
    (FOLDER / "study.db").unlink()
    with pytest.raises(FaceExprError, match="no record of its sweep"):
        sweep(curve(lambda options: [0.5]), parameters={"model.lr": [0.1]}).run()


def test_other_options_of_fit_are_announced(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch = curve(lambda options: [0.5])
    sweep(launch, parameters={"model.lr": [0.1, 0.2]}, limit=1).run()
    sweep(launch, fit=EPOCHS, parameters={"model.lr": [0.1, 0.2]}).run()
    assert "warning: the trials of this sweep began with other options of fit" in capsys.readouterr().out


def test_a_search_is_reproducible(workdir: Path) -> None:
    parameters = {
        "model.lr": {"low": 1e-4, "high": 1e-1, "log": True},
        "data.batch_size": {"low": 2, "high": 8, "step": 2},
    }
    found = []
    for name in ("a", "b"):
        sweep(method="search", parameters=parameters, trials=3, name=name, seed=5).run()
        rows = table(Path("lightning_logs") / name)
        found.append([{key: value for key, value in row.items() if key != "seconds"} for row in rows])
    assert found[0] == found[1]
    assert len({row["model.lr"] for row in found[0]}) == 3
    assert all(1e-4 <= float(row["model.lr"]) <= 1e-1 for row in found[0])
    assert all(row["data.batch_size"] in ("2", "4", "6", "8") for row in found[0])


def test_a_hopeless_trial_is_pruned_and_is_an_ordinary_run(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # On 14 images the likelihood stays where it was with a rate near 0, and gets worse with a large one.
    sweep(
        fit=["--trainer.max_epochs=5", "--model.optimizer=SGD"], parameters={"model.lr": [0.0, 1e-5, 0.1]},
        monitor="val/nll", mode="min", prune=True, prune_startup=2, prune_warmup=1,
    ).run()  # fmt: skip
    rows = table()
    assert [row["status"] for row in rows] == ["done", "done", "pruned"]
    assert rows[2]["reason"].startswith("worse than the median after ")
    epochs = int(rows[2]["reason"].split()[-2])
    assert 2 <= epochs < 5
    run = FOLDER / "trial_002"
    assert len(EventAccumulator(str(run)).Reload().Scalars("val/nll")) == epochs
    assert float(rows[2]["val/nll"]) == pytest.approx(val(run)["nll"], rel=1e-5)
    assert "trial_002" not in (FOLDER / "best.yaml").read_text()


def test_a_trial_that_fails_is_a_row_and_the_sweep_goes_on(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"data.batch_size": [4, 0, 7]}
    assert exit_code(sweep(parameters=parameters).run) == 3
    rows = table()
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    assert "batch_size is 0" in rows[1]["reason"]
    assert rows[1]["val/accuracy"] == ""
    assert "trial_001  failed" in capsys.readouterr().out
    calls: list[str] = []

    def again(args: Sequence[str], monitor: str, folder: Path, report: Report) -> int:
        calls.append(folder.name)
        return here(args, monitor, folder, report)

    assert exit_code(sweep(again, parameters=parameters).run) == 3
    assert calls == []  # failed is finished
    assert exit_code(sweep(again, parameters=parameters, retry_failed=True).run) == 3
    assert calls == ["trial_001"]
    assert len(table()) == 3


def test_a_diverged_trial_is_a_row_with_its_reason(workdir: Path) -> None:
    launch = curve(lambda options: [0.2] if options["model.lr"] == "0.1" else [float("nan")] * 2)
    assert exit_code(sweep(launch, parameters={"model.lr": [0.1, 1000.0]}).run) == 3
    assert [row["status"] for row in table()] == ["done", "failed"]
    assert "val/accuracy was never a finite number" in table()[1]["reason"]


@pytest.mark.parametrize(
    ("parameters", "method", "said"),
    [
        ({"model.net.activaton": ["relu"]}, "grid", "activaton"),
        ({"model.net.activation": ["relu", "sine"]}, "grid", "activation"),
        ({"data.batch_size": {"low": 1.5, "high": 8.5}}, "search", "batch_size"),
        ({"model.net": ["MLP", "NoSuchNet"]}, "grid", "NoSuchNet"),
    ],
)
def test_what_fit_does_not_take_is_refused_before_the_first_trial(
    parameters: dict[str, Any], method: str, said: str, workdir: Path
) -> None:
    def never(args: Sequence[str], monitor: str, folder: Path, report: Report) -> int:
        raise AssertionError

    with pytest.raises(FaceExprError, match=said) as error:
        sweep(never, parameters=parameters, method=method).run()
    assert "\n" not in str(error.value)
    assert list(workdir.iterdir()) == []


@pytest.mark.slow
def test_the_command_runs_each_trial_in_a_process_of_its_own(workdir: Path) -> None:
    Path("mine.yaml").write_text("parameters:\n  model.lr: [1e-2, 1e30]\n")
    command = [sys.executable, "-m", "faceexpr", "sweep", "--sweep", "mine.yaml", *FIT, *EPOCHS]
    command += ["--model.optimizer=SGD", "--trainer.log_every_n_steps=1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 3, result.stderr
    rows = table(Path("lightning_logs/mine"))
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert "training has diverged" in rows[1]["reason"]
    assert "epoch 2/2" in Path("lightning_logs/mine/trial_000/log.txt").read_text()
    assert "Traceback" not in Path("lightning_logs/mine/trial_001/log.txt").read_text()


@pytest.mark.slow
def test_ctrl_c_ends_the_trial_and_the_same_command_goes_on(workdir: Path) -> None:
    command = [sys.executable, "-m", "faceexpr", "sweep", "--name=s", "--parameters={model.lr: [1e-2]}", *FIT]
    process = subprocess.Popen([*command, "--trainer.max_epochs=100000"], stdout=subprocess.PIPE, text=True)
    log = FOLDER / "trial_000/log.txt"
    deadline = time.monotonic() + 120
    while not (log.exists() and "epoch 2/" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)  # to the sweep alone: the trial has to end with it
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in printed
    length = len(log.read_text())
    time.sleep(0.5)
    assert len(log.read_text()) == length
    assert table() == []
    subprocess.run([*command, "--trainer.max_epochs=1"], check=True, capture_output=True, timeout=300)
    assert [row["status"] for row in table()] == ["done"]


def test_sigterm_to_a_trial_gives_it_back_and_the_same_command_goes_on(workdir: Path) -> None:
    trained = curve(lambda options: [float(options["model.lr"])])

    def pre_empted(args: Sequence[str], monitor: str, folder: Path, report: Report) -> int:
        return PREEMPTED if "--model.lr=0.2" in args else trained(args, monitor, folder, report)

    parameters = {"model.lr": [0.1, 0.2, 0.3]}
    assert exit_code(sweep(pre_empted, parameters=parameters).run) == PREEMPTED
    assert [row["status"] for row in table()] == ["done"]
    sweep(trained, parameters=parameters).run()
    assert [row["trial"] for row in table()] == ["trial_000", "trial_001", "trial_002"]


def test_a_point_whose_process_was_killed_is_taken_over(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {"model.lr": {"low": 1e-4, "high": 1.0, "log": True}, "model.net.activation": ["relu", "tanh"]}
    options: dict[str, Any] = {"method": "search", "trials": 2, "parameters": parameters}

    def killed(args: Sequence[str], monitor: str, folder: Path, report: Report) -> int:
        Path("args").write_text(args[-6])
        os._exit(9)

    context = multiprocessing.get_context("fork")
    process = context.Process(target=sweep(killed, **options).run)
    process.start()
    process.join(60)
    assert process.exitcode == 9
    monkeypatch.setattr(study_module, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(study_module, "GRACE_SECONDS", 2)
    ran: list[str] = []
    trained = curve(lambda options: [float(options["model.lr"])])

    def rest(args: Sequence[str], monitor: str, folder: Path, report: Report) -> int:
        ran.append(args[-6])
        return trained(args, monitor, folder, report)

    sweep(rest, **options).run()
    assert [row["status"] for row in table()] == ["done"] * 2
    assert len(ran) == 2
    assert Path("args").read_text() in ran  # a search runs what it had drawn


def test_draws_depend_on_seed_and_point_and_not_on_when_they_are_made(workdir: Path) -> None:
    parameters = {"model.lr": {"low": 1e-4, "high": 1.0, "log": True}, "model.net.activation": ["relu", "tanh"]}
    launch = curve(lambda options: [float(options["model.lr"])])

    def drawn(name: str, seed: int, sessions: Sequence[int]) -> list[str]:
        for limit in sessions:
            sweep(launch, parameters=parameters, method="search", trials=12, name=name, seed=seed, limit=limit).run()
        return [row["model.lr"] for row in table(Path("lightning_logs") / name)]

    whole = drawn("a", 0, [12])
    assert whole == drawn("b", 0, [3, 6, 3])
    assert whole != drawn("c", 1, [12])
    assert len(set(whole)) == 12


def _share(folder: str, log: str) -> None:
    os.chdir(folder)

    def values(options: dict[str, str]) -> list[float]:
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()} {options['model.lr']}\n")
        time.sleep(0.5)
        return [float(options["model.lr"])]

    sweep(curve(values), parameters={"model.lr": [index / 100 for index in range(1, 7)]}).run()


def test_two_processes_share_a_grid(workdir: Path) -> None:
    # Nothing is computed with torch in the children, so that they may be forked, which is fast.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_share, args=(str(workdir), "ran.txt")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    ran = [line.split() for line in Path("ran.txt").read_text().splitlines()]
    assert Counter(lr for _, lr in ran) == {f"{index / 100}": 1 for index in range(1, 7)}
    assert len({pid for pid, _ in ran}) == 2


def test_a_trial_whose_sweep_is_gone_ends_at_its_next_validation(workdir: Path) -> None:
    command = [sys.executable, "-m", "faceexpr.sweep.trial", "val/accuracy", "fit", *FIT, "--trainer.max_epochs=100000"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1
