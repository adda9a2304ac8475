"""Networks and annotations as detectors, and the one way to load them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from red_finder import RedFinder, red_picture, save_task, tiny_classifier
from torchvision.ops import box_iou

from faceexpr.data.annotations.reading import AnnotatedImage, Annotations
from faceexpr.models.light_detector import LightDetector
from faceexpr.pipeline.detectors import GroundTruth, NetDetector, load_detector
from faceexpr.pipeline.pipeline import as_detector
from faceexpr.tasks.detect import FaceDetector
from faceexpr.utils.errors import FaceExprError

BOX = (10, 20, 40, 60)


def test_images_of_any_sizes_keep_their_order_and_share_a_batch_with_their_size_only():
    net = RedFinder()
    boxes = [BOX, None, (5, 5, 30, 50), (60, 20, 90, 80)]
    sizes = [(120, 90), (64, 64), (64, 64), (120, 90)]
    images = [red_picture(box, *size) for box, size in zip(boxes, sizes, strict=True)]
    found = NetDetector(net, batch_size=8)(images)
    assert [detections.boxes.tolist() for detections in found] == [[list(box)] if box else [] for box in boxes]
    assert sorted(net.shapes) == [(2, 64, 64), (2, 90, 120)]
    net.shapes.clear()
    assert NetDetector(net)([]) == []
    assert len(NetDetector(net, batch_size=2)([red_picture(None)] * 5)) == 5
    assert [shape[0] for shape in net.shapes] == [2, 2, 1]
    with pytest.raises(FaceExprError, match="batch_size is 0"):
        NetDetector(net, batch_size=0)


def test_read_only_and_strided_pixels_are_taken_and_left_as_they_are(recwarn):
    mirrored = red_picture(BOX)[:, ::-1]
    mirrored.flags.writeable = False
    (found,) = NetDetector(RedFinder())([mirrored])
    assert found.boxes.tolist() == [[80, 20, 110, 60]]
    assert not recwarn.list


def test_a_run_folder_or_its_file_is_loaded_and_its_suppression_can_be_changed(tmp_path):
    checkpoint = save_task(FaceDetector(net=RedFinder(score=0.6)), tmp_path / "checkpoints/best.ckpt")
    (found,) = load_detector(tmp_path)([red_picture(BOX)])
    assert found.boxes.tolist() == [list(BOX)]
    assert found.scores.tolist() == pytest.approx([0.6])
    for changes, number, limited in (
        ({"min_score": 0.7}, 0, False),
        ({"method": "none", "max_faces": 2}, 2, False),
        ({"method": "none", "max_faces": 1}, 1, True),
    ):
        (found,) = load_detector(str(checkpoint), suppression=changes)([red_picture(BOX)])
        assert (len(found), found.limited) == (number, limited)


def test_a_light_detector_looks_at_images_as_small_as_is_asked(tmp_path, workdir):
    portrait = np.array(Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    (usual,), (quick,) = (
        load_detector("wider_light", suppression={"min_score": 0.5}, test_side=side)([portrait]) for side in (None, 256)
    )
    assert len(usual) == len(quick) == 1
    assert not torch.equal(usual.boxes, quick.boxes)
    assert box_iou(usual.boxes, quick.boxes).item() > 0.75
    other = save_task(FaceDetector(net=RedFinder()), tmp_path / "other.ckpt")
    Path("net.onnx").write_bytes(b"")
    for source, side, message in (
        ("wider_light", 31, "test_side is 31; expected 32 or more pixels"),
        (other, 256, "is a RedFinder; expected none"),
        ("net.onnx", 256, "an ONNX file has its own"),
    ):
        with pytest.raises(FaceExprError, match=message):
            load_detector(source, test_side=side)


def test_batch_normalisation_is_a_part_of_the_convolutions_that_find_faces_and_not_of_those_that_are_trained(tmp_path):
    torch.manual_seed(0)
    task = FaceDetector(net=LightDetector(widths=(4, 8, 12, 12, 12), neck=8)).eval()
    norms = [module for module in task.net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    batch = torch.rand(2, 3, 64, 96)
    expected = task.net.features(batch)
    for detector in (as_detector(task), load_detector(save_task(task, tmp_path / "trained.ckpt"))):
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in detector.net.modules())
        torch.testing.assert_close(detector.net.features(batch), expected, atol=1e-4, rtol=1e-4)
    assert norms == [module for module in task.net.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_what_is_no_detector_is_refused_by_name(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "absent.ckpt", r"detector: .*absent\.ckpt does not exist"),
        (tmp_path / "empty", r"detector: there is no checkpoint in .*empty; expected a run of fit"),
        (save_task(tiny_classifier(), tmp_path / "classifier.ckpt"), "expected the checkpoint of a FaceDetector"),
    ):
        with pytest.raises(FaceExprError, match=message):
            load_detector(path)


def test_what_is_no_list_of_images_is_refused(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    assert len(NetDetector(RedFinder())([pixels])) == 1
    for images in (pixels, ["photo.jpg"], [torch.zeros(3, 20, 30)]):
        with pytest.raises(FaceExprError, match="expected a list of arrays"):
            NetDetector(RedFinder())(images)
    for source in (None, RedFinder()):
        with pytest.raises(FaceExprError, match=r"detector is a .*; expected a name or a file"):
            load_detector(source)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    with pytest.raises(FaceExprError, match=r"photo.png, an image; expected a model, or annotations"):
        load_detector(tmp_path / "photo.png")


def annotated(path, boxes, ignored=(), labelled=True):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return AnnotatedImage(Path(path), (100, 80), boxes, np.isin(np.arange(len(boxes)), ignored), labelled)


def test_ground_truth_is_found_by_the_real_path_and_given_in_pixels_of_the_reduced_image(tmp_path):
    image = tmp_path / "a.jpg"
    image.touch()
    (tmp_path / "link.jpg").symlink_to(image)
    known = [annotated(image, [BOX, [1, 2, 30, 40]], [1]), annotated(tmp_path / "empty.jpg", [])]
    truth = GroundTruth(Annotations([*known, annotated(tmp_path / "skipped.jpg", [], labelled=False)]), "faces.json")
    for path in (image, tmp_path / "link.jpg", tmp_path / "b" / ".." / "a.jpg"):
        assert truth.faces(path).boxes.tolist() == [list(BOX)]
    halved = truth.faces(image, reduction=2)
    assert (halved.boxes.tolist(), halved.scores.tolist()) == ([[5, 10, 20, 30]], [1])
    assert truth.faces(tmp_path / "empty.jpg").boxes.shape == (0, 4)
    for name in ("skipped.jpg", "absent.jpg"):
        with pytest.raises(FaceExprError, match=rf"{name}: faces\.json does not say where its faces are"):
            truth.faces(tmp_path / name)
