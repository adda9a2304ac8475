"""The record of what ran."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from faceexpr.utils.files import keep_older


class SaveRunConfig(SaveConfigCallback):
    """Write the resolved configuration to the run folder, and to TensorBoard as text.

    A configuration that is already there, from an earlier run into the same folder, is kept under a number.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # all processes agree on it, so all of them have to ask
        if not self.already_saved and folder is not None and trainer.is_global_zero:
            keep_older(Path(folder) / self.config_filename)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # Indented by four, Markdown shows it as it is.
                indented = "\n".join(f"    {line}" for line in text.splitlines())
                logger.experiment.add_text("config", indented)
