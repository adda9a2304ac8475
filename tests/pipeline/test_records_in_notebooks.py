"""A result in a notebook: it names, draws, saves and tabulates itself; a pipeline says what to call."""

import io
import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from red_finder import RED, RedFinder, red_picture, save_task, tiny_classifier
from stub_steps import Boxes, Levels, pipeline

from faceexpr.models.simple_cnn import SimpleCNN
from faceexpr.pipeline import FacePipeline, NetDetector, load_classifier
from faceexpr.pipeline.detectors import load_detector
from faceexpr.pipeline.records import COLUMNS
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.tasks.detect import FaceDetector
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import ImageError

BOX = [10, 20, 40, 60]


def test_a_result_is_short_as_text():
    result = pipeline(BOX, BOX)(red_picture(tuple(BOX)))
    red = f"{result.faces[0].probabilities['Red']:.0%}"
    assert repr(result) == f"ImageResult('array', 2 faces: Red {red}, Red {red})"
    assert repr(result.faces[0]) == f"FaceResult(Red {red}, score 0.90, box (10, 20, 40, 60))"
    assert repr(pipeline()(red_picture(None))) == "ImageResult('array', 0 faces)"
    (failed,) = pipeline().run(["nowhere.jpg"])
    assert repr(failed) == "ImageResult('nowhere.jpg', error: no such file)"
    assert failed._repr_png_() is None


@pytest.mark.parametrize("kind", ["file", "bytes", "array", "bgr"])
def test_a_result_draws_the_image_that_was_given(kind, tmp_path):
    pixels, path = red_picture(tuple(BOX), 400, 300), tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    source = {"file": path, "bytes": path.read_bytes(), "array": pixels, "bgr": pixels[:, :, ::-1]}[kind]
    result = pipeline(BOX)(source, bgr=kind == "bgr")
    drawn = result.draw()
    assert drawn.shape == pixels.shape
    assert (drawn[50, 25] == RED).all()
    assert 0 < (drawn != pixels).any(2).mean() < 0.5
    shown = np.asarray(Image.open(io.BytesIO(result._repr_png_())))
    assert (shown == drawn).all()
    result.save(tmp_path / "drawn.png")
    assert (np.asarray(Image.open(tmp_path / "drawn.png")) == drawn).all()
    assert len(pickle.dumps(replace(result, image=None))) < 2000
    axes = result.plot()
    assert (axes.images[0].get_array() == drawn).all()
    with pytest.raises(FaceExprError, match=r"path is .*drawn.txt; expected a name that ends in .png or .jpg"):
        result.save(tmp_path / "drawn.txt")


def test_a_large_image_is_small_in_a_notebook(tmp_path):
    Image.fromarray(red_picture((300, 300, 900, 900), 4000, 2400)).save(tmp_path / "a.png")
    result = FacePipeline(NetDetector(RedFinder()), Levels())(tmp_path / "a.png")
    assert result.image is None
    assert result.draw().shape[:2] == (1200, 2000)
    assert Image.open(io.BytesIO(result._repr_png_())).size == (1000, 600)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match="no such file"):
        result.show()


def test_a_table_has_a_row_a_face_and_the_columns_of_the_csv_file():
    pandas = pytest.importorskip("pandas")
    table = pipeline(BOX, [0, 0, 30, 30])(red_picture(tuple(BOX))).to_dataframe()
    assert [*table.columns] == [*COLUMNS, "Red", "Green", "Blue", "notes"]
    assert table[["face", "left", "score"]].to_numpy().tolist() == [[1, 10, 0.9], [2, 0, 0.5]]
    assert table["Red"].dtype == float
    none = pipeline()(red_picture(None)).to_dataframe()
    assert (len(none), none["status"][0], pandas.isna(none["face"][0])) == (1, "ok", True)


def test_a_result_is_a_sequence_of_its_faces_and_points_to_them():
    result = pipeline(BOX, [0, 0, 30, 30])(red_picture(tuple(BOX)))
    assert (len(result), [*result], result[1]) == (2, [*result.faces], result.faces[1])
    with pytest.raises(AttributeError, match=r"has no expression, .*: result.faces\[0\].expression"):
        _ = result.expression
    with pytest.raises(AttributeError, match=r"has no nonsense$"):
        _ = result.nonsense


def test_the_image_is_no_part_of_the_record_nor_of_what_makes_results_equal():
    result = pipeline(BOX)(red_picture(tuple(BOX)))
    assert result.record()["image"] == "array"
    assert result == replace(result, image=None)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (["a.jpg", "b.jpg"], r"image is a list, not one image; expected \[pipeline\(image\) for image in images\]"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"image is an array \(2, 8, 8, 3\), not one image"),
        (iter(()), "not one image"),
        ("https://example.org/a.jpg", r"image is a link, .*a.jpg; expected its bytes: urllib.request.urlopen"),
        (torch.zeros(3, 8, 8), r"image is a tensor \(3, 8, 8\); .*: pipeline\(image.permute\(1, 2, 0\)"),
        (torch.zeros(2, 3, 8, 8), r"image is a tensor \(2, 3, 8, 8\); .* for image in images\]"),
        (None, "image is a NoneType; expected a path, a file's bytes, a PIL image or an array"),
        (io.BytesIO(b""), r"image is a BytesIO, an open file; expected what is in it: pipeline\(file.read\(\)\)"),
        (".", r"\.: a folder, not a file; in Python sorted\(Path\(folder\).rglob\('\*.jpg'\)\) are its images"),
    ],
)
def test_what_is_not_one_image_is_refused_with_what_to_call(image, said):
    with pytest.raises(FaceExprError, match=said):
        pipeline()(image)


def test_run_says_of_each_that_is_no_file_what_to_call():
    given = ["https://example.org/a.jpg", ".", torch.zeros(3, 8, 8), ["a.jpg"]]
    reasons = [result.reason for result in pipeline().run(given)]
    for reason, said in zip(reasons, ["image is a link", "rglob", "image is a tensor", "image is a list"], strict=True):
        assert said in reason


def test_run_takes_images_in_memory_too():
    found = pipeline(BOX).run([red_picture(tuple(BOX)), Image.fromarray(red_picture(tuple(BOX)))])
    assert [(result.source, len(result.faces)) for result in found] == [("array", 1), ("PIL image", 1)]


def test_a_pipeline_takes_names_files_and_objects(tmp_path):
    pixels = red_picture(tuple(BOX))
    detector, classifier = FaceDetector(net=RedFinder()), tiny_classifier()
    detector.net.set_suppression(min_score=0.01, method="none")
    files = save_task(detector, tmp_path / "d.ckpt"), save_task(classifier, tmp_path / "c.ckpt")
    loaded = load_detector(files[0], suppression={"min_score": 0.5}), load_classifier(files[1])
    wanted = FacePipeline(*loaded)(pixels)
    assert len(wanted.faces) == 1
    for given in (files, map(str, files), (detector, classifier), (detector.net, classifier)):
        assert FacePipeline(*given)(pixels).faces == wanted.faces
    assert detector.net.suppression.min_score == 0.01  # that of the one that was given stays
    for given in (files, (detector, classifier)):
        system = FacePipeline(*given, min_score=0.95, max_faces=7, device="cpu")
        assert len(system(pixels)) == 0
        assert (system.detector.suppression.min_score, system.detector.suppression.max_faces) == (0.95, 7)
    assert len(FacePipeline.from_checkpoints(*files)(pixels)) == 1
    assert repr(FacePipeline("wider_light", classifier)) == (
        "FacePipeline(detector='wider_light', classifier=ExpressionClassifier)"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"detector": 3}, "detector is an int; expected a name"),
        ({"detector": SimpleCNN(7)}, "detector is a SimpleCNN; expected a name"),
        ({"detector": FaceDetector}, "detector is the class FaceDetector; expected"),
        ({"classifier": SimpleCNN(7)}, r"classifier is a SimpleCNN; .* a network as ExpressionClassifier\(net=...\)"),
        ({"classifier": len}, "classifier is a builtin_function_or_method; expected"),
        ({"detector": "no_such_model"}, "no_such_model"),
        ({"detector": "photo.jpg"}, "photo.jpg"),
        (
            {"min_score": 0.7},
            "detector is a Boxes, which decides itself; expected a name, a file or a network for min_s",
        ),
        ({"min_score": "0.7"}, "min_score is '0.7'; expected a number"),
        ({"coverage": "0.9"}, "coverage is '0.9'; expected a number"),
        ({"batch_size": "8"}, "batch_size is '8'; expected a number"),
        ({"crop": 0.3}, r"crop is 0.3; expected a Crop, such as Crop\(margin=0.3\)"),
        ({"runtime": "onx"}, "runtime is onx; expected torch or onnx"),
        ({"runtime": "onnx"}, "runtime is onnx, and a model is an object; expected names or files of both"),
        ({"device": "gpu"}, "device is gpu, which is not there"),
    ],
)
def test_what_is_no_model_is_refused(options, said):
    with pytest.raises(FaceExprError, match=said):
        FacePipeline(**{"detector": Boxes(), "classifier": Levels(), **options})


def test_a_classifier_takes_the_object_of_a_network_and_its_checkpoint_is_whole(tmp_path):
    torch.manual_seed(0)
    net = SimpleCNN(7, batch_norm=True)
    task = ExpressionClassifier(net=net)
    assert task.net is net
    faces = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    again = load_classifier(save_task(task, tmp_path / "a.ckpt"))
    assert again(faces) == pytest.approx(task.eval()(faces).detach().numpy(), abs=1e-6)
    assert task.init_args["net"].keywords["batch_norm"] is True
    with pytest.raises(FaceExprError, match="net is of 8 classes; expected 7"):
        ExpressionClassifier(net=SimpleCNN(8))
    with pytest.raises(FaceExprError, match="net is a Linear; expected an ExpressionNet, or a class derived from it"):
        ExpressionClassifier(net=torch.nn.Linear(2, 7))
    assert isinstance(ExpressionClassifier(net=partial(SimpleCNN, dropout=0.5)).net, SimpleCNN)
