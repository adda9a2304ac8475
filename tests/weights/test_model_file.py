"""Model files: what they hold, how they are read, what is refused, and the verb that writes them."""

import json
import struct
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import exit_code
from red_finder import save_task, tiny_classifier
from safetensors import safe_open
from safetensors.torch import save, save_file

from faceexpr.cli.export import without_folders
from faceexpr.cli.main import main
from faceexpr.models.compact_resnet import CompactResNet
from faceexpr.models.light_detector import LightDetector
from faceexpr.tasks.base import load_task
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.tasks.detect import FaceDetector
from faceexpr.tasks.knn import KNNClassifier
from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.checkpoints import class_of, find_checkpoint, read_checkpoint, remembered
from faceexpr.weights.model_file import CLASSIFIER, DETECTOR, FORMAT, KEY, TOLD, packed, shipped_models

HEADER = {"lightning": "2.6.0", "hyper_parameters": {}, "data_hyper_parameters": {}}
LAMBDA_LR = "torch.optim.lr_scheduler.LambdaLR"


def compact(**options):
    torch.manual_seed(3)
    net = partial(CompactResNet, stem=4, widths=[8, 8], depths=[1, 1], input_size=24)
    return ExpressionClassifier(net=net, **options).eval()


def light():
    torch.manual_seed(3)
    return FaceDetector(net=LightDetector(widths=(4, 8, 8, 16, 16), neck=8)).eval()


def export(task, folder, *options, name="model"):
    save_task(task, folder / f"{name}.ckpt")
    main(["export", f"--ckpt_path={folder}/{name}.ckpt", f"--out={folder}/{name}.safetensors", *options])
    return folder / f"{name}.safetensors"


def read_header(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["faceexpr"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A task and its model file."""
    task = compact(class_names=("Sad", "Happy"))
    told = ["--data=drawn faces", "--licence=for research", "--command=faceexpr fit", "--seed=7"]
    return task, export(task, tmp_path_factory.mktemp("exported"), *told)


def test_matrices_are_halved_and_everything_else_is_kept(exported):
    task, path = exported
    state = task.state_dict()
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert stored.keys() == state.keys()
    read = read_checkpoint(path)["state_dict"]
    for name, value in state.items():
        halved = name.endswith("weight") and value.dim() > 1
        assert stored[name].dtype == (torch.float16 if halved else value.dtype)
        assert torch.equal(read[name], value.half().float() if halved else value)
        assert read[name].dtype == value.dtype


def test_others_can_read_what_it_is_and_it_is_told_again(exported, tmp_path):
    _, path = exported
    header = read_header(path)
    assert header["class_names"] == ["Sad", "Happy"]
    assert header["preprocess"] == {"channels": 1, "size": 24, "mean": [0.5], "std": [0.5]}
    assert [header[name] for name in TOLD] == ["drawn faces", "for research", "faceexpr fit", 7]
    assert header["format"] == 1
    assert header["hyper_parameters"]["_class_path"] == "faceexpr.tasks.classify.ExpressionClassifier"
    for words, file in (("other words", tmp_path / "a.safetensors"), ("drawn faces", tmp_path / "b.safetensors")):
        main(["export", f"--ckpt_path={path}", f"--out={file}", f"--data={words}"])
        assert read_header(file) == header | {"data": words}
    assert file.read_bytes() == path.read_bytes()  # the same model gives the same bytes


def test_the_model_comes_back(exported):
    (task, path), faces = exported, torch.randint(0, 256, (4, 1, 48, 48), dtype=torch.uint8)
    again = load_task(path, [ExpressionClassifier], "a classifier", "one").eval()
    with torch.inference_mode():
        assert (again(faces) - task(faces)).abs().max() < 2e-3
        assert again(faces).std() > 0
    assert (again.class_names, again.hparams["net"]["init_args"]["widths"]) == (task.class_names, [8, 8])
    assert class_of(read_checkpoint(path), path) == "faceexpr.tasks.classify.ExpressionClassifier"
    assert remembered(path)["class_names"] == list(task.class_names)


def test_a_detector_comes_back(tmp_path, capsys):
    task, picture = light(), torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    path = export(task, tmp_path)
    assert "largest difference from the model: " in capsys.readouterr().out
    again = load_task(path, [FaceDetector], "a detector", "one").eval()
    with torch.inference_mode():
        outputs, expected = (net.features(picture[None] / 255) for net in (again.net, task.net))
    assert (outputs - expected).abs().max() < 0.02
    assert read_header(path)["preprocess"] == {
        "channels": 3, "longer_side": 640, "multiple": 32, "mean": [0.5] * 3, "std": [0.25] * 3,
    }  # fmt: skip


def test_folders_of_the_training_are_not_told():
    written = {
        "path": "/home/me/a.csv", "monitor": "val/accuracy", "files": ["C:\\data\\a.csv", "b.csv"], "home": "~/x.csv",
    }  # fmt: skip
    assert without_folders(written) == {
        "path": "a.csv", "monitor": "val/accuracy", "files": ["a.csv", "b.csv"], "home": "x.csv",
    }  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: b"",
        lambda good: good[:40],  # within the header
        lambda good: good[:-5],  # within the tensors
        lambda good: good + b"more",
        lambda good: struct.pack("<Q", 1 << 62) + good[8:],  # a header of exabytes
        lambda good: good[:8] + b"x" * struct.unpack("<Q", good[:8])[0],  # a header that is no JSON
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(damage, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(packed({"net.a": torch.ones(3, 3)}, (), HEADER)))
    with pytest.raises(FaceExprError, match=r"^.*model\.safetensors cannot be read as a model .+: it is damaged.*$"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (None, "no header that describes a model"),
        ("[" * 100_000, "no header that describes a model"),
        (json.dumps({"format": FORMAT, **HEADER, "hyper_parameters": None}), "no header that describes a model"),
        (json.dumps({"format": FORMAT, **HEADER, "lightning": "new"}), "no header that describes a model"),
        (json.dumps({"format": FORMAT + 1, **HEADER}), "is a model file of format 2, and this version"),
    ],
)
def test_a_foreign_file_is_refused(entry, expected, tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", None if entry is None else {KEY: entry})
    with pytest.raises(FaceExprError, match=expected):
        read_checkpoint(tmp_path / "a.safetensors")


def redescribed(exported, folder, **hyper_parameters):
    """Return a model file with other hyper-parameters than `export` has written."""
    _, good = exported
    header = read_header(good)
    header["hyper_parameters"] |= hyper_parameters
    path = folder / "model.safetensors"
    path.write_bytes(packed(read_checkpoint(good)["state_dict"], (), header))
    return path


def call(function, command):
    return {"class_path": function, "init_args": {"command": command, "cmd": command}}


@pytest.mark.parametrize(
    "disguise",
    [
        lambda run: {"net": run},
        lambda run: {"net": run | {"class_path": "subprocess.getoutput"}},
        lambda run: {"net": run["class_path"]},
        lambda run: {"net.class_path": run["class_path"], "net.init_args": run["init_args"]},
        lambda run: {"optimizer": json.dumps(run).replace(".", "\\u002e")},
        lambda run: {"scheduler": {"class_path": LAMBDA_LR, "init_args": {"lr_lambda": run}}},
        lambda run: {"scheduler": {"class_path": LAMBDA_LR, "init_args": {"lr_lambda": json.dumps(run)}}},
        lambda run: {"scheduler": {"class_path": LAMBDA_LR, "init_args": json.dumps({"lr_lambda": json.dumps(run)})}},
    ],
)
def test_nothing_that_a_file_names_is_run(disguise, exported, tmp_path):
    path = redescribed(exported, tmp_path, **disguise(call("os.system", f"touch {tmp_path}/harm")))
    for read in (lambda: load_task(path, [ExpressionClassifier], "a classifier", "one"), lambda: remembered(path)):
        with pytest.raises(FaceExprError, match=r"names (os\.system|subprocess\.getoutput) .+ which is no class"):
            read()
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("names", [None, [], [1, 2]])
def test_class_names_that_are_none_are_refused(names, exported, tmp_path):
    path = redescribed(exported, tmp_path, class_names=names)
    with pytest.raises(FaceExprError, match=r"model\.safetensors has .+ for class_names, which are no names"):
        remembered(path)


@pytest.mark.parametrize(
    "change", [{"net": "SimpleCNN"}, *({"calibration": value} for value in ({"temperature": -1.0}, {"unknown": 1.0}))]
)
def test_another_network_or_calibration_than_that_of_the_weights_is_refused(change, exported, tmp_path):
    path = redescribed(exported, tmp_path, **change)
    with pytest.raises(FaceExprError, match=r"model\.safetensors cannot be loaded as a classifier: its weights do not"):
        load_task(path, [ExpressionClassifier], "a classifier", "one")


def test_weights_that_do_not_fit_half_precision_are_refused(workdir, capsys):
    task = compact()
    with torch.no_grad():
        task.net.features[0].weight *= 1e6
    assert exit_code(lambda: export(task, workdir)) == 2
    assert "its weights do not fit half precision; nothing was written" in capsys.readouterr().err
    assert not list(workdir.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--out=a.pth"], "ends in none of .pt2, .onnx, .safetensors"),
        (["--out=a.safetensors", "--channels=3"], "--channels is for .pt2 files and .onnx files"),
        (["--out=a.pt2", "--channels=2"], "--channels is 2"),
        (["--out=file/a.pt2"], "file is a file; expected a folder"),
        (["--out=a.pt2", "--ckpt_path=knn.ckpt"], "it holds KNNClassifier; expected the checkpoint of an Expression"),
    ],
)
def test_what_cannot_be_exported_so_is_refused_and_nothing_is_written(options, expected, workdir, capsys):
    save_task(tiny_classifier(), workdir / "a.ckpt")
    save_task(KNNClassifier(), workdir / "knn.ckpt")
    (workdir / "file").touch()
    assert exit_code(lambda: main(["export", "--ckpt_path=a.ckpt", *options])) == 2
    assert expected in capsys.readouterr().err
    assert {path.name for path in workdir.iterdir()} == {"a.ckpt", "knn.ckpt", "file"}


def test_a_name_is_a_shipped_model_and_a_path_is_a_file(workdir):
    shipped = shipped_models()
    assert {CLASSIFIER, DETECTOR} <= shipped.keys()
    for place in (CLASSIFIER, "model.safetensors"):
        (workdir / place).write_bytes(save({"a": torch.ones(1)}))
    runs = workdir / "runs"
    assert find_checkpoint(CLASSIFIER, runs) == shipped[CLASSIFIER]
    assert find_checkpoint(f"./{CLASSIFIER}", runs) == Path(CLASSIFIER)
    assert find_checkpoint(Path(CLASSIFIER), runs) == Path(CLASSIFIER)
    assert find_checkpoint("model.safetensors", runs) == Path("model.safetensors")
    for parameter, named in (
        ("classifier", {CLASSIFIER}),
        ("detector", {DETECTOR}),
        ("weights", {CLASSIFIER, DETECTOR}),
    ):
        with pytest.raises(FaceExprError, match=f"{parameter}: absent does not exist; ") as caught:
            find_checkpoint("absent", runs, parameter)
        assert {name for name in (CLASSIFIER, DETECTOR) if name in str(caught.value)} == named
    for name in (CLASSIFIER, "model.safetensors"):
        with pytest.raises(FaceExprError, match=rf"whose model begins with these weights \(weights: {name}\)"):
            find_checkpoint(name, runs, resumes=True)
