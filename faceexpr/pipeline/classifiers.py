"""The second step: what tells the expressions of faces, and how any trained classifier is loaded for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceexpr.models.base import ExpressionNet
from faceexpr.models.calibrator import Calibration
from faceexpr.models.preprocess import as_grey
from faceexpr.models.trained import TrainedClassifier, load_trained
from faceexpr.utils.crop import FACE_SIZE, Crop
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import as_faces
from faceexpr.visualization.explain import class_maps, explained_network
from faceexpr.weights.checkpoints import find_checkpoint
from faceexpr.weights.onnx_file import ONNX, Runtime, open_onnx

if TYPE_CHECKING:
    from faceexpr.tasks.base import ExpressionTask


class Classifier(Protocol):
    """Tells the expressions of faces.

    Attributes:
        class_names: names of the classes in index order.
        image_size: side in pixels of the faces that it is given.

    One that has a ``crop`` (`Crop`) too is given faces that are made so: of one channel where that says 1.
    """

    class_names: tuple[str, ...]
    image_size: int

    def __call__(self, faces: Tensor) -> NDArray[np.float32]:
        """Return the probabilities, float32 (N, C), of RGB faces, uint8 (N >= 1, 3, image_size, image_size)."""


class TaskClassifier:
    """A trained model, a network or K nearest neighbours, as a classifier.

    Args:
        task: the model; it is moved to the device and set to evaluation.
        device: such as ``cpu`` or ``cuda``.
        name: of the checkpoint, for messages.

    Raises:
        FaceExprError: its class names do not fit its outputs.
    """

    def __init__(
        self, task: TrainedClassifier | ExpressionTask, device: str | torch.device = "cpu", name: str = "the classifier"
    ) -> None:
        self.device = torch.device(device)
        self.task = task.to(self.device).eval()
        self.class_names = task.class_names
        self.calibration = getattr(task, "calibration", None)
        self.crop = task.crop or Crop()
        # Faces reach a classifier in the size of its training images: see `ExpressionDataModule.network_size`.
        net = getattr(task, "net", None)
        own_size = net.preprocess.size if isinstance(net, ExpressionNet) else FACE_SIZE
        self.image_size = self.crop.size or own_size
        outputs = self(torch.zeros(1, 3, self.image_size, self.image_size, dtype=torch.uint8)).shape[1]
        if not outputs == len(self.class_names) == len(set(self.class_names)):
            raise FaceExprError(
                f"{name} gives {outputs} probabilities and has the class names {', '.join(self.class_names)}; "
                "expected one name of its own for each"
            )

    @torch.inference_mode()
    def __call__(self, faces: Tensor) -> NDArray[np.float32]:
        """Classify faces, grey or RGB; see `Classifier`."""
        probabilities: Tensor = self.task(as_faces(faces, "faces").to(self.device))
        return probabilities.float().cpu().numpy()

    def explain(self, faces: Tensor, expressions: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Tell which parts of faces speak for an expression of each, by default the most probable; see `class_maps`.

        Returns float32 (N, image_size, image_size), from 0 to 1.

        Raises:
            FaceExprError: the classifier is no network or has no such expression, or Captum is not installed.
        """
        net = explained_network(self.task)
        for name in expressions or ():
            if name not in self.class_names:
                raise FaceExprError(f"expressions has {name!r}; expected names among {', '.join(self.class_names)}")
        chosen = None if expressions is None else [self.class_names.index(name) for name in expressions]
        return class_maps(net, faces, chosen)


class OnnxClassifier:
    """A classifier in an ONNX file, run by ONNX Runtime on the CPU.

    Args:
        path: the file, of ``faceexpr export``; one that holds no classifier is refused.
    """

    def __init__(self, path: Path) -> None:
        self.run, metadata = open_onnx(path, torch.get_num_threads())
        if "class_names" not in metadata:
            raise FaceExprError(f"{path} holds no classifier; expected one")
        self.class_names: tuple[str, ...] = tuple(metadata["class_names"])
        calibration = metadata["calibration"]
        self.calibration = None if calibration is None else Calibration(**calibration)
        self.crop = Crop(**metadata["crop"])
        self.image_size: int = self.crop.size or metadata["preprocess"]["size"]
        self.channels: int = metadata["channels"]

    def __call__(self, faces: Tensor) -> NDArray[np.float32]:
        """Classify faces, grey or RGB; see `Classifier`."""
        faces = as_faces(faces, "faces")
        faces = as_grey(faces) if self.channels == 1 else faces.expand(-1, 3, -1, -1)
        return np.asarray(self.run(faces.contiguous().numpy())[0])


def load_classifier(
    source: str | Path, device: str | torch.device = "cpu", runtime: Runtime = "torch"
) -> TaskClassifier | OnnxClassifier:
    """Load a classifier of any kind.

    Args:
        source: a checkpoint, a run folder (its best checkpoint), a model file, an ONNX file, or the name of a model
            that comes with the package.
        device: where it shall run.
        runtime: ``onnx`` has ONNX Runtime run it, on the CPU; a checkpoint is written as an ONNX file first.

    Raises:
        FaceExprError: it cannot be loaded, is no classifier of expressions, or its class names do not fit its outputs.
    """
    path = find_checkpoint(source, Path("lightning_logs"), "classifier")
    if runtime == "onnx" or path.suffix == ONNX:
        from faceexpr.pipeline.programs import converted

        return OnnxClassifier(converted(path))
    trained = load_trained(path)
    if isinstance(trained, TrainedClassifier):
        return TaskClassifier(trained, device, str(path))
    # Of others the task itself is needed, and with it Lightning, which takes longer to import than a face to classify.
    from faceexpr.tasks.base import load_task
    from faceexpr.tasks.classify import ExpressionClassifier
    from faceexpr.tasks.knn import KNNClassifier

    kinds: list[type[ExpressionTask]] = [ExpressionClassifier, KNNClassifier]
    wanted = "a classifier of expressions, an ExpressionClassifier or a KNNClassifier"
    return TaskClassifier(load_task(path, kinds, "a classifier", wanted), device, str(path))
