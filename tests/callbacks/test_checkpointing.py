"""What `--ckpt_path last` means, and the parts of which an exact resumption is made."""

import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_RUN, Run, exit_code
from lightning.pytorch import LightningModule, Trainer

from faceexpr.callbacks.checkpointing import EpochSeed, WholeCheckpointIO
from faceexpr.cli.main import main
from faceexpr.cli.train import last_folder, written_options
from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.checkpoints import newest_loadable

LAST = Path("lightning_logs/version_0/checkpoints/last.ckpt")
DEFAULT = Path("lightning_logs")


@pytest.mark.parametrize(
    ("args", "folder"),
    [
        ([], "lightning_logs"),
        (["--trainer.default_root_dir=out"], "out/lightning_logs"),
        (["--trainer.logger.save_dir", "runs"], "runs"),
        (["--trainer.logger.init_args.save_dir=runs", "--trainer.logger.name=a"], "runs/a"),
        (["--trainer.logger.save_dir=runs", "--trainer.logger.version=x"], "runs/x"),
        (["--trainer.logger.save_dir=runs", "--trainer.logger.version=7"], "runs/version_7"),
        (["--trainer.logger={class_path: CSVLogger, init_args: {save_dir: runs}}"], "runs"),
        (["--trainer.logger=false"], "checkpoints"),
        (["--trainer.logger=false", "--trainer.default_root_dir=out"], "out/checkpoints"),
        (["--last_checkpoint.dirpath=kept", "--trainer.logger.save_dir=runs"], "kept"),
        (["--config", "a.yaml"], "from_file/lightning_logs"),
        (["--config", "a.yaml", "--trainer.default_root_dir=out"], "out/lightning_logs"),
        (["--config", "b.yaml"], "saved/b"),
        (["--config", "b.yaml", "--trainer.logger.save_dir=runs"], "runs/b"),
    ],
)
def test_last_is_looked_for_where_the_runs_go(args: list[str], folder: str, workdir: Path) -> None:
    Path("a.yaml").write_text("trainer: {default_root_dir: from_file}\n")
    logger = "{class_path: TensorBoardLogger, init_args: {save_dir: saved, name: b}}"
    Path("b.yaml").write_text(f"trainer: {{logger: {logger}}}\n")
    assert last_folder(written_options(args)) == Path(folder)


def test_one_command_starts_a_training_and_goes_on_with_it(run: Run, workdir: Path) -> None:
    for epochs in (1, 2, 2):
        run("fit", "--ckpt_path=last", "--trainer.default_root_dir=out", f"--trainer.max_epochs={epochs}")
    steps = [
        torch.load(Path(f"out/lightning_logs/version_{number}/checkpoints/last.ckpt"), weights_only=True)["global_step"]
        for number in (0, 1)
    ]
    assert steps == [4, 8]
    assert not Path("out/lightning_logs/version_2/checkpoints/last.ckpt").exists()  # nothing was left to train


def test_a_named_run_goes_on_in_its_own_folder_with_its_own_state(run: Run, workdir: Path) -> None:
    where = ["--trainer.logger.save_dir=runs", "--ckpt_path=last"]
    for name, epochs in (("a", 2), ("b", 1), ("b", 3)):
        run("fit", *where, f"--trainer.logger.version={name}", f"--trainer.max_epochs={epochs}")
    assert [path.name for path in Path("runs/b/checkpoints").glob("last*")] == ["last.ckpt"]
    assert torch.load("runs/a/checkpoints/last.ckpt", weights_only=True)["epoch"] == 1
    assert torch.load("runs/b/checkpoints/last.ckpt", weights_only=True)["epoch"] == 2


def test_a_torn_checkpoint_is_named_and_passed_over(workdir: Path, recwarn: pytest.WarningsRecorder) -> None:
    for number, name in enumerate(("older", "newer", "newest")):
        Path(name).mkdir()
        torch.save({"state_dict": {}}, Path(name, "last.ckpt"))
        os.utime(Path(name, "last.ckpt"), (number, number))
    newest = Path("newest/last.ckpt")
    newest.write_bytes(newest.read_bytes()[:-100])
    os.utime(newest, (3, 3))
    assert newest_loadable(Path()) == Path("newer/last.ckpt")
    assert ["newest/last.ckpt cannot be loaded" in str(warning.message) for warning in recwarn] == [True]
    assert newest_loadable(Path("nowhere")) is None


def test_a_training_that_has_ended_goes_on_with_the_next_epoch(
    run: Run, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("fit", "--trainer.log_every_n_steps=1", "--trainer.max_epochs=2")
    capsys.readouterr()
    main(["fit", "--ckpt_path", str(LAST), *TINY_RUN[1:], "--trainer.max_epochs=3"])
    assert capsys.readouterr().out.count("epoch ") == 1  # the line of the third
    state = torch.load("lightning_logs/version_1/checkpoints/last.ckpt", weights_only=True)
    assert (state["epoch"], state["global_step"]) == (2, 12)


def test_the_best_epoch_stays_where_no_validation_is_left(run: Run, workdir: Path) -> None:
    run("fit", "--trainer.max_epochs=-1", "--trainer.max_steps=5")
    run("fit", "--trainer.max_epochs=-1", "--trainer.max_steps=6", "--ckpt_path=last")
    for version in (0, 1):
        best = torch.load(f"lightning_logs/version_{version}/checkpoints/best.ckpt", weights_only=True)
        assert best["global_step"] == 4


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, io = tmp_path / "a/last.ckpt", WholeCheckpointIO()
    io.save_checkpoint({"state_dict": {}, "step": 1}, str(path))
    modes = {path.stat().st_mode & 0o777, (tmp_path / "a").stat().st_mode & 0o777 & 0o666}
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(FaceExprError, match=r"last\.ckpt cannot be written \(No space left on device\)"):
        io.save_checkpoint({"state_dict": {}, "step": 2}, str(path))
    assert torch.load(path)["step"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
    assert modes == {0o644}  # as any other file, not private as temporary ones


def test_random_numbers_of_an_epoch_follow_from_the_epoch_alone() -> None:
    def draw(epoch: int, rank: int = 0) -> tuple[float, float, float]:
        trainer: Any = SimpleNamespace(current_epoch=epoch, global_rank=rank, strategy=Trainer(logger=False).strategy)
        torch.manual_seed(3)
        seed = EpochSeed()
        seed.setup(trainer, LightningModule(), "fit")
        torch.rand(5)
        seed.on_train_epoch_start(trainer, LightningModule())
        return float(torch.rand(())), random.random(), float(np.random.rand())

    assert draw(1) == draw(1)
    assert all(len({draw(1)[place], draw(2)[place], draw(1, rank=1)[place]}) == 3 for place in range(3))


def test_a_step_of_another_size_is_refused_within_an_epoch(
    run: Run, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("fit", "--trainer.max_steps=2")
    assert exit_code(lambda: run("fit", f"--ckpt_path={LAST}", "--trainer.max_steps=4", "--data.batch_size=5")) == 2
    assert "was saved within an epoch with 4 samples in a step, and this training has 5" in capsys.readouterr().err
