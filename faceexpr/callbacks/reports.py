"""Write what a callback has measured: to the run folder, to the loggers, and as metrics of the run."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image

from faceexpr.utils.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RunTensorBoardLogger(TensorBoardLogger):
    """Lightning's logger, with which TensorBoard opens on the curves of ``train`` and ``val``.

    It opens the two groups of curves that are first in the alphabet. Those of the epoch and the learning rate, which
    Lightning names ``epoch`` and ``lr-Adam``, are therefore in the group of what is measured with them.
    """

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        group = next((name.partition("/")[0] for name in metrics if "/" in name), "train")
        moved = {name: f"{group}/{name}" for name in metrics if name == "epoch" or name.startswith("lr-")}
        super().log_metrics({moved.get(name, name): value for name, value in metrics.items()}, step)


def class_names(pl_module: LightningModule) -> tuple[str, ...]:
    """Return the names of a classifier's classes."""
    return tuple(pl_module.class_names)  # type: ignore[arg-type]


def write_metrics(folder: Path, stage: str, entry: Mapping[str, Any]) -> None:
    """Put one stage's record into the folder's ``metrics.json``, beside those of other stages."""
    path = folder / "metrics.json"
    stages: dict[str, Any] = {}
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            stages = found if isinstance(found, dict) else {}
        except ValueError:
            rank_zero_warn(f"{path} is not JSON and is written anew")
    stages[stage] = entry
    write_file(path, json.dumps(stages, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_figure(folder: Path | None, name: str, figure: Figure) -> bytes:
    """Write ``figures/<name>.png`` where there is a folder, and return its content."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    if folder is not None:
        write_file(folder / "figures" / f"{name}.png", content.getvalue())
    return content.getvalue()


def show_figures(trainer: Trainer, stage: str, drawn: Mapping[str, Figure], folder: Path | None) -> None:
    """Hand figures to the loggers as ``stage/name`` and write them as ``figures/stage_name.png``; for one process."""
    for name, figure in drawn.items():
        content = write_figure(folder, f"{stage}_{name}", figure)
        for logger in trainer.loggers:
            experiment: Any = getattr(logger, "experiment", None)
            if hasattr(experiment, "add_figure"):  # TensorBoard
                experiment.add_figure(f"{stage}/{name}", figure, trainer.global_step)
            elif hasattr(logger, "log_image"):  # Weights & Biases
                logger.log_image(f"{stage}/{name}", [Image.open(io.BytesIO(content))], step=trainer.global_step)
            elif hasattr(experiment, "log_figure"):  # MLflow, and Comet
                if hasattr(logger, "run_id"):
                    experiment.log_figure(logger.run_id, figure, f"figures/{stage}_{name}.png")
                else:
                    experiment.log_figure(f"{stage}/{name}", figure)


def log_values(pl_module: LightningModule, values: Mapping[str, float | None]) -> None:
    """Log metrics that all processes have computed from the samples of all; those not defined are left out."""
    for name, value in values.items():
        if value is not None:
            # All processes hold the same value: their maximum is exact, a mean may round.
            pl_module.log(
                name, value, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max", batch_size=1,
                prog_bar=name == getattr(pl_module, "main_metric", None),
            )  # fmt: skip
