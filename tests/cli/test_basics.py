"""The command itself: help, version, verbs, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TINY_DATA, TINY_RUN, Run, exit_code

from faceexpr import __version__
from faceexpr.cli.main import VERBS, main


def test_the_overview_names_every_verb_and_does_not_import_torch() -> None:
    code = "import sys, faceexpr.cli.main as cli\n"
    for args in (["--version"], ["--help"], []):
        code += f"try:\n    cli.main({args})\nexcept SystemExit:\n    pass\n"
    code += "print('torch' in sys.modules, 'lightning' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, usage, *lines = result.stdout.splitlines()
    assert (version, usage) == (f"faceexpr {__version__}", "usage: faceexpr VERB ...")
    assert lines[-1] == "False False"
    assert lines.count(usage) == 1  # no verb at all
    assert all(verb in result.stdout for verb in VERBS)


def test_unknown_verb_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: main(["fitt"])) == 2
    assert "fitt" in capsys.readouterr().err


def test_fit_with_defaults_of_everything_but_size(workdir: Path) -> None:
    main(["fit", *TINY_DATA, *TINY_RUN])
    config = yaml.safe_load((workdir / "lightning_logs/version_0/config.yaml").read_text())
    assert config["data"]["class_path"] == "faceexpr.data.SyntheticFaces"
    assert config["model"]["init_args"]["net"]["class_path"] == "faceexpr.models.simple_cnn.SimpleCNN"


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_no_checkpoint_is_an_error_that_says_how_to_name_one(
    verb: str, run: Run, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(lambda: run(verb)) == 2
    message = capsys.readouterr().err
    assert f"no weights to {verb}" in message
    assert f"--ckpt_path {fitted}/checkpoints/best.ckpt" in message
    assert "Traceback" not in message


def test_a_saved_config_runs_again_in_every_verb(fitted: Path, workdir: Path) -> None:
    saved = str(fitted / "config.yaml")
    main(["fit", "--config", saved])
    for number, verb in enumerate(["validate", "test", "predict"], start=2):
        main([verb, "--config", saved, *(["--ckpt_path", str(fitted)] if verb == "validate" else [])])
        saved = f"lightning_logs/version_{number}/config.yaml"  # for the next one, which takes its checkpoint too
    first, second = (
        json.loads((workdir / f"lightning_logs/version_{n}/metrics.json").read_text())["val"] for n in (0, 1)
    )
    assert first == second


def test_test_needs_nothing_but_the_checkpoint(fitted: Path, workdir: Path) -> None:
    main(["test", "--ckpt_path", str(fitted), *TINY_RUN[1:]])
    measured = json.loads((workdir / "lightning_logs/version_1/metrics.json").read_text())["test"]
    assert measured["n"] == 7  # the test size that the checkpoint remembers, not the default's 800


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--model.loss=CrossEntropy", "--model.loss.label_smoothing=2"], "label_smoothing"),
        (["--data=FER2013", "--data.path=missing.csv"], "missing.csv"),
        (["--model.optimizer.lr=-1"], "Invalid learning rate: -1.0"),
        (["--model.lr=fast"], "Parser key \"lr\": Expected a <class 'float'>. Got value: fast"),
        (["--model.net.depth=18"], "Parser key \"net\": Option 'depth' is not accepted"),
        (["--evaluation.monitor=val/nll"], "--evaluation.monitor is taken from --checkpoint.monitor"),
        (["--trainer.strategy=foo"], "strategy='foo'"),
        (["--trainer.callbacks+=EarlyStopping"], "the following arguments are required: monitor"),
        (["--seed_everything=-5"], "-5 is not in bounds"),
        (["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=file/logs"], "file"),
    ],
)
def test_bad_options_are_one_sentence(
    args: list[str], expected: str, run: Run, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workdir / "file").touch()  # a file is no folder, whoever asks
    data = not any(arg.startswith("--data=") for arg in args)
    net = not any(arg.startswith("--model.net=") for arg in args)
    assert exit_code(lambda: run("fit", *args, data=data, net=net)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("faceexpr fit: error: ")]
    assert len(lines) == 1
    assert expected in lines[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\xff\xfe\x00", "bad.yaml"),
        (b"trainr: {max_epochs: 1}", "bad.yaml: Option 'trainr.max_epochs' is not accepted"),
        (b"model: {class_path: KNNClassifier, init_args: {kk: 3}}", 'bad.yaml: Parser key "model": '),
    ],
)
def test_a_wrong_configuration_is_named(
    text: bytes, expected: str, run: Run, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workdir / "bad.yaml").write_bytes(text)
    assert exit_code(lambda: run("fit", "--config", "bad.yaml")) == 2
    assert expected in capsys.readouterr().err


def test_classes_in_the_current_folder_are_found(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workdir / "mynet.py").write_text(
        "from faceexpr.models.mlp import MLP\n\n\nclass Mine(MLP):\n    def __init__(self, num_classes: int) -> None:\n"
        "        super().__init__(num_classes, hidden=(4,))\n"
    )
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(workdir))])
    main(["fit", *TINY_DATA, *TINY_RUN, "--model.net=mynet.Mine"])
    del sys.modules["mynet"]
    assert "mynet.Mine" in (workdir / "lightning_logs/version_0/config.yaml").read_text()
