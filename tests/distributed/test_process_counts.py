"""The same numbers with one process and with two, where samples do not divide evenly (cases E09, E11)."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import killed_runs
import pytest
import torch
from lightning.pytorch import Trainer
from processes import run_together

from faceexpr.callbacks.runs import check_batch_norm
from faceexpr.cli.main import main
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

COUNTS = (1, 2)
QUICK = ["--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.log_every_n_steps=1"]
FACES = ["--data=SyntheticFaces", "--data.train_size=45", "--data.val_size=23", "--data.test_size=23",
         "--data.batch_size=5", "--evaluation.figures=false", "--evaluation.resamples=50"]  # fmt: skip
# 45 samples are 3 steps of 12 and one of 9, which two processes share as 5 and 4.
NETWORK = ["--model.net=MLP", "--model.net.hidden=[8]", "--model.optimizer=SGD", "--model.optimizer.lr=0.05",
           "--model.optimizer.momentum=0.9", "--data.global_batch_size=12", "--trainer.max_epochs=2",
           "--data.augment.flip=0.5", "--data.augment.rotation=10", "--data.augment.erasing=0.5"]  # fmt: skip
SCENES = ["--model=FaceDetector", "--model.net.widths=[4,4,8,8,8]", "--model.net.neck=8", "--data=SyntheticScenes",
          "--data.train_size=7", "--data.val_size=3", "--data.test_size=7", "--data.max_faces=2",
          "--data.width=64", "--data.height=64",
          "--data.batch_size=2", "--data.global_batch_size=6", "--detection_evaluation.figures=false"]  # fmt: skip
KEEPING = ["--trainer.callbacks+=processes.RankWeights"]

BETWEEN = ["--trainer.max_epochs=1", "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=3",
           "--model.net.batch_norm=true"]  # fmt: skip
"""Between the two batches of an optimizer step, torch leaves each process its own statistics of the batches."""


def run(folder, processes, **commands):
    """Run commands one after the other in the same processes; each run has the folder of its name."""
    named = [f"--trainer.devices={processes}", *QUICK]
    lines = [[*args, *named, f"--trainer.logger.version={name}"] for name, args in commands.items()]
    folder.mkdir(exist_ok=True)
    codes = run_together(lines[0], folder, processes, timeout=300, then=lines[1:])
    assert codes == [0] * processes, (folder / "process-0.log").read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of runs by the number of processes: a training."""
    top = tmp_path_factory.mktemp("runs")
    for count in COUNTS:
        run(top / str(count), count, fit=["fit", *FACES, *NETWORK, *KEEPING])
    return {count: top / str(count) / "lightning_logs" for count in COUNTS}


@pytest.fixture(scope="module")
def runs(trained):
    """The same with a test and predictions of the first training, KNN, and a training with batch normalisation."""
    best = f"--ckpt_path={trained[1] / 'fit/checkpoints/best.ckpt'}"
    for count, folder in trained.items():
        norm = {"norm": ["fit", *FACES, *NETWORK, *BETWEEN]} if count > 1 else {}
        knn = ["fit", *FACES, "--model=KNNClassifier"]
        run(folder.parent, count, test=["test", best], predict=["predict", best], knn=knn, **norm)
    return trained


def weights_of_ranks(run, processes):
    return [torch.load(run.parent.parent / f"weights-{rank}.pt", weights_only=True) for rank in range(processes)]


def curves(run):
    return {tag: [*points.values()] for tag, points in killed_runs.curves(run).items()}


def checkpoint(run, name="best"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_training_is_the_same_whatever_the_number_of_processes(trained):
    one, other = (curves(trained[count] / "fit") for count in COUNTS)
    assert len(one["train/loss_step"]) == 8
    assert len(one["val/accuracy"]) == 2
    assert other.keys() == one.keys()
    # Sums of floating-point numbers depend on their order.
    for tag, values in one.items():
        assert other[tag] == pytest.approx(values, rel=1e-5, abs=1e-6), tag
    for name in ("best", "last"):
        weights, others = (checkpoint(trained[count] / "fit", name)["state_dict"] for count in COUNTS)
        for key, value in weights.items():
            torch.testing.assert_close(others[key], value, rtol=1e-5, atol=1e-6)
    # All processes end with equal weights.
    first, second = weights_of_ranks(trained[2] / "fit", 2)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def measured(run):
    """Return the numbers of a run's metrics.json by their place in it."""

    def flat(value, place):
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
        if items is None:
            return {place: value}
        return {name: leaf for key, item in items for name, leaf in flat(item, f"{place}/{key}").items()}

    return flat(json.loads((run / "metrics.json").read_text()), "")


def assert_measured_alike(runs):
    """A network's outputs depend on the size of the batch in the last bits, and with them means of probabilities."""
    one, other = (measured(runs[count] / "test") for count in COUNTS)
    assert other.keys() == one.keys()
    for name, value in one.items():
        assert other[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name


@pytest.mark.slow
def test_a_checkpoint_measures_the_same(runs):
    assert_measured_alike(runs)
    one, two = ((runs[count] / "test/confusion_matrix_test.csv").read_bytes() for count in COUNTS)
    assert one == two
    numbers = measured(runs[2] / "test")
    assert sum(value for name, value in numbers.items() if "per_class" in name and name.endswith("/n")) == 23


@pytest.mark.slow
def test_predictions_are_the_same(runs):
    rows = []
    for count in COUNTS:
        with (runs[count] / "predict/predictions.csv").open(newline="") as file:
            rows.append(list(csv.DictReader(file)))
    assert len(rows[0]) == len(rows[1]) == 23
    for one, two in zip(*rows, strict=True):
        for name, value in one.items():
            same = pytest.approx(float(value), rel=2e-6) if name in FER_NAMES else value
            assert (float(two[name]) if name in FER_NAMES else two[name]) == same


@pytest.mark.slow
def test_knn_remembers_and_measures_the_same(runs):
    one, two = (checkpoint(runs[count] / "knn")["state_dict"]["_extra_state"] for count in COUNTS)
    assert one["bank"].shape == (45, 2304)
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert (runs[1] / "knn/metrics.json").read_bytes() == (runs[2] / "knn/metrics.json").read_bytes()


AVERAGING = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5"]


def assert_validates_as_logged(fit):
    """One process measures a checkpoint as the processes that trained it have."""
    main(["validate", f"--ckpt_path={fit / 'checkpoints/best.ckpt'}", "--trainer.accelerator=cpu"])
    logged, alone = curves(fit), curves(Path(f"lightning_logs/{fit.name}-validate/version_0"))
    for tag in ("val/loss", "val/accuracy", "val/ece"):
        assert alone[tag] == pytest.approx(logged[tag], rel=1e-6), tag


@pytest.mark.slow
def test_with_batch_norm_the_checkpoint_is_what_was_measured(runs, workdir):
    assert_validates_as_logged(runs[2] / "norm")


@pytest.mark.slow
def test_with_averaged_weights_the_checkpoint_is_what_was_measured(workdir):
    run(workdir / "two", 2, fit=["fit", *FACES, *NETWORK, *BETWEEN, *AVERAGING])
    assert_validates_as_logged(workdir / "two/lightning_logs/fit")


def test_batch_norm_cannot_be_synchronised_on_a_cpu():
    trainer = Trainer(accelerator="cpu", strategy="ddp", devices=2, logger=False, enable_checkpointing=False)
    with pytest.raises(FaceExprError, match=r"^sync_batchnorm is true, but torch"):
        check_batch_norm(trainer, synchronised=True)
    check_batch_norm(trainer, synchronised=False)


@pytest.mark.slow
def test_a_detector_measures_the_same_and_processes_stay_equal(tmp_path):
    runs = {count: tmp_path / str(count) / "lightning_logs" for count in COUNTS}
    best = f"--ckpt_path={runs[1] / 'fit/checkpoints/best.ckpt'}"
    for count in COUNTS:
        fit = ["fit", *SCENES, "--trainer.max_epochs=2", *KEEPING]
        run(tmp_path / str(count), count, fit=fit, test=["test", best])
        first, *others = weights_of_ranks(runs[count] / "fit", count)
        parameters = [key for key in first if "running" not in key]
        assert all(torch.isfinite(value).all() for value in first.values())
        assert all(torch.equal(first[key], other[key]) for other in others for key in parameters)
        logged = curves(runs[count] / "fit")
        parts = zip(logged["train/loss_score"], logged["train/loss_box"], strict=True)
        assert logged["train/loss"] == pytest.approx([score + box for score, box in parts], rel=1e-5)
    assert_measured_alike(runs)
