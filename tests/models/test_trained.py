"""Models of checkpoints in plain torch: the same as the tasks that Lightning builds, and the tasks for all others."""

import pytest
import torch
from red_finder import RedFinder, red_picture, save_task, tiny_classifier

from faceexpr.models.calibrator import Calibration
from faceexpr.models.detector import DetectionNet
from faceexpr.models.trained import TrainedClassifier, load_trained
from faceexpr.tasks.base import load_task
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.tasks.detect import FaceDetector
from faceexpr.tasks.knn import KNNClassifier
from faceexpr.utils.crop import Crop
from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.model_file import CLASSIFIER, DETECTOR, shipped_models

CALIBRATION = Calibration(1.7, {"0.9": 0.8}, scales=(1.1,) * 7, shifts=(0.0,) * 6 + (0.5,))


class OwnClassifier(ExpressionClassifier):
    """A task that does more with a face than its network."""

    def forward(self, image):
        return super().forward(image).flip(1)


@pytest.mark.parametrize("options", [{}, {"mirror": True, "calibration": CALIBRATION, "channels_last": False}])
def test_a_classifier_gives_the_probabilities_of_its_task_to_the_bit(workdir, options):
    model = tiny_classifier(**options)
    model.use_crop(Crop(shape="stretched", channels=1))
    path = save_task(model, workdir / "model.ckpt")
    found = load_trained(path).eval()
    task = load_task(path, [ExpressionClassifier], "a classifier", "one").eval()
    assert isinstance(found, TrainedClassifier)
    faces = torch.randint(0, 256, (3, 3, 60, 50), dtype=torch.uint8)
    assert torch.equal(found(faces), task(faces))
    assert (found.class_names, found.crop, found.calibration) == (task.class_names, task.crop, task.calibration)


@pytest.mark.parametrize("name", [CLASSIFIER, DETECTOR])
def test_the_models_that_ship_take_no_task(name):
    found = load_trained(shipped_models()[name])
    assert isinstance(found, TrainedClassifier if name == CLASSIFIER else DetectionNet)
    kind = ExpressionClassifier if name == CLASSIFIER else FaceDetector
    expected = load_task(shipped_models()[name], [kind], "a model", "one").net.state_dict()
    state = (found.net if name == CLASSIFIER else found).state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


def test_a_detector_finds_what_its_task_finds(workdir):
    path = save_task(FaceDetector(net=RedFinder(score=0.8)), workdir / "model.ckpt")
    image = torch.from_numpy(red_picture((30, 20, 70, 70))).permute(2, 0, 1)
    found, task = load_trained(path)([image])[0], load_task(path, [FaceDetector], "a detector", "one")([image])[0]
    assert (found.boxes.tolist(), found.scores.tolist()) == (task.boxes.tolist(), task.scores.tolist())


@pytest.mark.parametrize("model", [KNNClassifier(k=1), OwnClassifier()], ids=["knn", "own"])
def test_other_tasks_are_left_to_whoever_builds_tasks(workdir, model):
    assert load_trained(save_task(model, workdir / "model.ckpt")) is None


def test_what_is_wrong_with_a_file_is_left_to_who_says_it(workdir):
    path = save_task(tiny_classifier(), workdir / "model.ckpt")
    checkpoint = torch.load(path)
    weights = checkpoint["state_dict"]
    checkpoint["state_dict"] = {**weights, "net.surplus": torch.zeros(1)}
    torch.save(checkpoint, path)
    assert load_trained(path) is None
    del checkpoint["hyper_parameters"]["_class_path"]
    torch.save(checkpoint, path)
    with pytest.raises(FaceExprError, match="does not say what model it holds"):
        load_trained(path)
