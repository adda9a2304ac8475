"""Where the figures of an evaluation go: every logger that takes figures, and the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer

from faceexpr.evaluation import reports

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show(trainer: Trainer, folder: Path | None, stage: str, drawn: Mapping[str, Figure]) -> None:
    """Hand figures to the loggers as ``stage/name`` and write them as ``figures/stage_name.png``.

    Args:
        trainer: has the loggers.
        folder: of the run, or None.
        stage: ``train``, ``val`` or ``test``.
        drawn: figures by name.
    """
    for name, figure in drawn.items():
        for logger in trainer.loggers:
            experiment: Any = getattr(logger, "experiment", None)
            if hasattr(experiment, "add_figure"):
                experiment.add_figure(f"{stage}/{name}", figure, trainer.global_step)
        if folder is not None:
            reports.write_figure(folder, f"{stage}_{name}", figure)
