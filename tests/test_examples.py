"""The scripts and notebooks of ``examples/`` run, on tiny data."""

import ast
import json
from importlib import util
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import REPOSITORY, measured, read_table
from matplotlib.figure import Figure

from faceexpr.callbacks import ClassificationEvaluation
from faceexpr.pipeline.programs import load_exportable

EXAMPLES = REPOSITORY / "examples"
TINY = {"epochs": 1, "images": 70}


@pytest.fixture(autouse=True)
def quick(monkeypatch, workdir):
    """Draw one empty figure in the place of ten, in an empty folder."""
    monkeypatch.setattr(ClassificationEvaluation, "draw", lambda *_: {"confusion_matrix": Figure((1, 1))})
    monkeypatch.setattr(ClassificationEvaluation, "draw_training", lambda *_: {})
    monkeypatch.syspath_prepend(EXAMPLES)
    plt.switch_backend("agg")
    yield
    plt.close("all")


def example(name):
    """Return the module of a script."""
    spec = util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_plain_trainer_trains_and_measures_a_classifier():
    accuracy, probabilities = example("train").main(**TINY)
    run = Path("lightning_logs/version_0")
    assert measured(run, "test")["accuracy"] == pytest.approx(accuracy)
    assert {path.name for path in run.glob("*/*")} >= {"best.ckpt", "test_confusion_matrix.png"}
    assert probabilities.shape == (1, 7)
    assert float(probabilities.sum()) == pytest.approx(1)


def test_a_network_of_ones_own_is_trained_and_used_and_its_checkpoint_names_it():
    [face] = example("own_network").main(**TINY)
    assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-4)
    [saved] = Path("lightning_logs").rglob("*.ckpt")
    net = torch.load(saved, weights_only=True)["hyper_parameters"]["net"]
    assert net == {"class_path": "small_net.SmallNet", "init_args": {"channels": 32}}


def test_curves_go_to_a_csv_file():
    run = example("loggers").main("csv", **TINY)
    assert run == Path("runs/csv/version_0")
    last = read_table(run / "metrics.csv")[-1]
    assert {"train/loss", "val/accuracy"} <= last.keys()


@pytest.mark.parametrize(("kind", "places"), [("wandb", "wandb/offline-run-*"), ("mlflow", "mlflow/*/*/metrics")])
def test_curves_go_to_other_loggers(kind, places):
    pytest.importorskip(kind)
    run = example("loggers").main(kind, **TINY)
    assert measured(run, "val")["accuracy"] > 0
    [place] = Path("runs").glob(places)
    if kind == "mlflow":
        assert (place / "val" / "accuracy").is_file()
        assert list(Path("runs").rglob("val_confusion_matrix.png"))


def test_an_exported_classifier_is_used_in_torch_alone(trained_run):
    imported = [
        node for node in ast.walk(ast.parse((EXAMPLES / "plain_torch.py").read_text())) if hasattr(node, "names")
    ]
    used = {getattr(node, "module", None) or node.names[0].name for node in imported}
    assert used == {"json", "sys", "numpy", "torch", "PIL"}
    example("export").main(str(trained_run))
    found = example("plain_torch").main("expressions.pt2", "face.png")
    model = load_exportable(trained_run / "checkpoints/best.ckpt")
    pixels = torch.from_numpy(plt.imread("face.png")).permute(2, 0, 1)[None]
    assert list(found) == list(model.class_names)
    assert list(found.values()) == pytest.approx(model((pixels * 255).round().byte())[0].tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "smaller"),
    [
        ("photographs", {}),
        ("drawn_faces", {"SyntheticFaces(700, 140, 350": "SyntheticFaces(70, 14, 35", "EPOCHS = 5": "EPOCHS = 1"}),
    ],
)
def test_a_notebook_runs_from_top_to_bottom(name, smaller, capsys, monkeypatch):
    cells = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(any(text in source for source in sources) for text in smaller)
    # The figure that is shown is not drawn here.
    monkeypatch.setattr(plt, "imread", lambda path: [[float(Path(path).is_file())]])
    space = {}
    for source in sources:
        for text, less in smaller.items():
            source = source.replace(text, less)
        exec(compile(source, name, "exec"), space)
    printed = capsys.readouterr().out
    if name == "photographs":
        assert "missing.jpg error" in printed
        assert [len(result.faces) for result in space["found"].values()] == [1, 1, 1, 1]
    else:
        assert list(space["runs"]) == ["MLP", "SimpleCNN"]
        assert "MLP less SimpleCNN" in printed
    assert all(not cell.get("outputs") for cell in cells)
