"""What `--ckpt_path last` means, and the parts of which an exact resumption is made."""

import os
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import exit_code
from lightning.pytorch import LightningModule, Trainer

from faceexpr.callbacks.checkpointing import WholeCheckpointIO
from faceexpr.callbacks.runs import EpochSeed
from faceexpr.cli.train import run_place, trainer_options, written_options
from faceexpr.utils.errors import FaceExprError

LAST = Path("lightning_logs/version_0/checkpoints/last.ckpt")


@pytest.mark.parametrize(
    ("args", "folder", "named"),
    [
        ([], "lightning_logs", False),
        (["--trainer.default_root_dir=out"], "out/lightning_logs", False),
        (["--trainer.logger.save_dir", "runs"], "runs", False),
        (["--trainer.logger.init_args.save_dir=runs", "--trainer.logger.name=a"], "runs/a", False),
        (["--trainer.logger.save_dir=runs", "--trainer.logger.version=7"], "runs/version_7", True),
        (["--trainer.logger.version=1.0"], "lightning_logs/1.0", True),
        (["--trainer.logger={class_path: CSVLogger, init_args: {save_dir: runs}}"], "runs", False),
        (["--trainer.logger=CSVLogger", "--trainer.default_root_dir=out"], "out/lightning_logs", False),
        (["--trainer.logger=[{class_path: CSVLogger, init_args: {save_dir: runs, name: a}}]"], "runs/a", False),
        (["--trainer.logger=false", "--trainer.default_root_dir=out"], "out/lightning_logs", False),
        (["--trainer.logger=true"], "lightning_logs", False),
        (["--config", "a.yaml"], "from_file/lightning_logs", False),
        (["--config", "b.yaml", "--trainer.logger.save_dir=runs"], "runs/2024-05-01", False),
    ],
)
def test_last_is_looked_for_where_the_runs_go(args, folder, named, workdir):
    Path("a.yaml").write_text("trainer: {default_root_dir: from_file}\nmodel: {net: MLP}\n")
    logger = "{class_path: TensorBoardLogger, init_args: {save_dir: saved, name: '2024-05-01'}}"
    Path("b.yaml").write_text(f"trainer: {{logger: {logger}}}\n")
    args = ["--data=SyntheticFaces", "--ckpt_path=last", *args]
    assert run_place(trainer_options(args, written_options(args)).trainer) == (Path(folder), named)


def test_one_command_starts_a_named_run_and_goes_on_with_it_in_its_folder(run, workdir, capsys):
    where = ["--trainer.logger.save_dir=runs", "--ckpt_path=last"]
    for name, epochs, trained in (("a", 1, 1), ("b", 1, 1), ("b", 3, 2)):
        run("fit", *where, f"--trainer.logger.version={name}", f"--trainer.max_epochs={epochs}")
        assert capsys.readouterr().out.count("epoch ") == trained
    run("fit", *where, "--trainer.logger.version=b", "--trainer.max_epochs=3")
    assert "warning: nothing was left to train: the checkpoint has done 12 steps" in capsys.readouterr().err
    assert [path.name for path in Path("runs/b/checkpoints").glob("last*")] == ["last.ckpt"]
    epochs = [torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True)["epoch"] for name in ("a", "b")]
    assert epochs == [0, 2]


def test_the_best_epoch_stays_where_no_validation_is_left(run, workdir):
    run("fit", "--trainer.max_epochs=-1", "--trainer.max_steps=5")
    run("fit", "--trainer.max_epochs=-1", "--trainer.max_steps=6", "--ckpt_path=last")
    for version in (0, 1):
        best = torch.load(f"lightning_logs/version_{version}/checkpoints/best.ckpt", weights_only=True)
        assert best["global_step"] == 4


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, monkeypatch):
    path, io = tmp_path / "a/last.ckpt", WholeCheckpointIO()
    io.save_checkpoint({"state_dict": {}, "step": 1}, str(path))
    modes = {path.stat().st_mode & 0o777, (tmp_path / "a").stat().st_mode & 0o777 & 0o666}
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(FaceExprError, match=r"last\.ckpt cannot be written \(No space left on device\)"):
        io.save_checkpoint({"state_dict": {}, "step": 2}, str(path))
    assert torch.load(path)["step"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
    assert modes == {0o644}  # as any other file, not private as temporary ones


def test_random_numbers_of_an_epoch_follow_from_the_epoch_alone():
    def draw(epoch, rank=0):
        trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank, strategy=Trainer(logger=False).strategy)
        torch.manual_seed(3)
        seed = EpochSeed()
        seed.setup(trainer, LightningModule(), "fit")
        torch.rand(5)
        seed.on_train_epoch_start(trainer, LightningModule())
        return float(torch.rand(())), random.random(), float(np.random.rand())

    assert draw(1) == draw(1)
    assert all(len({draw(1)[place], draw(2)[place], draw(1, rank=1)[place]}) == 3 for place in range(3))


def test_a_step_of_another_size_is_refused_within_an_epoch(run, workdir, capsys):
    run("fit", "--trainer.max_steps=2")
    assert exit_code(lambda: run("fit", f"--ckpt_path={LAST}", "--trainer.max_steps=4", "--data.batch_size=5")) == 2
    assert "was saved within an epoch with 4 samples in a step, and this training has 5" in capsys.readouterr().err
