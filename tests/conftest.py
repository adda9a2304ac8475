"""What the tests share: a clean working folder, and the smallest runs through the command line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from faceexpr.cli.main import main
from faceexpr.cli.train import FaceExprCLI, import_short_names, quieten_libraries

# Lightning 2.6 calls names of jsonargparse that will go in 5.0; nothing of ours does.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"

REPOSITORY = Path(__file__).resolve().parents[1]

TINY_DATA = ["--data.train_size", "14", "--data.val_size", "7", "--data.test_size", "7", "--data.batch_size", "4"]
TINY_NET = ["--model.net", "MLP", "--model.net.hidden", "[8]"]
TINY_RUN = [
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--evaluation.figures=false",
    "--evaluation.resamples=50",
]

Run = Callable[..., None]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors are fastest on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no variable behind: Lightning writes the seed and, when distributed, addresses into the environment."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(workdir: Path) -> Run:
    """Run a verb on tiny synthetic data in an empty folder: ``run("fit", "--model.lr=0.1")``."""

    def tiny(verb: str, *args: str, data: bool = True, net: bool = True) -> None:
        own = ["--data", "SyntheticFaces", *TINY_DATA] if data else []
        main([verb, *own, *(TINY_NET if net else []), *TINY_RUN, *args])

    return tiny


def build_trainer(folder: Path, callback: Callback, **options: Any) -> Trainer:
    """Make a trainer with one callback, whose runs go into a folder."""
    options.setdefault("logger", TensorBoardLogger(folder, name="runs", default_hp_metric=False))
    options.setdefault("max_epochs", 1)
    return Trainer(
        callbacks=[callback],
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=options.pop("enable_checkpointing", False),
        log_every_n_steps=1,
        **options,
    )


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Make a trainer with one callback: ``make_trainer(callback, max_epochs=2)``."""
    return partial(build_trainer, tmp_path)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny checkpoints: a detector, a classifier of seven classes, and one of eight."""
    from analysis_runs import save_models

    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def analyze(models: Path, workdir: Path) -> Callable[..., int]:
    """Run ``faceexpr analyze`` with them in an empty folder: ``analyze("photos", "--pictures=true")``."""
    from analysis_runs import analyzer

    return analyzer(models)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of ``fit`` on tiny data, which nobody changes: see `fitted`."""
    root = tmp_path_factory.mktemp("trained_run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        main(["fit", "--data=SyntheticFaces", *TINY_DATA, *TINY_NET, *TINY_RUN])
    return root / "lightning_logs/version_0"


@pytest.fixture
def fitted(trained_run: Path, workdir: Path) -> Path:
    """A copy of that run as ``lightning_logs/version_0`` in an empty current folder."""
    return Path(shutil.copytree(trained_run, "lightning_logs/version_0"))


def built(args: list[str]) -> FaceExprCLI:
    """Return what these arguments of ``fit`` build, without training it."""
    import_short_names()
    quieten_libraries()
    return FaceExprCLI("fit", args)


def exit_code(function: Callable[[], None]) -> int:
    """Return the code that ``function`` exits with; 0 where it returns."""
    try:
        function()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0
