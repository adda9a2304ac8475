"""Explanations beside the faces of the galleries."""

from functools import partial

import pytest
import torch

from faceexpr.callbacks.classification import ClassificationEvaluation
from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.models.mlp import MLP
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.tasks.knn import KNNClassifier
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES


class Keeps(ClassificationEvaluation):
    """Keeps the pictures of the last galleries, by stage and name, and the captions under them."""

    def draw(self, trainer, stage, result):
        drawn = super().draw(trainer, stage, result)
        self.last = result
        self.pictures = {
            (stage, name): [axes.images[0].get_array() for axes in drawn[name].axes]
            for name in ("right", "wrong")
            if name in drawn
        }
        return drawn


def tiny():
    torch.manual_seed(0)
    return ExpressionClassifier(net=partial(MLP, hidden=[8])), SyntheticFaces(train_size=7, val_size=7, test_size=14)


def test_tests_show_what_speaks_for_the_prediction_and_trainings_do_not(make_trainer):
    model, data = tiny()
    evaluation = Keeps(explain=True, resamples=10)
    trainer = make_trainer(evaluation, logger=False)
    trainer.fit(model, datamodule=data)
    assert {picture.shape for pictures in evaluation.pictures.values() for picture in pictures} == {(48, 48)}
    trainer.test(model, datamodule=data, verbose=False)
    pictures = [picture for pictures in evaluation.pictures.values() for picture in pictures]
    assert len(pictures) == 14
    assert {picture.shape for picture in pictures} == {(160, 324, 3)}
    # The face on the left is grey; what lies over the one on the right is not.
    assert all((picture[:, :160].max(2) == picture[:, :160].min(2)).all() for picture in pictures)
    assert all((picture[:, 164:].max(2) > picture[:, 164:].min(2)).any() for picture in pictures)
    assert all(parameter.grad is None or parameter.requires_grad for parameter in model.parameters())


def test_without_the_option_nothing_is_beside_a_face(make_trainer):
    model, data = tiny()
    evaluation = Keeps(resamples=10)
    make_trainer(evaluation, logger=False).test(model, datamodule=data, verbose=False)
    assert {picture.shape for pictures in evaluation.pictures.values() for picture in pictures} == {(48, 48)}


def test_what_has_no_network_is_refused_before_anything_runs(make_trainer):
    trainer = make_trainer(ClassificationEvaluation(explain=True), logger=False)
    model = KNNClassifier(k=1, class_names=FER_NAMES)
    with pytest.raises(FaceExprError, match=r"^explain: KNNClassifier has no gradients"):
        trainer.fit(model, datamodule=tiny()[1])
    assert len(model.bank) == 0
