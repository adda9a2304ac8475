"""Networks and annotations as detectors, and the one way to load them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from red_finder import RedFinder, red_picture, save_task, tiny_classifier

from faceexpr.data.annotations.reading import AnnotatedImage, Annotations
from faceexpr.pipeline.detectors import GroundTruth, NetDetector, load_detector
from faceexpr.tasks.detect import FaceDetector
from faceexpr.utils.errors import FaceExprError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return save_task(FaceDetector(net=RedFinder(score=0.6)), folder / "checkpoints" / "best.ckpt")


def test_pictures_of_any_sizes_keep_their_order_and_share_a_batch_with_their_size_only():
    net = RedFinder()
    boxes = [(10, 20, 40, 60), None, (5, 5, 30, 50), (60, 20, 90, 80)]
    sizes = [(120, 90), (64, 64), (64, 64), (120, 90)]
    images = [red_picture(box, *size) for box, size in zip(boxes, sizes, strict=True)]
    found = NetDetector(net, batch_size=8)(images)
    assert [detections.boxes.tolist() for detections in found] == [[list(box)] if box else [] for box in boxes]
    assert sorted(net.shapes) == [(2, 64, 64), (2, 90, 120)]
    assert NetDetector(net)([]) == []


def test_a_batch_has_at_most_batch_size_pictures():
    net = RedFinder()
    assert len(NetDetector(net, batch_size=2)([red_picture(None)] * 5)) == 5
    assert [shape[0] for shape in net.shapes] == [2, 2, 1]
    with pytest.raises(FaceExprError, match="batch_size is 0"):
        NetDetector(net, batch_size=0)


def test_read_only_and_strided_pixels_are_taken_and_left_as_they_are(recwarn):
    pixels = red_picture((10, 20, 40, 60))
    mirrored = pixels[:, ::-1]
    mirrored.flags.writeable = False
    (found,) = NetDetector(RedFinder())([mirrored])
    assert found.boxes.tolist() == [[80, 20, 110, 60]]
    assert not recwarn.list


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_run_folder_or_its_file_is_loaded(checkpoint, as_folder):
    detector = load_detector(checkpoint.parent.parent if as_folder else str(checkpoint))
    (found,) = detector([red_picture((10, 20, 40, 60))])
    assert found.boxes.tolist() == [[10, 20, 40, 60]]
    assert found.scores.tolist() == pytest.approx([0.6])


def test_suppression_can_be_changed_when_loading(checkpoint):
    picture = [red_picture((10, 20, 40, 60))]
    assert len(load_detector(checkpoint, suppression={"min_score": 0.7})(picture)[0]) == 0
    doubled = load_detector(checkpoint, suppression={"method": "none", "max_faces": 2})(picture)[0]
    assert (len(doubled), doubled.limited) == (2, False)
    limited = load_detector(checkpoint, suppression={"method": "none", "max_faces": 1})(picture)[0]
    assert (len(limited), limited.limited) == (1, True)


def test_what_is_no_detector_is_refused_by_name(checkpoint, tmp_path):
    with pytest.raises(FaceExprError, match=r"detector: .*absent\.ckpt does not exist"):
        load_detector(tmp_path / "absent.ckpt")
    with pytest.raises(FaceExprError, match=r"detector: there is no best\.ckpt in the run folder"):
        load_detector(tmp_path)
    with pytest.raises(FaceExprError, match="expected the checkpoint of a FaceDetector"):
        load_detector(save_task(tiny_classifier(), tmp_path / "classifier.ckpt"))
    whole = checkpoint.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    stored = torch.load(checkpoint, weights_only=True)
    torch.save({**stored, "state_dict": {"foreign": torch.zeros(1)}}, tmp_path / "foreign.ckpt")
    for name, reason in (
        ("cut", r"cut\.ckpt cannot be loaded as a checkpoint .*: it is damaged"),
        ("bare", r"bare\.ckpt does not say what model it holds"),
        ("foreign", r"foreign\.ckpt cannot be loaded as a detector: its weights do not fit"),
    ):
        with pytest.raises(FaceExprError, match=reason):
            load_detector(tmp_path / f"{name}.ckpt")


def annotated(path, boxes, ignored=None, labelled=True):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    ignored = np.zeros(len(boxes), bool) if ignored is None else np.array(ignored)
    return AnnotatedImage(Path(path), (100, 80), boxes, ignored, labelled)


def test_ground_truth_is_found_by_the_real_path_and_given_in_pixels_of_the_reduced_picture(tmp_path):
    picture = tmp_path / "a.jpg"
    picture.touch()
    (tmp_path / "link.jpg").symlink_to(picture)
    truth = GroundTruth(Annotations([annotated(picture, [[10, 20, 40, 60], [1, 2, 30, 40]], [False, True])]))
    for path in (picture, tmp_path / "link.jpg", tmp_path / "b" / ".." / "a.jpg"):
        assert truth.faces(path).boxes.tolist() == [[10, 20, 40, 60]]
    halved = truth.faces(picture, reduction=2)
    assert halved.boxes.tolist() == [[5, 10, 20, 30]]
    assert halved.scores.tolist() == [1]


def test_ground_truth_says_where_nothing_is_known(tmp_path):
    records = [annotated(tmp_path / "skipped.jpg", [], labelled=False), annotated(tmp_path / "empty.jpg", [])]
    truth = GroundTruth(Annotations(records), "faces.json")
    assert truth.faces(tmp_path / "empty.jpg").boxes.shape == (0, 4)
    for name in ("skipped.jpg", "absent.jpg"):
        with pytest.raises(FaceExprError, match=rf"{name}: faces\.json does not say where its faces are"):
            truth.faces(tmp_path / name)


def test_a_network_is_given_uint8_and_the_same_as_floats_would_be(checkpoint):
    picture = torch.from_numpy(red_picture((10, 20, 40, 60))).permute(2, 0, 1)
    net = load_detector(checkpoint).net
    as_bytes, as_floats = net([picture])[0], net([picture.float() / 255])[0]
    assert torch.equal(as_bytes.boxes, as_floats.boxes)
    with pytest.raises(FaceExprError, match="expected uint8, or floating point from 0 to 1"):
        net([picture.float()])
