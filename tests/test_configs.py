"""Every configuration that ships: it is explained, its command is right, and it trains."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import REPOSITORY, exit_code

from faceexpr.cli.main import main
from faceexpr.cli.sweep import read_options
from faceexpr.sweep.study import resolve

FOLDER = REPOSITORY / "configs"
FILES = sorted(FOLDER.rglob("*.yaml"))
SWEEPS = [path for path in FILES if FOLDER / "sweeps" in path.parents]
DETECTRON2 = [path for path in FILES if "faceexpr detectron2 " in path.read_text(encoding="utf-8")]
"""Run by a verb of its own, which has its own tests."""
CONFIGS = [path for path in FILES if path not in [*SWEEPS, *DETECTRON2]]
DETECTORS = [path for path in CONFIGS if "FaceDetector" in path.read_text(encoding="utf-8")]
DEBUG = [path for path in CONFIGS if path.parent.name == "debug"]
COMPLETE = [path for path in CONFIGS if path not in DEBUG]
BASE = FOLDER / "expression/fer2013_mlp.yaml"
"""What the configurations for debugging are given after, as their comments say."""
OVERLAYS = [path for path in CONFIGS if path.parent.name == "paper" and path not in DETECTORS]
"""What differs in an experiment of the paper, given after other configurations, as their comments say."""

LONGEST = 30

TINY_TRAINER = [
    "--trainer.max_steps", "2", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1",
    "--trainer.accelerator", "cpu",
]  # fmt: skip
TINY = [
    "--data", "SyntheticFaces", "--data.train_size", "28", "--data.val_size", "7", "--data.batch_size", "7",
    *TINY_TRAINER,
    "--evaluation.figures", "false", "--evaluation.resamples", "20",
]  # fmt: skip
TINY_SCENES = [
    "--data", "SyntheticScenes", "--data.train_size", "6", "--data.val_size", "2", "--data.batch_size", "3",
    "--data.num_workers", "0", "--data.width", "96", "--data.height", "80",
    *TINY_TRAINER, "--trainer.check_val_every_n_epoch", "1", "--detection_evaluation.figures", "false",
]  # fmt: skip
TINY_FASTER = [
    "--model.net.min_size", "64", "--model.net.max_size", "96", "--model.net.weights", "none",
    "--model.net.backbone", "resnet18",
]  # fmt: skip


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def comments(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.lstrip("# ") for line in lines if line.startswith("#")]


def command(path: Path) -> list[str]:
    """Return the arguments of the command in the comment."""
    line = next(line for line in comments(path) if line.startswith("faceexpr "))
    return shlex.split(line)[1:]


def option(config: Any, flag: str) -> Any:
    """Return the value that a flag such as --model.net.dropout sets; KeyError where there is none."""
    value = config
    for key in flag.removeprefix("--").split("."):
        value = value["init_args"][key] if "class_path" in value else value[key]
    return value


def given_with(path: Path) -> list[Path]:
    """Return the configurations of the command in the comment, in their order."""
    arguments = command(path)
    return [REPOSITORY / arguments[place + 1] for place, argument in enumerate(arguments) if argument == "--config"]


def run_arguments(path: Path) -> list[str]:
    configs = given_with(path)
    tiny = TINY_SCENES if path in DETECTORS else TINY
    if path in OVERLAYS and "weights: imagenet" in path.read_text(encoding="utf-8"):
        tiny = [*tiny, "--model.net.weights", "none"]
    if "FasterRCNN" in path.read_text(encoding="utf-8"):
        tiny = [*tiny, *TINY_FASTER]
    return ["fit", *(argument for config in configs for argument in ("--config", str(config))), *tiny]


def last_steps() -> dict[str, int]:
    """Return the optimizer steps that each last.ckpt below the current folder has behind it."""
    return {
        path.as_posix(): torch.load(path, map_location="cpu", weights_only=True)["global_step"]
        for path in Path().rglob("last*.ckpt")
    }


def steps(path: Path) -> int:
    """Return the optimizer steps of two batches: a model that remembers its data takes none."""
    return 0 if "KNNClassifier" in path.read_text(encoding="utf-8") else 2


def test_there_are_configurations_and_nothing_else() -> None:
    assert COMPLETE
    assert DEBUG
    assert SWEEPS
    assert [path for path in sorted(FOLDER.rglob("*")) if path.is_file()] == FILES
    assert {path.parent for path in FILES} == {
        FOLDER / name for name in ("expression", "detection", "debug", "sweeps", "paper")
    }


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_it_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert text.startswith("# ")
    *before, last = given_with(path)
    assert command(path)[0] == "fit"
    assert last == path
    assert before == [BASE] if path in DEBUG else bool(before) == (path in OVERLAYS)


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_its_command_and_the_options_it_mentions_are_understood(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)  # where the command is meant to be given; printing writes nothing
    assert exit_code(lambda: main([*command(path), "--print_config"])) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    mentioned = set(re.findall(r"--[a-z][\w.]*", " ".join(comments(path)))) - {"--config"}
    for flag in mentioned:
        option(config, flag)
    if path in COMPLETE:
        assert config["trainer"]["logger"]["init_args"]["name"] == path.stem


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem not in ("fast", "ddp_cpu")], ids=relative)
def test_it_makes_two_steps(path: Path, workdir: Path) -> None:
    main(run_arguments(path))
    run = f"lightning_logs/{(BASE if path in DEBUG else path).stem}/version_0"
    assert last_steps() == {f"{run}/checkpoints/last.ckpt": steps(path)}
    if path in COMPLETE:
        assert (workdir / run / "checkpoints/best.ckpt").is_file()  # validation has run
    written = yaml.safe_load((workdir / run / "config.yaml").read_text())
    data = "SyntheticScenes" if path in DETECTORS else "SyntheticFaces"
    assert written["data"]["class_path"] == f"faceexpr.data.{data}"


@pytest.mark.parametrize("path", SWEEPS, ids=relative)
def test_a_sweep_is_short_and_says_how_to_run_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert text.startswith("# ")
    verb, *arguments = command(path)
    assert verb == "sweep"
    assert arguments[arguments.index("--sweep") + 1] == relative(path)
    options, fit = read_options(arguments)
    assert options.name == path.stem
    config = yaml.safe_load(resolve(["fit", *fit]))
    mentioned = set(re.findall(r"--[a-z][\w.]*", " ".join(comments(path)))) - {"--config", "--sweep"}
    for flag in [*mentioned, *options.parameters]:
        option(config, flag)


@pytest.mark.parametrize("path", SWEEPS, ids=relative)
def test_the_first_trial_of_a_sweep_makes_two_steps(path: Path, workdir: Path) -> None:
    arguments = command(path)
    base = REPOSITORY / arguments[arguments.index("--config") + 1]
    main(["sweep", "--config", str(base), "--sweep", str(path), "--limit", "1", *TINY])
    folder = Path("lightning_logs") / path.stem
    with (folder / "table.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["trial"], row["status"]) == ("trial_000", "done")
    assert last_steps() == {f"{folder}/trial_000/checkpoints/last.ckpt": steps(base)}
    assert json.loads((folder / "trial_000/metrics.json").read_text())["val"]["n"] == 7


def test_fast_runs_and_writes_nothing(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: main(run_arguments(FOLDER / "debug/fast.yaml"))) == 0
    assert "accuracy" in capsys.readouterr().out
    assert [path for path in workdir.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_ddp_cpu_trains_in_two_processes(workdir: Path) -> None:
    # The second process is started from this one's command line, which must be the product's own.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [*run_arguments(FOLDER / "debug/ddp_cpu.yaml"), "--model.net.hidden", "[8]"]
    result = subprocess.run(
        [sys.executable, "-m", "faceexpr", *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert "MEMBER: 2/2" in result.stderr
    assert last_steps() == {"lightning_logs/fer2013_mlp/version_0/checkpoints/last.ckpt": 2}
