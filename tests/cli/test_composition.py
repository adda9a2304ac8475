"""How configurations and flags come together."""

from typing import get_args, get_type_hints

import pytest
import yaml
from conftest import TINY_DATA, TINY_NET, TINY_RUN, built, exit_code
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, Timer

from faceexpr.callbacks.checkpointing import BestCheckpoint, LastCheckpoint
from faceexpr.callbacks.classification import ClassificationEvaluation
from faceexpr.callbacks.predictions import PredictionWriter
from faceexpr.callbacks.runs import LineProgress
from faceexpr.cli.main import main
from faceexpr.cli.train import RunTrainer

PRODUCT_CALLBACKS = (
    BestCheckpoint, LastCheckpoint, LearningRateMonitor, ClassificationEvaluation, PredictionWriter, LineProgress,
)  # fmt: skip


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def printed_config(capsys, *args):
    assert exit_code(lambda: main(["fit", *args, "--print_config"])) == 0
    return yaml.safe_load(capsys.readouterr().out)


BASE = """
model:
  class_path: ExpressionClassifier
  init_args:
    net: {class_path: SimpleCNN, init_args: {dropout: 0.4, final_relu: true}}
"""


@pytest.mark.parametrize(
    ("args", "note"),
    [
        (["--config=base.yaml", "--config=over.yaml"], "model.net is MLP, which does not have these options; they are "
            "dropped: final_relu True\n"),
        (["--config=base.yaml", "--model=KNNClassifier"], "model is KNNClassifier, which does not have these options; "
            "they are dropped: net SimpleCNN, net.dropout 0.4, net.final_relu True\n"),
        (["--model=ExpressionClassifier", "--model.mirror=true", "--model.lr=0.1", "--model=FaceDetector",
          "--data=SyntheticScenes"], "model is FaceDetector, which does not have these options; they are dropped: "
            "mirror true\n"),
        (["--trainer.logger.sub_dir=x", "--trainer.logger=CSVLogger"], "trainer.logger is CSVLogger, which does not "
            "have these options; they are dropped: sub_dir x\n"),
        (["--model=KNNClassifier", "--trainer.logger=CSVLogger"], ""),  # nobody has written what these do not have
    ],
)  # fmt: skip
def test_options_that_another_class_does_not_have_are_dropped_with_a_note(args, note, workdir, capsys):
    write(workdir / "base.yaml", BASE)
    write(workdir / "over.yaml", "model: {init_args: {net: {class_path: MLP}}}")
    built(args)
    assert capsys.readouterr().err == (f"note: {note}" if note else "")


def test_options_that_both_classes_have_stay_and_those_after_the_class_are_its_own(workdir, capsys):
    base = write(workdir / "base.yaml", BASE)
    config = printed_config(capsys, "--config", base, "--model.net", "MLP", "--model.net.activation", "tanh")
    net = config["model"]["init_args"]["net"]
    assert net["class_path"].endswith("MLP")
    assert (net["init_args"]["dropout"], net["init_args"]["activation"]) == (0.4, "tanh")
    assert "final_relu" not in net["init_args"]


def test_a_run_has_the_evaluation_of_its_kind_of_model(workdir, capsys):
    classifier, detector = {"evaluation", "robustness", "calibration", "predictions"}, {"detection_evaluation"}
    sections = "evaluation: {gallery_size: 3, figures: true}\ndetection_evaluation: {score: 0.5}\n"  # as of 0.1
    scenes = write(workdir / "scenes.yaml", f"data: SyntheticScenes\nmodel: FaceDetector\n{sections}")
    faces = write(workdir / "faces.yaml", sections)
    for file, own in ((scenes, detector), (faces, classifier)):
        config = printed_config(capsys, "--config", file)
        assert config.keys() & (classifier | detector) == own
    built(["--config", scenes])
    assert capsys.readouterr().err == "note: FaceDetector has no use for evaluation.gallery_size; left out\n"


@pytest.mark.parametrize("side", [64, 640])
def test_a_detector_whose_network_is_not_named_has_the_light_one(side, workdir, capsys):
    options = ["--model.net.test_side=64"] if side == 64 else []
    config = printed_config(capsys, "--model=FaceDetector", "--data=SyntheticScenes", *options)
    assert config["data"]["init_args"]["train_size"] == 400  # and not 4000, as of the default class
    assert "AdamW" in str(config["model"]["init_args"]["optimizer"])  # the classifier's is Adam
    net = config["model"]["init_args"]["net"]
    assert net["class_path"] == "faceexpr.models.light_detector.LightDetector"
    assert net["init_args"]["test_side"] == side


def test_print_config_is_what_runs_and_rebuilds_the_same_model(fitted, capsys):
    saved = yaml.safe_load((fitted / "config.yaml").read_text())
    written = printed_config(capsys, "--data=SyntheticFaces", *TINY_DATA, *TINY_NET, *TINY_RUN)
    again = printed_config(capsys, f"--config={fitted}/config.yaml")
    assert saved["model"] == written["model"] == again["model"]
    assert saved["data"] == written["data"] == again["data"]


@pytest.mark.parametrize("form", ["list in a second file", "append in a file", "append on the command line"])
def test_the_products_callbacks_are_always_there(form, workdir):
    early = "{class_path: EarlyStopping, init_args: {monitor: val/accuracy, mode: max}}"
    summary = "{class_path: DeviceStatsMonitor}"
    base = write(workdir / "base.yaml", f"trainer: {{callbacks: [{summary}]}}")
    key = "callbacks" if form.startswith("list") else "callbacks+"
    exp = write(workdir / "exp.yaml", f"trainer: {{{key}: [{early}]}}")
    args = ["--config", base, "--config", exp]
    if form == "append on the command line":
        args = ["--config", base, "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/accuracy"]
    found = built(args).trainer.callbacks
    for wanted in (*PRODUCT_CALLBACKS, EarlyStopping):
        assert sum(isinstance(callback, wanted) for callback in found) == 1, wanted
    # Appending adds, a plain list in a later file replaces; what the product needs is in neither list.
    assert any(type(callback).__name__ == "DeviceStatsMonitor" for callback in found) == (key == "callbacks+")


def test_numbers_without_a_dot_are_numbers_everywhere(workdir):
    text = """
model:
  class_path: ExpressionClassifier
  init_args:
    lr: 1e-4
    net: {class_path: MLP, init_args: {hidden: [8], dropout: 1e-1}}
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 1e-3, weight_decay: 1e-5, betas: [9e-1, 999e-3]}}
"""
    config = write(workdir / "numbers.yaml", text)
    saved = built(["--config", config]).config.as_dict()["model"]["init_args"]
    assert saved["lr"] == 0.0001
    assert saved["net"]["init_args"]["dropout"] == 0.1
    options = saved["optimizer"]["init_args"]
    assert (options["lr"], options["weight_decay"], options["betas"]) == (0.001, 0.00001, (0.9, 0.999))
    flags = [
        *TINY_NET, "--model.lr=1e-4", "--model.net.dropout=1e-1", "--model.optimizer.weight_decay=1e-5",
        "--model.optimizer.betas=[9e-1,999e-3]",
    ]  # fmt: skip
    assert built(flags).config.as_dict()["model"]["init_args"] == saved


def test_a_model_that_only_remembers_its_data_looks_at_them_once(workdir):
    assert built(["--model=KNNClassifier", *TINY_RUN[1:]]).trainer.max_epochs == 1


@pytest.mark.parametrize("text", [
    "callbacks:\n    class_path: EarlyStopping\n    init_args: {monitor: val/accuracy, mode: max}",
    pytest.param("callbacks: {class_path: Timer, init_args: {duration: 1:00:00:00}}", marks=pytest.mark.slow),
    "callbacks+:\n    - class_path: Timer\n      init_args: {duration: 00:00:10:00}",
])  # fmt: skip
def test_lightnings_callbacks_are_named_alone_or_in_a_list(text, workdir):  # case N31
    cli = built(["--config", write(workdir / "one.yaml", f"trainer:\n  {text}")])
    wanted = EarlyStopping if "EarlyStopping" in text else Timer
    assert sum(isinstance(callback, wanted) for callback in cli.trainer.callbacks) == 1
    cli.parser.save(cli.config, "saved.yaml")
    again = built(["--config", "saved.yaml"])
    assert sum(isinstance(callback, wanted) for callback in again.trainer.callbacks) == 1


def test_one_batch_and_all_batches_are_told_apart_whatever_was_imported_before():
    own = get_type_hints(RunTrainer.__init__)
    both = [
        name
        for name, hint in get_type_hints(Trainer.__init__).items()
        if {int, float} <= {*get_args(hint)} and name != "gradient_clip_val"  # to which 1 and 1.0 are the same
    ]
    assert len(both) == 6
    assert all(get_args(own[name])[:2] == (int, float) for name in both)
    options = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1.0", "--trainer.overfit_batches=2"]
    config = built(options).config.trainer
    limits = config.limit_train_batches, config.limit_val_batches, config.overfit_batches
    assert [type(limit) for limit in limits] == [int, float, int]
