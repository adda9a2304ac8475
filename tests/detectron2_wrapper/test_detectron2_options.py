"""`faceexpr detectron2` as far as it goes without Detectron2."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY

from faceexpr.cli.detectron2 import read_options, run
from faceexpr.data.annotations.reading import ReadOptions
from faceexpr.detectron2.detectron2_detector import Detectron2Detector
from faceexpr.detectron2.detectron2_options import find_weights
from faceexpr.utils.errors import FaceExprError

PAPER = REPOSITORY / "configs/paper/detection_x101_fpn_detectron2.yaml"
SMALL = REPOSITORY / "configs/detection/wider_detectron2_small.yaml"


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.delitem(sys.modules, "detectron2.engine", raising=False)


@pytest.mark.parametrize("action", ["fit", "test"])
def test_a_configuration_serves_both_actions_and_is_named_after_its_file(action):
    options, text = read_options(action, ["--config", str(SMALL), "--seed", "3"])
    assert (options.name, options.seed) == (SMALL.stem, 3)
    assert yaml.safe_load(text)["seed"] == 3


@pytest.mark.parametrize("arguments", [[], ["--config", str(PAPER)]])
def test_table_1_is_in_the_configuration_and_in_the_defaults(arguments):
    options, _ = read_options("fit", arguments)
    assert (options.model, options.weights) == ("COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml", "coco")
    numbers = options.workers, options.images_per_batch, options.base_lr, options.warmup_iters, options.max_iter
    assert (*numbers, options.gamma, options.rois_per_image) == (4, 4, 0.00025, 1200, 2200, 0.05, 32)


def test_the_options_of_the_data_are_those_of_the_reader_and_not_of_its_loader():
    assert set(read_options("fit", [])[0].data) == {
        "train", "images", "val", "val_images", "test", "test_images", "val_list", "test_list", "val_fraction",
        "split_seed", "face_free", "reading", "exclude",
    }  # fmt: skip


def test_a_number_without_a_dot_is_a_number_in_yaml_and_on_the_command_line(tmp_path):  # case E08
    (tmp_path / "config.yaml").write_text("base_lr: 1e-4\nopts: {SOLVER.WEIGHT_DECAY: 1e-5}\n", encoding="utf-8")
    flags = ["--base_lr", "1e-4", "--opts.SOLVER.WEIGHT_DECAY", "1e-5"]
    for arguments in (["--config", str(tmp_path / "config.yaml")], flags):
        options, _ = read_options("fit", arguments)
        assert (options.base_lr, options.opts) == (1e-4, {"SOLVER.WEIGHT_DECAY": 1e-5})


def test_keys_on_the_command_line_join_those_of_the_file(tmp_path):
    (tmp_path / "config.yaml").write_text("opts: {SOLVER: {MOMENTUM: 0.8, NESTEROV: true}}\n", encoding="utf-8")
    flags = ["--opts.SOLVER.MOMENTUM=0.7", "--opts.SOLVER.BIAS_LR_FACTOR", "2", "--opts.INPUT.MIN_SIZE_TRAIN", "[9, 8]"]
    options, text = read_options("fit", ["--config", str(tmp_path / "config.yaml"), *flags])
    solver = {"SOLVER.MOMENTUM": 0.7, "SOLVER.NESTEROV": True, "SOLVER.BIAS_LR_FACTOR": 2}
    assert options.opts == yaml.safe_load(text)["opts"] == {**solver, "INPUT.MIN_SIZE_TRAIN": [9, 8]}


def test_missing_images_can_be_left_out(tmp_path):
    options, text = read_options("fit", ["--data.reading.missing", "leave_out"])
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    for again in (options, read_options("fit", ["--config", str(tmp_path / "config.yaml")])[0]):
        assert again.data["reading"] == ReadOptions(missing="leave_out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_iter", "0"], "max_iter"),
        (["--suppression.iou", "2"], "--suppression.iou is 2.0"),
        (["--machine_rank", "1"], "--machine_rank is 1 of 1 machines"),
        (["--num_machines", "2"], "dist_url is auto; expected the address of machine 0"),
        (["--name", "a/b"], "name is 'a/b'"),
        (["--data.batch_size", "3"], "batch_size"),
        (["--opts.SEED"], "opts"),
        (["--resume", "nowhere"], "nowhere does not exist"),
    ],
)
def test_a_bad_option_is_named(arguments, message, workdir):
    with pytest.raises(FaceExprError, match=message):
        read_options("fit", arguments)


def test_without_detectron2_one_sentence_says_how_to_install_it(absent, workdir):
    install = r"pip install 'git\+https://github\.com/facebookresearch/detectron2\.git'` with pip's"
    with pytest.raises(FaceExprError, match=f"Detectron2 is not installed, and .*{install}"):
        run(["detectron2", "fit", "--config", str(PAPER)])
    assert list(Path().iterdir()) == []
    with pytest.raises(FaceExprError, match="max_iter"):  # a wrong option is still the first thing said
        run(["detectron2", "fit", "--max_iter", "0"])
    with pytest.raises(FaceExprError, match="Detectron2 is not installed"):
        Detectron2Detector(workdir)


def test_help_needs_no_detectron2(absent, capsys):
    run(["detectron2", "--help"])
    assert "fit" in capsys.readouterr().out
    for arguments in ([], ["train"]):
        with pytest.raises(FaceExprError, match="expected fit or test"):
            run(["detectron2", *arguments])
    with pytest.raises(SystemExit) as end:
        run(["detectron2", "fit", "--help"])
    assert end.value.code == 0
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


def test_a_run_folder_means_its_best_checkpoint_or_else_its_last(folder, tmp_path):
    last, best = (folder / f"checkpoints/{name}.pth" for name in ("last", "best"))
    assert find_weights(folder) == (last, folder)
    best.write_bytes(last.read_bytes())
    assert find_weights(folder) == find_weights(best) == (best, folder)
    torch.save({}, tmp_path / "best.pth")
    with pytest.raises(FaceExprError, match=r"there is no detectron2\.yaml beside it"):
        find_weights(tmp_path / "best.pth")
