"""Weights that a task starts from: what is taken over, what is not, and that they are read once; copies of a task."""

import importlib
import io
import shutil
import sys
import threading
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN, exit_code, measured
from lightning.pytorch import Trainer
from red_finder import save_task, tiny_classifier
from torch.utils.data import DataLoader, TensorDataset

from faceexpr.callbacks import ClassificationEvaluation, DetectionEvaluation
from faceexpr.cli.main import main
from faceexpr.data import SyntheticFaces, SyntheticScenes
from faceexpr.models.light_detector import LightDetector
from faceexpr.models.mlp import MLP
from faceexpr.models.resnet import ResNet
from faceexpr.pipeline.classifiers import load_classifier
from faceexpr.tasks.base import load_weights
from faceexpr.tasks.classify import ExpressionClassifier, Focal
from faceexpr.tasks.detect import FaceDetector
from faceexpr.tasks.knn import KNNClassifier, NetworkFeatures
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES
from faceexpr.weights.checkpoints import read_checkpoint

FACES = torch.randint(0, 256, (5, 1, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LAST_RUN = "lightning_logs/version_{}/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def trained(folder):
    """A classifier of FER-2013's classes, in trained.ckpt and as a model file."""
    task = tiny_classifier().eval()
    save_task(task, folder / "trained.ckpt")
    main(["export", f"--ckpt_path={folder}/trained.ckpt", f"--out={folder}/trained.safetensors"])
    return task


def fresh(seed=2, hidden=8, **options):
    torch.manual_seed(seed)
    return ExpressionClassifier(net=partial(MLP, hidden=[hidden]), **options).eval()


@pytest.fixture
def start(trained, folder):
    """Give a task the weights of a file of the trained classifier."""

    def load(task, written="trained.ckpt"):
        load_weights(task.net, task.hparams["net"], str(folder / written), task.class_names)
        return task

    return load


def nets(path):
    return {name: value for name, value in read_checkpoint(Path(path))["state_dict"].items() if name.startswith("net.")}


def test_all_weights_are_taken_over(trained, start):
    with torch.inference_mode():
        assert torch.equal(start(fresh())(FACES), trained(FACES))
        assert (start(fresh(), "trained.safetensors")(FACES) - trained(FACES)).abs().max() < 1e-3


def test_classes_in_another_order_keep_their_weights(trained, start):
    order = ("Neutral", "happiness", "Sad", "Fear", "Surprise", "Disgust", "Angry")
    task = start(fresh(class_names=order))
    places = [FER_NAMES.index(name) for name in ("Neutral", "Happy", "Sad", "Fear", "Surprise", "Disgust", "Angry")]
    with torch.inference_mode():
        torch.testing.assert_close(task(FACES), trained(FACES)[:, places])


@pytest.mark.parametrize("names", [("Happy", "Sad", "Contempt"), tuple("abcdefg")], ids=["fewer", "others"])
def test_other_classes_leave_the_last_layer_as_it_is_and_say_so(names, trained, start, caplog):
    task, untouched = start(fresh(class_names=names)), fresh(class_names=names)
    own, other, before = (model.net.state_dict() for model in (task, trained, untouched))
    first, last = list(own)[2], "layers.3.weight"
    assert [name for name in own if name.startswith("layers.")][-2:] == [last, "layers.3.bias"]
    for name, value in own.items():
        assert torch.equal(value, (before if name.startswith("layers.3.") else other)[name])
    assert not torch.equal(before[first], other[first])
    said = " ".join(record.getMessage() for record in caplog.records)
    assert f"the last layer, {last} and layers.3.bias, starts from scratch" in said


def test_weights_of_another_network_are_refused(start, folder):
    with pytest.raises(FaceExprError, match=r"weights of MLP\(hidden=\[8\].*\), but the configuration asks for MLP\("):
        start(fresh(hidden=16))
    detector = FaceDetector(net=LightDetector(widths=(4, 8, 8, 16, 16), neck=8))
    with pytest.raises(FaceExprError, match=r"but the configuration asks for LightDetector\(widths"):
        load_weights(detector.net, detector.hparams["net"], str(folder / "trained.ckpt"))
    with pytest.raises(FaceExprError, match=r"nowhere does not exist; .*fer2013_compact"):
        start(fresh(), "nowhere")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: ExpressionClassifier(net="SimpleCNN"), "net is 'SimpleCNN'; .* such as SimpleCNN of faceexpr.models"),
        (lambda: ExpressionClassifier(net=None), "net is a NoneType; expected an ExpressionNet"),
        (lambda: ExpressionClassifier(loss="Focal"), r"loss is 'Focal'; .* such as CrossEntropy\(\) or Focal\(\)"),
        (lambda: ExpressionClassifier(loss=Focal), "loss is the class Focal; expected an ExpressionLoss"),
        (lambda: ExpressionClassifier(optimizer="SGD"), "optimizer is 'SGD'; expected a class of torch.optim"),
        (lambda: ExpressionClassifier(scheduler="StepLR"), "scheduler is 'StepLR'; expected a class of torch.optim"),
        (lambda: ExpressionClassifier(class_names="a,b"), "class_names is 'a,b'; expected a list of names"),
        (lambda: ExpressionClassifier(class_names=7), "class_names is 7; expected a list of names"),
        (lambda: FaceDetector(net="LightDetector"), r"net is 'LightDetector'; .* such as LightDetector\(\)"),
        (lambda: FaceDetector(net=LightDetector), "net is the class LightDetector; expected a network"),
        (lambda: KNNClassifier(representation="Histogram"), r"representation is 'Histogram'; .* such as Histogram\(\)"),
        (lambda: KNNClassifier(p=4), "p is 4; expected 1, 2 or 3"),
        (lambda: KNNClassifier(weights="distnce"), "weights is distnce; expected uniform or distance"),
        (lambda: KNNClassifier()(FACES), "KNNClassifier remembers no image yet; expected a trained one"),
        (lambda: ResNet(7, depth=17), "depth is 17; expected 18, 34 or 50"),
        (
            lambda: fresh().on_test_batch_start([FACES, FACES], 0),
            "a batch is a list; expected those of a data mod",
        ),
        (lambda: ClassificationEvaluation().setup(None, FaceDetector(), "fit"), "FaceDetector gives detections; expec"),
        (lambda: DetectionEvaluation().setup(None, fresh(), "fit"), "ExpressionClassifier gives probabilities; expect"),
    ],
)
def test_what_is_of_another_kind_is_refused_in_one_sentence(build, said):
    with pytest.raises(FaceExprError, match=said):
        build()


def test_data_of_another_kind_are_refused():
    for task, data in ((fresh(), SyntheticScenes()), (FaceDetector(), SyntheticFaces())):
        task.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        task.trainer.datamodule = data
        with pytest.raises(FaceExprError, match=f"data is {type(data).__name__}; expected a data module for a "):
            task.setup("fit")


def test_a_loader_of_others_is_refused_with_a_sentence():
    loader = DataLoader(TensorDataset(FACES, torch.zeros(5, dtype=torch.int64)), 5)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=ClassificationEvaluation(), max_epochs=1, **quiet)
    with pytest.raises(FaceExprError, match=r"a batch is a list; expected those of a data module of faceexpr\.data"):
        trainer.fit(fresh(), loader)


def test_a_task_is_loaded_from_all_that_stands_for_its_checkpoint(trained, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("*.safetensors"))
    content = io.BytesIO((folder / "trained.ckpt").read_bytes())
    for path in (tmp_path / "run", str(folder / "trained.ckpt"), content):
        loaded = ExpressionClassifier.load_from_checkpoint(path).eval()
        assert torch.equal(loaded(FACES), trained(FACES))
    half = ExpressionClassifier.load_from_checkpoint(folder / "trained.safetensors", mirror=True)
    assert half.mirror
    assert ExpressionClassifier.load_from_checkpoint("fer2013_compact").class_names == FER_NAMES
    for kind, path, said in (
        (ExpressionClassifier, "absent.ckpt", "checkpoint_path: absent.ckpt does not exist"),
        (KNNClassifier, folder / "trained.ckpt", "cannot be loaded as KNNClassifier: it holds ExpressionClassifier"),
        (ExpressionClassifier, 3, "checkpoint_path is an int; expected a file or a name"),
    ):
        with pytest.raises(FaceExprError, match=said):
            kind.load_from_checkpoint(path)


def test_a_run_starts_from_them_once(trained, folder, run, workdir):
    shutil.copy(folder / "trained.safetensors", workdir)
    run("fit", "--model.weights=trained.safetensors", "--model.optimizer.lr=0")
    expected = nets("trained.safetensors")
    found = nets(LAST_RUN.format(0))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # From here on nobody needs the file: neither going on, nor measuring, nor loading.
    (workdir / "trained.safetensors").unlink()
    on = [f"--ckpt_path={LAST_RUN.format(0)}", "--trainer.max_epochs=2", "--model.optimizer.lr=0.01"]
    run("fit", *on, data=False, net=False)
    assert read_checkpoint(Path(LAST_RUN.format(1)))["epoch"] == 1
    assert not torch.equal(nets(LAST_RUN.format(1))["net.layers.1.weight"], expected["net.layers.1.weight"])
    ExpressionClassifier.load_from_checkpoint(LAST_RUN.format(1), map_location="cpu")


def test_a_run_measures_a_model_file_as_its_checkpoint(trained, folder, run, capsys):
    for kind in ("ckpt", "safetensors"):
        run("test", f"--ckpt_path={folder}/trained.{kind}", net=False)
    one, two = (measured(folder, "test") for folder in Path("lightning_logs").glob("trained*-test/version_*"))
    assert one["accuracy"] == two["accuracy"]
    assert exit_code(lambda: main(["fit", f"--ckpt_path={folder}/trained.safetensors"])) == 2
    assert "a model, which does not say how far its training has come" in capsys.readouterr().err


def test_neighbours_cannot_compare_what_a_detector_sees(workdir):
    save_task(FaceDetector(net=LightDetector(widths=(4, 8, 8, 16, 16), neck=8)), workdir / "detector.ckpt")
    with pytest.raises(FaceExprError, match=r"detector\.ckpt .* it holds FaceDetector; expected the checkpoint of a"):
        NetworkFeatures("detector.ckpt").load_pretrained()


def test_the_weights_are_copied_and_the_factories_are_not():
    # The command line's factories hold on to the parser, the trainer and, when distributed, to what has no copy.
    def build(cls, lock, parameters):
        return cls(parameters, lr=0.1)

    model = fresh(optimizer=partial(build, torch.optim.SGD, threading.Lock()))
    copied = deepcopy(model)
    assert copied.optimizer is model.optimizer
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    for changed, original in zip(copied.parameters(), model.parameters(), strict=True):
        assert torch.equal(changed, original + 1)
    assert copied.class_names == model.class_names


# A checkpoint with classes of the user's own, used from a folder without them (case N29).

OWN = """
import torch
from faceexpr.models.mlp import MLP
from faceexpr.tasks.classify import CrossEntropy, ExpressionClassifier

class Net(MLP):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, hidden=(4,))

class Loss(CrossEntropy):
    pass

class Task(ExpressionClassifier):
    pass
"""


@pytest.fixture
def own_module(workdir, monkeypatch):
    """Make a module of the user's own for a while, and return what makes it go away."""
    (workdir / "ownparts.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [*filter(None, sys.path), str(workdir)])
    importlib.invalidate_caches()

    def leave():
        (workdir / "elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(workdir)])
        sys.modules.pop("ownparts", None)

    yield leave
    sys.modules.pop("ownparts", None)


USES = {
    "test": ["test", *TINY_RUN[1:]],
    "predict": ["predict"],
    "export": ["export", "--out=model.pt2"],
    "export as a model file": ["export", "--out=model.safetensors"],
}


@pytest.mark.parametrize("use", [pytest.param(use, marks=[pytest.mark.slow] * (use != "test")) for use in USES])
def test_without_a_training_a_loss_of_ones_own_is_not_asked_for(use, own_module, run, workdir, capsys):
    run("fit", "--model.loss=ownparts.Loss")
    own_module()
    main([*USES[use], "--ckpt_path=../lightning_logs/version_0"])
    note = "note: ownparts.Loss cannot be imported here, so the loss is cross-entropy\n"
    assert capsys.readouterr().err.count(note) == (use == "test")
    assert exit_code(lambda: run("fit", "--ckpt_path=../lightning_logs/version_0", data=False, net=False)) == 2
    assert "best.ckpt needs ownparts.Loss, which cannot be imported here (No module" in capsys.readouterr().err
    NetworkFeatures("../lightning_logs/version_0").load_pretrained()


@pytest.mark.parametrize("use", USES)
def test_a_network_of_ones_own_that_is_missing_is_named(use, own_module, run, workdir, capsys):
    run("fit", "--model.net=ownparts.Net", net=False)
    own_module()
    assert exit_code(lambda: main([*USES[use], "--ckpt_path=../lightning_logs/version_0"])) == 2
    said = capsys.readouterr().err
    assert "best.ckpt needs ownparts.Net, which cannot be imported here (No module named 'ownparts'); expected" in said
    with pytest.raises(FaceExprError, match=r"best\.ckpt needs ownparts\.Net, which"):
        NetworkFeatures("../lightning_logs/version_0").load_pretrained()


def test_a_network_of_ones_own_is_missed_among_neighbours_too(own_module, run, workdir, capsys):
    run("fit", "--model.net=ownparts.Net", "--model.loss=ownparts.Loss", net=False)
    features = ["--model.representation=NetworkFeatures", "--model.representation.checkpoint=lightning_logs/version_0"]
    run("fit", "--model=KNNClassifier", *features, net=False)
    own_module()
    with pytest.raises(FaceExprError, match=r"best\.ckpt needs ownparts\.Net, which cannot be imported here"):
        load_classifier("../lightning_logs/version_1")
    assert exit_code(lambda: main(["predict", "--ckpt_path=../lightning_logs/version_1"])) == 2
    assert "needs ownparts.Net, which cannot be imported here" in capsys.readouterr().err


def test_a_class_derived_from_the_classifier_is_used_as_it_is(own_module, run, workdir, capsys):
    run("fit", "--model=ownparts.Task")
    for use in USES.values():
        main([*use, "--ckpt_path=lightning_logs/version_0"])
    assert type(load_classifier("lightning_logs/version_0").task).__name__ == "Task"
    features = NetworkFeatures("lightning_logs/version_0")
    features.load_pretrained()
    again = NetworkFeatures("lightning_logs/version_0")
    again.load_state_dict(features.state_dict())
    assert torch.equal(again(FACES), features(FACES))
    own_module()
    with pytest.raises(FaceExprError, match=r"best\.ckpt needs ownparts\.Task, which cannot be imported here"):
        load_classifier("../lightning_logs/version_0")
