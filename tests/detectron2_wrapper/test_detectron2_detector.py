"""Weights for Detectron2, read without running what is in them, and a trained network as a detector."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2_runs import fit, write_config, write_scenes
from torchvision.ops import box_iou

from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.cli.detectron2 import run
from faceexpr.detectron2.detectron2_detector import Detectron2Detector
from faceexpr.pipeline.detectors import load_detector
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import read_image
from faceexpr.weights.pretrained import read_detectron2_weights


class Attack:
    """What makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04", {"model": {"weight": Attack()}}])
@pytest.mark.parametrize("name", ["weights.pkl", "weights.pth"])
def test_a_file_that_is_damaged_or_would_run_code_is_refused(name, content, workdir):
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif name.endswith("pkl"):
        Path(name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, name)
    with pytest.raises(FaceExprError, match=rf"{name} cannot be loaded as weights"):
        read_detectron2_weights(Path(name))
    assert not Path("made").exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_the_model_zoo_are_read(protocol, workdir):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = {"model": {"weight": array, "count": np.float64(2)}, "__author__": "Model Zoo"}
    Path("zoo.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_detectron2_weights(Path("zoo.pkl"))
    assert torch.equal(found["model"]["weight"], torch.from_numpy(array))
    assert found["model"]["count"] == 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder whose network has seen two images a few times, and one of these."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed: it has to be built from its source")
    folder = tmp_path_factory.mktemp("detector")
    train = write_scenes(folder, "train", 2)
    fit("--config", write_config(folder, train), "--max_iter", "30", "--base_lr", "0.02", "--save_dir", folder)
    return folder / "tiny/version_0", read_image(folder / "train/0.png").pixels


def test_candidates_are_all_there_before_the_suppression(trained):
    folder, pixels = trained
    (every,) = Detectron2Detector(folder, {"method": "none", "min_score": 0}, "cpu")([pixels])
    (kept,) = Detectron2Detector(folder, {"min_score": 0}, "cpu")([pixels])
    (two,) = Detectron2Detector(folder, {"method": "none", "min_score": 0, "max_faces": 2}, "cpu")([pixels])
    detector = load_detector(folder, suppression={"min_score": 0.2})  # like any other
    assert isinstance(detector, Detectron2Detector)
    assert detector.suppression == Suppression(min_score=0.2)
    assert bool((detector([pixels])[0].scores >= 0.2).all())
    assert bool((box_iou(every.boxes, every.boxes).triu(1) > 0.5).any())  # doubles are left in
    assert len(kept) < len(every)
    assert torch.equal(kept.boxes, suppress(every.boxes, every.scores, Suppression(min_score=0)).boxes)
    assert (len(two), two.limited) == (2, True)
    assert bool((every.boxes >= 0).all())
    assert bool((every.boxes <= torch.tensor([128, 96, 128, 96])).all())
    assert Detectron2Detector(folder, device="cpu")([]) == []


def test_red_and_blue_are_not_exchanged_between_training_and_use(trained, monkeypatch):  # case F02
    detector = Detectron2Detector(trained[0], device="cpu")
    seen, model = [], detector.predictor.model
    monkeypatch.setattr(detector.predictor, "model", lambda inputs: seen.extend(inputs) or model(inputs))
    red = np.zeros((96, 128, 3), np.uint8)
    red[..., 0] = 255
    detector([red])
    assert seen[0]["image"].amax(dim=(1, 2)).tolist() == [0, 0, 255]  # BGR, as FaceMapper gives it


@pytest.mark.parametrize("weights", [{}, {"roi_heads.box_predictor.cls_score.weight": torch.zeros(6, 32)}])
def test_a_checkpoint_of_another_network_or_number_of_classes_is_refused(weights, trained, tmp_path):  # case D02
    folder, _ = trained
    for name in ("detectron2.yaml", "config.yaml"):
        (tmp_path / name).write_text((folder / name).read_text())
    own = torch.load(folder / "checkpoints/last.pth", weights_only=True)["model"]
    torch.save({"model": own | weights if weights else {}}, tmp_path / "best.pth")
    with pytest.raises(FaceExprError, match=r"best\.pth does not fit the configuration of its run"):
        Detectron2Detector(tmp_path, device="cpu")


def test_test_measures_what_the_options_name(trained, tmp_path, monkeypatch, capsys):
    folder, _ = trained
    val = write_scenes(tmp_path, "val", 3, seed=4)
    monkeypatch.chdir(tmp_path)
    arguments = ["--ckpt_path", folder, "--data.test", val, "--data.test_images", val.with_suffix("")]
    run(["detectron2", "test", *map(str, arguments), "--save_dir", "results"])
    assert "test after 30 iterations" in capsys.readouterr().out
    results = tmp_path / "results/tiny/version_0"
    metrics = json.loads((results / "metrics.json").read_text())["test"]
    assert (metrics["images"], metrics["faces"], metrics["iteration"]) == (3, 6, 30)
    assert all((results / name).is_file() for name in ("figures/test_precision_recall.png", "detections_test.csv"))


@pytest.mark.slow
def test_in_two_processes_the_numbers_are_those_of_one(trained, workdir):
    folder, _ = trained
    three = write_scenes(workdir, "three", 3, seed=2)
    options = ["--ckpt_path", folder, "--data.test", three, "--data.test_images", three.with_suffix("")]
    found = []
    for devices in (1, 2):
        place = ["--devices", devices, "--device", "cpu", "--save_dir", devices]
        run(["detectron2", "test", *map(str, options + place)])
        found.append(json.loads(Path(str(devices), "tiny/version_0/metrics.json").read_text())["test"])
    assert found[0] == found[1]
    assert found[0]["images"] == 3
