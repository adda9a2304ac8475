"""Class paths of earlier versions, which checkpoints, model files and saved configurations go on naming."""

from __future__ import annotations

RENAMED: dict[str, str] = {
    "faceexpr.data.face_images.FaceImages": "faceexpr.data.face_files.FaceFiles",
    "faceexpr.data.synthetic_scenes.SyntheticScenes": "faceexpr.data.synthetic.SyntheticScenes",
}
"""The import path of a class as version 0.1 wrote it, and where the class is now."""
