"""What version 0.1 printed, measured, wrote and stored is still so: `tests/golden/README.md` says how it was made."""

import json
import pkgutil
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY, exit_code, read_table
from matplotlib import cbook
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from faceexpr.cli.main import main
from faceexpr.utils.errors import SOME_FAILED
from faceexpr.utils.redirects import RENAMED, redirect
from faceexpr.utils.specs import class_path

GOLDEN = REPOSITORY / "tests/golden"

CLASSIFIER_ONLY = {"evaluation", "robustness", "calibration", "predictions"}
DETECTOR_ONLY = {"detection_evaluation"}
CONFIGS = {
    "expression/fer2013_simple_cnn": DETECTOR_ONLY,
    "expression/fer2013_knn": DETECTOR_ONLY,
    "detection/wider_light": CLASSIFIER_ONLY,
    "detection/wider_faster_rcnn": CLASSIFIER_ONLY,
}
"""Configurations, and the only differences allowed: sections of the other kind of model, which may be there or not."""

MEANT = {
    "detection/wider_faster_rcnn": [
        ".trainer.max_epochs: 12, expected 16",
        ".trainer.check_val_every_n_epoch: 3, expected 4",
        ".model.init_args.optimizer.init_args.lr: 0.0008, expected 0.0005",
        ".model.init_args.scheduler.init_args.max_lr: 0.0008, expected 0.0005",
        ".data.init_args.augment.size: 384, expected 256",
    ]
}
"""Values that were changed since: it learns from larger pieces of more photographs, in larger steps."""

MEASURED = ["classifier", "knn", "knn_features", "folder", "detector", "boxes"]

CPU = ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
TINY_MODELS = [f"--detector={GOLDEN}/detector.safetensors", f"--classifier={GOLDEN}/classifier.safetensors"]
CHECKPOINTS = [f"--detector={GOLDEN}/boxes.ckpt", f"--classifier={GOLDEN}/knn_features.ckpt"]
ANALYSES = {
    "tiny": ["grace_hopper.jpg", *TINY_MODELS, "--coverage", "0.9"],
    "checkpoints": [*CHECKPOINTS, "--suppression", "wbf", "--shape", "stretched", "--min_score", "0.3"],
}


@pytest.fixture
def inputs(workdir):
    """A current folder with the golden images."""
    for folder in ("faces", "scenes"):
        shutil.copytree(GOLDEN / folder, workdir / folder)
    shutil.copy(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False), workdir)
    return workdir


def canonical(value):
    """Return values with each class of the package under the path at which it is defined now."""
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if not (isinstance(value, str) and value.startswith("faceexpr.")):
        return value
    return class_path(pkgutil.resolve_name(RENAMED.get(value, value)))


def differences(expected, found, where="", foreign=False, **tolerance):
    """Return where a value differs from the expected one.

    It may have more: options and metrics that came later. Options of a library's class (``foreign``) that other
    versions of it do not have are left out.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        is_foreign = foreign or where == ".trainer"
        if "class_path" in expected:
            is_foreign = not expected["class_path"].startswith("faceexpr.")
        missing = [] if is_foreign else [f"{where}.{key}: gone" for key in expected if key not in found]
        both = [key for key in expected if key in found]
        return missing + [
            text
            for key in both
            for text in differences(expected[key], found[key], f"{where}.{key}", is_foreign, **tolerance)
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [text for n, pair in pairs for text in differences(*pair, f"{where}[{n}]", foreign, **tolerance)]
    near = pytest.approx(expected, **tolerance) if isinstance(expected, int | float) and tolerance else expected
    return [] if found == near else [f"{where}: {found!r}, expected {expected!r}"]


def read(path):
    # Version 0.1 said "picture" where "image" is said now.
    return json.loads(path.read_text(encoding="utf-8").replace("picture", "image"))


def scalars(folder, tag):
    return [event.value for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_means_the_same(name, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert exit_code(lambda: main(["fit", "--config", f"configs/{name}.yaml", "--print_config"])) == 0
    found = canonical(yaml.safe_load(capsys.readouterr().out))
    expected = canonical(yaml.safe_load((GOLDEN / f"print_config/{Path(name).name}.yaml").read_text(encoding="utf-8")))
    for section in CONFIGS[name]:
        found.pop(section, None)
        expected.pop(section)
    if "path" in expected["data"]["init_args"] and "channels" in expected["data"]["init_args"]:
        # 0.1 did not keep with a model how its faces were made: nothing written is that of the model now, or grey.
        expected["data"]["init_args"] |= {"channels": None, "shape": None, "margin": None}
    assert differences(expected, found) == MEANT.get(name, [])


def test_every_class_is_found_by_its_old_path():
    for path in (GOLDEN / "class_paths.txt").read_text(encoding="utf-8").split():
        assert isinstance(pkgutil.resolve_name(redirect(path)), type)
        assert redirect([f"--data={path}"]) == [f"--data={redirect(path)}"]


@pytest.mark.parametrize("name", MEASURED)
def test_a_stored_model_with_its_stored_configuration_measures_the_same(name, inputs):
    main(["test", "--config", str(GOLDEN / f"{name}.yaml"), "--ckpt_path", str(GOLDEN / f"{name}.ckpt")])
    found = read(inputs / f"lightning_logs/{name}/version_0/metrics.json")
    assert differences(read(GOLDEN / f"{name}.metrics.json"), found, rel=1e-3, abs=2e-3) == []


def test_training_with_a_stored_configuration_gives_the_same_losses(inputs):
    main(["fit", "--config", str(GOLDEN / "epoch.yaml")])
    fewer = ["--data.train_size", "24", "--data.val_size", "8", "--trainer.max_epochs", "1"]
    stored = ["--model.weights", str(GOLDEN / "detector.ckpt")]
    main(["fit", "--config", str(GOLDEN / "detector.yaml"), *stored, *fewer, "--trainer.check_val_every_n_epoch", "1"])
    for name, losses in read(GOLDEN / "losses.json").items():
        for tag, expected in losses.items():
            found = scalars(inputs / f"lightning_logs/{name}/version_0", tag)
            assert found == pytest.approx(expected, rel=2e-3), (name, tag)


@pytest.mark.parametrize("name", ["epoch", "step"])
def test_an_interrupted_training_goes_on_to_the_same_end(name, workdir):
    stopped = Path(f"lightning_logs/{name}/version_0/checkpoints")
    stopped.mkdir(parents=True)
    shutil.copy(GOLDEN / f"{name}.ckpt", stopped / "last.ckpt")
    if name == "epoch":  # whose best epoch lies before the interruption
        shutil.copy(GOLDEN / "epoch_best.ckpt", stopped / "best.ckpt")
    main(["fit", "--config", str(GOLDEN / f"{name}.yaml"), "--ckpt_path", str(stopped / "last.ckpt")])
    folder = workdir / f"lightning_logs/{name}/version_1"
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert (last["epoch"], last["global_step"]) == (3, 20)  # four epochs of 5 steps; it was stopped in the third
    expected, found = read(GOLDEN / f"{name}.metrics.json")["val"], read(folder / "metrics.json")["val"]
    assert (found["epoch"], found["n"]) == (expected["epoch"], expected["n"])
    assert found["nll"] == pytest.approx(expected["nll"], rel=2e-3)
    whole = read(GOLDEN / "losses.json")["epoch"]["train/loss"]
    assert scalars(folder, "train/loss")[-2:] == pytest.approx(whole[-2:], rel=2e-3)


@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_finds_the_same_faces(name, inputs):
    main(["analyze", "scenes", *ANALYSES[name], "--out", "out", "--device", "cpu"])
    expected, found = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (GOLDEN / f"faces_{name}.jsonl", inputs / "out/faces.jsonl")
    )
    boxes = [[[face.pop("box") for face in record["faces"]] for record in records] for records in (expected, found)]
    assert differences(*boxes, abs=0.5) == []
    assert differences(expected, found, abs=1e-3) == []


def test_predict_gives_the_same_probabilities(inputs):
    arguments = [
        # 0.1 changed the proportions of an image that is not square, such as the scene, in `predict` alone.
        f"--ckpt_path={GOLDEN}/classifier.ckpt", "--data", "FaceImages", "--data.shape=stretched",
        "--predictions.path=predictions.csv",
        "--data.paths=[faces/test,scenes/scene_0.jpg,scenes/boxes.txt]",
    ]  # fmt: skip
    assert exit_code(lambda: main(["predict", *arguments, *CPU])) == SOME_FAILED
    expected, found = (rows(path) for path in (GOLDEN / "predictions.csv", inputs / "predictions.csv"))
    assert differences(expected, found, abs=1e-3) == []


def rows(path):
    """Return the rows of a table, with numbers where there are numbers."""
    return [{key: yaml.safe_load(value) for key, value in row.items()} for row in read_table(path)]
