"""The evaluation of classifiers in whole runs of a tiny model."""

import io
import math
from contextlib import redirect_stdout
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import build_trainer, read_table
from evaluation_runs import SEVEN, ReadsThePixel, make_split, pixel_faces, read_events, read_metrics
from lightning.pytorch.loggers import CSVLogger
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from faceexpr.callbacks.classification import ClassificationEvaluation
from faceexpr.callbacks.detection import DetectionEvaluation
from faceexpr.callbacks.evaluation import flat_hparams
from faceexpr.callbacks.runs import RunChecks
from faceexpr.data.augment import Augmentation
from faceexpr.data.loading import Selection
from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.metrics.classification import DISTANCES, METRICS
from faceexpr.metrics.predictions import file_name, read_samples
from faceexpr.models.mlp import MLP
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

FOUR_OF_FIVE = [(0, 0), (3, 3), (4, 4), (6, 6), (2, 3)]
SOFT = torch.eye(7) * 0.6 + torch.eye(7).roll(1, 1) * 0.4
"""Two expressions for each face; the first has the majority."""

KINDS = {"confusion_matrix", "per_class_accuracy", "reliability", "right", "wrong"}


def divided_votes(stages, **extra):
    return pixel_faces({stage: make_split(list(range(7)), SOFT.tolist(), **extra) for stage in stages})


class WorseLater(ReadsThePixel):
    """All right in the first two epochs; then nothing is."""

    def validation_step(self, batch, batch_idx):
        result = super().validation_step(batch, batch_idx)
        result["probabilities"] = result["probabilities"].roll(1 if self.current_epoch >= 2 else 0, 1)
        return result


def pixels_of_all_splits():
    data = pixel_faces({"train": SEVEN, "val": [*SEVEN, (2, 3)], "test": FOUR_OF_FIVE}, batch_size=4)
    data.leaked = lambda stage: np.array([False, True, False, False, True]) if stage == "test" else None
    return data


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A training with figures, whose last of three epochs is the worst, and a test without."""
    folder, data, model = tmp_path_factory.mktemp("training"), pixels_of_all_splits(), WorseLater()
    evaluation = ClassificationEvaluation(gallery_size=4, figures_every_n_epochs=2)
    trainer = build_trainer(folder, evaluation, max_epochs=3, enable_checkpointing=True)
    with redirect_stdout(io.StringIO()) as printed:
        trainer.fit(model, datamodule=data)
        logged = set(trainer.callback_metrics)
        promised = evaluation.logged("val", model) | evaluation.logged("train", model)
        evaluation.figures = False
        trainer.test(model, datamodule=data, verbose=False)
    return SimpleNamespace(folder=folder, model=model, printed=printed.getvalue(), logged=logged, promised=promised)


def test_the_best_epoch_is_reported_and_figures_are_drawn(training):
    record, events = read_metrics(training.folder, "val"), read_events(training.folder)
    assert (record["epoch"], record["accuracy"], record["n"]) == (0, 7 / 8, 8)
    assert "val: best after 1 epoch, accuracy 87.50%" in training.printed
    assert set(events.Tags()["images"]) == {f"val/{kind}" for kind in KINDS} | {"train/faces"}
    # After epoch 1, and those of the best epoch at the end.
    assert (len(events.Images("val/confusion_matrix")), len(events.Images("train/faces"))) == (2, 1)
    names = {path.name for path in (training.folder / "runs" / "version_0" / "figures").iterdir()}
    assert names == {f"val_{kind}.png" for kind in KINDS} | {"train_faces.png"}
    assert [event.value for event in events.Scalars("val/accuracy")] == pytest.approx([7 / 8, 7 / 8, 1 / 8])
    assert [event.value for event in events.Scalars("train/accuracy")] == [1.0] * 3


def test_a_run_has_its_row_of_hyper_parameters_with_final_metrics(training):  # case E16
    events = read_events(training.folder)
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    row = {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}
    net = {"net": "PixelNet", "net.depth": 3, "optimizer": "SGD", "optimizer.weight_decay": 0.01}
    assert {**net, "lr": 0.1, "batch_size": 4, "epochs": 3}.items() <= row.items()
    assert not [name for name in row if name.startswith(("augment.", "_"))]  # all of it is off
    assert row["best/val_accuracy"] == pytest.approx(7 / 8)
    # The last values of these curves are the final metrics: no scalar stands beside them.
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    metrics = {one.name.tag for one in HParamsPluginData.FromString(content).experiment.metric_infos}
    assert {"val/accuracy", "val/ece", "train/accuracy"} <= metrics <= set(events.Tags()["scalars"])
    assert {name.partition("/")[0] for name in events.Tags()["scalars"]} == {"train", "val", "test", "epoch"}


def test_logged_names_are_known_in_advance_with_their_direction(training):
    assert training.promised.keys() <= training.logged
    assert (training.promised["val/ece"], training.promised["val/f1/Happy"]) == (False, True)


def test_every_pass_leaves_its_record_and_its_samples_in_the_run_folder(training):
    record, folder = read_metrics(training.folder, "test"), training.folder / "runs" / "version_0"
    assert (record["n"], record["accuracy"]) == (5, pytest.approx(0.8))
    assert sum(row["n"] for row in record["per_class"].values()) == np.sum(record["confusion_matrix"]) == 5
    assert len(read_samples(folder / file_name("val")).labels) == 8
    found = read_samples(folder / file_name("test"))
    assert found.predicted.tolist() == ["Angry", "Happy", "Sad", "Neutral", "Fear"]
    assert found.labels.tolist() == ["Angry", "Happy", "Sad", "Neutral", "Happy"]
    assert found.leaked.tolist() == [False, True, False, False, True]
    expected = (torch.eye(7) * training.model.scale.detach()).softmax(1)[0].numpy()
    np.testing.assert_allclose(found.probabilities[0], expected, atol=5.01e-4)


def test_a_resumed_run_still_knows_the_best_epoch(training, make_trainer, tmp_path):
    (checkpoint,) = training.folder.rglob("*.ckpt")
    trainer = make_trainer(ClassificationEvaluation(figures=False), max_epochs=4)
    trainer.fit(WorseLater(), datamodule=pixels_of_all_splits(), ckpt_path=str(checkpoint), weights_only=True)
    record = read_metrics(tmp_path, "val")
    assert float(trainer.callback_metrics["val/accuracy"]) == pytest.approx(1 / 8)
    assert (record["epoch"], record["accuracy"]) == (0, pytest.approx(7 / 8))


def test_the_row_names_what_differs_from_the_defaults():
    data = SyntheticFaces(augment=Augmentation(flip=0.5, rotation=10), train_size=70)
    trainer = SimpleNamespace(optimizers=[], max_epochs=3, datamodule=data, precision="bf16-mixed", world_size=1)
    row = flat_hparams(trainer, SimpleNamespace(hparams={}))
    assert {name: value for name, value in row.items() if name.startswith(("augment.", "data."))} == {
        "augment.flip": 0.5, "augment.rotation": 10, "data.train_size": 70,
    }  # fmt: skip
    assert row["precision"] == "bf16-mixed"
    assert "world_size" not in row


def test_what_is_logged_recorded_and_printed_is_what_the_samples_say(make_trainer, tmp_path, capsys):
    val = [(0, 0), (0, 0), (3, 3), (4, 3), (6, 0)]
    trainer = make_trainer(ClassificationEvaluation(figures=False))
    trainer.validate(ReadsThePixel(), datamodule=pixel_faces({"val": val}), verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert (logged["val/accuracy"], logged["val/recall/Angry"]) == pytest.approx((0.6, 2 / 3))
    assert logged["val/precision/Sad"] == 0
    assert not {"val/recall/Disgust", "val/precision/Disgust"} & logged.keys()
    assert all(math.isfinite(value) and value >= 0 for value in logged.values())
    record = read_metrics(tmp_path, "val")
    assert "epoch" not in record
    assert record["per_class"]["Disgust"] == {"n": 0, "predicted": 0, "precision": None, "recall": None, "f1": None}
    assert record["undefined"]["recall/Disgust"] == "no sample"
    low, high = record["accuracy_interval"]
    assert low < 0.6 < high
    printed = capsys.readouterr().out
    assert "95% interval" in printed
    # Every line of the table of metrics is computed, recorded and printed by itself.
    for name, metric in METRICS.items():
        assert (name in record) == (f"  {metric.label} " in printed) == (not metric.of_votes)
    assert next(line for line in printed.splitlines() if "Disgust" in line).split() == ["Disgust", "-", "-", "-", "0"]
    angry = read_table(next(tmp_path.rglob("confusion_matrix_val.csv")))[0]
    assert list(angry)[1:] == list(FER_NAMES)
    assert angry["Neutral"] == "1"


def test_a_loss_as_monitor_takes_the_lowest_and_a_second_fit_starts_anew(make_trainer, tmp_path):
    callback = ClassificationEvaluation(figures=False, monitor="val/nll")
    # Training makes the model surer of its right predictions, so the last epoch has the lowest loss.
    for val in (SEVEN, FOUR_OF_FIVE):
        data = pixel_faces({"train": SEVEN, "val": val}, batch_size=7)
        make_trainer(callback, max_epochs=2).fit(ReadsThePixel(lr=1.0), datamodule=data)
    records = [read_metrics(tmp_path, "val", version) for version in (0, 1)]
    assert [record["accuracy"] for record in records] == [1.0, pytest.approx(0.8)]
    assert records[0]["epoch"] == 1


def test_votes_are_measured_and_their_distances_told_everywhere(make_trainer, tmp_path, capsys):
    selection = Selection("more than half of the votes", {"no majority": 3, "unknown": 1})
    trainer = make_trainer(ClassificationEvaluation(figures=False))
    trainer.test(ReadsThePixel(), datamodule=divided_votes(["test"], selection=selection), verbose=False)
    logits = torch.eye(7) * 3
    record, printed = read_metrics(tmp_path, "test"), capsys.readouterr().out
    assert record["accuracy"] == 1.0  # by the class of most votes
    assert record["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, SOFT)), abs=1e-6)
    assert record["total_variation"] == pytest.approx(float((logits.softmax(1) - SOFT).abs().sum(1).mean() / 2))
    for name in DISTANCES:
        assert float(trainer.callback_metrics[f"test/{name}"]) == pytest.approx(record[name], abs=1e-6)
        assert f"{record[name]:.4f}" in printed
    assert record["labels"] == {"rule": selection.rule, "left_out": selection.left_out}
    assert "accuracy 100.00% of 7 images: more than half of the votes; 4 left out (3 no majority, 1 unknown)" in printed


class WatchesKL(RunChecks):
    """Watches a distance to votes, as a checkpoint or an early stopping would."""

    monitor, mode = "val/kl", "min"


def test_a_distance_can_choose_the_best_epoch_where_there_are_votes(make_trainer):
    def fit(data):
        evaluation = ClassificationEvaluation(figures=False, monitor="val/kl")
        trainer = make_trainer(evaluation, logger=False)
        trainer.callbacks.append(WatchesKL())
        trainer.fit(ReadsThePixel(), datamodule=data)
        return evaluation.state_dict()

    state = fit(divided_votes(["train", "val"]))
    table, scores = ClassificationEvaluation().unpack(state)
    assert table.targets.shape == (7, 7)
    assert scores.values["kl"] == pytest.approx(state["value"], abs=1e-6)
    with pytest.raises(FaceExprError, match="watches val/kl, which this run does not measure"):
        fit(pixel_faces({"train": SEVEN, "val": SEVEN}))


def test_the_sanity_check_and_fast_dev_run_leave_no_trace(make_trainer, tmp_path):
    data = pixel_faces({"train": SEVEN, "val": SEVEN})
    trainer = make_trainer(ClassificationEvaluation(figures=False), limit_train_batches=0)
    trainer.fit(ReadsThePixel(), datamodule=data)
    assert not [name for name in trainer.callback_metrics if name.startswith("val/")]
    make_trainer(ClassificationEvaluation(), fast_dev_run=True).fit(ReadsThePixel(), datamodule=data)
    assert [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".png", ".csv")] == [
        tmp_path / "runs/version_0/run.json"
    ]  # of the first run, without a metric


def test_other_loggers_get_the_numbers_and_a_broken_record_is_written_anew(make_trainer, tmp_path):
    folder = tmp_path / "csv" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text('{"val": ')
    logger = CSVLogger(tmp_path, name="csv", version=0)
    trainer = make_trainer(ClassificationEvaluation(gallery_size=0), logger=logger)
    with pytest.warns(UserWarning, match="is not JSON and is written anew"):
        trainer.test(ReadsThePixel(), datamodule=pixel_faces({"test": FOUR_OF_FIVE}), verbose=False)
    assert "test/accuracy" in (folder / "metrics.csv").read_text().splitlines()[0]
    assert (folder / "figures" / "test_reliability.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("evaluation", "option", "value"),
    [
        (ClassificationEvaluation, "gallery_size", -1),
        (ClassificationEvaluation, "resamples", 1),
        (DetectionEvaluation, "max_detections", 0),
        (DetectionEvaluation, "score", 50),
    ],
)
def test_bad_options_are_named(evaluation, option, value):
    with pytest.raises(FaceExprError, match=f"^{option} is {value}; expected "):
        evaluation(**{option: value})


class KeepsGalleries(ClassificationEvaluation):
    """Keeps the images of the last galleries."""

    def draw(self, trainer, stage, result):
        drawn = super().draw(trainer, stage, result)
        galleries = [figure for name, figure in drawn.items() if name in ("right", "wrong")]
        self.shown = [axes.images[0].get_array() for figure in galleries for axes in figure.axes]
        return drawn


def test_tests_show_what_speaks_for_the_prediction_and_trainings_do_not(make_trainer):
    torch.manual_seed(0)
    model = ExpressionClassifier(net=partial(MLP, hidden=[8]))
    data = SyntheticFaces(train_size=7, val_size=3, test_size=4)
    evaluation = KeepsGalleries(explain=True, resamples=10)
    trainer = make_trainer(evaluation, logger=False)
    trainer.fit(model, datamodule=data)
    assert {image.shape for image in evaluation.shown} == {(48, 48)}
    trainer.test(model, datamodule=data, verbose=False)
    assert [image.shape for image in evaluation.shown] == [(160, 324, 3)] * 4
    # The face on the left is grey; what lies over the one on the right is not.
    assert all((image[:, :160].max(2) == image[:, :160].min(2)).all() for image in evaluation.shown)
    assert all((image[:, 164:].max(2) > image[:, 164:].min(2)).any() for image in evaluation.shown)
