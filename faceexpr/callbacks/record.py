"""Give each run a folder of its own, the same for every logger, and keep its record, ``run.json``, there."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from faceexpr import __version__
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import keep_older
from faceexpr.weights.checkpoints import RECORD, as_stored, read_record, run_of, write_record

CHECKPOINTS = ("best", "last", "calibrated")
"""The checkpoints that a record names: each a mapping with a path, or None."""


class RunRecord(Callback):
    """Choose the folder of the run and keep ``run.json`` in it.

    The folder is that of the first TensorBoard or CSV logger; with other loggers, and without one, it is
    ``version_N`` below ``runs``. The record says what was run when, with which versions, and which of its checkpoints
    is the best, the last and the calibrated one. It is written when the run begins, before each checkpoint and at the
    end. Paths in it are relative to the folder.

    Args:
        args: the command line that has started the run, without the program's name.
        options: what that says of its model, data and seed, by dotted names.
        runs: folder of the runs without a logger that has one.
    """

    def __init__(
        self, args: Sequence[str] = (), options: Mapping[str, str] | None = None, runs: str | Path = "lightning_logs"
    ) -> None:
        self.args = args
        self.options = dict(options or {})
        self.runs = Path(runs)
        self.folder: Path | None = None
        self.made: list[Path] = []
        """The folder of the run and those around it, as far as the run makes them."""
        self.begun = False
        self.content: dict[str, Any] = {}

    def place(self, trainer: Trainer) -> Path:
        """Return the folder of the run, which the first process chooses; all have to ask, at first in ``setup``."""
        if self.folder is None:
            found = trainer.strategy.broadcast(self.claim(trainer) if trainer.is_global_zero else None)
            assert found is not None
            self.folder = found
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                    callback.dirpath = str(found / "checkpoints")
        return self.folder

    def claim(self, trainer: Trainer) -> Path:
        """Return a folder that no other run has.

        Raises:
            FaceExprError: the logger's folder holds another run.
        """
        if logger := self.check(trainer):
            logger.mkdir(parents=True, exist_ok=True)
            if not ((logger / RECORD).is_file() and (logger / RECORD).stat().st_size):
                try:
                    (logger / RECORD).touch(exist_ok=False)
                except FileExistsError:
                    raise FaceExprError(f"{logger}: another run has just begun there; expected a new start") from None
            return logger
        around = missing(self.runs)
        taken = [int(path.name[8:]) for path in self.runs.glob("version_*") if path.name[8:].isdigit()]
        number = max(taken, default=-1) + 1
        while True:
            try:
                (self.runs / f"version_{number}").mkdir(parents=True)
            except FileExistsError:
                number += 1  # another run has begun at the same time
            else:
                self.made = [self.runs / f"version_{number}", *around]
                return self.made[0]

    def check(self, trainer: Trainer) -> Path | None:
        """Return the folder of the first logger that has one; a `FaceExprError` where it holds another run."""
        logger = next((one for one in trainer.loggers if isinstance(one, TensorBoardLogger | CSVLogger)), None)
        if logger is None:
            return None
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        folder = Path(os.path.expandvars(logger.root_dir)).expanduser() / version
        self.made = self.made or missing(folder)
        record = read_record(folder) or {}
        holds = files_of(record, folder) or [*folder.glob("checkpoints/*.ckpt")]
        # One that has failed before it has left anything to go on with may be started again.
        over = record.get("verb", "fit") != "fit" and record.get("ended") and not record.get("stopped_by")
        source = None if trainer.ckpt_path is None else Path(trainer.ckpt_path).resolve()
        own = source is not None and (source in holds or folder.resolve() in source.parents)
        # In Python, Lightning tells later what is measured.
        if (holds or over) and not own and (source is not None or trainer.state.fn in (None, TrainerFn.FITTING)):
            more = "" if over else " or one of its checkpoints"
            raise FaceExprError(f"version: {folder} holds another run already; expected a version of its own{more}")
        if isinstance(logger, CSVLogger) and self.folder is None:
            keep_older(folder / "metrics.csv")  # which Lightning would remove
        return folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            return
        folder = self.place(trainer)
        before = read_record(folder) or {}
        # What is measured in a training's folder is added to it; the record stays the training's.
        if not trainer.is_global_zero or (stage != "fit" and before.get("verb") == "fit"):
            return
        source = None if trainer.ckpt_path is None else Path(trainer.ckpt_path).resolve()
        # A run's checkpoints may have a folder of their own.
        holder = folder if source is None or source in files_of(before, folder) else run_of(source)
        resumed = (read_record(holder) if source is not None and stage == "fit" else None) or {}
        goes_on = holder.resolve() == folder.resolve()
        self.content = {
            "faceexpr": __version__,
            "verb": stage,
            "command": shlex.join(["faceexpr", *self.args]) if self.args else None,
            "options": self.options or resumed.get("options", {}),
            "training": resumed.get("training") or holder.resolve().as_posix(),
            "started": now(),
            "ended": None,
            "commit": commit(),
            "versions": {
                "python": platform.python_version(), "torch": torch.__version__, "lightning": lightning.__version__,
            },
            "resumed" if stage == "fit" else "checkpoint": None if source is None else as_stored(source, folder),
            "class_names": [*getattr(pl_module, "class_names", [])] or None,
            "pixels": None,  # which the data decide, or the checkpoint
            "best": resumed.get("best"),  # which has a copy under the same name
            **{name: resumed.get(name) if goes_on else None for name in ("last", "calibrated")},
        }  # fmt: skip
        write_record(folder, self.content)
        if stage == "fit":
            rank_zero_info(f"the run is in {folder}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.begun |= batch_idx > 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begun |= not trainer.sanity_checking

    on_validation_end = on_test_end = on_predict_end = on_train_epoch_end

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.begun = True  # rows are written

    def discard(self) -> None:
        """Remove the folder of a run that has failed at its first step or before, unless it or another run was there.

        The loggers have to be closed.
        """
        if self.begun or not self.made:
            return
        folder, *around = self.made
        others = [path for path in folder.glob("events.*") if f".{os.getpid()}." not in path.name]
        if not others and (self.folder == folder or not (folder / RECORD).exists()):
            shutil.rmtree(folder, ignore_errors=True)
            for each in around:
                with suppress(OSError):  # it holds something else by now
                    each.rmdir()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note(trainer, pixels=pixels(pl_module))

    on_validation_start = on_test_start = on_predict_start = on_fit_start

    def note(self, trainer: Trainer, **entries: Any) -> None:
        """Write what has changed; a best checkpoint that has become another one is not calibrated yet."""
        if self.folder is None or not self.content or not trainer.is_global_zero:
            return
        for name in CHECKPOINTS:
            if name in entries:
                entries[name] |= {"path": as_stored(entries[name]["path"], self.folder)}
        best, old = entries.get("best"), self.content["best"]
        if best and old and (Path(best["path"]).name, best["score"]) == (Path(old["path"]).name, old["score"]):
            best["epoch"] = old["epoch"]  # it has been written in an earlier one
        elif best and not old and self.content.get("resumed"):
            best["epoch"] = None  # of a run without a record
        changed = {name: value for name, value in entries.items() if self.content.get(name) != value}
        if changed:
            calibrated = None if "best" in changed else (read_record(self.folder) or {}).get("calibrated")
            self.content |= {"calibrated": calibrated, **changed}
            write_record(self.folder, self.content)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.note(trainer, ended=now())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.note(trainer, ended=now(), stopped_by=type(exception).__name__)


def record_of(trainer: Trainer, needed: bool = False) -> RunRecord | None:
    """Return the record of a run; where it has none, it gets one if there is a logger or it is ``needed``."""
    record = next((one for one in trainer.callbacks if isinstance(one, RunRecord)), None)  # type: ignore[attr-defined]
    if record is None and (trainer.loggers or needed):
        record = RunRecord(runs=Path(trainer.default_root_dir) / "lightning_logs")
        trainer.callbacks.append(record)  # type: ignore[attr-defined]  # set at run time
    return record


def run_folder(trainer: Trainer, needed: bool = False) -> Path | None:
    """Return the folder of the run; none with ``fast_dev_run``, which leaves nothing behind, and without a record.

    Every process has to ask, and only before the strategy is torn down: in a callback's ``setup``.
    """
    record = None if trainer.fast_dev_run else record_of(trainer, needed)  # type: ignore[attr-defined]  # set at run time
    return None if record is None else record.place(trainer)


def note(trainer: Trainer, **entries: Any) -> None:
    """Put entries into the record of a run that has one; see `RunRecord.note`."""
    record = record_of(trainer)
    if record is not None:
        record.note(trainer, **entries)


def note_calibrated(source: Path, target: Path) -> None:
    """Put the calibrated copy of a run's best checkpoint into the record of that run."""
    folder = run_of(source.resolve())
    record = read_record(folder) or {}
    if record.get("best") and (folder / record["best"]["path"]).resolve() == source.resolve():
        entry = {"path": as_stored(target, folder), "of": record["best"]["path"]}
        write_record(folder, record | {"calibrated": entry})


def files_of(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Return the checkpoints that a record names."""
    return [(folder / entry["path"]).resolve() for entry in map(record.get, CHECKPOINTS) if entry]


def missing(folder: Path) -> list[Path]:
    """Return a folder and those around it that are not there, the inner ones first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def now() -> str:
    """Return the time, in a form that sorts."""
    return datetime.now(timezone.utc).isoformat()


def commit() -> str | None:
    """Return the commit of the current folder; None where it has none."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def pixels(pl_module: LightningModule) -> dict[str, Any] | None:
    """Return how faces are made for a model and what its network makes of them; None of a model that takes images."""
    crop, preprocess = getattr(pl_module, "crop", None), getattr(getattr(pl_module, "net", None), "preprocess", None)
    found = {} if crop is None else {"face": asdict(crop)}
    if preprocess is not None:
        found["network"] = {"channels": preprocess.channels, "size": preprocess.size}
    return found or None
