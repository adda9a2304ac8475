"""The second step: one resize for all paths, and classifiers of any kind with their own names."""

import numpy as np
import pytest
import torch
from image_files import smooth_image, stripes
from red_finder import save_task, tiny_classifier
from stub_steps import WHOLE, Boxes, Levels, pipeline

from faceexpr.data.image_reading import face_tensor
from faceexpr.pipeline.classifiers import TaskClassifier, load_classifier
from faceexpr.pipeline.pipeline import FacePipeline
from faceexpr.tasks.knn import KNNClassifier
from faceexpr.utils.crop import Crop
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES, FERPLUS_NAMES


def test_a_face_has_the_probabilities_that_the_network_gives_it():
    model = tiny_classifier()
    grey = np.random.default_rng(5).integers(0, 256, (48, 48), dtype=np.uint8)
    system = FacePipeline(Boxes(WHOLE), TaskClassifier(model))
    with torch.no_grad():
        row = model(torch.from_numpy(grey)[None, None])[0]
    assert float(row.max() - row.min()) > 0.01
    for pixels in (grey, np.stack([grey] * 3, 2)):
        assert [*system(pixels).faces[0].probabilities.values()] == pytest.approx(row.tolist(), abs=1e-4)


def test_a_large_face_is_resized_as_everywhere_else():
    classifier = Levels()
    classifier.image_size = 48
    surround = np.full((600, 700), 128, np.uint8)
    surround[60:540, 100:580] = stripes()
    pipeline([100, 60, 580, 540], classifier=classifier, crop=Crop(margin=0))(surround)
    assert torch.equal(classifier.batches[0], face_tensor(np.stack([stripes()] * 3, 2), 48)[None])


@pytest.mark.parametrize("names", [FERPLUS_NAMES, FER_NAMES[::-1]])
def test_names_and_their_number_are_those_of_the_checkpoint(tmp_path, names):
    classifier = load_classifier(save_task(tiny_classifier(class_names=names), tmp_path / "model.ckpt"))
    (face,) = FacePipeline(Boxes(WHOLE), classifier)(smooth_image(48, 48)).faces
    assert tuple(face.probabilities) == names
    assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert face.expression == max(face.probabilities, key=face.probabilities.get)


@pytest.mark.parametrize("names", [FER_NAMES[:6], ("Angry",) * 7])
def test_a_list_of_names_that_does_not_fit_is_an_error(names):
    model = tiny_classifier()
    model.class_names = names
    with pytest.raises(FaceExprError, match="gives 7 probabilities and has the class names Angry, "):
        TaskClassifier(model)


def test_k_nearest_neighbours_are_a_classifier_too(tmp_path):
    model = KNNClassifier(k=1)
    faces = torch.stack([torch.full((1, 48, 48), level, dtype=torch.uint8) for level in range(0, 210, 30)])
    model.bank, model.labels = model.representation(faces), torch.arange(7)
    system = FacePipeline(Boxes(WHOLE), load_classifier(save_task(model, tmp_path / "knn.ckpt")))
    for label, name in enumerate(FER_NAMES):
        (face,) = system(np.full((60, 60), 30 * label, np.uint8)).faces
        assert (face.expression, face.probabilities[name]) == (name, 1.0)


def test_a_classifier_takes_arrays_and_refuses_what_is_no_batch_of_faces():
    classifier = TaskClassifier(tiny_classifier())
    faces = np.random.default_rng(0).integers(0, 256, (2, 1, 48, 48), dtype=np.uint8)
    assert (classifier(faces) == classifier(torch.from_numpy(faces))).all()
    for given, kind in ((faces[0, 0], r"a Tensor \(48, 48\)"), ("photo.jpg", "'photo.jpg'"), ([faces], "a list")):
        with pytest.raises(FaceExprError, match=f"faces is {kind}; expected faces, a tensor or an array"):
            classifier(given)
    with pytest.raises(FaceExprError, match="classifier is a Linear; expected a file or a name"):
        load_classifier(torch.nn.Linear(2, 7))


def test_the_pipeline_is_the_package_s_public_name():
    import faceexpr

    assert faceexpr.FacePipeline is FacePipeline
    with pytest.raises(AttributeError, match="has no attribute 'Facepipeline'"):
        _ = faceexpr.Facepipeline
