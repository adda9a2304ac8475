"""Drawn faces and drawn scenes with boxes: data sets that need no file."""

from faceexpr.data.synthetic.data_sets import SyntheticFaces, SyntheticScenes

__all__ = ["SyntheticFaces", "SyntheticScenes"]
