"""How configuration files are read and written: keys that stand twice, words that are text, and UTF-8."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, TINY_DATA, TINY_NET, TINY_RUN, built, exit_code
from image_files import encoded, smooth_image

from faceexpr.cli.main import main
from faceexpr.cli.parser import Parser, load_yaml, read_config
from faceexpr.cli.sweep import read_options
from faceexpr.utils.errors import FaceExprError

CLASS = "class_path: SyntheticFaces\nclass_path: FER2013\n"
TWICE = "trainer: {max_epochs: 2}\n# of another page\ntrainer: {fast_dev_run: true}\n"


@pytest.mark.parametrize(
    ("args", "text", "message"),
    [
        (["fit", "--config=two.yaml"], TWICE, "two.yaml, line 3: trainer stands twice, first in line 1"),
        (["fit", "--config=two.yaml"], "trainer:\n  max_epochs: 2\n  max_epochs: 3\n", "two.yaml, line 3: max_"),
        (
            ["fit", "--config=outer.yaml"],
            CLASS,
            "two.yaml, line 2: class_",
        ),
        (
            ["fit", "--data=two.yaml"],
            CLASS,
            "two.yaml, line 2: class_path",
        ),
        (["sweep", "--sweep=two.yaml"], "method: grid\nmethod: search\n", "two.yaml, line 2: method stands twice"),
        (["analyze", "photos", "--config=two.yaml"], "out: a\n'out': b\n", "two.yaml, line 2: out stands twice"),
        (
            ["detectron2", "fit", "--config=two.yaml"],
            "opts: {SEED: 1, SEED: 2}\n",
            "two.yaml, line 1: SEED stands",
        ),
        (["detectron2", "fit", "--data=two.yaml"], "train: a\ntrain: b\n", "line 2: train stands twice"),
        (["detectron2", "fit", "--model=two.yaml"], "SEED: 1\nSEED: 2\n", "two.yaml, line 2: SEED stands twice"),
        (["fit", "--trainer.logger.dict_kwargs={a: 1, a: 2}"], "", "line 1: a stands twice, first in line 1"),
    ],
)  # case N24
def test_a_key_that_stands_twice_is_an_error_with_its_line_in_every_file(args, text, message, workdir, capsys):
    Path("two.yaml").write_text(text)
    Path("outer.yaml").write_text("data: two.yaml\n")
    assert exit_code(lambda: main(args)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: yes", {"name": "yes"}),
        ("a: [no, on, 0042, 1_000]", {"a": ["no", "on", "0042", "1_000"]}),
        ("a: [1:30, 0x1F, 2024-05-01]", {"a": ["1:30", "0x1F", "2024-05-01"]}),
        ("yes: 1", {"yes": 1}),
        ("name: 2024\nversion: 1.50\nx.class_names: [1, true, null]", {"name": "2024", "version": "1.50",
            "x.class_names": ["1", "true", None]}),
        ("a: [1, -2.5, 1e-4, .5, true, null, .inf]\nb: False", {"a": [1, -2.5, 1e-4, 0.5, True, None, float("inf")],
            "b": False}),
        ("&a [*a, 012]", None),
        ("yes", True),  # alone, as the value of a flag, whose type decides
    ],
)  # fmt: skip
def test_words_that_only_yaml_takes_for_other_types_are_text(text, expected):
    found = load_yaml(text)
    if expected is None:
        assert found[1] == "012"
    else:
        assert found == expected


def test_text_becomes_what_an_option_expects(workdir):
    Path("words.yaml").write_text(
        "trainer:\n  fast_dev_run: yes\n  max_epochs: 0012\n  logger:\n    class_path: TensorBoardLogger\n"
        "    init_args: {name: 2024-05-01, version: 1.0}\n"
    )
    options = built(["--config=words.yaml"]).config.trainer
    assert (options.fast_dev_run, options.max_epochs) == (True, 12)
    assert (options.logger.init_args.name, options.logger.init_args.version) == ("2024-05-01", "1.0")
    Path("days.yaml").write_text("name: 0042\nparameters: {model.net: [MLP], data.path: [2013-01-01]}\n")
    sweep, _ = read_options(["--sweep=days.yaml"])
    assert (sweep.name, sweep.parameters["data.path"]) == ("0042", ["2013-01-01"])


@pytest.mark.parametrize("written", ["[1, 2024, true, 1e3]", "[1,2024,true,1e3]"])
def test_names_and_files_are_text_in_files_and_in_flags(written, workdir):
    text = f"{{class_path: FaceFolder, init_args: {{path: 2013, cache_dir: 1.50, class_names: {written}}}}}"
    Path("numbers.yaml").write_text(f"data: {text}\ntrainer: {{default_root_dir: 7}}\n")
    classes = ["--data.class_names", written]
    flags = ["--data=FaceFolder", "--data.path=2013", "--data.cache_dir=1.50", "--trainer.default_root_dir=7"]
    for args in (["--config=numbers.yaml"], [*flags, *classes], [*flags, "=".join(classes)], [f"--data={text}"]):
        options = built(args).config.data.init_args
        assert (options.path, options.cache_dir) == ("2013", "1.50")
        assert options.class_names == ["1", "2024", "true", "1e3"]
    assert built(["--data=FaceFiles", "--data.paths=[1,2]"]).config.data.init_args.paths == ["1", "2"]


def test_a_version_is_the_name_of_the_folder_as_it_is_written(workdir):
    for number, (written, folder) in enumerate(
        [("v0042", "v0042"), ("7", "version_7"), ("1.0", "1.0"), ("yes", "yes")]
    ):
        Path("version.yaml").write_text(f"trainer: {{logger: {{init_args: {{version: {written}}}}}}}")
        option = [["--config=version.yaml"], [f"--trainer.logger.version={written}"]][number % 2]
        assert built(option).trainer.log_dir == f"lightning_logs/{folder}"
    for option in ("--trainer.logger.version=0042", "--config=version.yaml"):
        Path("version.yaml").write_text("trainer: {logger: {init_args: {version: 0042}}}")
        with pytest.raises(FaceExprError, match="version is 0042; expected 42, or a name such as v0042"):
            built([option])


def test_files_that_a_configuration_names_are_looked_for_beside_it(workdir):
    Path("configs").mkdir()
    Path("configs/base.yaml").write_text("data: small.yaml")
    Path("configs/small.yaml").write_text("{class_path: SyntheticFaces, init_args: {train_size: 21}}")
    assert built(["--config=configs/base.yaml"]).config.data.init_args.train_size == 21


def run_in_ascii(*args):
    """Run a command line where the system's encoding is ASCII."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "faceexpr", *args], env=kept | ascii_only, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.slow
def test_utf_8_is_read_and_written_whatever_the_systems_encoding(workdir):  # case N28
    for split in ("train", "val", "test"):
        for seed, name in enumerate(("müde", "wach 顔")):
            file = Path("gesichter-ü", split, name, "ö.png")
            file.parent.mkdir(parents=True)
            file.write_bytes(encoded(smooth_image(48, 48, seed=seed), "PNG"))
    data = "class_path: FaceFolder\ninit_args: {path: gesichter-ü, class_names: [müde, wach 顔], batch_size: 2}\n"
    Path("data.yaml").write_text(data, encoding="utf-8")
    Path("faces.yaml").write_text("data: data.yaml\n", encoding="utf-8")
    run_in_ascii("fit", "--config=faces.yaml", *TINY_NET, *TINY_RUN)
    run = Path("lightning_logs/version_0")
    assert read_config(run / "config.yaml")["data"]["init_args"]["class_names"] == ["müde", "wach 顔"]
    with gzip.open(run / "predictions_val.csv.gz", "rt", encoding="utf-8") as predictions:
        assert "müde" in predictions.readline()


def test_a_configuration_is_saved_in_utf_8_and_printed_so_to_files(workdir, monkeypatch):
    cli = built([*TINY_DATA, "--trainer.logger.name=größe"])
    with monkeypatch.context() as patch:
        patch.setattr("io.text_encoding", lambda *args: "latin-1")
        cli.parser.save(cli.config, "saved.yaml", skip_none=False, overwrite=True, multifile=False)
    assert "größe".encode() in Path("saved.yaml").read_bytes()


def test_a_file_that_is_not_utf_8_is_refused(workdir):
    Path("latin.yaml").write_bytes("name: größe".encode("latin-1"))
    with pytest.raises(FaceExprError, match=r"latin\.yaml: not a text file; expected YAML"):
        read_config(Path("latin.yaml"))


def test_help_quotes_names_once():
    parser = Parser()
    parser.add_argument("--net", help="such as ``SimpleCNN``")
    assert "such as `SimpleCNN`" in parser.format_help()
