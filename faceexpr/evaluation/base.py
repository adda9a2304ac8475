"""What every evaluation is to the command line and to the other callbacks."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule

AUTO = "auto"
"""Stands for the metric by which models of a kind are chosen: their own ``main_metric``."""


class Evaluation(Callback):
    """A callback that measures models of one kind.

    Attributes:
        judges: what the steps of these models return: ``probabilities`` or ``detections``, their ``gives``.
        monitor: the metric that tells which epoch is the best.
    """

    judges: str
    monitor: str | None

    @staticmethod
    def logged(stage: str, pl_module: LightningModule) -> dict[str, bool]:
        """Return the metrics that a stage always logs, and whether higher is better."""
        raise NotImplementedError

    def forget_best(self) -> None:
        """Choose the best epoch among those to come; for a resumed run without the earlier one's weights."""
        raise NotImplementedError


def resolved(monitor: str | None, pl_module: LightningModule) -> str | None:
    """Return the metric that an option means."""
    return str(getattr(pl_module, "main_metric", "val/accuracy")) if monitor == AUTO else monitor


def can_judge(evaluation: Evaluation, pl_module: object) -> bool:
    """Tell whether a model is of the kind that an evaluation measures; one that does not say is a classifier."""
    return bool(getattr(pl_module, "gives", "probabilities") == evaluation.judges)
