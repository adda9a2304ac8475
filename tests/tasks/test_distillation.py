"""A network that learns from what trained ones say of the same images."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch.nn import functional

from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.models.mlp import MLP
from faceexpr.tasks.classify import ExpressionClassifier, Teachers
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

FACES = torch.arange(3 * 48 * 48, dtype=torch.int32).mul(7919).remainder(251).to(torch.uint8).reshape(3, 1, 48, 48)
OFF = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def teacher(path, seed, class_names=FER_NAMES):
    """Save a network and return it."""
    torch.manual_seed(seed)
    task = ExpressionClassifier(partial(MLP, hidden=[8]), class_names=class_names)
    trainer = Trainer(accelerator="cpu", max_epochs=0, **OFF)
    trainer.fit(task, datamodule=SyntheticFaces(train_size=7, val_size=7))
    trainer.save_checkpoint(path)
    return task.net.eval()


@torch.no_grad()
def test_teachers_say_their_mean_in_the_order_of_the_classes(tmp_path):
    nets = [teacher(tmp_path / "a.ckpt", 1), teacher(tmp_path / "b.ckpt", 2, FER_NAMES[::-1])]
    said = Teachers([str(tmp_path / name) for name in ("a.ckpt", "b.ckpt")], FER_NAMES).probabilities(FACES)
    expected = (nets[0](FACES).softmax(1) + nets[1](FACES).softmax(1).flip(1)) / 2
    torch.testing.assert_close(said, expected)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_loss_is_shared_between_labels_and_teachers(tmp_path, share):
    net = teacher(tmp_path / "a.ckpt", 1)
    task = ExpressionClassifier(
        partial(MLP, hidden=[8]), teachers=[str(tmp_path / "a.ckpt")], teachers_share=share, lr=0.0
    )
    given = {}
    data = SyntheticFaces(train_size=7, val_size=7, batch_size=7)
    seen = LambdaCallback(on_train_batch_start=lambda trainer, module, batch, index: given.update(batch))
    trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[seen], **OFF)
    trainer.fit(task, datamodule=data)
    with torch.no_grad():
        logits = task.net(given["image"])
        labels = functional.cross_entropy(logits, given["target"])
        taught = functional.cross_entropy(logits, net(given["image"]).softmax(1))
    expected = (1 - share) * labels + share * taught
    assert trainer.callback_metrics["train/loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert not [name for name in task.state_dict() if "taught" in name or "teacher" in name]


def test_a_student_comes_to_say_what_its_teacher_says(run, workdir):
    net = teacher(workdir / "a.ckpt", 1)
    data = SyntheticFaces(train_size=14, val_size=7)
    data.setup("validate")
    faces, apart = next(iter(data.val_dataloader()))["image"], {}
    for share in (0.0, 1.0):
        name = f"share_{share:g}"
        options = ["--model.net", "MLP", "--model.net.hidden", "[8]", "--model.optimizer.lr", "0.01"]
        learning = ["--model.teachers", "[a.ckpt]", "--model.teachers_share", f"{share}", "--trainer.max_epochs", "30"]
        run("fit", *options, *learning, "--trainer.logger.name", name, net=False)
        last = workdir / f"lightning_logs/{name}/version_0/checkpoints/last.ckpt"
        student = ExpressionClassifier.load_from_checkpoint(last).net.eval()
        with torch.no_grad():
            apart[share] = (student(faces).softmax(1) - net(faces).softmax(1)).abs().sum(1).mean().item()
    assert apart[1.0] < apart[0.0] / 2


def test_what_cannot_teach_is_one_sentence(tmp_path):
    teacher(tmp_path / "a.ckpt", 1)
    with pytest.raises(FaceExprError, match=r"teachers has .*, whose classes are Angry, .*; expected Happy, Sad$"):
        Teachers([str(tmp_path / "a.ckpt")], ["Happy", "Sad"])
    with pytest.raises(FaceExprError, match="wider_light; expected trained networks that tell expressions"):
        Teachers(["wider_light"], FER_NAMES)
    with pytest.raises(FaceExprError, match=r"teachers is 'wider_light'; expected a list of trained classifiers"):
        ExpressionClassifier(MLP, teachers="wider_light")
    with pytest.raises(FaceExprError, match=r"teachers_share is 1\.5; expected 0 to 1"):
        ExpressionClassifier(MLP, teachers_share=1.5)
