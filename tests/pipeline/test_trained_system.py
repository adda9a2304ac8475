"""Both steps with networks that were really trained: faces are found and their expressions told."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from red_finder import save_task
from torchvision.ops import box_iou

from faceexpr.data.image_reading import face_tensor
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.models.light_detector import LightDetector
from faceexpr.models.mlp import MLP
from faceexpr.pipeline.crop import Crop, cut_face
from faceexpr.pipeline.pipeline import FacePipeline
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.tasks.detect import FaceDetector
from faceexpr.utils.labels import FER_NAMES


def fit(parameters, loss, steps, lr):
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


@pytest.mark.slow
def test_an_overfitted_pair_finds_its_training_faces_and_tells_their_expressions(tmp_path):
    rng = np.random.default_rng(4)
    scenes = [draw_scene(rng, 160, 128, 2) for _ in range(3)]
    torch.manual_seed(0)
    detector = FaceDetector(net=LightDetector(widths=(8, 16, 24, 32, 32), neck=24))
    images = [torch.from_numpy(pixels).permute(2, 0, 1) for pixels, _, _ in scenes]
    boxes = [torch.from_numpy(truth) for _, truth, _ in scenes]
    detector.net.train()
    fit(detector.net.parameters(), lambda: sum(detector.net.losses(images, boxes).values()), 150, 5e-3)

    crop = Crop()
    faces = torch.stack([face_tensor(cut_face(pixels, box, crop), 48) for pixels, truth, _ in scenes for box in truth])
    targets = torch.tensor([FER_NAMES.index(name) for _, _, names in scenes for name in names])
    classifier = ExpressionClassifier(net=partial(MLP, hidden=[64]))
    fit(
        classifier.net.parameters(),
        lambda: torch.nn.functional.cross_entropy(classifier.net(faces), targets), 60, 1e-3,
    )  # fmt: skip

    save_task(detector, tmp_path / "detector.ckpt")
    save_task(classifier, tmp_path / "classifier.ckpt")
    system = FacePipeline.from_checkpoints(tmp_path / "detector.ckpt", tmp_path / "classifier.ckpt", min_score=0.3)
    told = 0
    for number, (pixels, truth, names) in enumerate(scenes):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        found = system(path).faces
        overlap = box_iou(torch.from_numpy(truth), torch.tensor([face.box for face in found]))
        assert len(found) == len(truth)
        assert overlap.amax(1).min() > 0.5
        told += sum(found[int(best)].expression == name for best, name in zip(overlap.argmax(1), names, strict=True))
    assert told >= 5
