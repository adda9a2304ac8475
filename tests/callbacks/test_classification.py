"""The evaluation callback in whole runs of a tiny model."""

import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from pixel_runs import ReadsThePixel, make_split, pixel_faces
from sklearn.metrics import f1_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from faceexpr.callbacks.classification import ClassificationEvaluation
from faceexpr.callbacks.evaluation import flat_hparams
from faceexpr.data.augment import Augmentation
from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

SEVEN = [(label, label) for label in range(7)]
FOUR_OF_FIVE = [(0, 0), (3, 3), (4, 4), (6, 6), (2, 3)]


def strict_json(path):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def read_events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


@pytest.mark.parametrize("devices", [1, 2])
def test_e11_five_samples_are_five_samples_in_one_process_and_in_two(make_trainer, tmp_path, devices):
    trainer = make_trainer(
        ClassificationEvaluation(), devices=devices, strategy="ddp_spawn" if devices == 2 else "auto"
    )
    trainer.test(ReadsThePixel(), datamodule=pixel_faces({"test": FOUR_OF_FIVE}), verbose=False)
    (path,) = tmp_path.rglob("metrics.json")
    record = strict_json(path)["test"]
    assert record["n"] == 5
    assert record["accuracy"] == pytest.approx(0.8)
    assert sum(row["n"] for row in record["per_class"].values()) == 5
    assert np.sum(record["confusion_matrix"]) == 5
    assert float(trainer.callback_metrics["test/accuracy"]) == pytest.approx(0.8)


def test_e16_every_run_has_its_row_of_hyper_parameters_with_final_metrics(make_trainer, tmp_path):
    val = [*SEVEN, (2, 3), (5, 5)]
    for lr in (0.1, 0.01):
        trainer = make_trainer(ClassificationEvaluation(figures=False), max_epochs=2)
        trainer.fit(ReadsThePixel(lr=lr), datamodule=pixel_faces({"train": SEVEN, "val": val}, batch_size=3))
    found = []
    for version in ("version_0", "version_1"):
        events = read_events(tmp_path / "runs" / version)
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        row = HParamsPluginData.FromString(content).session_start_info.hparams
        found.append({name: getattr(value, value.WhichOneof("kind")) for name, value in row.items()})
        assert "hp_metric" not in events.Tags()["scalars"]
        values = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        assert values["final/val_accuracy"] == values["best/val_accuracy"] == [pytest.approx(8 / 9)]
        assert values["final/train_accuracy"] == [1.0]
        assert -1 not in [value for series in values.values() for value in series]
    assert [row["lr"] for row in found] == [0.1, 0.01]
    common = {"net": "PixelNet", "net.depth": 3, "optimizer": "SGD", "optimizer.weight_decay": 0.01, "batch_size": 3}
    for row in found:
        assert common.items() <= row.items()
        assert row["epochs"] == 2
        assert not [name for name in row if name.startswith("augment.")]  # all of it is off
        assert not [name for name in row if name.startswith("_")]


def test_the_row_names_what_differs_from_the_defaults():
    data = SyntheticFaces(augment=Augmentation(flip=0.5, rotation=10), train_size=70)
    trainer = SimpleNamespace(optimizers=[], max_epochs=3, datamodule=data, precision="bf16-mixed", world_size=1)
    row = flat_hparams(trainer, SimpleNamespace(hparams={}))
    assert {name: value for name, value in row.items() if name.startswith(("augment.", "data."))} == {
        "augment.flip": 0.5, "augment.rotation": 10, "data.train_size": 70,
    }  # fmt: skip
    assert row["precision"] == "bf16-mixed"
    assert "world_size" not in row


def test_what_is_logged_is_what_the_samples_say(make_trainer, tmp_path):
    val = [(0, 0), (0, 0), (3, 3), (4, 3), (6, 0)]
    trainer = make_trainer(ClassificationEvaluation())
    trainer.validate(ReadsThePixel(), datamodule=pixel_faces({"val": val}), verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    truth, guess = [label for _, label in val], [pixel for pixel, _ in val]
    assert logged["val/accuracy"] == pytest.approx(0.6)
    assert logged["val/recall/Angry"] == pytest.approx(2 / 3)
    assert logged["val/precision/Sad"] == 0
    assert logged["val/macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert "val/recall/Disgust" not in logged
    assert "val/precision/Disgust" not in logged
    assert all(math.isfinite(value) and value >= 0 for value in logged.values())
    record = strict_json(next(tmp_path.rglob("metrics.json")))["val"]
    assert "epoch" not in record
    assert record["per_class"]["Disgust"] == {"n": 0, "predicted": 0, "precision": None, "recall": None, "f1": None}
    assert record["undefined"]["recall/Disgust"] == "no sample"
    low, high = record["accuracy_interval"]
    assert low < 0.6 < high
    with next(tmp_path.rglob("confusion_matrix_val.csv")).open(encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    assert table[0][1:] == list(FER_NAMES)
    assert dict(zip(table[0][1:], table[1][1:], strict=True))["Neutral"] == "1"


def test_logged_names_are_known_in_advance_with_their_direction(make_trainer):
    model = ReadsThePixel()
    callback = ClassificationEvaluation(figures=False)
    trainer = make_trainer(callback)
    trainer.fit(model, datamodule=pixel_faces({"train": SEVEN, "val": SEVEN}))
    promised = callback.logged("val", model) | callback.logged("train", model)
    assert promised.keys() <= trainer.callback_metrics.keys()
    assert promised["val/ece"] is False
    assert promised["val/f1/Happy"] is True


def test_the_best_epoch_is_reported_and_figures_are_drawn(make_trainer, tmp_path, capsys):
    class WorseLater(ReadsThePixel):
        def on_validation_epoch_start(self):
            # All right in epochs 0 and 1; from epoch 2 on, Happy is not found.
            self.broken = self.current_epoch >= 2

        def validation_step(self, batch, batch_idx):
            result = super().validation_step(batch, batch_idx)
            if self.broken:
                result["probabilities"] = result["probabilities"].roll(1, 1)
            return result

    trainer = make_trainer(ClassificationEvaluation(gallery_size=4, figures_every_n_epochs=2), max_epochs=3)
    val = [*SEVEN, (2, 3)]
    trainer.fit(WorseLater(), datamodule=pixel_faces({"train": SEVEN, "val": val}, batch_size=4))
    record = strict_json(tmp_path / "runs" / "version_0" / "metrics.json")["val"]
    assert (record["epoch"], record["accuracy"], record["n"]) == (0, 7 / 8, 8)
    assert "val: best after 1 epoch, accuracy 87.50%" in capsys.readouterr().out
    events = read_events(tmp_path / "runs" / "version_0")
    kinds = {"confusion_matrix", "per_class_accuracy", "reliability", "right", "wrong"}
    assert set(events.Tags()["images"]) == {f"val/{kind}" for kind in kinds} | {"train/faces"}
    # After epoch 1, and those of the best epoch at the end.
    assert len(events.Images("val/confusion_matrix")) == 2
    assert len(events.Images("train/faces")) == 1
    folder = tmp_path / "runs" / "version_0" / "figures"
    assert {path.name for path in folder.iterdir()} == {f"val_{kind}.png" for kind in kinds} | {"train_faces.png"}
    assert [event.value for event in events.Scalars("val/accuracy")] == pytest.approx([7 / 8, 7 / 8, 1 / 8])
    assert len(events.Scalars("train/accuracy")) == 3


def test_a_resumed_run_still_knows_the_best_epoch(make_trainer, tmp_path):
    class Ages(ReadsThePixel):
        def validation_step(self, batch, batch_idx):
            result = super().validation_step(batch, batch_idx)
            result["probabilities"] = result["probabilities"].roll(1 if self.current_epoch else 0, 1)
            return result

    data = pixel_faces({"train": SEVEN, "val": FOUR_OF_FIVE})
    first = make_trainer(ClassificationEvaluation(figures=False), max_epochs=1, enable_checkpointing=True)
    first.fit(Ages(), datamodule=data)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    second = make_trainer(ClassificationEvaluation(), max_epochs=2)
    second.fit(Ages(), datamodule=data, ckpt_path=str(checkpoint), weights_only=True)
    record = strict_json(tmp_path / "runs" / "version_1" / "metrics.json")["val"]
    assert float(second.callback_metrics["val/accuracy"]) < 0.8
    assert (record["epoch"], record["accuracy"]) == (0, pytest.approx(0.8))


def test_a_loss_as_monitor_takes_the_lowest(make_trainer, tmp_path):
    trainer = make_trainer(ClassificationEvaluation(figures=False, monitor="val/nll"), max_epochs=3)
    # Training makes the model surer of its right predictions, so the last epoch has the lowest loss.
    trainer.fit(ReadsThePixel(lr=1.0), datamodule=pixel_faces({"train": SEVEN, "val": SEVEN}, batch_size=7))
    assert strict_json(next(tmp_path.rglob("metrics.json")))["val"]["epoch"] == 2


def test_a_second_fit_starts_without_the_best_epoch_of_the_first(make_trainer, tmp_path):
    callback = ClassificationEvaluation(figures=False)
    for val in (SEVEN, FOUR_OF_FIVE):
        make_trainer(callback).fit(ReadsThePixel(), datamodule=pixel_faces({"train": SEVEN, "val": val}))
    records = [strict_json(tmp_path / "runs" / f"version_{run}" / "metrics.json")["val"] for run in (0, 1)]
    assert [record["accuracy"] for record in records] == [1.0, pytest.approx(0.8)]


def test_test_prints_a_table_and_keeps_the_record_of_validation(make_trainer, tmp_path, capsys):
    data = pixel_faces({"train": SEVEN, "val": SEVEN, "test": FOUR_OF_FIVE})
    trainer = make_trainer(ClassificationEvaluation(figures=False))
    model = ReadsThePixel()
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    printed = capsys.readouterr().out
    assert "test: 5 samples" in printed
    line = next(line for line in printed.splitlines() if line.split()[:1] == ["accuracy"])
    assert "80.00%" in line
    disgust = next(line for line in printed.splitlines() if line.split()[:1] == ["Disgust"])
    assert disgust.split() == ["Disgust", "-", "-", "-", "0"]
    assert set(strict_json(tmp_path / "runs" / "version_0" / "metrics.json")) == {"val", "test"}


def test_distributions_as_targets_from_training_to_test(make_trainer, tmp_path):
    soft = torch.eye(7) * 0.9 + 0.1 / 7
    data = pixel_faces({stage: make_split(list(range(7)), soft.tolist()) for stage in ("train", "val", "test")})
    trainer = make_trainer(ClassificationEvaluation())
    model = ReadsThePixel()
    trainer.fit(model, datamodule=data)
    assert float(trainer.callback_metrics["train/accuracy"]) == 1.0
    trainer.test(model, datamodule=data, verbose=False)
    record = strict_json(next(tmp_path.rglob("metrics.json")))["test"]
    logits = torch.eye(7) * model.scale.detach()
    assert record["accuracy"] == 1.0
    assert record["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, soft)), abs=1e-6)


def test_the_sanity_check_leaves_no_trace(make_trainer):
    trainer = make_trainer(ClassificationEvaluation(figures=False), max_epochs=1, limit_train_batches=0)
    trainer.fit(ReadsThePixel(), datamodule=pixel_faces({"train": SEVEN, "val": SEVEN}))
    assert not [name for name in trainer.callback_metrics if name.startswith("val/")]


def test_other_loggers_get_the_numbers_and_no_figures(make_trainer, tmp_path):
    trainer = make_trainer(ClassificationEvaluation(), logger=CSVLogger(tmp_path, name="csv"))
    trainer.test(ReadsThePixel(), datamodule=pixel_faces({"test": FOUR_OF_FIVE}), verbose=False)
    rows = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    assert "test/accuracy" in rows[0]
    assert (tmp_path / "csv" / "version_0" / "figures" / "test_wrong.png").stat().st_size > 1000


def test_fast_dev_run_writes_nothing(make_trainer, tmp_path):
    trainer = make_trainer(ClassificationEvaluation(), fast_dev_run=True)
    trainer.fit(ReadsThePixel(), datamodule=pixel_faces({"train": SEVEN, "val": SEVEN}))
    assert [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".png", ".csv")] == []


@pytest.mark.parametrize(("stage", "verb"), [("val", "fit"), ("test", "test")])
def test_probabilities_that_are_not_finite_stop_the_run(make_trainer, stage, verb):
    data = pixel_faces({"train": SEVEN, stage: [(255, 0), (1, 1)]})
    trainer = make_trainer(ClassificationEvaluation(), num_sanity_val_steps=0)
    with pytest.raises(FaceExprError, match="1 of 2 samples are not finite"):
        getattr(trainer, verb)(ReadsThePixel(), datamodule=data)


def test_f07_names_are_those_of_the_model_in_its_order(make_trainer, tmp_path):
    names = ("sad", "Zorn", "joy")
    data = pixel_faces({"test": [(0, 0), (1, 1), (1, 2)]}, class_names=names)
    trainer = make_trainer(ClassificationEvaluation())
    trainer.test(ReadsThePixel(names), datamodule=data, verbose=False)
    record = strict_json(next(tmp_path.rglob("metrics.json")))["test"]
    assert record["class_names"] == list(names)
    assert record["per_class"]["joy"]["recall"] == 0
    assert float(trainer.callback_metrics["test/recall/Zorn"]) == 1


def test_a_second_run_into_a_folder_replaces_a_broken_record(make_trainer, tmp_path):
    logger = TensorBoardLogger(tmp_path, name=None, version="", default_hp_metric=False)
    (tmp_path / "metrics.json").write_text('{"val": ')
    trainer = make_trainer(ClassificationEvaluation(figures=False), logger=logger)
    with pytest.warns(UserWarning, match="is not JSON and is written anew"):
        trainer.test(ReadsThePixel(), datamodule=pixel_faces({"test": FOUR_OF_FIVE}), verbose=False)
    assert strict_json(tmp_path / "metrics.json")["test"]["n"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gallery_size": -1}, r"^gallery_size is -1; expected 0 or more"),
        ({"resamples": 1}, r"^resamples is 1; expected 2 to 1,000,000"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(FaceExprError, match=message):
        ClassificationEvaluation(**options)
