"""Training of detectors: losses that diverge, checkpoints that load, validation without gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from faceexpr.data.synthetic_scenes import SyntheticScenes
from faceexpr.errors import FaceExprError
from faceexpr.models.light_detector import LightDetector
from faceexpr.tasks.detect import FaceDetector

TINY = {"train_size": 4, "val_size": 3, "test_size": 3, "width": 64, "height": 64, "batch_size": 2, "max_faces": 2}


def detector(lr: float = 1e-3) -> FaceDetector:
    from functools import partial

    torch.manual_seed(0)
    net = LightDetector(widths=(4, 4, 8, 8, 8), neck=8)
    return FaceDetector(net, optimizer=partial(torch.optim.SGD, lr=lr))


def trainer(folder: Path, **options: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip


def test_losses_are_logged_whole_and_in_parts(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit(detector(), datamodule=SyntheticScenes(**TINY))
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    assert logged["train/loss"] == pytest.approx(logged["train/loss_score"] + logged["train/loss_box"], rel=1e-5)
    assert logged["val/loss"] > 0


def test_d07_a_loss_that_is_not_finite_ends_training_and_names_part_step_and_pictures(tmp_path: Path) -> None:
    class OneBoxIsNan(SyntheticScenes):
        """Scenes with a damaged box."""

        def load_records(self, stage: Any) -> Any:
            records = super().load_records(stage)
            if stage == "train":
                records[2].boxes[:] = float("nan")
            return records

    data = OneBoxIsNan(**{**TINY, "min_faces": 1})
    with pytest.raises(FaceExprError, match=r"not finite \((score|box) nan.*at step [01] .*synthetic train 2"):
        trainer(tmp_path).fit(detector(), datamodule=data)


def test_d07_a_learning_rate_that_is_far_too_high_ends_training(tmp_path: Path) -> None:
    with pytest.raises(FaceExprError, match="lower the learning rate"):
        Trainer(
            default_root_dir=tmp_path, accelerator="cpu", max_epochs=40, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        ).fit(detector(lr=1e30), datamodule=SyntheticScenes(**TINY))  # fmt: skip


def test_a_checkpoint_builds_its_network_again(tmp_path: Path) -> None:
    task = detector()
    run = trainer(tmp_path)
    run.fit(task, datamodule=SyntheticScenes(**TINY))
    run.save_checkpoint(tmp_path / "a.ckpt")
    loaded = FaceDetector.load_from_checkpoint(tmp_path / "a.ckpt", map_location="cpu", weights_only=True)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    assert isinstance(loaded.net, LightDetector)
    for (boxes, scores), (own_boxes, own_scores) in zip(
        loaded.eval().net.candidates([image]), task.eval().net.candidates([image]), strict=True
    ):
        assert torch.equal(boxes, own_boxes)
        assert torch.equal(scores, own_scores)
