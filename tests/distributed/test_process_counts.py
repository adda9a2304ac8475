"""The same numbers with one process and with two, where samples do not divide evenly (cases E09, E11)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import killed_runs
import pytest
import torch
from lightning.pytorch import Trainer
from processes import run_together

from faceexpr.callbacks.runs import check_batch_norm
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

Command = Callable[..., Path]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run a verb in some processes, in a folder of all such runs, and return the folder of this one."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, processes: int, verb: str, *args: str) -> Path:
        named = [f"--trainer.logger.version={name}-{processes}", f"--trainer.devices={processes}", *QUICK]
        codes = run_together([verb, *args, *named], folder, processes)
        assert codes == [0] * processes, (folder / "process-0.log").read_text()
        return folder / "lightning_logs" / f"{name}-{processes}"

    return run


def weights_of_ranks(run: Path, processes: int) -> list[dict[str, torch.Tensor]]:
    files = [run.parent.parent / f"{run.name}-{rank}.pt" for rank in range(processes)]
    return [torch.load(file, weights_only=True) for file in files]


def keeping_weights(name: str, processes: int) -> list[str]:
    """Options with which each process writes its weights."""
    return ["--trainer.callbacks+=rank_weights.RankWeights", f"--trainer.callbacks.name={name}-{processes}"]


def curves(run: Path) -> dict[str, list[float]]:
    return {tag: [*points.values()] for tag, points in killed_runs.curves(run).items()}


def checkpoint(run: Path, name: str = "best") -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def fits(command: Command) -> dict[int, Path]:
    return {count: command("fit", count, "fit", *FACES, *NETWORK, *keeping_weights("fit", count)) for count in COUNTS}


def test_training_is_the_same_whatever_the_number_of_processes(fits: dict[int, Path]) -> None:
    one = curves(fits[1])
    assert len(one["train/loss_step"]) == 8
    assert len(one["val/accuracy"]) == 2
    for count in COUNTS[1:]:
        other = curves(fits[count])
        assert other.keys() == one.keys()
        # Sums of floating-point numbers depend on their order.
        for tag, values in one.items():
            assert other[tag] == pytest.approx(values, rel=1e-5, abs=1e-6), tag
        for name in ("best", "last"):
            weights, others = (checkpoint(fits[n], name)["state_dict"] for n in (1, count))
            for key, value in weights.items():
                torch.testing.assert_close(others[key], value, rtol=1e-5, atol=1e-6)


def test_all_processes_end_with_equal_weights(fits: dict[int, Path]) -> None:
    for count in COUNTS[1:]:
        first, *others = weights_of_ranks(fits[count], count)
        for other in others:
            assert all(torch.equal(value, other[key]) for key, value in first.items())


def measured(run: Path) -> dict[str, Any]:
    """Return the numbers of a run's metrics.json by their place in it."""

    def flat(value: Any, place: str) -> dict[str, Any]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
        if items is None:
            return {place: value}
        return {name: leaf for key, item in items for name, leaf in flat(item, f"{place}/{key}").items()}

    return flat(json.loads((run / "metrics.json").read_text()), "")


def assert_measured_alike(runs: dict[int, Path]) -> None:
    """A network's outputs depend on the size of the batch in the last bits, and with them means of probabilities."""
    one = measured(runs[1])
    for run in runs.values():
        other = measured(run)
        assert other.keys() == one.keys()
        for name, value in one.items():
            assert other[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name


def test_a_checkpoint_measures_the_same(fits: dict[int, Path], command: Command) -> None:
    best = str(fits[1] / "checkpoints" / "best.ckpt")
    runs = {count: command("test", count, "test", "--ckpt_path", best) for count in COUNTS}
    assert_measured_alike(runs)
    table = (runs[1] / "confusion_matrix_test.csv").read_bytes()
    assert all((run / "confusion_matrix_test.csv").read_bytes() == table for run in runs.values())
    numbers = measured(runs[2])
    assert sum(value for name, value in numbers.items() if "per_class" in name and name.endswith("/n")) == 23


def test_predictions_are_the_same(fits: dict[int, Path], command: Command) -> None:
    best = str(fits[1] / "checkpoints" / "best.ckpt")
    rows = []
    for count in COUNTS:
        run = command("predict", count, "predict", "--ckpt_path", best)
        with (run / "predictions.csv").open(newline="") as file:
            rows.append(list(csv.DictReader(file)))
    assert len(rows[0]) == len(rows[1]) == 23
    for one, two in zip(*rows, strict=True):
        for name, value in one.items():
            same = pytest.approx(float(value), rel=2e-6) if name in FER_NAMES else value
            assert (float(two[name]) if name in FER_NAMES else two[name]) == same


def test_knn_remembers_and_measures_the_same(command: Command) -> None:
    runs = {count: command("knn", count, "fit", *FACES, "--model=KNNClassifier") for count in COUNTS}
    one = checkpoint(runs[1])["state_dict"]["_extra_state"]
    assert one["bank"].shape == (45, 2304)
    for count in COUNTS[1:]:
        other = checkpoint(runs[count])["state_dict"]["_extra_state"]
        assert all(torch.equal(value, other[key]) for key, value in one.items())
        assert (runs[count] / "metrics.json").read_bytes() == (runs[1] / "metrics.json").read_bytes()


AVERAGING = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5"]


@pytest.mark.parametrize(
    "averaging", [[], pytest.param(AVERAGING, marks=pytest.mark.slow)], ids=["plain", "averaged weights"]
)
def test_with_batch_norm_the_checkpoint_is_what_was_measured(averaging: list[str], command: Command) -> None:
    name = "averaged" if averaging else "norm"
    # Between the two batches of an optimizer step, torch leaves each process its own statistics.
    between = ["--trainer.max_epochs=1", "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=3"]
    fit = command(name, 2, "fit", *FACES, *NETWORK, "--model.net.batch_norm=true", *between, *averaging)
    logged = curves(fit)
    validated = command(f"{name}-alone", 1, "validate", "--ckpt_path", str(fit / "checkpoints" / "best.ckpt"))
    alone = curves(validated)
    for tag in ("val/loss", "val/accuracy", "val/ece"):
        assert alone[tag] == pytest.approx(logged[tag], rel=1e-6), tag


def test_batch_norm_cannot_be_synchronised_on_a_cpu() -> None:
    trainer = Trainer(accelerator="cpu", strategy="ddp", devices=2, logger=False, enable_checkpointing=False)
    with pytest.raises(FaceExprError, match=r"^sync_batchnorm is true, but torch"):
        check_batch_norm(trainer, synchronised=True)
    check_batch_norm(trainer, synchronised=False)


@pytest.mark.slow
def test_a_detector_measures_the_same_and_processes_stay_equal(command: Command) -> None:
    fits = {
        count: command("boxes", count, "fit", *SCENES, "--trainer.max_epochs=2", *keeping_weights("boxes", count))
        for count in COUNTS
    }
    for count in COUNTS:
        first, *others = weights_of_ranks(fits[count], count)
        parameters = [key for key in first if "running" not in key]
        assert all(torch.isfinite(value).all() for value in first.values())
        assert all(torch.equal(first[key], other[key]) for other in others for key in parameters)
        logged = curves(fits[count])
        assert logged["train/loss"] == pytest.approx(
            [a + b for a, b in zip(logged["train/loss_score"], logged["train/loss_box"], strict=True)], rel=1e-5
        )
    best = str(fits[1] / "checkpoints" / "best.ckpt")
    runs = {count: command("boxes-test", count, "test", "--ckpt_path", best) for count in COUNTS}
    assert_measured_alike(runs)
