"""Train a classifier with Lightning's own Trainer, measure its best epoch, and load that again.

    python examples/train.py

Curves, figures and ``metrics.json`` are in ``lightning_logs/version_N``.
"""

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

from faceexpr.callbacks import BestCheckpoint, ClassificationEvaluation
from faceexpr.data import Augmentation, SyntheticFaces
from faceexpr.models import SimpleCNN
from faceexpr.tasks import ExpressionClassifier


def main(epochs: int = 4, images: int = 1400) -> tuple[float, Tensor]:
    """Return the accuracy on the test split, 0 to 1, and the probabilities of its first image, (1, 7)."""
    seed_everything(0)
    # Drawn faces, which need no file. Yours: FER2013("fer2013.csv"), FaceFolder("faces"), ...
    data = SyntheticFaces(images, images // 10, images // 10, batch_size=64, augment=Augmentation(flip=0.5))
    model = ExpressionClassifier(net=SimpleCNN(num_classes=7))
    best = BestCheckpoint()
    trainer = Trainer(max_epochs=epochs, callbacks=[ClassificationEvaluation(), best], log_every_n_steps=10)
    trainer.fit(model, data)
    [measured] = trainer.test(model, data, ckpt_path="best")

    # Everything that it takes to build the model is in its checkpoint.
    loaded = ExpressionClassifier.load_from_checkpoint(best.best_model_path, map_location="cpu").eval()
    with torch.inference_mode():
        # uint8 (N, 1 or 3, height, width), of any size
        probabilities = loaded(data.split("test").images[torch.arange(1)])
    return measured["test/accuracy"], probabilities


if __name__ == "__main__":
    main()
