"""Small trainings in processes of their own that end themselves by a signal, and a comparison of how two have ended."""

import json
import os
import signal
from pathlib import Path

import torch
from lightning.pytorch import Callback
from processes import run_together, start

VARIABLE = "END_AT"
"""Environment variable: where a process sends itself a signal, as JSON; without it nothing is ended."""

COMMON = [
    "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1",
    "--trainer.num_sanity_val_steps=0", "--trainer.callbacks+=killed_runs.Signals", "--ckpt_path=last",
]  # fmt: skip

# 7 batches an epoch: batch normalisation, augmentation, averaged weights, a schedule by step.
FACES = [
    "fit", "--data.train_size=42", "--data.val_size=14", "--data.batch_size=6", "--data.augment.flip=0.5",
    "--data.augment.rotation=10", "--data.augment.erasing=0.5", "--data.augment.mixup=0.3", "--model.net=MLP",
    "--model.net.hidden=[8]", "--model.net.image_size=8", "--model.net.batch_norm=true",
    "--model.optimizer.lr=0.01", "--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.05",
    "--model.scheduler_interval=step", "--trainer.gradient_clip_val=1",
    "--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.8", "--evaluation.figures=false",
    "--evaluation.resamples=20", "--trainer.max_epochs=2", *COMMON,
]  # fmt: skip
DROPOUT = ["--model.net.dropout=0.5"]
MID_EPOCH = ["--last_checkpoint.every_n_train_steps=2"]

# 5 batches an epoch, which worker processes prepare in advance.
SCENES = [
    "fit", "--model=FaceDetector", "--model.net=LightDetector", "--model.net.widths=[4,4,8,8,8]", "--model.net.neck=8",
    "--data=SyntheticScenes", "--data.train_size=10", "--data.val_size=2", "--data.width=64", "--data.height=64",
    "--data.max_faces=2", "--data.batch_size=2", "--data.num_workers=2", "--data.augment.size=64",
    "--trainer.max_epochs=2", "--detection_evaluation.figures=false", *COMMON,
]  # fmt: skip

COMPARED = (
    "epoch", "global_step", "state_dict", "current_model_state", "averaging_state", "optimizer_states",
    "lr_schedulers", "callbacks",
)  # fmt: skip
PLACES = ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path")
"""Names of what says where a run's files lie."""


class Signals(Callback):
    """Send a signal to this process the n-th time that something happens.

    The environment says what: ``saved``, when ``last.ckpt`` has got its name; ``saving``, just before; or ``batch``, at
    the end of a training batch.
    """

    def __init__(self):
        self.point = json.loads(os.environ.get(VARIABLE, "{}"))
        self.seen = 0

    def on_train_start(self, trainer, pl_module):
        replace = Path.replace

        def watched(path, target):
            is_last = Path(target).name.startswith("last")
            self._now("saving" if is_last else "")
            result = replace(path, target)
            self._now("saved" if is_last else "")
            return result

        if self.point:
            Path.replace = watched

    def on_train_batch_end(self, *args):
        self._now("batch")

    def _now(self, where):
        if self.point.get("where") == where:
            self.seen += 1
            if self.seen == self.point["nth"]:
                os.kill(os.getpid(), self.point["signal"])


def fit(folder, args, where="", nth=1, number=signal.SIGKILL, processes=1):
    """Run a command line in processes of its own in a folder, and return their exit codes.

    They may send themselves a signal, where something happens for the n-th time; by default nowhere.
    """
    folder.mkdir(exist_ok=True)
    point = {"where": where, "nth": nth, "signal": int(number)} if where else {}
    environment = {VARIABLE: json.dumps(point)}
    if processes > 1:
        return run_together([*args, f"--trainer.devices={processes}"], folder, processes, environment)
    return [_ended(start([*args, "--trainer.devices=1"], folder, folder / "log", environment))]


def _ended(process):
    process.join(120)
    process.kill()
    return process.exitcode


def newest(folder, name):
    """Return the newest file below a folder whose name fits."""
    return max(folder.rglob(name), key=lambda path: path.stat().st_mtime_ns)


def load(path):
    """Return what a checkpoint holds."""
    return torch.load(path, weights_only=True)


def differences(run, expected):
    """Return where two trainings differ: weights, averages, optimizer, schedules, best epoch, metrics."""
    found = []
    for name in ("last*.ckpt", "best*.ckpt"):
        one, other = (dict(_values(load(newest(folder, name)))) for folder in (run, expected))
        found += [f"{name}{key}" for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
    if newest(run, "metrics.json").read_text() != newest(expected, "metrics.json").read_text():
        found.append("metrics.json")
    return found


def _values(state, where=""):
    """Yield each value of a checkpoint with its place in it."""
    if isinstance(state, list | tuple) or where.endswith("best_k_models"):  # whose keys are places
        state = dict(enumerate(state.values() if isinstance(state, dict) else state))
    if isinstance(state, dict):
        for key, value in state.items():
            # Of its own state, LastCheckpoint has nothing but places, under a name that holds its options.
            if (where or key in COMPARED) and key not in PLACES and not str(key).startswith("LastCheckpoint"):
                yield from _values(value, f"{where}.{key}")
    else:
        yield where, state.tolist() if isinstance(state, torch.Tensor) else state


def curves(run):
    """Return the points of each of a run's curves by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run)).Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
