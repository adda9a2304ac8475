"""Training of detectors: losses that diverge, checkpoints that load, validation without gradients."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from faceexpr.data.face_boxes import FaceBoxes
from faceexpr.data.loading import PADDING
from faceexpr.data.synthetic import SyntheticScenes
from faceexpr.models.light_detector import LightDetector
from faceexpr.tasks.detect import FaceDetector
from faceexpr.utils.errors import FaceExprError

TINY = {"train_size": 4, "val_size": 3, "test_size": 3, "width": 64, "height": 64, "batch_size": 2, "max_faces": 2}


def detector() -> FaceDetector:
    torch.manual_seed(0)
    net = LightDetector(widths=(4, 4, 8, 8, 8), neck=8)
    return FaceDetector(net, optimizer=partial(torch.optim.SGD, lr=1e-3))


def trainer(folder: Path) -> Trainer:
    return Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def test_losses_are_logged_whole_and_in_parts(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit(detector(), datamodule=SyntheticScenes(**TINY))
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    assert logged["train/loss"] == pytest.approx(logged["train/loss_score"] + logged["train/loss_box"], rel=1e-5)
    assert logged["val/loss"] > 0


def test_padding_takes_no_part_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    task = detector()
    task.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    logged: dict[str, float] = {}
    monkeypatch.setattr(task, "log", lambda name, value, **_: logged.__setitem__(name, value))
    (batch,) = SyntheticScenes(**{**TINY, "train_size": 2, "min_faces": 1}).train_dataloader()

    def gradients(**changes: Any) -> list[torch.Tensor]:
        task.zero_grad()
        task.training_step({**batch, **changes}, 0)["loss"].backward()
        found = [parameter.grad for parameter in task.parameters()]
        assert all(gradient is not None for gradient in found)  # or distributed training would wait for one
        return [gradient for gradient in found if gradient is not None]

    one = gradients(index=torch.tensor([0, PADDING]), share=0.5)
    black = [batch["image"][0], torch.zeros(3, 32, 32, dtype=torch.uint8)]
    other = gradients(index=torch.tensor([0, PADDING]), share=1.0, image=black)
    for half, whole in zip(one, other, strict=True):
        torch.testing.assert_close(2 * half, whole)
    assert not any(gradient.any() for gradient in gradients(index=torch.tensor([PADDING, PADDING]), share=0.0))
    assert float(logged["train/loss_step"]) == 0


def test_a_loss_that_is_not_finite_ends_training_and_names_part_step_and_images(tmp_path: Path) -> None:
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


def total_loss(coco_boxes: list[list[float]], folder: Path) -> torch.Tensor:
    """Make the loss of a step at half the size of two images, of which the first has these boxes in a COCO file."""
    for name in "abc":
        Image.new("RGB", (96, 96), (90, 120, 150)).save(folder / f"{name}.png")
    images = [{"id": i, "file_name": f"{name}.png", "width": 96, "height": 96} for i, name in enumerate("abc")]
    annotations = [
        {"id": number, "image_id": 0, "category_id": 1, "bbox": box, "iscrowd": 0}
        for number, box in enumerate(coco_boxes)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    (folder / "boxes.json").write_text(json.dumps(content))
    (folder / "val.txt").write_text("c.png")
    data = FaceBoxes(
        train=str(folder / "boxes.json"), images=str(folder), val_list=str(folder / "val.txt"), batch_size=2
    )
    torch.manual_seed(0)
    net = LightDetector(widths=(4, 4, 8, 8, 8), neck=8, test_side=48)
    (batch,) = data.train_dataloader()
    return torch.stack([*net.losses(batch["image"], batch["boxes"]).values()]).sum()


def test_a_step_with_the_odd_boxes_of_a_file_has_a_finite_loss(tmp_path: Path) -> None:
    odd = [[20, 20, 30, 0], [5, 5, 0, 10], [5, 5, 0.4, 10], [-3, -3, 10, 10], [90, 90, 50, 50], [20, 20, 30, 30]]
    loss, none = total_loss(odd, tmp_path), total_loss([[20, 20, 30, 0]], tmp_path)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(none)
    assert float(none) != float(loss)
