"""The label vocabulary: the order of the classes, their names, aliases and colours.

The order is that of FER-2013 (Goodfellow et al., "Challenges in representation learning", 2013; the paper's section
3.2), which is not alphabetical. Every reader maps its own labels to these indices, so that a class means the same
thing whatever the data came from.
"""

from __future__ import annotations

from collections.abc import Sequence

from faceexpr.utils.errors import FaceExprError

FER_NAMES: tuple[str, ...] = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
"""The seven classes of FER-2013 in index order 0 to 6."""

FERPLUS_NAMES: tuple[str, ...] = (*FER_NAMES, "Contempt")
"""FER-2013's seven classes and, as index 7, the one that FER+ adds (Barsoum et al., 2016)."""

# fmt: off
COLOURS: dict[str, str] = {
    "Angry": "#c0392b", "Disgust": "#6c8e23", "Fear": "#7d3c98", "Happy": "#e0a800", "Sad": "#2e6da4",
    "Surprise": "#d9722e", "Neutral": "#7f8c8d", "Contempt": "#8e5a3c",
}
# fmt: on
"""One colour a class, used in every figure."""

_SPELLINGS = {
    "Angry": "anger angry",
    "Disgust": "disgust disgusted",
    "Fear": "fear fearful scared afraid",
    "Happy": "happy happiness joy",
    "Sad": "sad sadness",
    "Surprise": "surprise surprised",
    "Neutral": "neutral neutrality",
    "Contempt": "contempt contemptuous",
}
ALIASES = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings.split()}
"""Spellings found in data sets (lower case) and the class that each one means."""


def canonical(name: str, class_names: Sequence[str] = FER_NAMES) -> str | None:
    """Return the member of ``class_names`` that ``name`` means, or None when it means none of them.

    Case, surrounding blanks and a leading ``Emotion_`` do not matter; aliases such as ``happiness`` are understood.
    """
    spelling = name.strip().lower().removeprefix("emotion_")
    by_lower = {known.lower(): known for known in class_names}
    if spelling in by_lower:
        return by_lower[spelling]
    by_meaning = {ALIASES[lower]: known for lower, known in by_lower.items() if lower in ALIASES}
    return by_meaning.get(ALIASES.get(spelling, ""))


def index_map(source: Sequence[str], target: Sequence[str]) -> list[int]:
    """Return for each class of ``source`` its index in ``target``, matched by name and never by position.

    Raises:
        FaceExprError: a class of ``source`` is not in ``target``.
    """
    matches = [canonical(name, target) for name in source]
    unknown = [name for name, match in zip(source, matches, strict=True) if match is None]
    if unknown:
        raise FaceExprError(
            f"the data have the class {', '.join(unknown)}, which the model does not know: it was trained on "
            f"{', '.join(target)}; use data with these classes only, or train a model on the data's classes"
        )
    return [list(target).index(match) for match in matches if match is not None]


def same_classes(source: Sequence[str], target: Sequence[str]) -> list[int] | None:
    """Return for each class of ``source`` its index in ``target``; None where these do not name the same classes."""
    matches = [canonical(name, target) for name in source]
    same = len(source) == len(target) and {*matches} == {*target}
    return [list(target).index(str(match)) for match in matches] if same else None


def colour(name: str) -> str:
    """Return the class's hex colour; a class outside the vocabulary is dark grey."""
    return COLOURS.get(name, "#444444")
