"""Detectors through the command line: fit, test, what they leave behind, and what is refused."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from conftest import exit_code, measured
from image_files import encoded, smooth_image

from faceexpr.cli.main import main

SCENES = [
    "--data", "SyntheticScenes", "--data.train_size", "6", "--data.val_size", "3", "--data.test_size", "3",
    "--data.width", "64", "--data.height", "64", "--data.max_faces", "2", "--data.batch_size", "3",
]  # fmt: skip
NET = [
    "--model", "FaceDetector", "--model.net", "LightDetector", "--model.net.widths", "[4, 4, 8, 8, 8]",
    "--model.net.neck", "8",
]  # fmt: skip
TRAINER = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the run folder of a tiny detector."""
    folder = tmp_path_factory.mktemp("trained")
    figures = ["--detection_evaluation.figures", "false"]
    main(["fit", *NET, *SCENES, *TRAINER, *figures, "--trainer.default_root_dir", str(folder)])
    return folder / "lightning_logs/version_0"


def test_a_detector_is_trained_chosen_by_ap50_and_measured_from_its_checkpoint_alone(trained, workdir, capsys):
    checkpoint = torch.load(trained / "checkpoints/best.ckpt", map_location="cpu", weights_only=True)
    (best,) = [state for name, state in checkpoint["callbacks"].items() if "BestCheckpoint" in name]
    assert best["monitor"] == "val/ap50"
    assert yaml.safe_load((trained / "config.yaml").read_text())["checkpoint"]["monitor"] == "auto"
    main(["test", "--ckpt_path", str(trained), "--trainer.accelerator", "cpu"])
    found = measured("lightning_logs/version_0-test/version_0", "test")
    assert found["images"] == 3  # which the checkpoint remembers
    assert 0 <= found["ap50"] <= 1
    assert re.search(r"AP50 +0\.\d{4}", capsys.readouterr().out)


def test_options_of_the_suppression_can_be_changed_after_training(trained, workdir):
    changed = ["--model.net.suppression.min_score", "0.0", "--model.net.suppression.max_faces", "2"]
    main(["test", "--ckpt_path", str(trained), *changed, "--trainer.accelerator", "cpu"])
    found = measured("lightning_logs/version_0-test/version_0", "test")
    assert (found["detections"], found["images_at_the_limit"]) == (6, 3)


# Case D10
def test_without_a_face_to_validate_on_the_run_stops_before_it_trains(workdir, capsys):
    for name in "ab":
        (workdir / f"{name}.png").write_bytes(encoded(smooth_image(40, 30), "PNG"))
    Path("train.txt").write_text("a.png\n1\n4 4 20 20 0 0 0 0 0 0\n")
    Path("val.txt").write_text("b.png\n0\n")
    data = ["--data", "FaceBoxes", "--data.train", "train.txt", "--data.val", "val.txt"]
    assert exit_code(lambda: main(["fit", *NET, *data, *TRAINER])) == 2
    shown = capsys.readouterr()
    assert "watches val/ap50, which is not defined: no image of the val split has a face" in shown.err
    assert "epoch 1/1" not in shown.out + shown.err
    main(["fit", *NET, *data, *TRAINER, "--checkpoint.monitor=val/loss", "--checkpoint.mode=min"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*NET, "--data", "SyntheticFaces"], "--data is SyntheticFaces, but FaceDetector needs images with boxes"),
        (SCENES, "--data is SyntheticScenes, but ExpressionClassifier needs faces with expressions"),
        ([*NET, "--data", "FaceBoxes"], "data.train is not given; expected an annotation file"),
        ([*NET, *SCENES, "--data.augment.mosaic", "2"], "data.augment.mosaic is 2.0; expected 0 to 1"),
        (
            ["--model=FaceDetector", *SCENES, "--model.net=FasterRCNN", "--model.net.backbone=vgg"],
            "--model.net.backbone is vgg; expected one of ",
        ),
        ([*NET, *SCENES, "--model.net.suppression.iou", "3"], "suppression.iou is 3.0; expected 0 to 1"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_a_sentence(workdir, args, message, capsys):
    assert exit_code(lambda: main(["fit", *args, *TRAINER])) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_predict_sends_detectors_to_analyze(trained, workdir, capsys):
    assert exit_code(lambda: main(["predict", "--ckpt_path", str(trained)])) == 2
    assert "expected `faceexpr analyze`" in capsys.readouterr().err
