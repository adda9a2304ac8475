"""The trained models that come with the package, each a model file that is named without its folder and its ending."""

from __future__ import annotations

from pathlib import Path

from faceexpr.weights.model_file import ENDING

FOLDER = Path(__file__).parent

DETECTOR, CLASSIFIER = "wider_light", "fer2013_compact"
"""What is used where no other is named."""


def shipped_models() -> dict[str, Path]:
    """Return the files of the models that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob(f"*{ENDING}"))}
