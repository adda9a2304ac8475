"""Drawn faces and drawn scenes with boxes: data sets that need no file."""

from faceexpr.data.synthetic.faces import SyntheticFaces
from faceexpr.data.synthetic.scenes import SyntheticScenes

__all__ = ["SyntheticFaces", "SyntheticScenes"]
