"""Programs in ONNX: they give what torch gives, alone and in the pipeline; int8, bundles, and what is refused."""

import json
import shutil
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from analysis_runs import records
from conftest import REPOSITORY, exit_code
from PIL import Image
from red_finder import RedFinder, save_task

from faceexpr import FacePipeline
from faceexpr.boxes.detections import Detections
from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.cli.main import main
from faceexpr.cli.serve import make_service
from faceexpr.data.fer2013 import read_table
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.models.calibrator import Calibration
from faceexpr.models.compact_resnet import CompactResNet
from faceexpr.models.light_detector import LightDetector
from faceexpr.models.preprocess import as_sized
from faceexpr.pipeline import OnnxDetector, load_classifier, load_detector, programs
from faceexpr.pipeline.auditing import Embedder
from faceexpr.pipeline.serving import ServiceOptions
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.tasks.detect import FaceDetector
from faceexpr.utils.crop import Crop
from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.checkpoints import read_checkpoint
from faceexpr.weights.onnx_file import open_onnx

onnx = pytest.importorskip("onnx")
for package in ("onnxscript", "onnxruntime"):
    pytest.importorskip(package)

# Others are resized to 24 x 24 bytes, and whether 0.5 is rounded up depends on the order of additions.
EXACT = [(1, 24, 24), (3, 24, 24)]
SHAPES = [*EXACT, (5, 48, 48), (1, 31, 40), (4, 100, 77), (1, 240, 333)]
DATA = REPOSITORY.parent / "shared/data"


def classifier_task(seed=3):
    torch.manual_seed(seed)
    net = partial(CompactResNet, stem=4, widths=[8, 8], depths=[1, 1], input_size=24, standardise=True)
    calibration = Calibration(0.7, {"0.9": 0.8}, 10, "here", (1.1, 0.9), (0.2, -0.2), 0.5)
    task = ExpressionClassifier(net=net, class_names=("Sad", "Happy"), mirror=True, calibration=calibration)
    torch.nn.init.normal_(task.net.head[-1].weight, std=2)
    task.use_crop(Crop(margin=0.1, size=24))
    return task.eval()


def detector_task():
    """A detector that was trained a little, and looks at images of more than 64 pixels a second time."""
    net = LightDetector(widths=(4, 8, 12, 12, 12), neck=8, second_side=64)
    task = FaceDetector(net=net)
    task.load_state_dict(read_checkpoint(REPOSITORY / "tests/golden/detector.safetensors")["state_dict"])
    return task.eval()


def close_up():
    """Return a drawn face that fills its image, uint8 (1, 3, 700, 700)."""
    pixels, ((left, top, right, bottom),), _ = draw_scene(np.random.default_rng(0), 300, 300, 1)
    return as_sized(
        torch.from_numpy(pixels).permute(2, 0, 1)[None, :, int(top) : int(bottom), int(left) : int(right)], 700
    )


def scenes(count, width, height):
    """Return drawn photographs, uint8 (count, 3, height, width)."""
    drawn = [draw_scene(np.random.default_rng(place), width, height, 2)[0] for place in range(count)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


def copying(path):
    """Return what stands in for the exporter: it gives a file that is there already."""

    def write(program, example, sizes, out, metadata, limits=None):
        shutil.copy(path, out)

    return write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a classifier, its ONNX file for RGB images, and drawn photographs."""
    root = tmp_path_factory.mktemp("programs")
    save_task(classifier_task(), root / "classifier.ckpt")
    save_task(detector_task(), root / "detector.ckpt")
    options = ["--format=onnx", "--channels=3", "--licence=for research"]
    main(["export", f"--ckpt_path={root}/classifier.ckpt", f"--out={root}/classifier.onnx", *options])
    (root / "photos").mkdir()
    for place in range(4):
        pixels = draw_scene(np.random.default_rng(place), 200 + 30 * place, 180, 2)[0]
        Image.fromarray(pixels).save(root / f"photos/{place}.png")
    return root


@pytest.fixture(scope="module")
def bundle(folder):
    """The same models as a bundle; the classifier's file is that which is there already."""
    write = programs.write_onnx

    def write_new(program, *args):
        (write if isinstance(program, programs.DetectorProgram) else copying(folder / "classifier.onnx"))(
            program, *args
        )

    models = [f"--detector={folder}/detector.ckpt", f"--classifier={folder}/classifier.ckpt"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "write_onnx", write_new)
        main(["export", f"--out={folder}/bundle", *models, f"--images={folder}/photos"])
    return folder / "bundle"


def random_images(shape, channels=3):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 256, (shape[0], channels, *shape[1:]), dtype=torch.uint8, generator=generator)


def test_probabilities_are_torchs_for_any_number_and_size(folder):
    run, task = open_onnx(folder / "classifier.onnx")[0], programs.load_exportable(folder / "classifier.ckpt")
    for shape in SHAPES:
        images = random_images(shape)
        with torch.inference_mode():
            expected = task(images)
        (found,) = run(images.numpy())
        np.testing.assert_allclose(found, expected, atol=1e-4 if shape in EXACT else 5e-3)
        assert len(images) == 1 or np.ptp(expected[:, 0].numpy()) > 1e-4


def test_the_file_says_what_it_gives(folder):
    metadata = open_onnx(folder / "classifier.onnx")[1]
    assert (metadata["class_names"], metadata["licence"]) == (["Sad", "Happy"], "for research")
    assert (metadata["calibration"]["thresholds"], metadata["mirror"]) == ({"0.9": 0.8}, True)
    assert metadata["faceexpr"]


def test_the_runtimes_classifier_is_torchs(folder):
    theirs, own = load_classifier(folder / "classifier.onnx"), load_classifier(folder / "classifier.ckpt")
    for channels in (1, 3):
        faces = random_images((3, own.image_size, own.image_size), channels)
        np.testing.assert_allclose(theirs(faces), own(faces), atol=1e-4)
    assert (theirs.class_names, theirs.calibration, theirs.crop) == (own.class_names, own.calibration, own.crop)


def test_a_program_that_differs_is_removed_and_refused(folder, workdir, monkeypatch, capsys):
    monkeypatch.setattr(programs, "write_onnx", copying(folder / "classifier.onnx"))
    save_task(classifier_task(seed=4), workdir / "other.ckpt")
    assert exit_code(lambda: main(["export", "--ckpt_path=other.ckpt", "--out=a.onnx", "--channels=3"])) == 2
    assert "the program differs from the model on 14 images by" in capsys.readouterr().err
    assert [path.name for path in workdir.iterdir()] == ["other.ckpt"]


def test_int8_is_fitted_measured_and_refused_where_it_loses_too_much(folder, workdir, monkeypatch, capsys):
    monkeypatch.setattr(programs, "write_onnx", copying(folder / "classifier.onnx"))
    (workdir / "faces").mkdir()
    for place in range(80):
        Image.fromarray(random_images((1, 30 + place, 40))[0].permute(1, 2, 0).numpy()).save(f"faces/{place}.png")
    options = ["--ckpt_path", f"{folder}/classifier.ckpt", "--out=a.onnx", "--channels=3", "--precision=int8"]
    assert exit_code(lambda: main(["export", *options])) == 2
    assert "--precision is int8, and images is not given" in capsys.readouterr().err
    main(["export", *options, "--images=faces", "--max_loss=1"])
    assert "int8 and float32 differ in the expression" in capsys.readouterr().out
    run, metadata = open_onnx(Path("a.onnx"))
    assert (metadata["precision"], metadata["class_names"]) == ("int8", ["Sad", "Happy"])
    images = random_images((2, 60, 50))
    (found,) = run(images.numpy())
    with torch.inference_mode():
        difference = np.abs(found - programs.load_exportable(folder / "classifier.ckpt")(images).numpy()).max()
    assert 1e-6 < difference < 0.2
    # The same network with the classes the other way round, as the worst that could happen.
    model = onnx.load("a.onnx")
    last = model.graph.node[-1]
    last.output[0] = "turned"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 0]), "places"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["turned", "places"], ["probabilities"], axis=1))
    onnx.save(model, "turned.onnx")
    monkeypatch.setattr(programs, "quantise", lambda path, out, *_: shutil.copy("turned.onnx", out))
    Path("a.onnx").unlink()
    assert exit_code(lambda: main(["export", *options, "--images=faces"])) == 2
    assert "expected 3.00% or less (max_loss); nothing was written" in capsys.readouterr().err
    assert not Path("a.onnx").exists()


def test_damaged_files_and_missing_packages_are_one_sentence(folder, workdir, monkeypatch):
    Path("a.onnx").write_bytes(b"no model")
    for load in (load_classifier, load_detector):
        with pytest.raises(FaceExprError, match=r"^a\.onnx cannot be read as an ONNX file"):
            load("a.onnx")
    with pytest.raises(FaceExprError, match=r"classifier\.onnx holds no detector; expected one"):
        load_detector(folder / "classifier.onnx")
    with pytest.raises(FaceExprError, match=r"classifier\.onnx, which is no network in torch; expected one"):
        Embedder(str(folder / "classifier.onnx"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("faceexpr.weights.onnx_file.find_spec", lambda name: None)
    with pytest.raises(FaceExprError, match=r"^onnxruntime is not installed; install it with pip"):
        load_classifier(folder / "classifier.onnx")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--ckpt_path=red.ckpt", "--out=a.onnx"], "RedFinder cannot be a program; expected a network that has dense_"),
        (["--ckpt_path=wbf.ckpt", "--out=a.pt2"], "a program cannot hold the suppression wbf; expected nms or none"),
        (["--ckpt_path=red.ckpt", "--out=a.onnx", "--channels=1"], "--channels is 1; expected 3"),
        (["--ckpt_path=red.ckpt", "--out=a.onnx", "--format=pt2"], "--format is pt2, and out is a.onnx; expected"),
        (["--ckpt_path=red.ckpt", "--out=a.pt2", "--precision=int8"], "--precision is for .onnx files"),
        (["--out=a.onnx"], "--ckpt_path is not given"),
        (["--ckpt_path=red.ckpt", "--out=a.onnx", "--detector=wider_light"], "--detector is for a bundle, and out is"),
        (["--out=bundle", "--precision=int8"], "--precision is for .onnx files"),
    ],
)
def test_what_cannot_be_a_program_is_refused(options, expected, workdir, capsys):
    save_task(FaceDetector(net=RedFinder()), workdir / "red.ckpt")
    save_task(FaceDetector(net=LightDetector(suppression=Suppression("wbf"))), workdir / "wbf.ckpt")
    assert exit_code(lambda: main(["export", *options])) == 2
    assert expected in capsys.readouterr().err
    assert {path.name for path in workdir.iterdir()} == {"red.ckpt", "wbf.ckpt"}


def test_a_detector_that_differs_is_told_from_one_that_does_not():
    one = Detections(torch.tensor([[10.0, 10, 50, 60], [100, 100, 120, 130]]), torch.tensor([0.9, 0.4]))
    assert programs.apart(one, one).tolist() == [0, 0, 0]
    moved = Detections(one.boxes + 0.25, one.scores - 0.125)
    np.testing.assert_allclose(programs.apart(one, moved), [0.25, 0.25 / 30, 0.125], atol=1e-6)
    first = Detections(one.boxes[:1], one.scores[:1])
    assert programs.apart(first, one).tolist() == [0, 0, 0]
    assert programs.apart(one, first)[0] == 90
    assert programs.apart(one, first, least=0.5).tolist() == [0, 0, 0]
    assert programs.apart(one, Detections(one.boxes[:0], one.scores[:0])).isinf().all()
    assert programs.apart(one, Detections(one.boxes * torch.nan, one.scores)).isnan().any()


@pytest.mark.slow
def test_boxes_are_torchs_and_the_suppression_may_be_changed(folder, bundle):
    program = programs.open_program(bundle / "detector.onnx")
    net = programs.load_exportable(folder / "detector.ckpt").net
    apart = []
    for images in (close_up(), scenes(1, 60, 64), scenes(3, 300, 200), scenes(2, 1281, 853)):
        for limits in ({"min_score": 0.4}, {"min_score": 0.2, "iou": 0.3, "max_faces": 1}):
            least = limits["min_score"]
            net.set_suppression(method="none", min_score=least)
            with torch.inference_mode():
                expected = net([*images])
            candidates = programs.split_images(program(images, min_score=least, **programs.EVERYTHING), len(images))
            found = programs.split_images(program(images, **limits), len(images))
            for own, theirs, kept in zip(expected, candidates, found, strict=True):
                apart += [programs.apart(own, theirs, least + 0.01), programs.apart(theirs, own, least + 0.01)]
                wanted = suppress(theirs.boxes, theirs.scores, Suppression(**limits))
                assert torch.equal(kept.boxes, wanted.boxes)
                assert torch.equal(kept.scores, wanted.scores)
            # The first look, at 640 pixels, finds parts of it.
            assert images.shape[-1] != 700 or (found[0].boxes[0, 2:] - found[0].boxes[0, :2]).amax() > 680
    pixels, _, score = torch.stack(apart).amax(0)
    assert (float(pixels) <= 0.5, float(score) <= 0.01, len(apart)) == (True, True, 28)


@pytest.mark.slow
def test_a_detector_that_differs_is_refused(folder, bundle, workdir, monkeypatch, capsys):
    model = onnx.load(bundle / "detector.onnx")
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == "boxes":
                node.output[place] = "straight"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([0, 1, 0, 1]), "lower"))
    model.graph.node.append(onnx.helper.make_node("Add", ["straight", "lower"], ["boxes"]))
    onnx.save(model, "lower.onnx")
    monkeypatch.setattr(programs, "write_onnx", copying("lower.onnx"))
    assert exit_code(lambda: main(["export", f"--ckpt_path={folder}/detector.ckpt", "--out=a.onnx"])) == 2
    assert " pixels in a box, more than 0.5; nothing was written" in capsys.readouterr().err
    assert not Path("a.onnx").exists()


@pytest.mark.slow
def test_the_pipeline_gives_the_same_records_by_either_runtime(folder, bundle, workdir, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(workdir / "cache"))
    # What the first run would write.
    monkeypatch.setattr(programs, "write_program", lambda source, out, *_: shutil.copy(bundle / out_name(out), out))
    models = [f"--detector={folder}/detector.ckpt", f"--classifier={folder}/classifier.ckpt"]
    for runtime in ("torch", "onnx"):
        run = ["analyze", str(folder / "photos"), *models, f"--out={runtime}", f"--runtime={runtime}", "--device=auto"]
        assert exit_code(lambda run=run: main([*run, "--coverage=0.9", "--min_face=1"])) == 0
    assert len(list((workdir / "cache").rglob("*.onnx"))) == 2
    faces = 0
    for one, other in zip(records("torch"), records("onnx"), strict=True):
        assert one | {"faces": other["faces"]} == other
        for mine, theirs in zip(one["faces"], other["faces"], strict=True):
            np.testing.assert_allclose(mine["box"], theirs["box"], atol=0.5)
            assert mine["probabilities"].keys() == theirs["probabilities"].keys()
            faces += 1
    assert faces > 2
    assert all(face["expressions"] for record in records("onnx") for face in record["faces"])
    chosen = {"detector": f"{folder}/detector.ckpt", "classifier": f"{folder}/classifier.ckpt", "runtime": "onnx"}
    service = make_service(ServiceOptions(), chosen)
    assert (type(service.pipeline.detector), service.lowest, service.pipeline.threshold) == (OnnxDetector, 0.2, 0.8)
    with pytest.raises(FaceExprError, match="runtime is onnx, which runs on the CPU, and device is cuda; expected cpu"):
        FacePipeline.from_checkpoints(device="cuda", runtime="onnx")


def out_name(out):
    return f"{out.name.partition('-')[0]}.onnx"


@pytest.mark.slow
def test_the_bundles_example_needs_neither_torch_nor_this_package(folder, bundle, workdir):
    assert {path.name for path in bundle.iterdir()} == {"detector.onnx", "classifier.onnx", "bundle.json", "example.py"}
    described = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    assert described["classifier"]["class_names"] == ["Sad", "Happy"]
    assert described["detector"]["suppression"]["min_score"] == 0.5
    site = workdir / "site"
    site.mkdir()
    for name in ("numpy", "PIL", "onnxruntime"):
        place = Path(find_spec(name).submodule_search_locations[0])
        for part in (place, place.parent / f"{ {'PIL': 'pillow'}.get(name, name) }.libs"):
            if part.is_dir():
                (site / part.name).symlink_to(part)
    photo = folder / "photos/1.png"
    code = (
        f"import sys, runpy; sys.path.append({str(site)!r}); sys.argv = ['example.py', {str(photo)!r}]\n"
        f"runpy.run_path({str(bundle / 'example.py')!r}, run_name='__main__')\n"
        "assert not {'torch', 'faceexpr'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    pipeline = FacePipeline.from_checkpoints(bundle / "detector.onnx", bundle / "classifier.onnx", reduce_to=None)
    large = pipeline(photo).faces
    assert len(large) > 0
    for face in large:
        (mine,) = (own for own in found if np.abs(np.subtract(own["box"], face.box)).max() < 0.02)
        np.testing.assert_allclose([*mine["probabilities"].values()], [*face.probabilities.values()], atol=5e-3)


@pytest.mark.slow
def test_a_detector_is_a_program_of_torchs_too(folder, workdir):
    main(["export", f"--ckpt_path={folder}/detector.ckpt", "--out=a.pt2", f"--images={folder}/photos"])
    program, metadata = programs.load_exported(Path("a.pt2"))
    boxes, scores, image = program(scenes(3, 160, 120))
    assert image.tolist() == sorted(image.tolist())
    assert len(set(image.tolist())) > 1
    assert (len(boxes), metadata["suppression"]["method"]) == (len(scores), "nms")


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "wider").is_dir(), reason="WIDER FACE is not here")
def test_the_shipped_models_agree_on_real_photographs(workdir, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(workdir / "cache"))
    photos = sorted((DATA / "wider/WIDER_val").rglob("*.jpg"))
    one, other = (FacePipeline.from_checkpoints(runtime=runtime) for runtime in ("torch", "onnx"))
    distances = []
    for mine, theirs in zip(one.run(photos), other.run(photos), strict=True):
        for some, others in ((mine, theirs), (theirs, mine)):
            boxes = np.array([face.box for face in others.faces] or [[np.inf] * 4])
            distances += [np.abs(boxes - face.box).max(axis=1).min() for face in some.faces]
    # A hair decides which of two boxes of one face is kept, and about those that are just as sure as is asked for.
    assert np.mean(np.array(distances) > 0.5) < 0.01
    assert len(distances) > 600
    faces = random_images((64, 48, 48), 3)
    if (DATA / "fer2013/fer2013.csv.gz").is_file():
        table = read_table(DATA / "fer2013/fer2013.csv.gz", "skip", None)
        faces = table.split(table.rows("test")).tensor
        assert len(faces) == 3589
    pairs = [(one.classifier(batch), other.classifier(batch)) for batch in faces.split(64)]
    assert max(np.abs(own - theirs).max() for own, theirs in pairs) < 1e-4
