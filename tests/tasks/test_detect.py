"""Training of detectors: losses that diverge, checkpoints that load, validation without gradients."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from faceexpr.data.loading import PADDING
from faceexpr.data.synthetic import SyntheticScenes
from faceexpr.models.light_detector import LightDetector
from faceexpr.tasks.detect import FaceDetector
from faceexpr.utils.errors import FaceExprError

TINY = {"train_size": 4, "val_size": 3, "test_size": 3, "width": 64, "height": 64, "batch_size": 2, "max_faces": 2}


def detector():
    torch.manual_seed(0)
    net = LightDetector(widths=(4, 4, 8, 8, 8), neck=8)
    return FaceDetector(net, optimizer=partial(torch.optim.SGD, lr=1e-3))


def test_losses_are_logged_whole_and_in_parts(make_trainer):
    run = make_trainer(Callback(), logger=False)
    run.fit(detector(), datamodule=SyntheticScenes(**TINY))
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    assert logged["train/loss"] == pytest.approx(logged["train/loss_score"] + logged["train/loss_box"], rel=1e-5)
    assert logged["val/loss"] > 0


def test_padding_takes_no_part_in_a_step(monkeypatch):
    task = detector()
    task.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    logged = {}
    monkeypatch.setattr(task, "log", lambda name, value, **_: logged.__setitem__(name, value))
    (batch,) = SyntheticScenes(**{**TINY, "train_size": 2, "min_faces": 1}).train_dataloader()

    def gradients(**changes):
        task.zero_grad()
        task.training_step({**batch, **changes}, 0)["loss"].backward()
        found = [parameter.grad for parameter in task.parameters()]
        assert all(gradient is not None for gradient in found)  # or distributed training would wait for one
        return found

    one = gradients(index=torch.tensor([0, PADDING]), share=0.5)
    black = [batch["image"][0], torch.zeros(3, 32, 32, dtype=torch.uint8)]
    other = gradients(index=torch.tensor([0, PADDING]), share=1.0, image=black)
    for half, whole in zip(one, other, strict=True):
        torch.testing.assert_close(2 * half, whole)
    assert not any(gradient.any() for gradient in gradients(index=torch.tensor([PADDING, PADDING]), share=0.0))
    assert float(logged["train/loss_step"]) == 0


def test_a_loss_that_is_not_finite_ends_training_and_names_part_step_and_images(make_trainer):
    class OneBoxIsNan(SyntheticScenes):
        """Scenes with a damaged box."""

        def load_records(self, stage):
            records = super().load_records(stage)
            if stage == "train":
                records[2].boxes[:] = float("nan")
            return records

    data = OneBoxIsNan(**{**TINY, "min_faces": 1})
    with pytest.raises(FaceExprError, match=r"not finite \((score|box) nan.*at step [01] .*synthetic train 2"):
        make_trainer(Callback(), logger=False).fit(detector(), datamodule=data)
