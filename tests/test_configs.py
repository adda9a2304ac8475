"""Every configuration that ships: it is explained, its command is right, and it trains."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, built

import faceexpr.data
from faceexpr.cli.sweep import read_options
from faceexpr.sweep.options import flags, grid, read_space
from faceexpr.utils.specs import option_defaults

FOLDER = REPOSITORY / "configs"
FILES = sorted(FOLDER.rglob("*.yaml"))
SWEEPS = [path for path in FILES if FOLDER / "sweeps" in path.parents]
DETECTRON2 = [path for path in FILES if "faceexpr detectron2 " in path.read_text(encoding="utf-8")]
"""Run by a verb of its own, which has its own tests."""
CONFIGS = [path for path in FILES if path not in [*SWEEPS, *DETECTRON2]]
DEBUG = [path for path in CONFIGS if path.parent.name == "debug"]
BASE = FOLDER / "expression/fer2013_mlp.yaml"
"""What the configurations for debugging are given after, as their comments say."""

LONGEST = 30

TRAINER = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.fast_dev_run=true"]
ALONE = ["--trainer.devices=1", "--trainer.strategy=auto"]
TINY = [
    "--data=SyntheticFaces", "--data.train_size=4", "--data.val_size=2", "--data.batch_size=4",
    "--evaluation.figures=false", "--evaluation.resamples=20", *TRAINER,
]  # fmt: skip
TINY_SCENES = [
    "--data=SyntheticScenes", "--data.train_size=2", "--data.val_size=1", "--data.batch_size=2", "--data.num_workers=0",
    "--data.width=96", "--data.height=80", "--data.augment.size=64", "--detection_evaluation.figures=false", *TRAINER,
]  # fmt: skip
TINY_FASTER = [
    "--model.net.min_size=64", "--model.net.max_size=96", "--model.net.weights=none", "--model.net.backbone=resnet18",
]  # fmt: skip


def relative(path):
    return path.relative_to(REPOSITORY).as_posix()


def comments(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.lstrip("# ") for line in lines if line.startswith("#")]


def command(path):
    """Return the arguments of the command in the comment, with configurations that are found from any folder."""
    line = next(line for line in comments(path) if line.startswith("faceexpr "))
    return [str(REPOSITORY / word) if word.startswith("configs/") else word for word in shlex.split(line)[1:]]


def check_option(config, flag):
    """Raise a KeyError where there is no option of this name, such as --model.net.dropout."""
    for key in flag.removeprefix("--").split("."):
        config = config["init_args"][key] if "class_path" in config else config[key]


def tiny(path):
    """Return the options that make a step of a configuration small, with data that need no files."""
    files = [Path(word) for word in command(path) if word.endswith(".yaml")]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    if "FaceDetector" in text:
        return [*TINY_SCENES, *(TINY_FASTER if "FasterRCNN" in text else [])]
    pretrained = re.search("weights: (imagenet|pretrained)", text)
    return [*TINY, *(["--model.net.weights=none", "--model.net.input_size=48"] if pretrained else [])]


def test_there_are_configurations_and_nothing_else():
    lists = {FOLDER / f"paper/dataset1/{part}_{fold}.txt" for part in ("test", "val") for fold in range(5)}
    assert {path for path in FOLDER.rglob("*") if path.is_file()} == {*FILES, *lists}
    folders = {path.parent.name for path in FILES}
    assert folders == {"expression", "detection", "debug", "sweeps", "paper"}


@pytest.mark.parametrize("path", [*CONFIGS, *SWEEPS], ids=relative)
def test_it_is_short_and_says_how_to_run_it_and_makes_a_step(path, workdir):
    text = path.read_text(encoding="utf-8")
    if "TimmNet" in text:
        pytest.importorskip("timm")
    assert len(text.splitlines()) <= LONGEST
    assert text.startswith("# ")
    verb, *arguments = command(path)
    *before, last = [Path(argument) for argument in arguments if argument.endswith(".yaml")]
    assert (verb, last) == ("sweep" if path in SWEEPS else "fit", path)
    if path in DEBUG:
        assert before == [BASE]
    if path in SWEEPS:
        options, arguments = read_options(arguments)
        assert options.name == path.stem
        arguments += flags(grid(read_space(options.parameters, "grid"))[0])

    cli = built([*arguments, *tiny(path), *ALONE])
    config = cli.config.as_dict()
    if path not in [*DEBUG, *SWEEPS]:
        assert config["trainer"]["logger"]["init_args"]["name"] == path.stem
    given = [yaml.safe_load(each.read_text(encoding="utf-8")).get("data", {}) for each in (*before, path)]
    (*_, data) = [each["class_path"] for each in given if "class_path" in each]
    for flag in set(re.findall(r"--[a-z][\w.]*", " ".join(comments(path)))) - {"--config", "--sweep"}:
        if flag.startswith("--data."):  # in whose place other data are used here
            assert flag.split(".")[1] in option_defaults(getattr(faceexpr.data, data))
        else:
            check_option(config, flag)

    cli.execute()
    trainer = cli.trainer
    assert trainer.global_step == (0 if "KNN" in config["model"]["class_path"] else 1)
    assert {"val/accuracy", "val/ap50"} & trainer.callback_metrics.keys()
    if path.stem == "fast":
        assert [file for file in workdir.rglob("*") if file.is_file()] == []


@pytest.mark.slow
def test_ddp_cpu_trains_in_two_processes(workdir):
    # The second process is started from this one's command line, which must be the product's own.
    arguments = [*command(FOLDER / "debug/ddp_cpu.yaml"), *TINY, "--trainer.fast_dev_run=false"]
    result = subprocess.run(
        [sys.executable, "-m", "faceexpr", *arguments], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Starting with 2 processes" in result.stderr
    assert Path("lightning_logs/fer2013_mlp/version_0/checkpoints/last.ckpt").is_file()
