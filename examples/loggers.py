"""Send the curves and figures of a training to CSV files, to Weights & Biases or to MLflow.

    python examples/loggers.py csv
    python examples/loggers.py wandb     # pip install wandb
    python examples/loggers.py mlflow    # pip install mlflow

Nothing leaves the machine: W&B is offline, and MLflow writes files.
"""

import os
import sys
from pathlib import Path

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from faceexpr.callbacks import BestCheckpoint, ClassificationEvaluation
from faceexpr.data import SyntheticFaces
from faceexpr.models import MLP
from faceexpr.tasks import ExpressionClassifier


def make_logger(kind: str) -> Logger:
    """Return a logger that writes below the folder ``runs``."""
    Path("runs").mkdir(exist_ok=True)
    if kind == "wandb":
        return WandbLogger(project="faces", save_dir="runs", offline=True)  # `wandb sync` sends it later
    if kind == "mlflow":
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer ones want a database: sqlite:///runs/mlflow.db
        return MLFlowLogger("faces", tracking_uri="file:runs/mlflow")
    return CSVLogger("runs", name="csv")


def main(kind: str = "csv", epochs: int = 4, images: int = 1400) -> Path:
    """Return the folder of the run, in which checkpoints, metrics and figures are, whatever the logger."""
    seed_everything(0)
    model = ExpressionClassifier(net=MLP(num_classes=7, hidden=[64]))
    best = BestCheckpoint()
    trainer = Trainer(
        max_epochs=epochs,
        logger=make_logger(kind),
        callbacks=[ClassificationEvaluation(), best],
        log_every_n_steps=10,
    )
    trainer.fit(model, SyntheticFaces(images, images // 10, images // 10, batch_size=64))
    return Path(best.best_model_path).parents[1]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "csv")
