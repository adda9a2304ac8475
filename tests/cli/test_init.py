"""Configurations that come with the package: found by name from any folder, and copied to be edited."""

from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, built, exit_code

from faceexpr.cli.main import main
from faceexpr.cli.sweep import read_options
from faceexpr.utils.configurations import SHIPPED, find_config, shipped_configs, shipped_file


def test_each_is_found_by_its_name_its_file_and_its_path(workdir):
    assert SHIPPED == REPOSITORY / "configs"
    known = shipped_configs()
    assert len(known) == len(list(SHIPPED.rglob("*.yaml")))  # no two have one name
    for name, path in known.items():
        inner = path.relative_to(SHIPPED).as_posix()
        assert {find_config(each) for each in (name, f"{name}.yaml", inner, f"configs/{inner}")} == {path}


def test_a_training_and_a_sweep_take_them_by_name_in_any_folder(workdir):
    cli = built(["--config", "synthetic_simple_cnn", "--config", "fast"])
    assert cli.config.trainer.fast_dev_run is True
    assert cli.written["trainer.logger.name"] == "synthetic_simple_cnn"
    options, _ = read_options(["--sweep", "paper_activation", "--config", "fer2013_mlp"])
    assert options.name == "paper_activation"
    assert options.parameters == {"model.net.activation": ["sigmoid", "relu", "tanh"]}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fit", "--config=fer2013_compcat"], "the nearest is fer2013_compact; the help of `faceexpr init` lists"),
        (["fit", "--config=configs/expresion/fer2013_mlp.yaml"], "the nearest is fer2013_mlp"),
        (["sweep", "--sweep=paper_activaton"], "the nearest is paper_activation"),
        (["analyze", "--config=mine.yaml"], "mine.yaml is neither a file nor a configuration that comes with faceexpr"),
        (["init", "fer2013_compcat"], "the nearest is fer2013_compact; `faceexpr init --help` lists"),
        (["initt"], "initt is no verb; the nearest is init"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(args, message, workdir, capsys):
    assert exit_code(lambda: main(args)) == 2
    assert message in capsys.readouterr().err


def test_copies_are_what_ships_and_the_name_then_means_the_copy(workdir, capsys):
    main(["init", "fer2013_mlp"])
    copy = Path("configs/expression/fer2013_mlp.yaml")
    assert [path for path in Path().rglob("*") if path.is_file()] == [copy]
    assert capsys.readouterr().out.startswith(f"{copy}  The paper's fully connected network")
    assert copy.read_bytes() == (SHIPPED / "expression/fer2013_mlp.yaml").read_bytes()
    main(["init", "fer2013_mlp"])  # which changes nothing
    copy.write_text("trainer: {max_epochs: 3}")
    assert find_config("fer2013_mlp") == copy
    assert exit_code(lambda: main(["init"])) == 2
    assert "configs/expression/fer2013_mlp.yaml: there already, and edited" in capsys.readouterr().err
    assert not Path("configs/paper").exists()  # nothing or all


def test_copies_elsewhere_name_the_files_beside_them(workdir, capsys):
    main(["init", "paper", "--out=my/own"])
    copied = {path.relative_to("my/own") for path in Path("my/own").rglob("*") if path.is_file()}
    assert copied == {path.relative_to(SHIPPED) for path in (SHIPPED / "paper").rglob("*") if path.is_file()}
    text = Path("my/own/paper/dataset1_light.yaml").read_text(encoding="utf-8")
    assert "faceexpr fit --config my/own/paper/dataset1_light.yaml" in text
    listed = Path(yaml.safe_load(text)["data"]["init_args"]["test_list"])
    assert listed == Path("my/own/paper/dataset1/test_0.txt")
    assert listed.read_bytes() == (SHIPPED / "paper/dataset1/test_0.txt").read_bytes()


def test_lists_of_the_papers_division_are_found_from_any_folder(workdir):
    listed = Path("configs/paper/dataset1/test_0.txt")
    assert shipped_file(listed) == SHIPPED / "paper/dataset1/test_0.txt"
    assert shipped_file(Path("paper/dataset1/test_0.txt")) == Path("paper/dataset1/test_0.txt")
    listed.parent.mkdir(parents=True)
    listed.write_text("mine.jpg\n")
    assert shipped_file(listed) == listed
