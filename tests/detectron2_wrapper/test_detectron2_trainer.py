"""Real trainings by Detectron2, as small as they can be."""

import dataclasses
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2_runs import fit, write_config, write_scenes
from image_files import with_orientation
from PIL import Image

pytest.importorskip("detectron2", reason="Detectron2 is not installed: it has to be built from its source")

from detectron2.data import DatasetCatalog
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.utils.file_io import PathManager
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.ops import box_iou

from faceexpr.cli.detectron2 import read_options
from faceexpr.data.annotations.reading import AnnotatedImage
from faceexpr.detectron2.detectron2_config import build_config
from faceexpr.detectron2.detectron2_detector import Detectron2Detector
from faceexpr.detectron2.detectron2_trainer import GREY, FaceCheckpointer, FaceMapper, FaceTrainer, register
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import read_image

RUN = Path("lightning_logs/tiny/version_0")
HEAD = "roi_heads.box_predictor.cls_score.weight"


@pytest.fixture
def scenes(workdir):
    """Two images to train on and two others to validate on."""
    return write_scenes(workdir, "train", 2), write_scenes(workdir, "val", 2, seed=1)


def load(name, folder=RUN):
    return torch.load(folder / f"checkpoints/{name}.pth", weights_only=True)


def curves(folder):
    """Return each curve of a run as {step: value}."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_ap_is_logged_at_every_period_and_chooses_the_best_and_a_resumed_run_goes_on(scenes, workdir, capsys):
    arguments = ("--eval_period", "3", "--checkpoint_period", "3", "--max_iter", "6")  # case D04
    fit("--config", write_config(workdir, *scenes), *arguments)
    logged = curves(RUN)
    # Counted from 0; the last is Detectron2's, after the training.
    assert set(logged["val/ap50"]) == set(logged["val/ap"]) == {2, 6}
    best = load("best")
    assert best["metrics"]["ap50"] == pytest.approx(max(logged["val/ap50"].values()))
    metrics = json.loads((RUN / "metrics.json").read_text())["val"]
    assert (metrics["ap50"], metrics["iteration"]) == (best["metrics"]["ap50"], best["iteration"])
    assert (metrics["images"], metrics["faces"]) == (2, 4)
    assert (RUN / "figures/val_precision_recall.png").is_file()

    # Where nothing is left to train, nothing is touched (case N04).
    before = {path: path.stat().st_mtime_ns for path in RUN.rglob("*")}
    capsys.readouterr()
    fit("--resume", RUN)
    assert re.match(r"nothing is left to train: \S+/version_0/checkpoints/last\.pth has 6 ", capsys.readouterr().out)
    assert {path: path.stat().st_mtime_ns for path in RUN.rglob("*")} == before
    fit("--resume", RUN, "--max_iter", "8")
    assert load("last")["trainer"]["iteration"] == 7
    assert "Starting training from iteration 6" in (RUN / "log.txt").read_text()
    assert yaml.safe_load((RUN / "config.yaml").read_text())["max_iter"] == 8
    assert yaml.safe_load((RUN / "config.1.yaml").read_text())["max_iter"] == 6
    # The best so far is still known.
    best_of_all = max(curves(RUN)["val/ap50"].values())
    assert load("best")["metrics"]["ap50"] == pytest.approx(best_of_all)


def test_a_run_that_was_stopped_before_its_first_checkpoint_cannot_be_resumed(scenes, workdir, monkeypatch):  # case N04
    def stop(self):
        if self.iter == 1:
            raise KeyboardInterrupt
        return run_step(self)

    run_step = FaceTrainer.run_step
    monkeypatch.setattr(FaceTrainer, "run_step", stop)
    with pytest.raises(KeyboardInterrupt):
        fit("--config", write_config(workdir, *scenes), "--eval_period", "1", "--checkpoint_period", "3")
    best = RUN / "checkpoints/best.pth"
    assert [path.name for path in best.parent.iterdir()] == [best.name]
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    with pytest.raises(FaceExprError, match=r"^--resume is \S+, but there is no \S+/last\.pth to go on from; expected"):
        fit("--resume", RUN)
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before


def test_without_validation_images_it_is_said_once_and_the_same_seed_gives_the_same_weights(scenes, workdir, capfd):
    config = write_config(workdir, scenes[0])
    for _ in range(2):
        fit("--config", config, "--eval_period", "2")
        assert capfd.readouterr().out.count("there are no validation images") == 1
    runs = [RUN, RUN.with_name("version_1")]
    assert [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in runs] == [["last.pth"]] * 2
    first, second = (load("last", run) for run in runs)
    assert first["trainer"]["iteration"] == 3
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    with pytest.raises(FaceExprError, match="version_1 holds a run already"):
        fit("--config", config, "--version", "1")


def test_a_loss_that_is_not_finite_stops_at_once_and_names_its_part_and_files(scenes, workdir, monkeypatch):  # case D07
    calls, losses = [], FastRCNNOutputLayers.losses

    def broken_at_the_third(self, predictions, proposals):
        calls.append(1)
        found = losses(self, predictions, proposals)
        return {**found, "loss_box_reg": found["loss_box_reg"] * float("nan")} if len(calls) == 3 else found

    monkeypatch.setattr(FastRCNNOutputLayers, "losses", broken_at_the_third)
    message = r"at iteration 2 .*loss_box_reg': \S*nan.* [^ ]*[01]\.png, [^ ]*[01]\.png;"
    with pytest.raises(FaceExprError, match=message):
        fit("--config", write_config(workdir, *scenes), "--checkpoint_period", "1")
    assert len(calls) == 3
    assert load("last")["trainer"]["iteration"] == 1
    assert not (RUN / "checkpoints/best.pth").exists()
    assert "Traceback" not in (RUN / "log.txt").read_text()


@pytest.fixture
def network(workdir):
    """The tiny network, untrained."""
    options, _ = read_options("fit", ["--config", str(write_config(workdir, workdir / "none.json"))])
    return FaceTrainer.build_model(build_config(options, workdir))


def test_weights_of_80_classes_start_a_detector_of_faces_without_their_last_layer(network, workdir):
    weights = {name: value.clone() + 1 for name, value in network.state_dict().items()}
    untrained = network.state_dict()[HEAD].clone()
    weights |= {HEAD: torch.ones(81, 32), HEAD.replace("weight", "bias"): torch.ones(81)}
    arrays = {name: value.numpy() for name, value in weights.items()}
    Path("coco.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Model Zoo"}, protocol=2))
    torch.save(weights, "plain.pth")
    for name in ("coco.pkl", "plain.pth"):
        FaceCheckpointer(network).load(name)
        stem = "backbone.bottom_up.stem.conv1.weight"
        assert torch.equal(network.state_dict()[HEAD], untrained)
        assert torch.equal(network.state_dict()[stem], weights[stem])


def test_a_backbone_under_the_names_of_caffe2_is_loaded_and_no_pickle_is_run(network, workdir, monkeypatch):
    expected = torch.rand(network.state_dict()["backbone.bottom_up.stem.conv1.weight"].shape)
    content = {"conv1_w": expected.numpy(), "fc1000_w": np.ones((3, 2), np.float32), "conv1_w_momentum": np.ones(1)}
    Path("R-50.pkl").write_bytes(pickle.dumps(content, protocol=2))
    monkeypatch.setattr(pickle, "load", None)
    FaceCheckpointer(network).load("R-50.pkl")
    assert torch.equal(network.state_dict()["backbone.bottom_up.stem.conv1.weight"], expected)


def test_weights_of_another_network_are_refused(network, workdir):
    name = "backbone.fpn_output2.weight"
    others = {key: value for key, value in network.state_dict().items() if key != name}
    for weights in (others, others | {name: torch.zeros(1)}):
        torch.save({"model": weights}, "other.pth")
        with pytest.raises(FaceExprError, match=rf"other\.pth does not fit the model: .* such as {name}"):
            FaceCheckpointer(network).load("other.pth")


def test_weights_that_cannot_be_downloaded_are_one_sentence_with_a_way_on(workdir, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(PathManager, "get_local_path", no_network)
    config = write_config(workdir, write_scenes(workdir, "train", 1))
    with pytest.raises(FaceExprError, match=r"model_final_\w+\.pkl cannot be had .* give the file, or start from"):
        fit("--config", config, "--weights", "coco")


def test_weights_that_are_not_finite_are_never_written(network, workdir):
    checkpointer = FaceCheckpointer(network, str(workdir))
    checkpointer.save("last")
    before = (workdir / "last.pth").read_bytes()
    with torch.no_grad():
        network.backbone.fpn_output2.weight[0] = float("nan")
    with pytest.raises(FaceExprError, match=r"diverged: backbone\.fpn_output2\.weight"):
        checkpointer.save("last")
    assert (workdir / "last.pth").read_bytes() == before


@pytest.fixture
def paint(workdir):
    """An image whose left half is red and whose right half is blue, turned by its EXIF, with a box in each half."""
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[:, :50, 0], pixels[:, 50:, 2] = 255, 255
    Image.fromarray(np.rot90(pixels)).save(workdir / "paint.png", exif=with_orientation(6))  # a quarter turn clockwise
    boxes = np.array([[10, 10, 40, 50], [60, 10, 90, 50]], np.float32)
    return AnnotatedImage(workdir / "paint.png", (100, 60), boxes, np.array([False, True]))


def mapped(record, folder, is_train, image_format="BGR"):
    cfg = build_config(read_options("fit", ["--weights", "none", "--device", "cpu"])[0], folder)
    cfg.INPUT.FORMAT, cfg.INPUT.RANDOM_FLIP = image_format, "none"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (60,), 60
    register("probe", [record])
    return FaceMapper(cfg, is_train)(DatasetCatalog.get("probe")[0])


@pytest.mark.parametrize(("image_format", "red"), [("BGR", 2), ("RGB", 0)])
def test_red_lands_in_the_channel_that_the_network_expects(image_format, red, paint, workdir):  # case F02
    image = mapped(paint, workdir, is_train=False, image_format=image_format)["image"]
    assert image.shape == (3, 60, 100)  # upright
    assert image[:, 30, 20].tolist() == [255 if channel == red else 0 for channel in range(3)]
    assert image[:, 30, 80].tolist() == [255 if channel == 2 - red else 0 for channel in range(3)]


def test_an_ignored_face_is_painted_over_in_training_and_is_no_target(paint, workdir):
    sample = mapped(paint, workdir, is_train=True)
    assert sample["image"][:, 30, 75].tolist() == [GREY] * 3
    assert sample["image"][:, 30, 20].tolist() == [0, 0, 255]
    assert sample["instances"].gt_boxes.tensor.tolist() == [[10, 10, 40, 50]]
    assert sample["instances"].gt_classes.tolist() == [0]
    assert mapped(paint, workdir, is_train=False)["image"][:, 30, 75].tolist() == [255, 0, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_one_sentence_that_names_it(workers, workdir):
    train = write_scenes(workdir, "train", 1)
    image = workdir / "train/0.png"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(FaceExprError, match=r"^\S*0\.png: \w[^\n]*$"):
        fit("--config", write_config(workdir, train), "--workers", workers)


def test_an_image_that_has_changed_its_size_is_named(paint, workdir):
    record = dataclasses.replace(paint, size=(99, 60))
    with pytest.raises(FaceExprError, match=r"paint\.png, got \(100, 60\), expect \(99, 60\)"):
        mapped(record, workdir, is_train=True)


@pytest.mark.slow
@pytest.mark.parametrize("category", [0, 5])
def test_a_face_of_any_category_id_is_learnt(category, workdir):  # case D02
    train = write_scenes(workdir, "train", 1, category=category, faces=1)
    fit("--config", write_config(workdir, train), "--max_iter", "150", "--images_per_batch", "1", "--base_lr", "0.02")
    (found,) = Detectron2Detector(RUN, device="cpu")([read_image(workdir / "train/0.png").pixels])
    left, top, width, height = json.loads(train.read_text())["annotations"][0]["bbox"]
    truth = torch.tensor([[left, top, left + width, top + height]])
    assert float(box_iou(found.boxes[:1], truth)) > 0.5
    assert set(found.labels.tolist()) == {0}
