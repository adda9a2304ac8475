"""One row for each run in TensorBoard's table of hyper-parameters."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

Plain = bool | int | float | str

TRAINER_OPTIONS: dict[str, Plain | None] = {
    "precision": "32-true",
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "world_size": 1,
}
"""Options of the trainer that change what is learnt, and the value of each that is a column for nothing."""


def log_row(trainer: Trainer, pl_module: LightningModule, metrics: Mapping[str, float]) -> None:
    """Add the run to every TensorBoard logger's table.

    Args:
        trainer: at the end of training.
        pl_module: its ``hparams`` are described by class paths and arguments, as a checkpoint keeps them.
        metrics: final metrics by name; without any, there is no row.
    """
    row = flat_hparams(trainer, pl_module)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and metrics:
            # Writes hparams.yaml while the logger's hyper-parameters are still those of the run, nested as they were.
            logger.save()
            logger.log_hyperparams(row, dict(metrics), step=trainer.global_step)


def flat_hparams(trainer: Trainer, pl_module: LightningModule) -> dict[str, Plain]:
    """Return what tells one run from another as plain values by name.

    Classes appear by their name (``net``: ``SimpleCNN``) with their arguments under it (``net.relu_on_logits``);
    ``lr``, ``batch_size``, ``epochs``, ``seed`` and ``data`` always have these names.
    """
    row: dict[str, Plain] = {}
    for name, value in pl_module.hparams.items():
        if not name.startswith("_") and name not in ("class_names", "monitor"):
            _add(row, name, value)
    # The optimizer's own default where no configuration names a learning rate.
    configured = (optimizer.defaults.get("lr") for optimizer in trainer.optimizers)
    lr = next(
        (value for value in (row.get("lr"), row.pop("optimizer.lr", None), *configured) if value is not None), None
    )
    if lr is not None:
        row["lr"] = lr
    if trainer.max_epochs is not None:
        row["epochs"] = trainer.max_epochs
    if "PL_GLOBAL_SEED" in os.environ:
        row["seed"] = int(os.environ["PL_GLOBAL_SEED"])
    for name, default in TRAINER_OPTIONS.items():
        value = getattr(trainer, name, default)
        if value != default:
            _add(row, name, value)
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is not None:
        row["data"] = type(datamodule).__name__
        for name, parameter in inspect.signature(type(datamodule)).parameters.items():
            value = datamodule.hparams.get(name)
            if name not in ("batch_size", "augment", "class_names") and value != parameter.default:
                _add(row, f"data.{name}", value)
        _add(row, "batch_size", getattr(datamodule, "batch_size", None))
        augment = getattr(datamodule, "augment", None)
        if dataclasses.is_dataclass(augment) and not isinstance(augment, type):
            # What is off would be a column for nothing.
            off = {field.name: field.default for field in dataclasses.fields(augment)}
            chosen = {name: value for name, value in dataclasses.asdict(augment).items() if value != off[name]}
            _add(row, "augment", chosen)
    return row


def _add(row: dict[str, Plain], name: str, value: Any) -> None:
    """Put a value into the row: a class with its arguments, or a mapping, under dotted names."""
    if isinstance(value, Mapping) and "class_path" in value:
        row[name] = str(value["class_path"]).rpartition(".")[2]
        value = value.get("init_args", {})
    if isinstance(value, Mapping):
        for key, item in value.items():
            _add(row, f"{name}.{key}", item)
    elif isinstance(value, bool | int | float | str):
        row[name] = value
    elif isinstance(value, list | tuple):
        row[name] = ", ".join(map(str, value))
