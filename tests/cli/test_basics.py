"""The command itself: help, version, verbs, exit codes."""

import os
import subprocess
import sys

import pytest
import yaml
from conftest import TINY_DATA, TINY_RUN, exit_code, measured

from faceexpr import __version__
from faceexpr.cli.main import VERBS, main


def test_the_overview_names_every_verb_and_does_not_import_torch():
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


NOTEBOOK = "module://kernel_that_is_not_here.backend_inline"


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import faceexpr.cli.main as cli; cli.main(['fit', '--print_config'])",
        "import faceexpr.pipeline; from matplotlib import pyplot; print(pyplot.figure().canvas)",
    ],
)
def test_the_backend_of_a_notebook_breaks_nothing(code):  # N27
    environment = {**os.environ, "MPLBACKEND": NOTEBOOK}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "SimpleCNN" in result.stdout or "FigureCanvasAgg" in result.stdout


def test_unknown_verb_is_refused(capsys):
    assert exit_code(lambda: main(["fitt"])) == 2
    assert "fitt" in capsys.readouterr().err


def test_fit_with_defaults_of_everything_but_size(workdir):
    main(["fit", *TINY_DATA, *TINY_RUN])
    config = yaml.safe_load((workdir / "lightning_logs/version_0/config.yaml").read_text())
    assert config["data"]["class_path"] == "faceexpr.data.SyntheticFaces"
    assert config["model"]["init_args"]["net"]["class_path"] == "faceexpr.models.SimpleCNN"


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_no_checkpoint_is_an_error_that_says_how_to_name_one(verb, run, fitted, capsys):
    assert exit_code(lambda: run(verb)) == 2
    message = capsys.readouterr().err
    assert f"no weights to {verb}" in message
    assert f"with --ckpt_path, such as {fitted}" in message
    assert "Traceback" not in message


def test_a_saved_config_runs_again_in_every_verb(fitted):
    saved = str(fitted / "config.yaml")
    main(["fit", "--config", saved])
    for verb in ("validate", "test", "predict"):
        main([verb, "--config", saved, *(["--ckpt_path", str(fitted)] if verb == "validate" else [])])
        saved = (
            f"lightning_logs/version_0-{verb}/version_0/config.yaml"  # for the next one, which takes its checkpoint too
        )
    assert measured("lightning_logs/version_1", "val") == measured(fitted, "val")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--model.loss=CrossEntropy", "--model.loss.label_smoothing=2"], "label_smoothing"),
        (["--data=FER2013", "--data.path=missing.csv"], "missing.csv"),
        (["--model.optimizer.lr=-1"], "Invalid learning rate: -1.0"),
        (["--model.lr=fast"], "--model.lr is fast; expected a number"),
        (["--model.net.depth=18"], "--model.net.depth is no option; expected --model.net ResNet"),
        (["--evaluation.monitor=val/nll"], "--evaluation.monitor is taken from --checkpoint.monitor"),
        (["--trainer.strategy=foo"], "strategy='foo'"),
        (["--trainer.devices=-1"], "`devices` selected with `CPUAccelerator` should be an int > 0"),
        (
            ["--trainer.strategy=ddp_spawn"],
            "--trainer.strategy starts processes to which what a command line has built",
        ),
        (["--trainer.strategy=DDPStrategy", "--trainer.strategy.start_method=fork"], "--trainer.strategy starts proce"),
        (["--trainer.callbacks+=EarlyStopping"], "--trainer.callbacks.monitor is required by EarlyStopping"),
        (["--seed_everything=-5"], "-5 is not in bounds"),
        (["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=file/logs"], "file"),
    ],
)
def test_bad_options_are_one_sentence(args, expected, run, workdir, capsys):
    (workdir / "file").touch()  # a file is no folder, whoever asks
    data = not any(arg.startswith("--data=") for arg in args)
    net = not any(arg.startswith("--model.net=") for arg in args)
    assert exit_code(lambda: run("fit", *args, data=data, net=net)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("faceexpr fit: error: ")]
    assert len(lines) == 1
    assert expected in lines[0]


def test_classes_in_the_current_folder_are_found(workdir, monkeypatch):
    (workdir / "mynet.py").write_text(
        "from faceexpr.models.mlp import MLP\n\n\nclass Mine(MLP):\n    def __init__(self, num_classes: int) -> None:\n"
        "        super().__init__(num_classes, hidden=(4,))\n"
    )
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(workdir))])
    main(["fit", *TINY_DATA, *TINY_RUN, "--model.net=mynet.Mine"])
    del sys.modules["mynet"]
    assert "mynet.Mine" in (workdir / "lightning_logs/version_0/config.yaml").read_text()
