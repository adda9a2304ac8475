"""From our options to Detectron2's configuration."""

import pytest
import torch
import yaml
from conftest import REPOSITORY

pytest.importorskip("detectron2", reason="Detectron2 is not installed: it has to be built from its source")

from faceexpr.cli.detectron2 import read_options
from faceexpr.detectron2.config import build_config, read_config
from faceexpr.detectron2.options import Detectron2Options
from faceexpr.utils.errors import FaceExprError


def built(folder, **options):
    return build_config(Detectron2Options(**{"weights": "none", "device": "cpu"} | options), folder, validates=True)


def test_table_1_reaches_detectron2(tmp_path):
    paper = REPOSITORY / "configs/paper/detection_x101_fpn_detectron2.yaml"
    options, _ = read_options("fit", ["--config", str(paper), "--device", "cpu"])
    cfg, notes = build_config(options, tmp_path, validates=True)
    assert cfg.DATALOADER.NUM_WORKERS == 4
    solver = cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.WARMUP_ITERS, solver.MAX_ITER) == (4, 0.00025, 1200, 2200)
    assert solver.GAMMA == 0.05
    assert (cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (32, 1)
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NUM_GROUPS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP) == (101, 32, 8)
    assert cfg.MODEL.WEIGHTS.endswith("faster_rcnn_X_101_32x8d_FPN_3x/139173657/model_final_68b088.pkl")
    assert cfg.INPUT.FORMAT == "BGR"
    assert notes == ["steps 210000, 250000 are not before max_iter 2200 and are removed, so that gamma 0.05 never acts"]


@pytest.mark.parametrize(
    ("steps", "kept", "removed"),
    [(None, (), "210000, 250000"), ([10], (), "10"), ([4, 8, 12], (4, 8), "12"), ([9], (9,), None), ([], (), None)],
)
def test_d03_steps_at_or_beyond_the_end_are_removed_with_a_note(steps, kept, removed, tmp_path):
    cfg, notes = built(tmp_path, max_iter=10, warmup_iters=2, steps=steps)
    assert kept == cfg.SOLVER.STEPS
    said = [note for note in notes if note.startswith("steps")]
    assert said == [] if removed is None else said[0].startswith(f"steps {removed} are not before max_iter 10")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("SOLVER_STEPS", "SOLVER.STEPS"),
        ("SOLVER.MOMENTUN", "SOLVER.MOMENTUM"),
        ("input.min_size_train", "INPUT.MIN_SIZE_TRAIN"),
    ],
)
def test_d03_an_unknown_key_is_refused_with_the_nearest_valid_name(key, meant, tmp_path):
    with pytest.raises(FaceExprError, match=rf"opts: Detectron2 has no key {key}; did you mean {meant}\?"):
        built(tmp_path, opts={key: 1})


def test_d03_an_unknown_key_in_a_model_file_is_refused_with_the_nearest_valid_name(tmp_path):
    model = tmp_path / "model.yaml"
    model.write_text("VERSION: 2\nSOLVER: {BASE_LRR: 0.1}\n")
    with pytest.raises(FaceExprError, match=r"model\.yaml: .*did you mean SOLVER\.BASE_LR\?"):
        built(tmp_path, model=str(model))


def test_a_model_file_runs_no_code(tmp_path):
    model = tmp_path / "model.yaml"
    model.write_text(f"VERSION: 2\nSEED: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(FaceExprError, match="is not a configuration of Detectron2"):
        built(tmp_path, model=str(model))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("SOLVER.BASE_LR", "set by --base_lr"),
        ("SOLVER.STEPS", "set by --steps"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "the face is the only class"),
        ("MODEL.ROI_HEADS.NMS_THRESH_TEST", "set by --suppression.iou"),
    ],
)
def test_a_key_that_an_option_sets_is_refused(key, why, tmp_path):
    with pytest.raises(FaceExprError, match=why):
        built(tmp_path, opts={key: 1})


@pytest.mark.parametrize("written", ["1e-5", 1e-5, "0.00001"])
def test_e08_a_number_of_a_detectron2_key_is_a_number_however_it_is_written(written, tmp_path):
    assert built(tmp_path, opts={"SOLVER.WEIGHT_DECAY": written})[0].SOLVER.WEIGHT_DECAY == 1e-5


def test_e08_yaml_and_command_line_give_the_same_numbers(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("opts: {SOLVER: {WEIGHT_DECAY: 1e-5, MOMENTUM: 1}}\nweights: none\n", encoding="utf-8")
    from_file = read_options("fit", ["--config", str(config)])[0]
    flags = ["--opts.SOLVER.WEIGHT_DECAY", "1e-5", "--opts.SOLVER.MOMENTUM", "1", "--weights", "none"]
    for options in (from_file, read_options("fit", flags)[0]):
        solver = build_config(options, tmp_path, validates=False)[0].SOLVER
        assert (solver.WEIGHT_DECAY, solver.MOMENTUM) == (1e-5, 1.0)


@pytest.mark.parametrize("value", ["much", [1], True])
def test_e08_what_is_no_number_is_an_error_that_names_the_key(value, tmp_path):
    with pytest.raises(FaceExprError, match=r"opts: SOLVER\.WEIGHT_DECAY is .*; expected float"):
        built(tmp_path, opts={"SOLVER.WEIGHT_DECAY": value})


def test_from_scratch_nothing_is_frozen_unless_the_user_says_so(tmp_path):
    cfg, _ = built(tmp_path)
    assert (cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.RESNETS.NORM) == (0, "BN")
    cfg, _ = built(tmp_path, opts={"MODEL.RESNETS.NORM": "GN"})
    assert cfg.MODEL.RESNETS.NORM == "GN"
    cfg, _ = built(tmp_path, weights="imagenet")
    assert (cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.RESNETS.NORM) == (2, "FrozenBN")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "COCO-Detection/faster_rcnn_X101_FPN_3x.yaml"}, r"did you mean COCO-Detection/faster_rcnn_"),
        ({"weights": "nowhere.pth"}, r"nowhere\.pth does not exist; expected coco, imagenet, none or a file"),
        ({"amp": True}, "amp is true, but the device is cpu"),
        ({"opts": {"INPUT.FORMAT": "L"}}, r"INPUT\.FORMAT is L; expected BGR or RGB"),
    ],
)
def test_other_options_that_do_not_fit_are_named(options, message, tmp_path):
    with pytest.raises(FaceExprError, match=message):
        built(tmp_path, **options)


def test_what_a_run_keeps_is_read_back_the_same(tmp_path):
    cfg, _ = built(tmp_path, opts={"INPUT.MIN_SIZE_TRAIN": [100, 200]})
    (tmp_path / "detectron2.yaml").write_text(cfg.dump())
    assert yaml.safe_load(read_config(tmp_path / "detectron2.yaml").dump()) == yaml.safe_load(cfg.dump())
    assert cfg.INPUT.MIN_SIZE_TRAIN == (100, 200)


def test_the_device_is_the_gpu_where_there_is_one(tmp_path):
    assert ("cuda" if torch.cuda.is_available() else "cpu") == built(tmp_path, device="auto")[0].MODEL.DEVICE
