"""Measure how far probabilities and prediction sets of a classifier mean what they say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from faceexpr.metrics.tables import SampleTable
from faceexpr.models.calibrator import Calibration, mass_before

CALIBRATION_BINS = 15

COVERAGE, SIZE = "coverage/", "set_size/"
"""Beginnings of the names of the metrics of prediction sets; the stated coverage follows, as in ``coverage/0.9``."""


def calibration_error(table: SampleTable) -> float:
    """Return the expected calibration error: 15 equal bins of confidence, L1; probabilities have to be finite.

    Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    import torch  # these two take seconds
    from torchmetrics.functional.classification import multiclass_calibration_error

    # Rounding may carry a probability just above 1, which torchmetrics would take for a logit.
    probabilities, labels = torch.from_numpy(table.probabilities).clamp(0, 1), torch.from_numpy(table.labels)
    number = probabilities.shape[1]
    return float(multiclass_calibration_error(probabilities, labels, number, n_bins=CALIBRATION_BINS, norm="l1"))


def negative_log_likelihood(table: SampleTable) -> float:
    """Return the mean negative log likelihood in nats; for targets that are distributions, their cross-entropy.

    A probability of 0 counts as float32's resolution, 1.2e-7, as in scikit-learn.
    """
    resolution = np.finfo(np.float32).eps
    logs = np.log(table.probabilities.astype(np.float64).clip(resolution, 1 - resolution))
    if table.targets is not None and table.targets.ndim == 2:
        return float(-(table.targets * logs).sum(axis=1).mean())
    return float(-logs[np.arange(len(logs)), table.labels].mean())


def set_values(table: SampleTable, calibration: Calibration | None) -> dict[str, float]:
    """Measure the prediction sets of each stated coverage; nothing without a calibration.

    - ``coverage/0.9``: share of samples whose true class is in the set that is to hold it in 90%.
    - ``set_size/0.9``: mean number of classes in these sets.

    The table holds labels and calibrated probabilities.
    """
    if calibration is None or not calibration.thresholds:
        return {}
    before = mass_before(table.probabilities)
    of_truth = before[np.arange(len(before)), table.labels]
    values = {}
    for level, threshold in calibration.thresholds.items():
        values[f"{COVERAGE}{level}"] = float((of_truth <= threshold).mean())
        values[f"{SIZE}{level}"] = float((before <= threshold).sum(axis=1).mean())
    return values


def select_set_values(values: Mapping[str, float]) -> dict[str, float]:
    """Return those of the metrics that are of prediction sets."""
    return {name: value for name, value in values.items() if name.startswith((COVERAGE, SIZE))}
