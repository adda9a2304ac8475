"""The smallest training in which everything can go wrong that can go wrong when it is resumed."""

import json
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from killing import VARIABLE
from processes import run_together, start

COMMON = [
    "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1",
    "--trainer.num_sanity_val_steps=0", "--trainer.callbacks+=killing.Killer", "--ckpt_path=last",
    "--last_checkpoint.every_n_train_steps=2",
]  # fmt: skip

# 14 batches in two epochs: dropout, batch normalisation, augmentation, averaged weights, a schedule by step.
FACES = [
    "fit", "--data.train_size=42", "--data.val_size=14", "--data.batch_size=6", "--data.augment.flip=0.5",
    "--data.augment.rotation=10", "--data.augment.erasing=0.5", "--data.augment.mixup=0.3", "--model.net=MLP",
    "--model.net.hidden=[8]", "--model.net.image_size=8", "--model.net.dropout=0.5", "--model.net.batch_norm=true",
    "--model.optimizer.lr=0.01", "--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.05",
    "--model.scheduler_interval=step", "--trainer.gradient_clip_val=1", "--trainer.max_epochs=2",
    "--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.8", "--evaluation.figures=false",
    "--evaluation.resamples=20", *COMMON,
]  # fmt: skip

PICTURES = [
    "fit", "--model=FaceDetector", "--model.net=LightDetector", "--model.net.widths=[4,4,8,8,8]", "--model.net.neck=8",
    "--data=SyntheticScenes", "--data.train_size=10", "--data.val_size=2", "--data.width=64", "--data.height=64",
    "--data.max_faces=2", "--data.batch_size=2", "--data.num_workers=2", "--data.augment.size=64",
    "--trainer.max_epochs=2", "--detection_evaluation.figures=false", *COMMON,
]  # fmt: skip

PLACES = ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path")
"""Names of what says where a run's files lie."""


def fit(
    folder: Path,
    args: Sequence[str],
    point: Mapping[str, Any] | None = None,
    processes: int = 1,
    environment: Mapping[str, str] | None = None,
) -> list[Any]:
    """Run a command line in processes of its own and return their exit codes; see `killing` for the point."""
    folder.mkdir(exist_ok=True)
    environment = {**(environment or {}), VARIABLE: json.dumps(point or {})}
    if processes > 1:
        return run_together([*args, f"--trainer.devices={processes}"], folder, processes, environment)
    process = start([*args, "--trainer.devices=1"], folder, folder / "log", environment)
    return [_ended(process)]


def fit_at_once(runs: Mapping[Path, Sequence[Any]]) -> list[Any]:
    """Run several command lines at the same time, each in a folder, with its arguments and its point."""
    # Not in threads, where two would ask for the exit code of one process.
    started = []
    for folder, (args, point) in runs.items():
        folder.mkdir(exist_ok=True)
        environment = {VARIABLE: json.dumps(point or {})}
        started.append(start([*args, "--trainer.devices=1"], folder, folder / "log", environment))
    return [_ended(process) for process in started]


def _ended(process: BaseProcess) -> int | None:
    process.join(120)
    process.kill()
    return process.exitcode


def newest(folder: Path, name: str) -> Path:
    return max(folder.rglob(name), key=lambda path: path.stat().st_mtime_ns)


def load(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def assert_same(run: Path, expected: Path) -> None:
    """Assert that two trainings have ended alike, bit for bit: weights, averages, optimizer, schedules, results."""
    for name in ("last*.ckpt", "best*.ckpt"):
        differing = differences(load(newest(run, name)), load(newest(expected, name)))
        assert not differing, (name, differing)
    assert newest(run, "metrics.json").read_text() == newest(expected, "metrics.json").read_text()
    resumed, whole = curves(newest(run, "events*").parent), curves(newest(expected, "events*").parent)
    wrong = {
        (tag, step): (value, whole[tag][step])
        for tag, points in resumed.items()
        for step, value in points.items()
        # At the point where it is resumed, a run shows the learning rate of the epoch.
        if step in whole[tag] and whole[tag][step] != value
    }
    assert not wrong
    last = max(whole["train/loss_step"])
    assert all(last in points for tag, points in resumed.items() if last in whole[tag])


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Return where two values differ, leaving out the places of files."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, dict) and isinstance(other, dict):
        if where.endswith("best_k_models"):
            one, other = dict(enumerate(one.values())), dict(enumerate(other.values()))
        if one.keys() != other.keys():
            return [f"{where}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        # How many validation batches there were is only counted, and Lightning counts some of them again.
        kept = [key for key in one if key not in PLACES and not str(key).endswith("val_loop.batch_progress")]
        return [found for key in kept for found in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return [where]
        pairs = enumerate(zip(one, other, strict=True))
        return [found for place, pair in pairs for found in differences(*pair, f"{where}.{place}")]
    return [] if one == other else [f"{where}: {one!r}, {other!r}"]


def curves(run: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
