"""What the tests share: a clean working folder, and the smallest runs through the command line."""

import csv
import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
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


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors are fastest on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """Leave no variable behind: Lightning writes the seed and, when distributed, addresses into the environment."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(workdir):
    """Run a verb on tiny synthetic data in an empty folder: ``run("fit", "--model.lr=0.1")``."""

    def tiny(verb, *args, data=True, net=True):
        own = ["--data", "SyntheticFaces", *TINY_DATA] if data else []
        main([verb, *own, *(TINY_NET if net else []), *TINY_RUN, *args])

    return tiny


def build_trainer(folder, callback, **options):
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
def make_trainer(tmp_path):
    """Make a trainer with one callback: ``make_trainer(callback, max_epochs=2)``."""
    return partial(build_trainer, tmp_path)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with tiny checkpoints: a detector, a classifier of seven classes, and one of eight."""
    from analysis_runs import save_models

    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def analyze(models, workdir):
    """Run ``faceexpr analyze`` with them in an empty folder: ``analyze("photos", "--pictures=true")``."""
    from analysis_runs import analyzer

    return analyzer(models)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """The folder of a run of ``fit`` on tiny data, which nobody changes: see `fitted`."""
    root = tmp_path_factory.mktemp("trained_run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        main(["fit", "--data=SyntheticFaces", *TINY_DATA, *TINY_NET, *TINY_RUN])
    return root / "lightning_logs/version_0"


@pytest.fixture
def fitted(trained_run, workdir):
    """A copy of that run as ``lightning_logs/version_0`` in an empty current folder."""
    return Path(shutil.copytree(trained_run, "lightning_logs/version_0"))


def measured(run, stage):
    """Return what a run has recorded of a stage, "val" or "test"."""
    return json.loads(Path(run, "metrics.json").read_text(encoding="utf-8"))[stage]


def read_table(path):
    """Return the rows of a CSV file, each as a dictionary."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def built(args):
    """Return what these arguments of ``fit`` build, without training it."""
    import_short_names()
    quieten_libraries()
    return FaceExprCLI("fit", args)


def exit_code(function):
    """Return the code that ``function`` exits with; 0 where it returns."""
    try:
        function()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0
