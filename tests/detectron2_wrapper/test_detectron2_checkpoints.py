"""Weights for Detectron2: read without running what is in them, refused where they do not fit; and its detector."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2_runs import fit, write_config, write_scenes
from torchvision.ops import box_iou

pytest.importorskip("detectron2", reason="Detectron2 is not installed: it has to be built from its source")

from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.cli.detectron2 import read_options, run
from faceexpr.detectron2.checkpoints import FaceCheckpointer, read_weights
from faceexpr.detectron2.config import build_config
from faceexpr.detectron2.detector import Detectron2Detector
from faceexpr.detectron2.trainer import FaceTrainer
from faceexpr.pipeline.detectors import load_detector
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import read_image


class Attack:
    """What makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize("name", ["weights.pkl", "weights.pth"])
def test_a_file_that_would_run_code_is_refused(name, workdir):
    content = {"model": {"weight": Attack()}, "__author__": "x"}
    if name.endswith("pkl"):
        Path(name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, name)
    with pytest.raises(FaceExprError, match=rf"{name} cannot be loaded as weights"):
        read_weights(Path(name))
    assert not Path("made").exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_the_model_zoo_are_read(protocol, workdir):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = {"model": {"weight": array, "count": np.float64(2)}, "__author__": "Model Zoo"}
    Path("zoo.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_weights(Path("zoo.pkl"))
    assert np.array_equal(found["model"]["weight"], array)
    assert found["model"]["count"] == 2


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04"])
@pytest.mark.parametrize("name", ["weights.pkl", "weights.pth"])
def test_a_damaged_file_is_named(content, name, workdir):
    Path(name).write_bytes(content)
    with pytest.raises(FaceExprError, match=rf"{name} cannot be loaded as weights"):
        read_weights(Path(name))


@pytest.fixture
def network(workdir):
    """The tiny network, untrained."""
    options, _ = read_options("fit", ["--config", str(write_config(workdir, workdir / "none.json"))])
    return FaceTrainer.build_model(build_config(options, workdir, validates=False)[0])


def test_weights_of_80_classes_start_a_detector_of_faces_without_their_last_layer(network, workdir):
    weights = {name: value.clone() + 1 for name, value in network.state_dict().items()}
    untrained = network.state_dict()["roi_heads.box_predictor.cls_score.weight"].clone()
    weights["roi_heads.box_predictor.cls_score.weight"] = torch.ones(81, 32)
    weights["roi_heads.box_predictor.cls_score.bias"] = torch.ones(81)
    arrays = {name: value.numpy() for name, value in weights.items()}
    Path("coco.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Model Zoo"}, protocol=2))
    torch.save(weights, "plain.pth")
    for name in ("coco.pkl", "plain.pth"):
        FaceCheckpointer(network).load(name)
        loaded = network.state_dict()
        assert torch.equal(loaded["roi_heads.box_predictor.cls_score.weight"], untrained)
        stem = "backbone.bottom_up.stem.conv1.weight"
        assert torch.equal(loaded[stem], weights[stem])


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_of_another_network_are_refused(change, network, workdir):
    weights = dict(network.state_dict())
    name = "backbone.fpn_output2.weight"
    del weights[name]
    if change == "shape":
        weights[name] = torch.zeros(1)
    torch.save({"model": weights}, "other.pth")
    with pytest.raises(FaceExprError, match=rf"other\.pth does not fit the model: .* such as {name}"):
        FaceCheckpointer(network).load("other.pth")


def test_weights_that_cannot_be_downloaded_are_one_sentence_with_a_way_on(workdir, monkeypatch):
    from detectron2.checkpoint import DetectionCheckpointer

    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(DetectionCheckpointer, "load", no_network)
    train = write_scenes(workdir, "train", 1)
    with pytest.raises(FaceExprError, match=r"model_final_\w+\.pkl cannot be had .* --weights FILE.* --weights none"):
        fit("--config", write_config(workdir, train), "--weights", "coco")


def test_weights_that_are_not_finite_are_never_written(network, workdir):
    checkpointer = FaceCheckpointer(network, workdir)
    checkpointer.save("last")
    before = (workdir / "checkpoints/last.pth").read_bytes()
    with torch.no_grad():
        network.backbone.fpn_output2.weight[0] = float("nan")
    with pytest.raises(FaceExprError, match=r"diverged: backbone\.fpn_output2\.weight"):
        checkpointer.save("last")
    assert (workdir / "checkpoints/last.pth").read_bytes() == before


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder whose network has seen two pictures a few times, and one of these."""
    folder = tmp_path_factory.mktemp("detector")
    train = write_scenes(folder, "train", 2)
    fit("--config", write_config(folder, train), "--max_iter", "30", "--base_lr", "0.02", "--save_dir", folder)
    return folder / "tiny/version_0", read_image(folder / "train/0.png").pixels


def test_candidates_are_all_there_before_the_suppression(trained):
    folder, pixels = trained
    (every,) = Detectron2Detector(folder, Suppression(method="none", min_score=0), "cpu")([pixels])
    (kept,) = Detectron2Detector(folder, Suppression(min_score=0), "cpu")([pixels])
    (two,) = Detectron2Detector(folder, Suppression(method="none", min_score=0, max_faces=2), "cpu")([pixels])
    overlap = box_iou(every.boxes, every.boxes).triu(1)
    assert bool((overlap > 0.5).any())  # doubles are left in
    assert len(kept) < len(every)
    expected = suppress(every.boxes, every.scores, Suppression(min_score=0))
    assert torch.equal(kept.boxes, expected.boxes)
    assert (len(two), two.limited) == (2, True)
    assert bool((every.boxes >= 0).all())
    assert bool((every.boxes <= torch.tensor([128, 96, 128, 96])).all())


def test_pictures_are_independent_of_their_batch(trained):
    folder, pixels = trained
    turned = np.ascontiguousarray(np.rot90(pixels))
    alone = [Detectron2Detector(folder, device="cpu")([image])[0] for image in (pixels, turned, pixels)]
    together = Detectron2Detector(folder, device="cpu", batch_size=3)([pixels, turned, pixels])
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one.boxes, other.boxes, atol=1e-3)
    assert Detectron2Detector(folder, device="cpu")([]) == []


def test_f02_red_and_blue_are_not_exchanged_between_training_and_use(trained, monkeypatch):
    folder, _ = trained
    detector = Detectron2Detector(folder, device="cpu")
    seen = []
    monkeypatch.setattr(detector, "network", lambda inputs: seen.extend(inputs) or [])
    red = np.zeros((96, 128, 3), np.uint8)
    red[..., 0] = 255
    detector([red])
    assert seen[0]["image"].amax(dim=(1, 2)).tolist() == [0, 0, 255]  # BGR, as FaceMapper gives it


def test_a_run_is_loaded_like_any_other_detector_with_the_suppression_of_its_training(trained):
    folder, pixels = trained
    detector = load_detector(folder, suppression={"min_score": 0.2})
    assert isinstance(detector, Detectron2Detector)
    assert detector.suppression == Suppression(min_score=0.2)
    (found,) = detector([pixels])
    assert bool((found.scores >= 0.2).all())


@pytest.mark.parametrize("classes", [None, 5])
def test_d02_a_checkpoint_of_another_network_or_another_number_of_classes_is_refused(classes, trained, tmp_path):
    folder, _ = trained
    for name in ("detectron2.yaml", "config.yaml"):
        (tmp_path / name).write_text((folder / name).read_text())
    weights = torch.load(folder / "checkpoints/last.pth", weights_only=True)["model"] if classes else {}
    if classes:
        weights["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(classes + 1, 32)
    torch.save({"model": weights}, tmp_path / "best.pth")
    with pytest.raises(FaceExprError, match=r"best\.pth does not fit the configuration of its run"):
        Detectron2Detector(tmp_path, device="cpu")


def test_test_measures_what_the_options_name(trained, tmp_path, monkeypatch, capsys):
    folder, _ = trained
    val = write_scenes(tmp_path, "val", 3, seed=4)
    monkeypatch.chdir(tmp_path)
    arguments = ["--ckpt_path", folder, "--data.test", val, "--data.test_images", val.with_suffix("")]
    run(["detectron2", "test", *map(str, arguments), "--save_dir", "results"])
    assert "test after 30 iterations" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "results/tiny/version_0/metrics.json").read_text())
    assert (metrics["test"]["images"], metrics["test"]["faces"], metrics["test"]["iteration"]) == (3, 6, 30)
