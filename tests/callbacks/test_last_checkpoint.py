"""What `--ckpt_path last` means, and the parts of which an exact resumption is made."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_DATA, TINY_NET, TINY_RUN, Run
from lightning.pytorch import LightningModule, Trainer
from torchmetrics import MeanMetric

from faceexpr.callbacks.checkpoint_io import WholeCheckpointIO, remove_parts
from faceexpr.callbacks.epoch_metrics import gathered_states, restore_states
from faceexpr.callbacks.step_seed import StepSeed
from faceexpr.cli.main import main
from faceexpr.cli.written import last_folder
from faceexpr.data.loading import BatchLoader, BatchSampler, FaceSplit
from faceexpr.utils.errors import PREEMPTED, FaceExprError
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
    assert last_folder(["fit", *args], DEFAULT) == Path(folder)


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


def test_a_new_run_into_the_same_folder_replaces_no_checkpoint(run: Run, workdir: Path) -> None:
    for _ in range(2):
        run("fit", "--trainer.logger.version=x")
    assert sorted(path.name for path in Path("lightning_logs/x/checkpoints").glob("last*")) == [
        "last-v1.ckpt", "last.ckpt",
    ]  # fmt: skip


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


@pytest.mark.parametrize(
    ("longer", "epochs"), [(["--trainer.max_epochs=3"], 3), (["--trainer.max_epochs=-1", "--trainer.max_steps=12"], 3)]
)
def test_a_training_that_has_ended_goes_on_with_whole_epochs(
    longer: list[str], epochs: int, run: Run, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [argument.replace("12", "8").replace("=3", "=2") for argument in longer]
    run("fit", "--trainer.log_every_n_steps=1", *first)
    capsys.readouterr()
    main(["fit", "--ckpt_path", str(LAST), *TINY_RUN[1:], *longer])
    assert capsys.readouterr().out.count("epoch ") == 1  # the line of the third
    state = torch.load("lightning_logs/version_1/checkpoints/last.ckpt", weights_only=True)
    assert (state["epoch"] + 1, state["global_step"]) == (epochs, 4 * epochs)


def test_the_best_epoch_stays_where_no_validation_is_left(run: Run, workdir: Path) -> None:
    run("fit", "--trainer.max_epochs=-1", "--trainer.max_steps=5")
    run("fit", "--trainer.max_epochs=-1", "--trainer.max_steps=6", "--ckpt_path=last")
    for version in (0, 1):
        best = torch.load(f"lightning_logs/version_{version}/checkpoints/best.ckpt", weights_only=True)
        assert best["global_step"] == 4


def test_a_best_checkpoint_of_a_later_epoch_is_not_taken_for_that_of_an_earlier_one(run: Run, workdir: Path) -> None:
    # As after a kill between the best checkpoint of an epoch and the state that knows of it.
    run("fit", "--trainer.max_epochs=1", "--data.val_size=50", "--model.lr=0")
    best = LAST.with_name("best.ckpt")
    state = torch.load(best, weights_only=True)
    for key, value in state["callbacks"].items():
        if key.startswith("BestCheckpoint"):
            value["current_score"] = torch.tensor(0.99)
    torch.save(state, best)
    with pytest.warns(UserWarning, match=r"best\.ckpt is of an epoch after the checkpoint that is resumed"):
        main(["fit", "--ckpt_path", str(LAST), *TINY_RUN[1:], "--trainer.max_epochs=2"])
    assert torch.load("lightning_logs/version_1/checkpoints/best.ckpt", weights_only=True)["epoch"] == 1


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, io = tmp_path / "a/last.ckpt", WholeCheckpointIO()
    io.save_checkpoint({"state_dict": {}, "step": 1}, str(path))
    modes = {path.stat().st_mode & 0o777, (tmp_path / "a").stat().st_mode & 0o777 & 0o666}
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(FaceExprError, match=r"last\.ckpt cannot be written \(No space left on device\), and the one"):
        io.save_checkpoint({"state_dict": {}, "step": 2}, str(path))
    assert torch.load(path)["step"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
    assert modes == {0o644}  # as any other file, not private as temporary ones


def test_what_killed_writers_have_left_is_removed(tmp_path: Path) -> None:
    for name in (".last.ckpt.part", "last.ckpt", ".other"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    remove_parts(tmp_path / "missing")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other", "last.ckpt"]


def test_a_resumed_epoch_leaves_out_its_first_batches_and_no_other_epoch_does() -> None:
    split = FaceSplit(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.zeros(10, dtype=torch.int64), ["x"] * 10)

    def loader() -> BatchLoader:
        return BatchLoader(split, BatchSampler(10, 3, training=True, seed=4))

    def epoch(of: BatchLoader, number: int) -> list[list[int]]:
        of.sampler.set_epoch(number)
        return [batch["index"].tolist() for batch in of]

    whole, resumed = loader(), loader()
    whole.sampler.set_epoch(1)
    batches = iter(whole)
    next(batches), next(batches)
    assert whole.state_dict() == {"epoch": 1, "batches": 2, "samples": 3}
    resumed.load_state_dict(whole.state_dict())
    assert epoch(resumed, 1) == epoch(loader(), 1)[2:]
    assert resumed.state_dict() == {"epoch": 1, "batches": 4, "samples": 3}
    assert epoch(resumed, 2) == epoch(loader(), 2)
    assert len(resumed) == 4


def test_random_numbers_of_a_step_follow_from_the_step_alone() -> None:
    def draw(epoch: int, batch: int, rank: int = 0) -> tuple[float, float, float]:
        trainer: Any = type(
            "Trainer", (), {"current_epoch": epoch, "global_rank": rank, "strategy": Trainer().strategy}
        )
        module = LightningModule()
        seed = StepSeed()
        torch.manual_seed(3)
        seed.setup(trainer, module, "fit")
        torch.rand(5)
        seed.on_train_batch_start(trainer, module, None, batch)
        return float(torch.rand(())), random.random(), float(np.random.rand())

    assert draw(1, 2) == draw(1, 2)
    drawn = [draw(1, 2), draw(2, 1), draw(1, 3), draw(1, 2, rank=1)]
    assert all(len({numbers[column] for numbers in drawn}) == 4 for column in range(3))


def test_metrics_go_on_in_another_number_of_processes() -> None:
    class Model(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.loss = MeanMetric()

    class Process:
        callbacks: tuple[Any, ...] = ()

        def __init__(self, rank: int, count: int) -> None:
            self.global_rank, self.world_size = rank, count

    before: Any = Process(0, 1)
    states: dict[str, list[dict[str, torch.Tensor]]] = {"loss": []}
    for value, weight in ((1.0, 2), (4.0, 1), (7.0, 3)):  # three processes
        model = Model()
        model.loss.update(value, weight)
        states["loss"] += gathered_states(before, model)["loss"]
    counted = []
    for rank in range(2):
        model = Model()
        now: Any = Process(rank, 2)
        restore_states(now, model, states)
        counted.append((float(model.loss.mean_value), float(model.loss.weight)))
    assert counted == [(1.0 * 2 + 7 * 3, 5.0), (4.0, 1.0)]


@pytest.mark.slow
def test_sigterm_to_the_process_that_started_the_others(workdir: Path) -> None:
    args = ["fit", *TINY_DATA, *TINY_NET, *TINY_RUN[1:2], "--trainer.devices=2", "--trainer.max_epochs=100000"]
    command = [sys.executable, "-m", "faceexpr", *args]
    with Path("out").open("wb") as out, Path("err").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        while process.poll() is None and Path("out").read_bytes().count(b"\nepoch ") < 2:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == PREEMPTED
    assert f"{LAST} is saved" in Path("err").read_text()
    step = torch.load(LAST, weights_only=True)["global_step"]
    assert step > 4
