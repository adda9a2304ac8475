"""The cards of the models that ship say what was measured, and nobody typed it."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY, measured
from torch.utils.tensorboard import SummaryWriter

from faceexpr.pipeline.programs import load_exportable
from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.model_file import shipped_models

sys.path.insert(0, str(REPOSITORY / "docs"))

from cards import blocks
from cards.benchmark import read_benchmark
from cards.collect import FIGURES, minutes
from cards.command import commands, training_command
from cards.page import page
from model_card import main, written

MODELS = REPOSITORY / "docs" / "models"
CARDS = sorted(path.stem for path in MODELS.glob("*.json"))

BENCHMARK = """2 threads
134 images, 414 faces
ours        AP50 0.8767  AP 0.5740  first   18.0 ms, ours/this 1.00  again   17.5 ms, ours/this 1.00
YuNet, all  AP50 0.9350  AP 0.6000  first   40.0 ms, ours/this 0.45  again   10.0 ms, ours/this 1.75
MTCNN       not installed, or no file given
"""


def stored(name):
    return json.loads((MODELS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_what_the_stored_results_give_and_its_prose_has_no_figures_of_its_own(name):
    text = (MODELS / f"{name}.md").read_text(encoding="utf-8")
    assert text == written(MODELS, name)
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in linked if not (MODELS / link).exists()] == []
    assert {path.name for path in MODELS.glob(f"{name}_*.png")} == {link for link in linked if link.endswith(".png")}
    prose = (MODELS / f"{name}.prose.md").read_text(encoding="utf-8")
    assert re.findall(r"\d\s*%|0\.\d{3}|\d,\d{3}", prose) == []
    # No folder of the machine.
    assert re.findall(r"(?<![\w.])/(?:work|home|root|tmp|mnt|data)/\S*", json.dumps(stored(name))) == []


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_sizes_are_those_of_the_file_that_ships(name):
    path = shipped_models()[name]
    found, model = stored(name), load_exportable(path)
    assert found["bytes"] == path.stat().st_size
    assert found["parameters"] == sum(weights.numel() for weights in model.parameters())
    assert found["network"] == type(model.net).__name__
    if "class_names" in found["test"]:
        assert tuple(found["test"]["class_names"]) == model.class_names


def kept(name, **trainer):
    """A configuration as a run keeps it."""
    return {
        "seed_everything": 0,
        "ckpt_path": "/data/last.ckpt",
        "trainer": {"logger": {"init_args": {"name": name, "save_dir": "/data/runs"}}, **trainer},
        "model": {"class_path": "faceexpr.tasks.classify.ExpressionClassifier", "init_args": {"gone": 3}},
        "data": {"class_path": "faceexpr.data.fer2013.FER2013", "init_args": {"path": "/data/sets/fer2013.csv.gz"}},
    }


def test_the_command_has_the_flags_in_which_a_run_differs_and_no_folder():
    config = kept("fer2013_compact", max_epochs=81, precision="32-true", check_val_every_n_epoch=1)
    config["model"]["init_args"]["net"] = {"class_path": "x.CompactResNet", "init_args": {"stem": 32}}
    assert training_command(config, REPOSITORY / "configs").split() == [
        "faceexpr", "fit", "--config", "configs/expression/fer2013_compact.yaml",
        "--trainer.max_epochs", "81", "--trainer.precision", "32-true",
        "--model.net", "x.CompactResNet", "--model.net.stem", "32", "--data.path", "fer2013.csv.gz",
    ]  # fmt: skip


def test_a_training_in_stages_has_a_command_for_each_and_one_for_an_interrupted_one():
    first, later = kept("fer2013_compact"), kept("mine", max_epochs=10)
    later["model"]["init_args"]["weights"] = "/data/runs/best.ckpt"
    found = commands([first, first, later], REPOSITORY / "configs", "fer2013_compact")
    begun = "faceexpr fit --config configs/expression/fer2013_compact.yaml"
    assert found == [
        f"{begun} --data.path fer2013.csv.gz",
        f"{begun} --trainer.max_epochs 10 --data.path fer2013.csv.gz --model.weights BEFORE",
    ]
    first["model"]["init_args"]["weights"] = "/data/runs/best.ckpt"
    command = f"{begun} --model.weights best.ckpt --data.path fer2013.csv.gz"
    assert commands([first], REPOSITORY / "configs", None) == [command]
    with pytest.raises(FaceExprError, match=r"called 'mine', but .* has no mine\.yaml"):
        training_command(later, REPOSITORY / "configs")


def test_minutes_are_from_the_first_event_to_the_last(tmp_path):
    for _ in range(2):
        # Each file begins with an event of its own, which has the time of this test.
        start = time.time()
        with SummaryWriter(tmp_path) as writer:
            writer.add_scalar("loss", 0, 0, walltime=start + 90)
    assert minutes(tmp_path) == pytest.approx(3, abs=0.2)


def test_the_benchmark_is_read_as_it_is_printed(tmp_path):
    path = tmp_path / "printed.txt"
    path.write_text(BENCHMARK)
    found = read_benchmark(path)
    assert (found["threads"], found["pictures"], found["faces"]) == (2, 134, 414)
    assert [row["name"] for row in found["rows"]] == ["ours", "YuNet, all"]
    assert found["rows"][1] == {
        "name": "YuNet, all", "ap50": 0.935, "ap": 0.6, "first": 40.0, "first_ratio": 0.45, "again": 10.0,
        "again_ratio": 1.75,
    }  # fmt: skip
    path.write_text("nothing\n")
    with pytest.raises(FaceExprError, match=r"expected what benchmarks/detection\.py prints"):
        read_benchmark(path)


def test_a_class_is_told_by_what_it_is_most_often_taken_for():
    one = {"n": 10, "precision": 0.5, "recall": 0.6, "f1": None}
    test = {"class_names": ["A", "B", "C"], "per_class": {"A": one, "B": one, "C": one}}
    test["confusion_matrix"] = [[6, 1, 3], [0, 10, 0], [9, 1, 0]]
    rows = blocks.per_class({"name": "x", "test": test}, ()).splitlines()[2:]
    assert [row.split(" | ")[-1] for row in rows] == ["C, 30% |", " |", "A, 90% |"]
    assert rows[0].startswith("| A | 10 | 50.0% | 60.0% | not defined |")


def test_groups_have_a_section_where_they_were_measured():
    groups = {
        "male": {"n": 20, "metrics": {"recall": {"value": 0.9, "low": 0.7, "high": 1.0}}},
        "female": {"n": 30, "metrics": {"recall": {"value": 0.8, "low": 0.65, "high": 0.95}}},
        "unknown": {"n": 3, "metrics": {}},
    }
    test = {"difference": 0.1, "highest": "male", "lowest": "female", "p": 0.2, "p_holm": 0.4}
    column = {"unit": "face", "main": "recall", "groups": groups, "differences": {"recall": test}}
    found = {"name": "x", "slices": {"resamples": 1000, "seed": 0, "columns": {"gender": column}}}
    text = page(found, "# x\n\n{slices}\n\n## Known weaknesses\n", {"slices"})
    assert "\n## By group\n" in text
    assert "| female | 30 | 0.8000 | 0.6500 to 0.9500 |\n| unknown | 3 | too few |  |" in text
    assert "Largest difference: 0.1000, male over female, p 0.400." in text
    assert "(x_slices.png)" in text
    assert "group" not in page({"name": "x"}, "# x\n\n{slices}\n\n## Known weaknesses\n", frozenset())


def test_prose_that_asks_for_what_there_is_not_and_runs_without_a_test_are_refused(tmp_path):
    with pytest.raises(FaceExprError, match=r"the prose of x has \{nothing\}; expected one of facts"):
        page({"name": "x"}, "# x\n\n{nothing}\n", frozenset())
    with pytest.raises(FaceExprError, match="not both --train and --test"):
        main("x", train=[tmp_path], folder=tmp_path)


@pytest.mark.slow
def test_a_card_is_collected_from_the_folders_of_runs(run, workdir):
    logger = ["--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "runs", "--trainer.logger.version"]
    name = ["--trainer.logger.name", "synthetic_simple_cnn"]
    run("fit", *logger, "0", *name, "--evaluation.figures=true")
    trained = Path("runs/synthetic_simple_cnn/version_0")
    run("test", f"--ckpt_path={trained}", *logger, "1", *name, "--evaluation.figures=true", net=False)
    tested = Path("runs/synthetic_simple_cnn/version_1")
    cards = workdir / "cards"
    cards.mkdir()
    (cards / "tiny.prose.md").write_text("# tiny\n\n{facts}\n\n{results}\n\n{per_class}\n\n{robustness}\n\n{ferplus}\n")
    (cards / "tiny_robustness.png").write_bytes(b"of an older test")
    main("tiny", train=[trained], test=tested, folder=cards)
    found = json.loads((cards / "tiny.json").read_text())
    metrics = measured(tested, "test")
    assert found["test"] == metrics
    assert found["training"]["best_epoch"] == found["training"]["epochs"] == 1
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert found["training"]["seed"] == config["seed_everything"]
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    learned = sum(t.numel() for name, t in checkpoint["state_dict"].items() if not name.startswith("net.preprocess."))
    assert found["parameters"] == learned
    text = (cards / "tiny.md").read_text()
    assert f"| accuracy | {found['validation']['accuracy']:.2%} | {metrics['accuracy']:.2%} |" in text
    assert re.search(r"--model.net faceexpr.models.MLP .*--data.train_size 14 .*\n(.*\n)*Not measured\.", text)
    shown = [figure for figure in FIGURES if (cards / f"tiny_{figure}.png").exists()]
    assert shown == ["confusion_matrix", "reliability"]
    assert "(tiny_confusion_matrix.png)" in text
    assert not (cards / "tiny_robustness.png").exists()
    Path("other").mkdir()
    Path("other/config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(FaceExprError, match="expected a checkpoint below other"):
        main("tiny", train=[Path("other")], test=tested, folder=cards)
