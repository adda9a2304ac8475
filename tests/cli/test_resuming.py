"""What a checkpoint remembers, and what the user writes over it."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY_DATA, TINY_RUN, Run, exit_code

from faceexpr.cli.main import main
from faceexpr.models.mlp import MLP
from faceexpr.models.resnet import ResNet
from faceexpr.models.simple_cnn import SimpleCNN
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.tasks.losses import Focal
from faceexpr.utils.errors import FaceExprError

BEST = "lightning_logs/version_0/checkpoints/best.ckpt"
LAST = "lightning_logs/version_0/checkpoints/last.ckpt"

NETS: dict[str, list[str]] = {
    "MLP": ["--model.net=MLP", "--model.net.hidden=[8]", "--model.net.batch_norm=true"],
    "SimpleCNN": ["--model.net=SimpleCNN", "--model.net.dropout=0.5", "--model.net.batch_norm=true"],
    "ResNet": ["--model.net=ResNet", "--model.net.depth=18", "--model.net.stem=small"],
}


def test_every_shipped_network_is_covered() -> None:
    assert set(NETS) == {"MLP", "SimpleCNN", "ResNet"}


@pytest.mark.parametrize("net", NETS)
def test_e03_e14_checkpoints_load_safely_everywhere(net: str, run: Run, workdir: Path) -> None:
    extra = [
        *NETS[net],
        "--data.train_size=8",
        "--model.loss=Focal",
        "--model.optimizer=SGD",
        "--model.optimizer.lr=0.01",
    ]
    run("fit", *extra, net=False)
    checkpoint = torch.load(LAST, weights_only=True)
    assert plain(checkpoint["hyper_parameters"])
    assert plain(checkpoint["datamodule_hyper_parameters"])
    for verb in ("validate", "test", "predict"):
        main([verb, "--ckpt_path", LAST, *TINY_RUN[1:]])
    main(["fit", "--ckpt_path", LAST, *TINY_RUN[1:], "--trainer.max_epochs=2"])
    resumed = torch.load("lightning_logs/version_4/checkpoints/last.ckpt", weights_only=True)
    assert resumed["global_step"] == 2 * checkpoint["global_step"]
    main(["export", "--ckpt_path", LAST, "--out", "model.pt2"])

    model = ExpressionClassifier.load_from_checkpoint(LAST).eval()
    assert type(model.net).__name__ == net
    assert isinstance(model.loss, Focal)
    image = torch.randint(0, 256, (3, 1, 48, 48), dtype=torch.uint8)
    code = (
        "import sys, torch\nfrom faceexpr.tasks.classify import ExpressionClassifier\n"
        "model = ExpressionClassifier.load_from_checkpoint(sys.argv[1]).eval()\n"
        "torch.save(model(torch.load('image.pt')).detach(), 'result.pt')"
    )
    torch.save(image, "image.pt")
    subprocess.run([sys.executable, "-c", code, LAST], check=True)
    torch.testing.assert_close(torch.load("result.pt"), model(image).detach(), atol=1e-6, rtol=0)


def test_e03_learning_rate_finder_works(run: Run, workdir: Path) -> None:
    finder = "{class_path: LearningRateFinder, init_args: {num_training_steps: 20, early_stop_threshold: null}}"
    Path("finder.yaml").write_text(f"trainer: {{callbacks: [{finder}]}}")
    run("fit", "--config", "finder.yaml", "--data.train_size=28", "--trainer.max_epochs=5")
    assert learning_rate(LAST) != 0.001


def test_e03_an_unsafe_file_is_refused(workdir: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.system, ("touch harmed",)

    torch.save({"state_dict": {}, "payload": Harmful()}, "foreign.ckpt")
    assert exit_code(lambda: main(["test", "--ckpt_path", "foreign.ckpt"])) == 2
    assert "foreign.ckpt cannot be loaded as a checkpoint" in capsys.readouterr().err
    assert not Path("harmed").exists()


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def learning_rate(checkpoint: str) -> float:
    state = torch.load(checkpoint, weights_only=True)
    return float(state["optimizer_states"][0]["param_groups"][0]["lr"])


@pytest.mark.parametrize("flag", ["--model.optimizer.lr=0.001", "--model.lr=0.001"])
def test_e04_a_written_learning_rate_beats_the_checkpoints(
    flag: str, run: Run, workdir: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run("fit", "--model.optimizer=SGD", "--model.optimizer.lr=0.1", "--model.optimizer.momentum=0.9")
    assert learning_rate(LAST) == 0.1
    caplog.clear()
    main(["fit", "--ckpt_path", LAST, *TINY_RUN[1:], "--trainer.max_epochs=2", flag])
    resumed = "lightning_logs/version_1/checkpoints/last.ckpt"
    assert learning_rate(resumed) == 0.001
    assert "learning rate 0.001" in caplog.text
    state = torch.load(resumed, weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["momentum"] == 0.9
    main(["fit", "--ckpt_path", LAST, *TINY_RUN[1:], "--trainer.max_epochs=2"])
    assert learning_rate("lightning_logs/version_2/checkpoints/last.ckpt") == 0.1


def test_e04_another_network_is_one_clear_message(run: Run, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("fit")
    Path("cnn.yaml").write_text("model: {class_path: ExpressionClassifier, init_args: {net: {class_path: SimpleCNN}}}")
    assert exit_code(lambda: main(["test", "--ckpt_path", BEST, "--config", "cnn.yaml", *TINY_RUN[1:]])) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1
    assert "MLP(" in error[0]
    assert "SimpleCNN" in error[0]


def test_e04_last_is_the_newest_run_and_best_needs_a_run(
    run: Run, workdir: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert exit_code(lambda: run("test", "--ckpt_path=last")) == 2
    assert "no last.ckpt below lightning_logs" in capsys.readouterr().err
    caplog.set_level(logging.INFO)
    run("fit", "--ckpt_path=last")
    assert "there is no last.ckpt to go on from below lightning_logs: training starts anew" in caplog.text
    main(["fit", "--ckpt_path", "last", *TINY_RUN[1:], "--trainer.max_epochs=3"])
    assert torch.load("lightning_logs/version_1/checkpoints/last.ckpt", weights_only=True)["epoch"] == 2
    assert exit_code(lambda: main(["test", "--ckpt_path=best"])) == 2
    assert "knows of no run" in capsys.readouterr().err
    main(["test", "--ckpt_path=lightning_logs/version_1", *TINY_RUN[1:]])


def test_e04_evaluation_options_beat_the_checkpoint_too(run: Run, workdir: Path) -> None:
    run("fit")
    main(["test", "--ckpt_path", BEST, *TINY_RUN[1:], "--data.test_size=14", "--data.batch_size=3"])
    config = yaml.safe_load(Path("lightning_logs/version_1/config.yaml").read_text())
    assert (config["data"]["init_args"]["test_size"], config["data"]["init_args"]["batch_size"]) == (14, 3)
    assert config["model"]["init_args"]["net"]["init_args"]["hidden"] == [8]


@pytest.mark.parametrize("net", [MLP, SimpleCNN, partial(ResNet, depth=18), partial(MLP, hidden=(4,))])
def test_e14_models_built_in_python_load_with_the_path_only(net: Any, tmp_path: Path) -> None:
    from lightning.pytorch import Trainer

    from faceexpr.data.synthetic import SyntheticFaces

    model = ExpressionClassifier(net=net, optimizer=partial(torch.optim.SGD, lr=0.01))
    trainer = Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=SyntheticFaces(train_size=7, val_size=7))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = ExpressionClassifier.load_from_checkpoint(tmp_path / "model.ckpt").eval()
    image = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(loaded(image), model.eval()(image), atol=1e-6, rtol=0)
    assert loaded.class_names == model.class_names


def test_e14_a_checkpoint_with_missing_weights_says_what_is_missing(tmp_path: Path, run: Run) -> None:
    run("fit")
    checkpoint = torch.load(BEST, weights_only=True)
    removed = next(iter(checkpoint["state_dict"]))
    del checkpoint["state_dict"][removed]
    torch.save(checkpoint, "old.ckpt")
    with pytest.raises(FaceExprError, match=removed):
        ExpressionClassifier.load_from_checkpoint("old.ckpt")


def test_hyper_parameters_that_a_checkpoint_cannot_keep_are_refused() -> None:
    with pytest.raises(FaceExprError, match=r"model\.optimizer is .*lambda"):
        ExpressionClassifier(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))


def test_e06_a_second_run_into_the_same_folder_keeps_the_first_config(run: Run, workdir: Path) -> None:
    fixed = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=runs", "--trainer.logger.name=a",
             "--trainer.logger.version=x"]  # fmt: skip
    for lr in (0.1, 0.2):
        run("fit", *fixed, f"--model.lr={lr}")
    run("test", *fixed, "--ckpt_path=runs/a/x", "--model.lr=0.3")
    folder = Path("runs/a/x")
    rates = [
        yaml.safe_load((folder / name).read_text())["model"]["init_args"]["lr"]
        for name in ("config.1.yaml", "config.2.yaml", "config.yaml")
    ]
    assert rates == [0.1, 0.2, 0.3]
    import json

    assert set(json.loads((folder / "metrics.json").read_text())) == {"val", "test"}


def test_e06_two_processes_share_a_folder_without_hanging(workdir: Path) -> None:
    fixed = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=runs", "--trainer.logger.name=a",
             "--trainer.logger.version=x"]  # fmt: skip
    args = ["fit", *TINY_DATA, "--model.net=MLP", "--model.net.hidden=[8]", *TINY_RUN, *fixed, "--trainer.devices=2"]
    for _ in range(2):
        subprocess.run([sys.executable, "-m", "faceexpr", *args], check=True, timeout=180, capture_output=True)
    assert Path("runs/a/x/config.1.yaml").exists()
    assert Path("runs/a/x/config.yaml").exists()
