"""K nearest neighbours under the same verbs and the same evaluation as the networks (the paper's section 6.2.1)."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from faceexpr.data.loading import PADDING
from faceexpr.models.base import ExpressionNet, Net
from faceexpr.models.neighbours import NeighbourStore, class_probabilities, nearest, with_float64
from faceexpr.models.preprocess import as_grey, as_sized, as_trained
from faceexpr.tasks.base import ExpressionTask, find_missing, load_task, without_missing
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.crop import FACE_SIZE
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.redirects import redirect
from faceexpr.utils.text import kind_of
from faceexpr.weights.checkpoints import find_checkpoint, read_checkpoint


class Representation(Net):
    """From face images to vectors of one length."""

    def forward(self, image: Tensor) -> Tensor:
        """Represent images.

        Args:
            image: uint8, shape (N, 1 or 3, H, W), any size.

        Returns:
            uint8 or float32, shape (N, D).
        """
        raise NotImplementedError


class RawPixels(Representation):
    """Grey values as they are: 2,304 numbers for 48 x 48 pixels (the paper's section 6.2.1).

    Args:
        size: side in pixels; images of another size are resized.
    """

    def __init__(self, size: int = 48) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        return as_sized(as_grey(image), self.size).flatten(1)


class Histogram(Representation):
    """How often each level occurs, wherever in the image (the paper's colour histogram; FER-2013 is grey).

    Args:
        bins: number of bins of equal width from 0 to 255; the paper's is 255.
        channels: 1 counts the brightness; 3 counts red, green and blue, each for itself.
        size: side in pixels; images of another size are resized, so that all have the same number of pixels.
    """

    def __init__(self, bins: int = 255, channels: Literal[1, 3] = 1, size: int = 48) -> None:
        super().__init__()
        require(1 <= bins <= 256, "bins", bins, "1 to 256")
        self.bins = bins
        self.channels = channels
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        image = as_sized(as_grey(image) if self.channels == 1 else image.expand(-1, 3, -1, -1), self.size)
        level = image.flatten(2).long() * self.bins // 256
        counts = torch.zeros(*level.shape[:2], self.bins, dtype=torch.float32, device=level.device)
        return counts.scatter_add_(2, level, torch.ones_like(level, dtype=torch.float32)).flatten(1)


class NetworkFeatures(Representation):
    """What a trained network's last layer gets to see.

    Args:
        checkpoint: a checkpoint that ``faceexpr fit`` has written, its run folder, a model file, or the name of a model
            that comes with the package. Read when training starts; the KNN checkpoint then holds the network itself.
    """

    net: ExpressionNet | None

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.net = None
        self._hyper_parameters: dict[str, Any] = {}

    def load_pretrained(self) -> None:
        path = find_checkpoint(self.checkpoint, Path("lightning_logs"), "checkpoint")
        self.net = load_task(path, [ExpressionClassifier], "a network", "a trained ExpressionClassifier").net
        self.net.eval().requires_grad_(False)
        self.net.preprocess.crop = None  # faces come as this model's data make them
        self._hyper_parameters = read_checkpoint(path)["hyper_parameters"]

    def _build(self, hyper_parameters: dict[str, Any]) -> None:
        from lightning.pytorch.cli import instantiate_module

        options = without_missing(hyper_parameters)
        if missing := find_missing(options):
            raise FaceExprError(f"the network of the representation needs {missing}")
        values = {name: value for name, value in options.items() if not name.startswith("_")}
        self._hyper_parameters = hyper_parameters
        kind = pkgutil.resolve_name(hyper_parameters["_class_path"])
        self.net = instantiate_module(kind, values).net.eval().requires_grad_(False)

    # The network travels in the state dict, and how to build it before its weights are loaded too.
    def get_extra_state(self) -> dict[str, Any]:
        return self._hyper_parameters

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state:
            self._build(redirect(state))

    def forward(self, image: Tensor) -> Tensor:
        if self.net is None:
            raise FaceExprError("NetworkFeatures has no network yet; call load_pretrained first")
        self.net.eval()  # the task's train mode must not reach dropout and batch normalisation
        last = [module for module in self.net.modules() if isinstance(module, nn.Linear)][-1]
        seen: list[Tensor] = []
        with last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])):
            self.net(image)
        return seen[0].float()


class KNNClassifier(ExpressionTask):
    """Classify a face by the labels of the K most similar training faces.

    "Training" is one pass that remembers every training image, once each, from all processes; no optimizer takes part.
    The probabilities are those of scikit-learn's ``KNeighborsClassifier``. Among equal distances the sample that comes
    first in the training split wins.

    Args:
        k: number of neighbours.
        p: norm of the distance: 1 (city block), 2 (Euclidean) or 3.
        weights: whether each neighbour counts the same (``uniform``) or by the inverse of its distance.
        representation: what is compared: raw pixels unless another is named.
        backend: ``fast`` is exact and uses all cores or the GPU; ``sklearn`` is the reference; ``auto`` is ``fast``.
        cache_dir: keep the neighbours found in this folder, for runs that differ only in k or in the weights.
    """

    # The datamodule then gives every training sample once, in order and without augmentation.
    remembers = True

    def __init__(
        self,
        k: int = 3,
        p: Literal[1, 2, 3] = 1,
        weights: Literal["uniform", "distance"] = "distance",
        representation: Representation | None = None,
        backend: Literal["auto", "fast", "sklearn"] = "auto",
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        fits = representation is None or isinstance(representation, Representation)
        require(fits, "representation", kind_of(representation), "an object, such as Histogram()")
        super().__init__(**kwargs)
        require(k >= 1, "k", k, "1 or more")
        require(p in (1, 2, 3), "p", p, "1, 2 or 3")
        require(weights in ("uniform", "distance"), "weights", weights, "uniform or distance")
        self.automatic_optimization = False
        self.k = k
        self.p = p
        self.weights = weights
        self.representation = representation or RawPixels()
        self.backend = backend
        self.search = nearest if cache_dir is None else NeighbourStore(Path(cache_dir)).nearest
        # Not buffers: distributed training would send them around at every step.
        self.bank = torch.empty(0, 0)
        self.labels = torch.empty(0, dtype=torch.int64)
        # Distributed training refuses a module without a parameter; nothing ever uses it.
        self.unused = nn.Parameter(torch.zeros(()))
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.trainer.ckpt_path is None:
            self.representation.load_pretrained()

    def configure_optimizers(self) -> None:
        return None

    def forward(self, image: Tensor) -> Tensor:
        """Return class probabilities.

        Args:
            image: uint8, shape (N, 1 or 3, H, W), any size.

        Returns:
            float32 (N, C); each row sums to 1.
        """
        if not len(self.bank):
            raise FaceExprError("KNNClassifier remembers no image yet; expected a trained one, by fit or a checkpoint")
        faces = image if self.crop is None else as_trained(image, self.crop, FACE_SIZE)
        queries = with_float64(self.representation(faces))
        self.bank, self.labels = self.bank.to(queries.device), self.labels.to(queries.device)
        found = self.search(self.bank, queries, self.k, self.p, self.backend)
        probabilities = class_probabilities(found, self.labels, len(self.class_names), self.k, self.weights)
        return probabilities.float().to(image.device)

    def on_train_epoch_start(self) -> None:
        self._seen = []

    @torch.no_grad()
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        target = self.own_target(batch["target"])
        labels = target.argmax(dim=1) if target.ndim == 2 else target
        self._seen.append((batch["index"].to(labels.device), self.representation(batch["image"]), labels))

    def on_validation_start(self) -> None:
        """Put together what all processes have seen in this epoch, in the order of the training split."""
        if not self._seen:
            return
        gathered = [torch.cat(parts) for parts in zip(*self._seen, strict=True)]
        self._seen = []
        if self.trainer.world_size > 1:
            gathered = [torch.cat(gather_all_tensors(part)) for part in gathered]
        index, features, labels = gathered
        order = index.argsort()
        order = order[index[order] != PADDING]
        if features.is_floating_point() and not torch.isfinite(features).all():
            raise FaceExprError(
                f"{type(self.representation).__name__} gives features that are not finite for some of the training "
                "images; expected finite numbers: look at the network that they come from"
            )
        self.bank = features[order]
        self.labels = labels[order]
        images = f"there are {len(self.bank):,} training images"
        require(self.k <= len(self.bank), "k", f"{self.k}, but {images}", "at most as many")
        rank_zero_info(f"remembering {len(self.bank):,} images of {self.bank.shape[1]:,} numbers each")

    def on_train_epoch_end(self) -> None:
        self.on_validation_start()  # of a training without validation

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return {**self.predict_step(batch, batch_idx), "target": self.own_target(batch["target"])}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        if self.trainer.sanity_checking:
            # Before training there is nothing to compare with, and nothing of the sanity check is kept.
            number = len(self.class_names)
            even = torch.full((len(batch["image"]), number), 1 / number, device=self.device)
            return {"probabilities": even, "target": self.own_target(batch["target"])}
        return self.test_step(batch, batch_idx)

    # The bank has the size of the data it was filled with, which only the checkpoint knows.
    def get_extra_state(self) -> dict[str, Tensor]:
        return {"bank": self.bank, "labels": self.labels}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        self.bank, self.labels = state["bank"], state["labels"]
