"""Real trainings by Detectron2, as small as they can be."""

import json

import numpy as np
import pytest
import torch
import yaml
from conftest import exit_code
from detectron2_runs import fit, log_of, write_config, write_scenes
from PIL import Image

pytest.importorskip("detectron2", reason="Detectron2 is not installed: it has to be built from its source")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.ops import box_iou

from faceexpr.cli.detectron2 import read_options, run
from faceexpr.data.annotations.records import AnnotatedImage
from faceexpr.detectron2 import session
from faceexpr.detectron2.config import build_config
from faceexpr.detectron2.dataset import GREY, FaceMapper, register
from faceexpr.detectron2.detector import Detectron2Detector
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import read_image

RUN = "lightning_logs/tiny/version_0"


@pytest.fixture
def scenes(workdir):
    """Two pictures to train on and two others to validate on."""
    return write_scenes(workdir, "train", 2), write_scenes(workdir, "val", 2, seed=1)


def curves(folder):
    """Return each curve of a run as {step: value}."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_d04_ap_is_logged_at_every_period_and_chooses_the_best_checkpoint(scenes, workdir):
    fit("--config", write_config(workdir, *scenes), "--eval_period", "5", "--max_iter", "10")
    folder = workdir / RUN
    logged = curves(folder)
    assert set(logged["val/ap50"]) == {4, 9}  # counted from 0
    assert set(logged["val/ap"]) == {4, 9}
    best = torch.load(folder / "checkpoints/best.pth", weights_only=True)
    assert best["metrics"]["ap50"] == pytest.approx(max(logged["val/ap50"].values()))
    metrics = json.loads((folder / "metrics.json").read_text())["val"]
    assert (metrics["ap50"], metrics["iteration"]) == (best["metrics"]["ap50"], best["iteration"])
    assert (metrics["images"], metrics["faces"]) == (2, 4)
    assert yaml.safe_load((folder / "config.yaml").read_text())["max_iter"] == 10


def test_d04_without_validation_pictures_it_is_said_once_and_training_goes_on(scenes, workdir, capfd):
    fit("--config", write_config(workdir, scenes[0]), "--eval_period", "2")
    said = capfd.readouterr().out
    assert said.count("there are no validation pictures") == 1
    assert sorted(path.name for path in (workdir / RUN / "checkpoints").iterdir()) == ["last.pth"]
    last = torch.load(workdir / RUN / "checkpoints/last.pth", weights_only=True)
    assert last["trainer"]["iteration"] == 3


def test_d07_a_loss_that_is_not_finite_stops_at_once_and_keeps_nothing(scenes, workdir):
    config = write_config(workdir, *scenes)
    arguments = ["--base_lr", "1e6", "--warmup_iters", "0", "--max_iter", "20", "--checkpoint_period", "1"]
    with pytest.raises(FaceExprError) as caught:
        fit("--config", config, *arguments)
    sentence = str(caught.value)
    assert "training has diverged" in sentence
    if "at iteration" in sentence:  # and not the weights themselves, before a checkpoint of them is written
        assert "0.png" in sentence
        assert "1.png" in sentence
        assert "not finite is" in sentence
    folder = workdir / RUN / "checkpoints"
    for path in folder.glob("*"):
        weights = torch.load(path, weights_only=True)["model"]
        assert all(bool(value.isfinite().all()) for value in weights.values())
    assert not (folder / "best.pth").exists()
    assert "Traceback" not in log_of(workdir / RUN)


def test_d07_the_part_of_the_loss_and_the_files_are_named(scenes, workdir, monkeypatch):
    from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers

    calls = []
    losses = FastRCNNOutputLayers.losses

    def broken_at_the_third(self, predictions, proposals):
        calls.append(1)
        found = losses(self, predictions, proposals)
        return {**found, "loss_box_reg": found["loss_box_reg"] * float("nan")} if len(calls) == 3 else found

    monkeypatch.setattr(FastRCNNOutputLayers, "losses", broken_at_the_third)
    with pytest.raises(FaceExprError, match=r"at iteration 2 .* not finite is loss_box_reg, on .*[01]\.png.*[01]\.png"):
        fit("--config", write_config(workdir, *scenes), "--checkpoint_period", "1")
    assert len(calls) == 3
    assert torch.load(workdir / RUN / "checkpoints/last.pth", weights_only=True)["trainer"]["iteration"] == 1


def test_d07_a_box_that_is_not_finite_is_named_with_its_file():
    broken = AnnotatedImage(
        "faces/photo.jpg", (64, 64), np.array([[0, 0, 9, 9], [1, 1, np.nan, 9]], np.float32), np.zeros(2, bool)
    )
    with pytest.raises(FaceExprError, match=r"faces/photo\.jpg: box 2 is \[1\.0, 1\.0, nan, 9\.0\]"):
        register("broken", [broken])


def test_a_resumed_run_goes_on_where_it_was(scenes, workdir):
    config = write_config(workdir, *scenes)
    fit("--config", config, "--max_iter", "6", "--eval_period", "3", "--checkpoint_period", "3")
    folder = workdir / RUN
    before = torch.load(folder / "checkpoints/last.pth", weights_only=True)
    with pytest.raises(FaceExprError, match="has 6 iterations behind it; expected more"):
        fit("--resume", folder)
    fit("--resume", folder, "--max_iter", "8")
    after = torch.load(folder / "checkpoints/last.pth", weights_only=True)
    assert (before["trainer"]["iteration"], after["trainer"]["iteration"]) == (5, 7)
    assert "Starting training from iteration 6" in log_of(folder)
    assert yaml.safe_load((folder / "config.yaml").read_text())["max_iter"] == 8
    assert yaml.safe_load((folder / "config.1.yaml").read_text())["max_iter"] == 6
    # The best so far is still known.
    best = max(curves(folder)["val/ap50"].values())
    assert torch.load(folder / "checkpoints/best.pth", weights_only=True)["metrics"]["ap50"] == pytest.approx(best)


def test_the_same_seed_gives_the_same_weights(scenes, workdir):
    config = write_config(workdir, scenes[0])
    for _ in range(2):
        fit("--config", config)
    first, second = (
        torch.load(workdir / f"lightning_logs/tiny/version_{number}/checkpoints/last.pth", weights_only=True)["model"]
        for number in (0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def paint(workdir):
    """A picture whose left half is red and whose right half is blue, turned by its EXIF, and a mapper for it."""
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[:, :50, 0] = 255
    pixels[:, 50:, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    Image.fromarray(np.rot90(pixels)).save(workdir / "paint.png", exif=exif)
    assert np.array_equal(read_image(workdir / "paint.png").pixels, pixels)
    boxes = np.array([[10, 10, 40, 50], [60, 10, 90, 50]], np.float32)
    return AnnotatedImage(workdir / "paint.png", (100, 60), boxes, np.array([False, True]))


def mapped(record, folder, is_train, image_format="BGR"):
    options, _ = read_options("fit", ["--weights", "none", "--device", "cpu"])
    cfg, _ = build_config(options, folder, validates=False)
    cfg.INPUT.FORMAT = image_format
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (60,), 60
    register("probe", [record])
    from detectron2.data import DatasetCatalog

    return FaceMapper(cfg, is_train)(DatasetCatalog.get("probe")[0])


@pytest.mark.parametrize(("image_format", "red"), [("BGR", 2), ("RGB", 0)])
def test_f02_red_lands_in_the_channel_that_the_network_expects(image_format, red, paint, workdir):
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


def test_a_picture_of_another_size_than_its_boxes_is_refused(paint, workdir):
    other = AnnotatedImage(paint.path, (60, 100), paint.boxes, paint.ignored)
    with pytest.raises(FaceExprError, match=r"paint\.png has 100 x 60 pixels and its record 60 x 100"):
        mapped(other, workdir, is_train=False)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_one_sentence_that_names_it(workers, workdir):
    train = write_scenes(workdir, "train", 1)
    picture = workdir / "train/0.png"
    picture.write_bytes(picture.read_bytes()[:200])
    with pytest.raises(FaceExprError, match=r"^\S*0\.png: \w.*$") as caught:
        fit("--config", write_config(workdir, train), "--workers", workers)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("face_free", [True, False])
def test_pictures_without_faces_are_kept_unless_told_otherwise(face_free, workdir):
    train = write_scenes(workdir, "train", 3)
    written = json.loads(train.read_text())
    written["annotations"] = [face for face in written["annotations"] if face["image_id"] != 2]
    train.write_text(json.dumps(written))
    fit("--config", write_config(workdir, train), "--max_iter", "1", "--data.face_free", str(face_free).lower())
    assert f"Serializing {3 if face_free else 2} elements" in log_of(workdir / RUN)


def test_an_interrupted_training_says_how_to_go_on(scenes, workdir, monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "launch", interrupt)
    assert exit_code(lambda: fit("--config", write_config(workdir, *scenes))) == 130
    assert "fit --resume RUN" in capsys.readouterr().out


def test_several_processes_without_cuda_are_refused_before_anything_is_written(scenes, workdir):
    with pytest.raises(FaceExprError, match="devices is 2, but Detectron2 trains in several processes on CUDA only"):
        fit("--config", write_config(workdir, *scenes), "--devices", "2")
    assert not (workdir / "lightning_logs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("category", [0, 1, 5])
def test_d02_a_face_of_any_category_id_is_learnt(category, workdir):
    train = write_scenes(workdir, "train", 1, category=category, faces=1)
    fit("--config", write_config(workdir, train), "--max_iter", "150", "--images_per_batch", "1", "--base_lr", "0.02")
    pixels = read_image(workdir / "train/0.png").pixels
    (found,) = Detectron2Detector(workdir / RUN, device="cpu")([pixels])
    left, top, width, height = json.loads(train.read_text())["annotations"][0]["bbox"]
    truth = torch.tensor([[left, top, left + width, top + height]])
    assert float(box_iou(found.boxes[:1], truth)) > 0.5
    assert set(found.labels.tolist()) == {0}


@pytest.mark.slow
def test_in_two_processes_the_numbers_are_those_of_one(scenes, workdir):
    three = write_scenes(workdir, "three", 3, seed=2)
    fit("--config", write_config(workdir, scenes[0]), "--max_iter", "40", "--base_lr", "0.02")
    options = ["--ckpt_path", RUN, "--data.test", three, "--data.test_images", three.with_suffix("")]
    for devices in (1, 2):
        run(["detectron2", "test", *map(str, options), "--devices", str(devices), "--device", "cpu"])
    one, two = (
        json.loads((workdir / f"lightning_logs/tiny/version_{number}/metrics.json").read_text()) for number in (1, 2)
    )
    assert one == two
    assert one["test"]["images"] == 3
