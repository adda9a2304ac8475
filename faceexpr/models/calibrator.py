"""Calibrate the logits of a classifier, and find sets of classes that hold the true one as often as stated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil, exp, isfinite, log
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from faceexpr.utils.errors import FaceExprError, require

if TYPE_CHECKING:
    from torch import Tensor

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are tried: where all predictions are right, each colder one would be better than the last."""

HELD = 1e-5
"""How much vector scaling is held to no change: what nothing in the samples decides stays as it was."""


@dataclass(frozen=True)
class Calibration:
    """What was fitted on samples that no weight was trained on; ``faceexpr validate`` does so.

    Args:
        temperature: what the logarithms of the probabilities are divided by; above 1 the network was too sure.
        thresholds: for each stated coverage, such as "0.9", the probability up to which more probable classes may have
            come before a class for it still to be in the prediction set.
        samples: number of samples that it was fitted on.
        source: which they were.
        scales: what the logarithm of each class is then multiplied by; empty where the temperature is all.
        shifts: what is then added to each.
        balance: how far the classes' shares in the samples were made equal, 0 to 1; the shifts contain it.
        method: how it was fitted: ``temperature``, ``bias`` or ``vector``; empty where that is not known.
        corruptions: strength of the corruptions under which the thresholds hold too; 0 where they were not fitted so.
    """

    temperature: float = 1.0
    thresholds: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    source: str = ""
    scales: tuple[float, ...] = ()
    shifts: tuple[float, ...] = ()
    balance: float = 0.0
    method: str = ""
    corruptions: int = 0

    def __post_init__(self) -> None:
        positive = isfinite(self.temperature) and self.temperature > 0
        require(positive, "temperature", self.temperature, "a number above 0")
        for name in ("scales", "shifts"):  # which come from checkpoints as lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.scales) != len(self.shifts) or not all(map(isfinite, (*self.scales, *self.shifts))):
            raise FaceExprError(
                f"scales are {list(self.scales)} and shifts {list(self.shifts)}; expected a finite number "
                "of each for every class, or none"
            )
        for level, threshold in self.thresholds.items():
            check_coverage(level, "thresholds")
            require(0 <= threshold <= 1, f"thresholds.{level}", threshold, "a number from 0 to 1")

    def threshold(self, coverage: float) -> float:
        """Return the threshold of a stated coverage, such as 0.9; a `FaceExprError` where it was not calibrated for."""
        found = {float(level): threshold for level, threshold in self.thresholds.items()}
        if coverage not in found:
            levels = ", ".join(self.thresholds)
            expected = f"one of these, or a calibration for {coverage:g} too" if levels else "that first"
            raise FaceExprError(
                f"coverage is {coverage:g}, but the classifier was calibrated for {levels or 'none'}; "
                f"`faceexpr validate` calibrates: expected {expected}"
            )
        return found[coverage]


def check_coverage(level: str | float, name: str = "coverage") -> None:
    """Refuse, with a `FaceExprError` that has the parameter's name, a coverage that is not between 0 and 1."""
    try:
        right = 0 < float(level) < 1
    except ValueError:
        right = False
    if not right:
        raise FaceExprError(f"{name} has {level}; expected numbers between 0 and 1, such as 0.9")


def as_percent(level: str) -> str:
    """Return a stated coverage as people write it: "90%"."""
    return f"{100 * float(level):.6g}%"


def class_probabilities(
    net: Callable[[Tensor], Tensor], image: Tensor, mirror: bool, calibration: Calibration
) -> tuple[Tensor, Tensor]:
    """Classify images.

    Args:
        net: from images to logits.
        image: (N, C, H, W).
        mirror: take the mean of the probabilities of each image and of its mirror image.
        calibration: what these probabilities then become.

    Returns:
        The logits of the images as they are, and the probabilities; each float32 (N, K).
    """
    logits = net(image).float()
    scores = logits
    if mirror:
        # The logarithm of the mean, but for a constant, which `softmax` does not see: tiny probabilities stay apart.
        scores = logits.log_softmax(dim=1).logaddexp(net(image.flip(-1)).float().log_softmax(dim=1))
    if calibration.scales:
        # Which would multiply a constant too.
        scores = scores.log_softmax(dim=1) * scores.new_tensor(calibration.scales)
        scores = scores + scores.new_tensor(calibration.shifts) * calibration.temperature
    return logits, (scores / calibration.temperature).softmax(dim=1)


def calibrated(probabilities: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """Return what probabilities (N, K) become by a calibration."""
    from scipy.special import softmax  # SciPy takes half a second to import

    scaled = _logarithms(probabilities) / calibration.temperature
    if calibration.scales:
        scaled = scaled * np.array(calibration.scales) + np.array(calibration.shifts)
    return np.asarray(softmax(scaled, axis=1), dtype=np.float32)


def fit_temperature(probabilities: NDArray[np.float32], targets: NDArray[np.int64] | NDArray[np.float32]) -> float:
    """Return the temperature at which the targets are most likely (Guo et al., 2017).

    "On calibration of modern neural networks". The likelihood has one maximum, which is found to five digits.

    Args:
        probabilities: finite, (N, K), N >= 1, of a network without a temperature.
        targets: class indices (N,) or class distributions (N, K).
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    logarithms = _logarithms(probabilities)
    shares = _shares(targets, probabilities.shape[1])
    likely = (shares * logarithms).sum(axis=1).mean()
    weight = shares.sum(axis=1)

    def loss(cold: float) -> float:
        scale = exp(-cold)
        return float((weight * logsumexp(scale * logarithms, axis=1)).mean() - scale * likely)

    found = minimize_scalar(loss, bounds=(log(LOWEST), log(HIGHEST)), method="bounded", options={"xatol": 1e-6})
    return float(exp(found.x))


def fit_vector(
    probabilities: NDArray[np.float32],
    targets: NDArray[np.int64] | NDArray[np.float32],
    temperature: float,
    tied: bool = False,
) -> Calibration:
    """Return the vector scaling at which the targets are most likely (Guo et al., 2017).

    A scale and a shift for each class beside the temperature: also a network that takes one class for another too
    often becomes honest, and predictions may change. The likelihood has one maximum.

    Args:
        probabilities: finite, (N, K), N >= 1, of a network without a calibration.
        targets: class indices (N,) or class distributions (N, K).
        temperature: what is divided by before; the scales are relative to it.
        tied: all classes have one scale and only the shifts differ: bias-corrected temperature scaling (Alexandari et
            al., "Maximum likelihood with bias-corrected calibration is hard-to-beat at label shift adaptation", 2020).
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    count = probabilities.shape[1]
    number = 1 if tied else count
    logarithms = _logarithms(probabilities) / temperature
    shares = _shares(targets, count)

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scaled = logarithms * values[:number] + values[number:]
        normal = scaled - logsumexp(scaled, axis=1, keepdims=True)
        slope = (np.exp(normal) * shares.sum(axis=1, keepdims=True) - shares) / len(shares)
        pull = np.append(values[:number] - 1, values[number:])
        by_scale = (slope * logarithms).sum(axis=0)
        gradient = np.append(by_scale.sum() if tied else by_scale, slope.sum(axis=0)) + 2 * HELD * pull
        return float(-(shares * normal).sum() / len(shares) + HELD * (pull @ pull)), gradient

    found = minimize(loss, np.repeat([1.0, 0.0], [number, count]), jac=True, method="L-BFGS-B").x
    scales = np.broadcast_to(found[:number], count)
    return Calibration(temperature, scales=tuple(scales.tolist()), shifts=tuple(found[number:].tolist()))


def balanced(calibration: Calibration, shares: NDArray[np.float64], balance: float) -> Calibration:
    """Return the calibration for faces whose classes are in better balance than those it was fitted on.

    Bayes' rule for other shares of the classes (Saerens et al., "Adjusting the outputs of a classifier to new a priori
    probabilities", 2002); as a rule of decision, logit adjustment (Menon et al., 2021).

    Args:
        calibration: for faces with these shares.
        shares: of the classes, (K,); one that has no face counts as the rarest that has.
        balance: the new shares are proportional to the old ones to the power of 1 - balance; negative to go back.
    """
    if balance == 0:
        return calibration
    logarithms = np.log(shares.clip(min=shares[shares > 0].min()))
    shifts = np.array(calibration.shifts or [0.0] * len(shares)) - balance * logarithms
    scales = calibration.scales or (1.0,) * len(shares)
    total = round(calibration.balance + balance, 6)
    return replace(calibration, scales=scales, shifts=tuple(shifts.tolist()), balance=total)


def _shares(targets: NDArray[np.int64] | NDArray[np.float32], count: int) -> NDArray[np.float64]:
    return np.asarray(np.eye(count)[targets] if targets.ndim == 1 else targets, dtype=np.float64)


def _logarithms(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    tiny = np.finfo(np.float32).tiny
    return np.asarray(np.log(probabilities.astype(np.float64).clip(tiny)))


def mass_before(probabilities: NDArray[np.float32] | Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return for each class the probability of all that come before it, from the most probable one down.

    It is 0 for the most probable class, at most 1 for the last; of equally probable classes the first comes first. This
    is the score of adaptive prediction sets (Romano, Sesia and Candès, "Classification with valid and adaptive
    coverage", 2020) without their random part, so that the same face always has the same set, which is never empty.
    From (N, K) to float64 (N, K).
    """
    values = np.asarray(probabilities, dtype=np.float64)
    order = np.argsort(-values, axis=1, kind="stable")
    ranked = np.take_along_axis(values, order, axis=1)
    before = np.cumsum(ranked[:, :-1], axis=1).clip(max=1)  # which rounding carries above 1
    scores = np.zeros_like(values)
    np.put_along_axis(scores, order[:, 1:], before, axis=1)
    return scores


def fit_threshold(
    probabilities: NDArray[np.float32], targets: NDArray[np.int64] | NDArray[np.float32], coverage: str
) -> float:
    """Return the threshold of split conformal prediction: the ceil((N + 1) coverage)-th smallest of N scores.

    The score of a sample is `mass_before` its true class. That of a new sample from where these are from is at most the
    threshold with a probability of ``coverage`` or more. Where N is too small it is 1, with which all classes are in
    the set. The coverage is text: written in binary, 0.9 is a little more than 0.9.

    Args:
        probabilities: calibrated, (N, K).
        targets: class indices (N,) or class distributions (N, K). Of votes, the true class is what one who is drawn
            among those that voted says; of each sample all classes then count, each by its share.
        coverage: above 0, below 1.
    """
    scores, weights = mass_before(probabilities).ravel(), _shares(targets, probabilities.shape[1]).ravel()
    order = np.argsort(scores, kind="stable")
    rank = ceil((len(probabilities) + 1) * Fraction(coverage))
    # Shares such as 0.3 and 0.7 add up to 1 only within rounding.
    place = int(np.searchsorted(np.cumsum(weights[order]), rank - 1e-6))
    return float(scores[order[place]]) if place < len(order) else 1.0


def prediction_sets(
    probabilities: NDArray[np.float32] | Sequence[Sequence[float]], threshold: float
) -> NDArray[np.bool_]:
    """Tell which classes are in the prediction set of each sample, bool (N, K), by calibrated probabilities (N, K)."""
    return np.asarray(mass_before(probabilities) <= threshold)
