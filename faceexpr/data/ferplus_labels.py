"""From votes to labels: the rule of FER+ (Barsoum et al., 2016), and what becomes of each doubtful row.

Votes that nobody shares are removed first, as the article's reference code does; a row without a vote then has no
label: "no two votes agree".

Majority labels: a row's label is the choice of more than half of all remaining votes, those for unknown, not a face and
contempt among them. The row is dropped with that reason where the choice is unknown, not a face or, with 7 classes,
contempt; and as "no majority" where no choice has more than half, as in every tie.

Soft labels: a row's label is the share of each emotion in the votes on emotions, whether one has a majority or not. The
row is dropped as unknown, not a face or, with 7 classes, contempt, where that has at least as many votes as the best
emotion. Otherwise its votes for these are left out.

With 8 classes contempt is index 7. It is never counted as another emotion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from faceexpr.data.ferplus_votes import NOT_A_FACE, UNKNOWN
from faceexpr.utils.labels import FER_NAMES

NumClasses = Literal[7, 8]

CONTEMPT = len(FER_NAMES)

_REASON_OF = {NOT_A_FACE: "not a face", UNKNOWN: "unknown", CONTEMPT: "contempt"}
NO_MAJORITY = "no majority"
NO_AGREEMENT = "no two votes agree"
REASONS = (*_REASON_OF.values(), NO_MAJORITY, NO_AGREEMENT)
"""Why a row has no label."""

KEPT = -1


@dataclass(frozen=True)
class Labels:
    """Labels of rows.

    Attributes:
        targets: int64 class indices (N,) or float32 distributions (N, classes); meaningless where a row is dropped.
        dropped: index in `REASONS`, or `KEPT`, int64 (N,).
    """

    targets: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    dropped: npt.NDArray[np.int64]

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """Which rows have a label, bool (N,)."""
        return np.equal(self.dropped, KEPT)

    def counts(self) -> dict[str, int]:
        """Return how many rows were dropped for each reason, reasons without a row left out."""
        counts = {reason: int((self.dropped == code).sum()) for code, reason in enumerate(REASONS)}
        return {reason: count for reason, count in counts.items() if count}


def majority_labels(counts: npt.NDArray[np.int64], classes: NumClasses) -> Labels:
    """Give each row the emotion that more than half of the votes are for.

    Args:
        counts: votes in the order of `faceexpr.data.ferplus_votes.COLUMNS`, (N, 10).
        classes: 7, or 8 with contempt.

    Returns:
        Targets int64 (N,).
    """
    votes = _shared(counts)
    total, top = votes.sum(1), votes.argmax(1)
    dropped = _reason(top, classes)
    dropped[2 * votes.max(1) <= total] = REASONS.index(NO_MAJORITY)
    dropped[total == 0] = REASONS.index(NO_AGREEMENT)
    return Labels(np.where(dropped == KEPT, top, 0), dropped)


def soft_labels(counts: npt.NDArray[np.int64], classes: NumClasses) -> Labels:
    """Give each row the distribution of its votes over the emotions.

    Args:
        counts: votes in the order of `faceexpr.data.ferplus_votes.COLUMNS`, (N, 10).
        classes: 7, or 8 with contempt.

    Returns:
        Targets float32 (N, classes), whose rows sum to 1; all 0 where a row is dropped.
    """
    votes = _shared(counts)
    emotions = votes[:, :classes]
    others = np.array([place for place in _REASON_OF if place >= classes])
    best_other = others[votes[:, others].argmax(1)]
    doubtful = votes[:, others].max(1) >= emotions.max(1)
    dropped = np.where(doubtful, _reason(best_other, classes), KEPT)
    dropped[votes.sum(1) == 0] = REASONS.index(NO_AGREEMENT)
    # A row that is kept has an emotion with more votes than something else has, hence more than none.
    kept = (dropped == KEPT)[:, None]
    targets = np.divide(emotions, emotions.sum(1, keepdims=True), out=np.zeros(emotions.shape), where=kept)
    return Labels(targets.astype(np.float32), dropped)


def _shared(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the counts without the votes that nobody shares."""
    return np.where(counts > 1, counts, 0)


def _reason(top: npt.NDArray[np.int64], classes: NumClasses) -> npt.NDArray[np.int64]:
    """Return for each row why its highest choice is no label of the classes, or `KEPT`: int64 (N,)."""
    dropped = np.full(len(top), KEPT)
    for place, reason in _REASON_OF.items():
        if place >= classes:
            dropped[top == place] = REASONS.index(reason)
    return dropped
