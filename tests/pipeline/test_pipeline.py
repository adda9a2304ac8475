"""The two steps in Python: every kind of input, boxes at borders, no face, class names, one resize for all paths."""

from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import encoded, with_orientation
from PIL import Image
from red_finder import RED, RedFinder, red_picture, save_task, tiny_classifier
from stub_steps import WHOLE, Boxes, Levels, pipeline

from faceexpr.boxes.detections import Detections
from faceexpr.models.faster_rcnn import FasterRCNN
from faceexpr.pipeline.classifiers import TaskClassifier
from faceexpr.pipeline.detectors import NetDetector
from faceexpr.pipeline.pipeline import FacePipeline, find_device
from faceexpr.pipeline.records import NOT_FINITE, csv_rows
from faceexpr.tasks.detect import FaceDetector
from faceexpr.utils.crop import Crop
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import ImageError

BOX = (10, 20, 40, 60)
MEMORY = Path("/proc/self/statm")


def test_every_kind_of_input_gives_the_same_and_red_stays_red(tmp_path):
    pixels = red_picture(BOX)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    classifier = Levels()
    system = FacePipeline(NetDetector(RedFinder()), classifier, Crop(margin=0, shape="stretched"))
    sources = [path, str(path), path.read_bytes(), Image.open(path), pixels, pixels.astype(np.float32) / 255]
    results = [*map(system, sources), system(np.ascontiguousarray(pixels[:, :, ::-1]), bgr=True)]
    assert [face.box for result in results for face in result.faces] == [BOX] * 7
    assert [result.faces[0].expression for result in results] == ["Red"] * 7
    assert len({tuple(result.faces[0].probabilities.values()) for result in results}) == 1
    assert all(batch[0].amax((1, 2)).tolist() == list(RED) for batch in classifier.batches)
    assert system(pixels[:, :, ::-1]).faces == ()
    with pytest.raises(FaceExprError, match="bgr is true, but the image is not an array"):
        system(path, bgr=True)


def test_boxes_at_the_border_are_reported_inside_and_the_others_left_out_with_a_reason():
    nan = float("nan")
    boxes = (
        [-5, -5, 20, 20], [90, 90, 130, 130], [110, 10, 130, 30], [10, 10, 10, 40], [10, 10, 11, 80], [nan, 1, 9, 9],
    )  # fmt: skip
    result = pipeline(*boxes, crop=Crop(margin=0.3))(red_picture(None, 100, 100))
    assert [face.box for face in result.faces] == [(0, 0, 20, 20), (90, 90, 100, 100)]
    assert result.status == "ok"
    assert result.notes == (
        "4 boxes left out: 1 not finite, 1 outside the picture, 1 smaller than 8 pixels, 1 without area",
    )


def test_images_without_a_face_never_reach_the_classifier():
    classifier = Levels()
    system = FacePipeline(NetDetector(RedFinder()), classifier)
    with_face, without = (encoded(Image.fromarray(red_picture(box)), "PNG") for box in (BOX, None))
    given = [("a", without), ("b", with_face), ("c", without)]
    assert [(result.status, len(result.faces)) for result in system.run(given)] == [("ok", 0), ("ok", 1), ("ok", 0)]
    assert [result.faces for result in system.run(given[::2])] == [(), ()]
    assert [len(batch) for batch in classifier.batches] == [1]


def test_faces_are_batched_over_images_and_in_chunks_and_keep_their_owner():
    colours = {"Red": (200, 0, 0), "Green": (0, 200, 0), "Blue": (0, 0, 200)}
    names = ["Red", "Green", "Blue", "Red", "Green"]
    given = [(name, encoded(Image.new("RGB", (40, 40), colours[name]), "PNG")) for name in names]
    classifier, boxes = Levels(), ([0, 0, 20, 20], [10, 10, 40, 40], [5, 5, 30, 30])
    results = list(pipeline(*boxes, classifier=classifier, batch_size=4, face_batch=5).run(given))
    assert [result.source for result in results] == names
    assert [{face.expression for face in result.faces} for result in results] == [{name} for name in names]
    assert [len(batch) for batch in classifier.batches] == [5, 5, 2, 3]


def test_a_detector_of_few_proposals_needs_no_option(models, tmp_path):  # case N11
    net = FasterRCNN("resnet18", channels=8, head_width=8, min_size=64, proposals=100)
    save_task(FaceDetector(net=net), tmp_path / "faster.ckpt")
    steps = tmp_path / "faster.ckpt", models / "classifier.ckpt"
    assert FacePipeline.from_checkpoints(*steps)(red_picture(BOX)).status == "ok"
    assert FacePipeline.from_checkpoints(*steps, max_faces=7).detector.suppression.max_faces == 7
    with pytest.raises(FaceExprError, match="max_faces is 400, but the network looks at 100 regions"):
        FacePipeline.from_checkpoints(*steps, max_faces=400)(red_picture(BOX))


def test_probabilities_that_are_not_finite_are_an_error_and_the_other_faces_keep_theirs():
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 30:] = (0, 0, 90)
    result = pipeline([0, 0, 20, 20], [30, 0, 60, 20])(pixels)
    assert (result.status, result.reason) == ("error", "the classifier's probabilities are not finite: face 1 of 2")
    assert (result.faces[0].expression, result.faces[0].probabilities) == (None, None)
    assert result.faces[1].probabilities == {"Red": 0, "Green": 0, "Blue": 1}
    first, second = csv_rows(result.record(), Levels.class_names).splitlines()
    assert first == f"array,error,{NOT_FINITE},80,40,1,0.0,0.0,20.0,20.0,0.9,,,,,,"
    assert second == "array,ok,,80,40,2,30.0,0.0,60.0,20.0,0.5,Blue,,0.0,0.0,1.0,"


def test_boxes_refer_to_the_upright_image():
    raw = Image.fromarray(red_picture((4, 2, 16, 14), 40, 20))
    content = encoded(raw, "PNG", exif=with_orientation(6))
    result = FacePipeline(NetDetector(RedFinder()), Levels(), Crop(margin=0))(content)
    assert result.size == (20, 40)
    assert result.faces[0].box == (6, 4, 18, 16)
    assert result.faces[0].probabilities["Red"] > 0.8


def test_large_images_are_searched_reduced_and_boxes_are_those_of_the_original(tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(red_picture((400, 200, 1000, 900), 2000, 1600)).save(path)
    detector = Boxes([100, 50, 250, 225])
    result = FacePipeline(detector, Levels(), Crop(margin=0), reduce_to=400)(path)
    assert detector.seen[0].shape == (400, 500, 3)
    assert result.size == (2000, 1600)
    assert result.faces[0].box == (400, 200, 1000, 900)
    assert result.faces[0].probabilities["Red"] > 0.75
    with pytest.raises(ImageError, match="too large: 2000 x 1600 pixels"):
        pipeline(WHOLE, max_pixels=3_000_000)(path)


@pytest.mark.parametrize("option", ["batch_size", "face_batch", "max_pixels", "reduce_to"])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(FaceExprError, match=f"{option} is 0"):
        pipeline(WHOLE, **{option: 0})


@pytest.mark.slow
@pytest.mark.skipif(not MEMORY.exists(), reason="this system does not tell the memory of a process as a file")
def test_memory_stays_flat_over_300_images_of_50_sizes(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(300):
        width, height = 300 + 10 * (number % 50), 800 - 9 * (number % 50)
        path = tmp_path / f"{number:03}.jpg"
        Image.fromarray(red_picture((40, 50, 160, 190), width, height)).save(path)
    crowd = [(x, y, x + 15, y + 15) for x in range(0, 150, 15) for y in range(0, 300, 15)]
    found = NetDetector(RedFinder())

    def detector(images):
        crowded = Detections(torch.tensor(crowd).float(), torch.ones(200))
        return [crowded if rng.random() < 0.03 else detections for detections in found(images)]

    classifier = TaskClassifier(tiny_classifier())
    sizes = []
    for number, result in enumerate(FacePipeline(detector, classifier).run(sorted(tmp_path.iterdir())), 1):
        assert len(result.faces) in (1, 200)
        if number in (50, 300):
            sizes.append(int(MEMORY.read_text().split()[1]))  # pages
    assert sizes[1] < 1.1 * sizes[0]


def test_a_device_that_is_not_there_is_named():
    assert find_device("auto").type in ("cpu", "cuda")
    for device in ("nope", "cuda:99", "meta"):
        with pytest.raises(FaceExprError, match=f"device is {device}, which is not there"):
            FacePipeline.from_checkpoints("detector.ckpt", "classifier.ckpt", device=device)


@pytest.mark.parametrize("path", ["photo.jpg", b"photo.jpg", Path("photo.jpg"), red_picture(BOX), None])
def test_one_path_in_the_place_of_several_is_refused(path):
    with pytest.raises(FaceExprError, match="expected a list"):
        next(pipeline(WHOLE).run(path))
