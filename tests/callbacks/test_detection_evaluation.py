"""The evaluation of detectors in whole runs of one whose detections are known in advance."""

import dataclasses
import io
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import build_trainer, read_table
from evaluation_runs import FACES, KnowsTheBoxes, Scenes, read_events, read_metrics, scenes
from wider_files import write_levels

from faceexpr.callbacks.detection import DetectionEvaluation
from faceexpr.metrics.detection import NAMES
from faceexpr.utils.errors import FaceExprError


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A training with figures, whose last of three epochs is the worst."""
    folder = tmp_path_factory.mktemp("training")
    evaluation = DetectionEvaluation(gallery_size=2, figures_every_n_epochs=2)
    trainer = build_trainer(folder, evaluation, max_epochs=3, enable_checkpointing=True)
    with redirect_stdout(io.StringIO()) as printed:
        trainer.fit(KnowsTheBoxes(worse_from=2), datamodule=scenes())
    return SimpleNamespace(folder=folder, printed=printed.getvalue())


def test_the_best_epoch_is_reported_and_figures_are_drawn(training):
    record = read_metrics(training.folder, "val")
    assert (record["epoch"], record["recall"]) == (0, pytest.approx(2 / 3))
    assert "over_detection" not in record
    assert "val: best after 1 epoch, AP50 0.5545" in training.printed
    events = read_events(training.folder)
    kinds = {"precision_recall", "thresholds", "pictures", "worst"}
    assert set(events.Tags()["images"]) == {f"val/{kind}" for kind in kinds} | {"train/pictures"}
    assert len(events.Images("val/precision_recall")) == 2
    names = {path.name for path in (training.folder / "runs" / "version_0" / "figures").iterdir()}
    assert names == {f"val_{kind}.png" for kind in kinds} | {"train_pictures.png"}
    ap50 = [event.value for event in events.Scalars("val/ap50")]
    assert ap50[0] == ap50[1] > ap50[2]


def test_a_resumed_run_still_knows_the_best_epoch(training, make_trainer, tmp_path):
    (checkpoint,) = training.folder.rglob("*.ckpt")
    trainer = make_trainer(DetectionEvaluation(figures=False), max_epochs=4)
    trainer.fit(KnowsTheBoxes(worse_from=2), datamodule=scenes(), ckpt_path=str(checkpoint), weights_only=True)
    assert float(trainer.callback_metrics["val/recall"]) == pytest.approx(1 / 3)
    assert read_metrics(tmp_path, "val") == read_metrics(training.folder, "val")


def test_what_is_logged_is_what_the_images_say(make_trainer, tmp_path, capsys):
    trainer = make_trainer(DetectionEvaluation(figures=False))
    trainer.validate(KnowsTheBoxes(), datamodule=scenes(), verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    record = read_metrics(tmp_path, "val")
    for name in NAMES:
        if record[name] is None:
            assert f"val/{name}" not in logged
            assert record["undefined"][name]
        else:
            assert logged[f"val/{name}"] == pytest.approx(record[name])
    assert record["ap_large"] is None
    assert record["undefined"]["ap_large"] == "no large face in any image"
    # Two of three faces, and one false box, with a score of 0.5 or more.
    assert (record["precision_at_score"], record["recall_at_score"]) == pytest.approx((2 / 3, 2 / 3))
    assert record["best_f1"] == pytest.approx(2 / 3)
    printed = capsys.readouterr().out
    assert "val: 3 images, 3 faces, 4 detections" in printed
    assert "not defined: no large face in any image" in printed


def test_boxes_beyond_one_for_a_face_are_counted_and_every_figure_is_drawn(make_trainer, tmp_path, capsys):
    make_trainer(DetectionEvaluation(gallery_size=3)).test(KnowsTheBoxes(), datamodule=scenes(), verbose=False)
    record = read_metrics(tmp_path, "test")["over_detection"]
    assert record["none"] == {"boxes": 5, "found": 2, "extra": 2, "false": 1}
    for method in ("nms", "soft_nms", "wbf"):
        assert record[method] == {"boxes": 3, "found": 2, "extra": 0, "false": 1}
    printed = capsys.readouterr().out
    assert next(line for line in printed.splitlines() if "before suppression" in line).split()[2:] == list("5221")
    kinds = ("precision_recall", "thresholds", "over_detection", "pictures", "worst")
    assert {path.stem for path in tmp_path.rglob("*.png")} == {f"test_{kind}" for kind in kinds}


class Photographs(Scenes):
    def load_records(self, stage):
        records = super().load_records(stage)
        return [dataclasses.replace(one, path=Path("some/0--Parade") / one.path) for one in records]


def test_wider_faces_own_protocol_is_measured(make_trainer, tmp_path, capsys):
    names = {
        "image 0": ([(10, 10, 20, 20)], [[1], [1], [1]]),
        "image 1": ([(5, 5, 20, 20), (40, 20, 20, 30)], [[], [1], [1, 2]]),
        "image 2": ([(0, 45, 8, 8)], [[], [], [1]]),
    }
    write_levels(tmp_path, {"0--Parade": {**names, "elsewhere": ([(0, 0, 9, 9)], [[1], [1], [1]])}})
    data = Photographs(batch_size=2)
    data.faces, data.ignored = FACES, set()
    trainer = make_trainer(DetectionEvaluation(figures=False, wider=str(tmp_path)))
    trainer.test(KnowsTheBoxes(), datamodule=data, verbose=False)
    record = read_metrics(tmp_path, "test")
    # Right, wrong, and right at the scores 0.9, 0.7 and 0.6; of no level where that is easy.
    expected = {"easy": 1.0, "medium": 1 / 2 + 1 / 2 * 2 / 3, "hard": 1 / 4 + 1 / 4 * 2 / 3}
    assert {level: record[f"wider_{level}"] for level in expected} == pytest.approx(expected)
    assert record["wider"] == str(tmp_path)
    assert float(trainer.callback_metrics["test/wider_medium"]) == pytest.approx(5 / 6)
    printed = capsys.readouterr().out
    assert "WIDER FACE's AP, medium      0.8333" in printed
    assert "of 3 of its 4 photographs" in printed
    with pytest.raises(FaceExprError, match=r"wider: 3 of 3 images of the test split .* 4 photographs .*image 0.png"):
        make_trainer(DetectionEvaluation(wider=str(tmp_path))).test(KnowsTheBoxes(), datamodule=scenes())


def test_wider_faces_levels_by_heights_outlive_an_interruption(make_trainer, tmp_path):
    evaluation = DetectionEvaluation(figures=False, wider="heights")
    make_trainer(evaluation, max_epochs=1, enable_checkpointing=True).fit(KnowsTheBoxes(), datamodule=scenes())
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    trainer = make_trainer(DetectionEvaluation(figures=False, wider="heights"), max_epochs=2)
    trainer.fit(KnowsTheBoxes(worse_from=1), datamodule=scenes(), ckpt_path=str(checkpoint), weights_only=True)
    record = read_metrics(tmp_path, "val", 1)
    assert (record["epoch"], record["wider_hard"]) == (0, pytest.approx(2 / 3))  # without the image that has no face
    assert record["wider_medium"] is None
    assert record["undefined"]["wider_medium"] == "no face counts at this level"


def test_without_any_face_nothing_is_logged_as_a_number(make_trainer, tmp_path, capsys):
    trainer = make_trainer(DetectionEvaluation())
    trainer.test(KnowsTheBoxes([[], [], []]), datamodule=scenes([[], [], []]), verbose=False)
    assert [name for name in trainer.callback_metrics if name.startswith("test/")] == []
    record = read_metrics(tmp_path, "test")
    assert {record[name] for name in NAMES} == {None}
    printed = capsys.readouterr().out
    assert next(line for line in printed.splitlines() if " AP50 " in line).endswith("not defined: no face in any image")
    assert "-1" not in printed
    assert "nan" not in printed.lower()


def test_a_limit_that_is_reached_is_said(make_trainer, tmp_path, capsys):
    crowd = [(4 * x, 4 * y, 4 * x + 3, 4 * y + 3) for x in range(15) for y in range(10)]
    found, unsure = [[[(*box, sure - place / step) for place, box in enumerate(crowd)], [], []] for sure, step in
        ((0.9, 1000), (0.02, 10000))]  # fmt: skip
    records = []
    for boxes, faces, max_faces, max_detections in (
        (found, crowd, 300, 300), (found, crowd, 100, 300), (found, crowd, 300, 100), (unsure, crowd[:0], 100, 99),
    ):  # fmt: skip
        trainer = make_trainer(DetectionEvaluation(figures=False, max_detections=max_detections))
        trainer.test(KnowsTheBoxes(boxes, max_faces), datamodule=scenes([faces, [], []]), verbose=False)
        lines = capsys.readouterr().out.splitlines()
        said = any("in 1 image more was found than the detector may return" in line for line in lines)
        record = read_metrics(tmp_path, "test", len(records))
        (first,) = [line for line in lines if line.startswith("test: 3 images")]
        records.append(
            (record["images_at_the_limit"], said, first.partition(" faces, ")[2] or first.partition(" face, ")[2])
        )
    assert records == [
        (0, False, "150 detections, down to a score of 0.75"), (1, True, "100 detections, down to a score of 0.8"),
        (1, True, "100 detections, down to a score of 0.8"), (1, False, "99 detections, down to a score of 0.01"),
    ]  # fmt: skip


def test_ignored_faces_are_neither_missed_nor_false(make_trainer, tmp_path):
    data = scenes(ignored={(0, 0), (1, 1)})
    make_trainer(DetectionEvaluation(figures=False)).test(KnowsTheBoxes(), datamodule=data, verbose=False)
    record = read_metrics(tmp_path, "test")
    assert (record["faces"], record["ignored_faces"], record["recall"]) == (1, 2, 1.0)
    assert record["precision_at_score"] == 0.5
    assert record["over_detection"]["none"] == {"boxes": 5, "found": 1, "extra": 0, "false": 1}
    rows = read_table(next(tmp_path.rglob("detections_test.csv")))
    assert [(row["source"], row["outcome"]) for row in rows] == [
        ("image 0.png", "ignored"), ("image 1.png", "true"), ("image 2.png", "false"), ("image 2.png", "false"),
    ]  # fmt: skip
    assert [float(rows[1][side]) for side in ("left", "top", "right", "bottom")] == [5, 5, 25, 26]


def test_logged_names_are_known_in_advance(make_trainer):
    callback = DetectionEvaluation(figures=False)
    trainer = make_trainer(callback, logger=False)
    # Even a detector that finds nothing has these.
    trainer.validate(KnowsTheBoxes([[], [], []]), datamodule=scenes(), verbose=False)
    promised = callback.logged("val", trainer.lightning_module)
    logged = {name for name in trainer.callback_metrics if name.startswith("val/")}
    assert promised.keys() | {"val/ap_small"} == logged
    assert all(promised.values())
    assert callback.monitor == "val/ap50"
    assert callback.logged("train", trainer.lightning_module) == {}
