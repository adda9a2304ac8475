"""The folder and the record of a run, which are the same whatever its loggers are."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from conftest import TINY_RUN, exit_code
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.utilities import _scan_checkpoints

from faceexpr.callbacks.checkpointing import LastCheckpoint, WholeCheckpointIO
from faceexpr.cli.main import main
from faceexpr.weights.checkpoints import best_checkpoint

RUN = Path("lightning_logs/version_0")


def later(*values):
    """Return a case of a table that only `make test-all` tries."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Uploads(Logger):
    """Uploads checkpoints and takes figures as Lightning's loggers of Weights & Biases and MLflow do.

    Args:
        log_model: True keeps the callback and uploads at the end; ``all`` uploads after each save.
        one: keeps only the last callback, as MLflow's does.
        project: a name, which is no folder.
    """

    made: ClassVar[list[Any]] = []

    def __init__(self, log_model=True, one: bool = False, project: str = "lightning_logs", save_dir: str | None = None):
        super().__init__()
        self.log_model, self.one, self.project, self.folder = log_model, one, project, save_dir
        self.callbacks, self.times, self.figures, self.sent = {}, {}, [], []
        self.run_id = f"run{len(self.made)}"
        self.experiment = SimpleNamespace(log_figure=lambda *args: self.figures.append(args)) if one else None
        if not one:
            self.log_image = lambda name, images, step: self.figures.append((name, *images[0].size))
        self.made.append(self)

    name = property(lambda self: self.project)
    version = property(lambda self: self.run_id)
    save_dir = property(lambda self: self.folder)

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, *args, **kwargs):
        pass

    def after_save_checkpoint(self, checkpoint_callback):
        if self.log_model == "all":
            self.upload(checkpoint_callback)
        else:
            self.callbacks[0 if self.one else id(checkpoint_callback)] = checkpoint_callback

    def finalize(self, status):
        for callback in self.callbacks.values():
            self.upload(callback)
        self.callbacks = {}

    def upload(self, callback):
        for time, path, _, _ in _scan_checkpoints(callback, self.times):
            epoch = torch.load(path, weights_only=True)["epoch"]
            self.sent.append((Path(path).name, epoch, path == callback.best_model_path))
            self.times[path] = time


@pytest.fixture
def uploads(workdir):
    """Name a logger that uploads: ``uploads(one=True)``."""
    Uploads.made.clear()

    def name(**options):
        flags = [f"--trainer.logger.{key}={value}" for key, value in options.items()]
        return ["--trainer.logger=test_record.Uploads", *flags]

    return name


def read(folder=RUN):
    return json.loads((folder / "run.json").read_text())


STILL = ["--model.lr=0", "--checkpoint.save_top_k=-1", "--trainer.max_epochs=3"]
"""A training of which no epoch is better than the first, and which keeps all of them."""


# What the record says, and that it is what counts (case N20).


def test_the_record_says_what_was_run_and_which_checkpoints_it_has(run, caplog):
    run("fit", *STILL, "--checkpoint.filename=epoch{epoch}", "--seed_everything=3")
    record = read()
    assert record["best"].items() >= {"path": "checkpoints/epoch0.ckpt", "monitor": "val/accuracy", "epoch": 0}.items()
    assert record["best"]["score"] == pytest.approx(json.loads((RUN / "metrics.json").read_text())["val"]["accuracy"])
    assert record["last"] == {"path": "checkpoints/last.ckpt", "epoch": 2, "step": 12}
    assert (record["verb"], len(record["class_names"])) == ("fit", 7)
    face = {"margin": 0.05, "shape": "square", "min_face": 8, "channels": 1, "size": 48}
    assert record["pixels"] == {"face": face, "network": {"channels": 1, "size": 48}}
    assert record["command"].startswith("faceexpr fit --data SyntheticFaces")
    assert record["options"]["seed_everything"] == "3"
    assert record["started"] < record["ended"]
    assert set(record["versions"]) == {"python", "torch", "lightning"}
    assert "measure it with: faceexpr test --ckpt_path " in caplog.text
    assert "checkpoints/epoch0.ckpt" in caplog.text


def test_a_run_folder_means_its_best_epoch_also_as_a_copy(run, workdir):
    run("fit", *STILL)
    assert len([*RUN.glob("checkpoints/best*.ckpt")]) == 3
    main(["validate", f"--ckpt_path={RUN}", "--calibration.enabled=true", *TINY_RUN[1:]])
    assert read()["calibrated"] == {"path": "checkpoints/calibrated.ckpt", "of": "checkpoints/best.ckpt"}
    shutil.copytree(RUN, "copy", copy_function=shutil.copyfile)
    Path("copy/checkpoints/best-v2.ckpt").touch()
    assert best_checkpoint(Path("copy")) == Path("copy/checkpoints/calibrated.ckpt")
    main(["test", "--ckpt_path=copy", *TINY_RUN[1:]])
    assert read(Path("lightning_logs/copy-test/version_0"))["checkpoint"] == "../../../copy/checkpoints/calibrated.ckpt"
    # A better epoch is not calibrated yet.
    run("fit", f"--ckpt_path={RUN}/checkpoints/last.ckpt", "--model.lr=0.01", "--trainer.max_epochs=4",
        "--trainer.logger.version=0", "--checkpoint.monitor=val/loss", "--checkpoint.mode=min")  # fmt: skip
    assert read()["calibrated"] is None
    assert best_checkpoint(RUN).name != "calibrated.ckpt"


def test_checkpoints_in_a_folder_of_their_own_are_found_by_the_run(run, workdir):
    run("fit", "--checkpoint.dirpath=kept", "--last_checkpoint.dirpath=kept")
    assert read()["last"]["path"] == "../../kept/last.ckpt"
    main(["validate", f"--ckpt_path={RUN}", "--calibration.enabled=true", *TINY_RUN[1:]])
    assert best_checkpoint(RUN).resolve() == Path("kept/calibrated.ckpt").resolve()
    run("fit", "--last_checkpoint.dirpath=kept", "--ckpt_path=last", "--trainer.max_epochs=2")
    assert torch.load("kept/last.ckpt", weights_only=True)["global_step"] == 8


def test_a_run_that_was_resumed_keeps_the_best_epoch_in_its_record(run, workdir):
    run("fit")
    run("fit", f"--ckpt_path={RUN}/checkpoints/last.ckpt", "--trainer.max_epochs=2", "--model.lr=0")
    resumed = read(Path("lightning_logs/version_1"))
    assert resumed["best"]["epoch"] == 0
    assert resumed["resumed"] == "../version_0/checkpoints/last.ckpt"


# Loggers of any kind (cases N19, N22).


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("log_model", ["true", "all"])
def test_what_is_uploaded_as_the_best_is_the_best(log_model, one, run, uploads):
    run("fit", *uploads(log_model=log_model, one=one), *STILL[::2], "--trainer.max_epochs=3")
    sent = Uploads.made[0].sent
    assert [(name, epoch) for name, epoch, best in sent if best][-1] == ("best.ckpt", 0)
    assert not any(best for name, _, best in sent if name.startswith("last"))
    assert ("last.ckpt", 2, False) in sent


@pytest.mark.parametrize("one", [False, later(True)])
def test_each_run_has_a_folder_of_its_own_and_figures_reach_the_logger(one, run, uploads, workdir):
    for _ in range(2):
        run("fit", *uploads(one=one), "--evaluation.figures=true", "--trainer.default_root_dir=out")
    assert sorted(path.name for path in workdir.iterdir()) == ["out"]
    for number, logger in enumerate(Uploads.made):
        folder = Path(f"out/lightning_logs/version_{number}")
        assert {"checkpoints", "config.yaml", "figures", "metrics.json", "run.json"} <= {
            path.name for path in folder.iterdir()
        }
        expected = (logger.run_id, "figures/val_confusion_matrix.png") if one else ("val/confusion_matrix",)
        assert any({*expected} <= {arg for arg in args if isinstance(arg, str)} for args in logger.figures)


def test_without_a_logger_nobody_elses_file_is_touched(run, workdir):
    for name in ("config.yaml", "metrics.json", "predictions.csv"):
        Path(name).write_text("{}")
    for _ in range(2):
        run("fit", "--trainer.logger=false")
    main(["predict", f"--ckpt_path={RUN}", "--trainer.logger=false", *TINY_RUN[1:]])
    assert {path.name for path in workdir.iterdir()} == {
        "config.yaml", "metrics.json", "predictions.csv", "lightning_logs"
    }  # fmt: skip
    assert all(Path(name).read_text() == "{}" for name in ("config.yaml", "metrics.json", "predictions.csv"))
    assert [len([*Path("lightning_logs").glob(f"**/{name}")]) for name in ("metrics.json", "predictions.csv")] == [2, 1]


def test_a_folder_that_holds_a_run_takes_no_other_one(run, workdir, capsys):
    named = ["--trainer.logger.save_dir=runs", "--trainer.logger.version=x"]
    run("fit", *named)
    best = "--ckpt_path=runs/x"
    run("test", *named, best)  # its own checkpoint
    assert set(json.loads(Path("runs/x/metrics.json").read_text())) == {"val", "test"}
    assert read(Path("runs/x"))["verb"] == "fit"
    run("test", "--trainer.logger.save_dir=runs", "--trainer.logger.version=y", best)
    before = Path("runs/x/metrics.json").read_text()
    for args in (["fit", *named], ["fit", *named, "--trainer.logger=CSVLogger"], ["test", *named[:1], best,
                 "--trainer.logger.version=y"]):  # fmt: skip
        capsys.readouterr()
        assert exit_code(lambda args=args: run(*args)) == 2
        assert "holds another run already; expected a version of its own" in capsys.readouterr().err
    assert Path("runs/x/metrics.json").read_text() == before


# `--ckpt_path last` (case N21).

LISTS = "[{class_path: CSVLogger, init_args: {save_dir: a, name: b}}, {class_path: TensorBoardLogger, init_args: {save_dir: c}}]"  # noqa: E501


@pytest.mark.parametrize(
    ("logger", "folder"),
    [
        (["--trainer.logger.save_dir=runs", "--trainer.logger.version=1.0"], "runs/1.0"),
        later(["--trainer.logger.save_dir=runs", "--trainer.logger.version=2024-05-01"], "runs/2024-05-01"),
        later(["--trainer.logger.name=2024-05-01"], "lightning_logs/2024-05-01/version_{}"),
        (["--trainer.logger=CSVLogger", "--trainer.default_root_dir=out"], "out/lightning_logs/version_{}"),
        later(
            ["--trainer.logger=test_record.Uploads", "--trainer.default_root_dir=out"], "out/lightning_logs/version_{}"
        ),
        later(["--trainer.logger=false", "--trainer.default_root_dir=out"], "out/lightning_logs/version_{}"),
        later([f"--trainer.logger={LISTS}"], "a/b/version_{}"),
        later(["--config=named.yaml"], "lightning_logs/2024-05-01"),
    ],
)
def test_the_same_command_goes_on_where_its_run_was(logger, folder, run, workdir):
    Path("named.yaml").write_text("trainer: {logger: {class_path: TensorBoardLogger, init_args: {save_dir: "
                                  "lightning_logs, name: '', version: '2024-05-01'}}}\n")  # fmt: skip
    other = ["--data.train_size=15", "--trainer.logger.save_dir=lightning_logs"]
    run("fit", *other, "--trainer.logger.version=other")
    for epochs in (1, 2):
        run("fit", *logger, "--ckpt_path=last", f"--trainer.max_epochs={epochs}")
    records = [read(path.parent) for path in workdir.rglob("run.json") if path.parent.name != "other"]
    assert max(record["last"]["step"] for record in records) == 8
    assert sum(record["resumed"] is not None for record in records) == 1
    assert Path(folder.format(1), "checkpoints/last.ckpt").is_file()
    assert len(records) == (2 if "{}" in folder else 1)


@pytest.mark.slow
def test_a_training_is_the_same_run_with_every_logger(run, uploads, workdir):
    kinds = {
        "tensorboard": [],
        "csv": ["--trainer.logger=CSVLogger"],
        "wandb": uploads(log_model="all"),
        "mlflow": uploads(one=True),
        "list": [f"--trainer.logger={LISTS}"],
        "none": ["--trainer.logger=false"],
    }
    folders = [Path("a/b" if root == "list" else f"{root}/lightning_logs") for root in kinds]
    for epochs in (1, 2):
        for root, logger in kinds.items():
            options = [f"--trainer.default_root_dir={root}", "--ckpt_path=last", f"--trainer.max_epochs={epochs}"]
            run("fit", *logger, *options)
        runs = [folder / f"version_{epochs - 1}" for folder in folders]
        assert {read(each)["last"]["epoch"] for each in runs} == {epochs - 1}
        assert len({json.dumps(read(each)["best"]) for each in runs}) == 1
        assert {best_checkpoint(each).parent.parent for each in runs} == {*runs}
        states = [torch.load(each / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for each in runs]
        assert all(torch.equal(states[0][name], state[name]) for state in states for name in states[0])
        main(["compare", *map(str, runs), "--split=val", "--out=compared.json"])
        pairs = json.loads(Path("compared.json").read_text())["samples"]["all samples"]["pairs"]
        assert len(pairs) == 15
        assert not any(pair["difference"] or pair["only_first"] or pair["only_second"] for pair in pairs)


def test_a_command_does_not_go_on_with_another_training(run, workdir, capsys):
    run("fit")
    assert exit_code(lambda: run("fit", "--ckpt_path=last", "--data.seed=5")) == 2
    message = capsys.readouterr().err
    assert "ckpt_path is last, and no record says which of these is meant: lightning_logs/version_0;" in message
    assert "lightning_logs/version_0/checkpoints/last.ckpt" in message
    main(["fit", "--ckpt_path=last", *TINY_RUN[1:], "--trainer.max_epochs=2"])  # says nothing of model and data
    run("fit", "--ckpt_path=last", "--trainer.max_epochs=3")  # the command that has begun it
    assert read(Path("lightning_logs/version_2"))["last"]["step"] == 12


# Ctrl-C (case N07).


def test_an_interrupted_first_save_advises_nothing_that_is_not_there(run, workdir, monkeypatch, caplog):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_end", interrupted)
        assert exit_code(lambda: run("fit")) == 130
    assert "stopped at step 1; no state is saved yet" in caplog.text
    caplog.clear()
    whole = WholeCheckpointIO.save_checkpoint

    def in_the_middle(self, checkpoint, path, **options):
        if "last" in str(path):
            raise KeyboardInterrupt
        whole(self, checkpoint, path, **options)

    monkeypatch.setattr(WholeCheckpointIO, "save_checkpoint", in_the_middle)
    assert exit_code(lambda: run("fit")) == 130
    assert "no state is saved yet" in caplog.text
    assert "last.ckpt" not in caplog.text
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"]  # the first left none
    assert read()["stopped_by"] == "KeyboardInterrupt"


def test_finished_rows_of_a_prediction_survive_ctrl_c(run, workdir, monkeypatch, capsys):
    from faceexpr.callbacks.predictions import PredictionWriter

    run("fit")
    written = PredictionWriter.on_predict_batch_end

    def third(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 3:
            raise KeyboardInterrupt
        written(self, trainer, pl_module, outputs, batch, batch_idx)

    monkeypatch.setattr(PredictionWriter, "on_predict_batch_end", third)
    main_args = ["predict", f"--ckpt_path={RUN}", *TINY_RUN[1:], "--data.batch_size=1"]
    assert exit_code(lambda: main(main_args)) == 130
    rows = Path("lightning_logs/version_0-predict/version_0/predictions.csv").read_text().splitlines()[1:]
    assert [row.split(",")[-2] for row in rows] == ["ok"] * 3 + ["skipped"] * 4
    assert "4 of 7 inputs were left out, since prediction was stopped" in capsys.readouterr().out


@pytest.mark.parametrize("logger", [[], later(["--trainer.logger=CSVLogger"]), later(["--trainer.logger=false"])])
def test_a_run_that_fails_before_it_has_done_anything_leaves_no_folder(logger, run, workdir, capsys):
    for options in (["--checkpoint.monitor=val_acc"], ["--data.train_size=1"]):
        assert exit_code(lambda options=options: run("fit", *logger, *options)) == 2
        assert not [*workdir.iterdir()]
    Path("lightning_logs/version_0").mkdir(parents=True)  # somebody's own
    assert exit_code(lambda: run("fit", *logger, *options)) == 2
    assert [str(path) for path in workdir.rglob("*")] == [str(workdir / "lightning_logs"), str(workdir / RUN)]


def test_a_run_that_fails_later_keeps_its_folder(run, workdir, monkeypatch, caplog):
    monkeypatch.setattr(LastCheckpoint, "_save", lambda *args: 1 / 0)  # at the end of the first epoch
    with pytest.raises(ZeroDivisionError):
        run("fit")
    assert read()["stopped_by"] == "ZeroDivisionError"
    assert f"the run is in {RUN}" in caplog.text
