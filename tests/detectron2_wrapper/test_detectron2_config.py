"""From our options to Detectron2's configuration."""

import pytest
import yaml
from conftest import REPOSITORY

pytest.importorskip("detectron2", reason="Detectron2 is not installed: it has to be built from its source")

from faceexpr.cli.detectron2 import read_options
from faceexpr.detectron2.detectron2_config import build_config, read_config
from faceexpr.detectron2.detectron2_options import Detectron2Options
from faceexpr.utils.errors import FaceExprError


def built(folder, **options):
    return build_config(Detectron2Options(**{"weights": "none", "device": "cpu"} | options), folder)


def test_table_1_reaches_detectron2(tmp_path, capsys):
    paper = REPOSITORY / "configs/paper/detection_x101_fpn_detectron2.yaml"
    cfg = build_config(read_options("fit", ["--config", str(paper), "--device", "cpu"])[0], tmp_path)
    solver, heads, resnet = cfg.SOLVER, cfg.MODEL.ROI_HEADS, cfg.MODEL.RESNETS
    assert (cfg.DATALOADER.NUM_WORKERS, solver.IMS_PER_BATCH, solver.BASE_LR) == (4, 4, 0.00025)
    assert (solver.WARMUP_ITERS, solver.MAX_ITER, solver.GAMMA) == (1200, 2200, 0.05)
    assert (heads.BATCH_SIZE_PER_IMAGE, heads.NUM_CLASSES) == (32, 1)
    assert (resnet.DEPTH, resnet.NUM_GROUPS, resnet.WIDTH_PER_GROUP) == (101, 32, 8)
    assert cfg.MODEL.WEIGHTS.endswith("faster_rcnn_X_101_32x8d_FPN_3x/139173657/model_final_68b088.pkl")
    assert cfg.INPUT.FORMAT == "BGR"
    note = "note: steps 210000, 250000 are not before max_iter 2200 and are removed, so that gamma 0.05 never acts\n"
    assert capsys.readouterr().out == note


@pytest.mark.parametrize(
    ("steps", "kept", "removed"),
    [(None, (), "210000, 250000"), ([10], (), "10"), ([4, 8, 12], (4, 8), "12"), ([9], (9,), None), ([], (), None)],
)
def test_steps_at_or_beyond_the_end_are_removed_with_a_note(steps, kept, removed, tmp_path, capsys):  # case D03
    assert kept == built(tmp_path, max_iter=10, warmup_iters=2, steps=steps).SOLVER.STEPS
    note = f"note: steps {removed} are not before max_iter 10"
    assert (note in capsys.readouterr().out) == (removed is not None)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ({"SOLVER_STEPS": 1}, r"Detectron2 has no key SOLVER_STEPS; the nearest is SOLVER\.STEPS$"),  # case D03
        ({"input": {"min_size_train": 1}}, r"the nearest is INPUT\.MIN_SIZE_TRAIN$"),
        ({"SOLVER.BASE_LR": 1}, "SOLVER.BASE_LR cannot be given here; an option of its own sets it, to 0.00025"),
        ({"SOLVER.WEIGHT_DECAY": True}, r"Type mismatch .*SOLVER\.WEIGHT_DECAY"),  # case E08
        ({"INPUT.FORMAT": "L"}, r"INPUT\.FORMAT is L; expected BGR or RGB"),
    ],
)
def test_a_key_that_is_unknown_of_another_type_or_set_by_an_option_is_refused(opts, message, tmp_path):
    with pytest.raises(FaceExprError, match=f"opts: .*{message}"):
        built(tmp_path, opts=opts)


def test_a_model_may_be_a_file_whose_unknown_keys_are_named_and_which_runs_no_code(tmp_path):
    model = tmp_path / "model.yaml"
    model.write_text("VERSION: 2\nMODEL: {META_ARCHITECTURE: RetinaNet}\n")
    assert built(tmp_path, model=str(model)).MODEL.META_ARCHITECTURE == "RetinaNet"
    for text, message in (
        ("SOLVER: {BASE_LRR: 0.1}", r"model\.yaml is not .*: 'Non-existent config key: SOLVER\.BASE_LRR'"),
        (f"SEED: !!python/object/apply:os.mkdir ['{tmp_path}/made']", "is not a configuration of Detectron2"),
    ):
        model.write_text(f"VERSION: 2\n{text}\n")
        with pytest.raises(FaceExprError, match=message):
            built(tmp_path, model=str(model))
    assert not (tmp_path / "made").exists()


def test_from_scratch_nothing_is_frozen_unless_the_user_says_so(tmp_path):
    for options, expected in (
        ({}, (0, "BN")),
        ({"opts": {"MODEL.RESNETS.NORM": "GN"}}, (0, "GN")),
        ({"weights": "imagenet"}, (2, "FrozenBN")),
    ):
        model = built(tmp_path, **options).MODEL
        assert expected == (model.BACKBONE.FREEZE_AT, model.RESNETS.NORM)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nothing.yaml"}, "model is nothing.yaml and weights none, but nothing.yaml not available"),
        ({"weights": "nowhere.pth"}, r"nowhere\.pth does not exist; expected coco, imagenet, none or a file"),
        ({"devices": 2}, "devices is 2, but the device is cpu; Detectron2 trains so on CUDA only"),
        ({"devices": 3}, "devices is 3; expected at most 2"),
        ({"device": "cuda"}, "device is cuda, but CUDA is not available"),
    ],
)
def test_other_options_that_do_not_fit_are_named(options, message, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(FaceExprError, match=message):
        built(tmp_path, **options)


def test_what_a_run_keeps_is_read_back_the_same(tmp_path):
    cfg = built(tmp_path, opts={"INPUT.MIN_SIZE_TRAIN": [100, 200], "SOLVER.MOMENTUM": 1}, data={"face_free": False})
    (tmp_path / "detectron2.yaml").write_text(cfg.dump())
    assert yaml.safe_load(read_config(tmp_path / "detectron2.yaml").dump()) == yaml.safe_load(cfg.dump())
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.SOLVER.MOMENTUM) == ((100, 200), 1.0)
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert not built(tmp_path).DATALOADER.FILTER_EMPTY_ANNOTATIONS
