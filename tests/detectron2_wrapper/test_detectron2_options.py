"""`faceexpr detectron2` as far as it goes without Detectron2."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY

from faceexpr.boxes.suppression import Suppression
from faceexpr.cli.detectron2 import read_options, run
from faceexpr.detectron2 import installed
from faceexpr.detectron2.detector import Detectron2Detector
from faceexpr.detectron2.runs import checkpoint_file, next_folder, read_suppression, run_folder_of
from faceexpr.utils.errors import FaceExprError

PAPER = REPOSITORY / "configs/paper/detection_x101_fpn_detectron2.yaml"
SMALL = REPOSITORY / "configs/detection/wider_detectron2_small.yaml"


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setattr(installed, "find_spec", lambda name: None)


def test_table_1_is_in_the_configuration_by_its_names():
    written = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    options, _ = read_options("fit", ["--config", str(PAPER)])
    table = {
        "model": "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml",
        "weights": "coco",
        "workers": 4,
        "images_per_batch": 4,
        "base_lr": 0.00025,
        "warmup_iters": 1200,
        "max_iter": 2200,
        "gamma": 0.05,
        "rois_per_image": 32,
    }
    assert {name: written[name] for name in table} == table
    assert {name: getattr(options, name) for name in table} == table


@pytest.mark.parametrize("path", [PAPER, SMALL], ids=lambda path: path.stem)
@pytest.mark.parametrize("action", ["fit", "test"])
def test_a_configuration_serves_both_actions_and_is_named_after_its_file(path, action):
    options, text = read_options(action, ["--config", str(path), "--seed", "3"])
    assert (options.name, options.seed) == (path.stem, 3)
    assert yaml.safe_load(text)["seed"] == 3


def test_e08_a_number_without_a_dot_is_a_number_in_yaml_and_on_the_command_line(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("base_lr: 1e-4\ngamma: 1e-1\n", encoding="utf-8")
    from_file, _ = read_options("fit", ["--config", str(config)])
    from_flags, _ = read_options("fit", ["--base_lr", "1e-4", "--gamma", "1e-1"])
    assert (from_file.base_lr, from_file.gamma) == (from_flags.base_lr, from_flags.gamma) == (1e-4, 1e-1)


def test_keys_on_the_command_line_join_those_of_the_file(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("opts: {SOLVER: {MOMENTUM: 0.8, NESTEROV: true}}\n", encoding="utf-8")
    flags = ["--opts.SOLVER.MOMENTUM=0.7", "--opts.SOLVER.BIAS_LR_FACTOR", "2", "--opts.INPUT.MIN_SIZE_TRAIN", "[9, 8]"]
    options, text = read_options("fit", ["--config", str(config), *flags])
    together = {
        "SOLVER.MOMENTUM": 0.7,
        "SOLVER.NESTEROV": True,
        "SOLVER.BIAS_LR_FACTOR": 2,
        "INPUT.MIN_SIZE_TRAIN": [9, 8],
    }
    assert options.opts == yaml.safe_load(text)["opts"] == together


@pytest.mark.parametrize("flags", [["--opts.SEED"], ["--opts.SEED=["]])
def test_a_key_without_a_value_is_named(flags):
    with pytest.raises(FaceExprError, match=r"--opts\.SEED has no value"):
        read_options("fit", flags)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_iter", "0"], "max_iter is 0; expected 1 or more"),
        (["--base_lr", "-1"], "base_lr is -1.0; expected more than 0"),
        (["--base_lr", "nan"], "base_lr"),
        (["--data.val_fraction", "1"], "data.val_fraction is 1.0"),
        (["--suppression.iou", "2"], "suppression.iou is 2.0"),
        (["--machine_rank", "1"], "machine_rank is 1 of 1 machines"),
        (["--num_machines", "2"], "dist_url is auto; expected the address of machine 0"),
        (["--name", "a/b"], "name is 'a/b'"),
        (["--warm_up", "3"], "warm_up"),
        (["--resume", "nowhere"], "nowhere does not exist"),
    ],
)
def test_a_bad_option_is_named(arguments, message, workdir):
    with pytest.raises(FaceExprError, match=message):
        read_options("fit", arguments)


@pytest.mark.parametrize("arguments", [["detectron2"], ["detectron2", "train"]])
def test_an_unknown_action_is_named(arguments):
    with pytest.raises(FaceExprError, match="expected fit or test"):
        run(arguments)


def test_without_detectron2_one_sentence_says_how_to_install_it(absent, workdir):
    with pytest.raises(FaceExprError) as caught:
        run(["detectron2", "fit", "--config", str(PAPER)])
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "Detectron2 is not installed" in sentence
    assert "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'" in sentence
    assert list(Path().iterdir()) == []


def test_without_detectron2_a_wrong_option_is_still_the_first_thing_said(absent):
    with pytest.raises(FaceExprError, match="max_iter is 0"):
        run(["detectron2", "fit", "--max_iter", "0"])


def test_without_detectron2_its_detector_says_so(absent, tmp_path):
    with pytest.raises(FaceExprError, match="Detectron2 is not installed"):
        Detectron2Detector(tmp_path)


def test_help_needs_no_detectron2(absent, capsys):
    run(["detectron2", "--help"])
    assert "fit" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        run(["detectron2", "fit", "--help"])
    assert ended.value.code == 0
    assert "--images_per_batch" in capsys.readouterr().out


@pytest.fixture
def folder(tmp_path):
    """A run folder without a network."""
    folder = tmp_path / "runs/faces/version_3"
    (folder / "checkpoints").mkdir(parents=True)
    _, text = read_options("fit", ["--max_iter", "7", "--version", "3", "--suppression.iou", "0.3"])
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    (folder / "detectron2.yaml").write_text("VERSION: 2\n", encoding="utf-8")
    torch.save({"model": {}}, folder / "checkpoints/last.pth")
    return folder


def test_a_run_gives_the_defaults_when_it_is_resumed_or_tested(folder):
    resumed, _ = read_options("fit", ["--resume", str(folder), "--seed", "5"])
    assert (resumed.max_iter, resumed.seed, resumed.resume, resumed.version) == (7, 5, folder, None)
    tested, _ = read_options("test", ["--ckpt_path", str(folder), "--max_iter", "9"])
    assert (tested.max_iter, tested.suppression.iou, tested.ckpt_path) == (9, 0.3, folder)


def test_a_run_folder_means_its_best_checkpoint_or_else_its_last(folder):
    last, best = folder / "checkpoints/last.pth", folder / "checkpoints/best.pth"
    assert checkpoint_file(folder) == last
    best.write_bytes(last.read_bytes())
    assert checkpoint_file(folder) == best
    assert run_folder_of(best) == folder
    assert read_suppression(folder) == Suppression(iou=0.3)


def test_a_checkpoint_outside_of_a_run_folder_is_refused(tmp_path):
    torch.save({}, tmp_path / "best.pth")
    with pytest.raises(FaceExprError, match=r"there is no detectron2\.yaml beside it"):
        run_folder_of(tmp_path / "best.pth")


def test_runs_are_numbered_and_never_written_over(folder):
    runs = folder.parents[1]
    assert next_folder(runs, "faces", None) == runs / "faces/version_4"
    assert next_folder(runs, "other", None) == runs / "other/version_0"
    with pytest.raises(FaceExprError, match="holds a run already"):
        next_folder(runs, "faces", 3)
