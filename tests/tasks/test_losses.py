"""Losses against torch's own and against each other."""

import pytest
import torch
from torch.nn import functional

from faceexpr.tasks.classify import CrossEntropy, Focal
from faceexpr.utils.errors import FaceExprError

WEIGHTS = [0.5, 1.0, 2.0, 3.0]
LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)) * 3
INDEX = torch.tensor([0, 1, 2, 3, 3, 1])
DISTRIBUTION = torch.rand(6, 4, generator=torch.Generator().manual_seed(2)).softmax(1)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("target", [INDEX, DISTRIBUTION], ids=["index", "distribution"])
def test_cross_entropy_is_torch_s(target, smoothing, weights):
    loss = CrossEntropy(label_smoothing=smoothing, class_weights=weights)(LOGITS, target)
    weight = None if weights is None else torch.tensor(weights)
    assert torch.equal(loss, functional.cross_entropy(LOGITS, target, weight=weight, label_smoothing=smoothing))


@pytest.mark.parametrize(("target", "weights"), [(INDEX, None), (INDEX, WEIGHTS), (DISTRIBUTION, None)])
def test_focal_with_gamma_0_is_cross_entropy(target, weights):
    focal, plain = Focal(gamma=0, class_weights=weights), CrossEntropy(class_weights=weights)
    torch.testing.assert_close(focal(LOGITS, target), plain(LOGITS, target))


@pytest.mark.parametrize("loss", [CrossEntropy(), Focal(gamma=1, class_weights=WEIGHTS)])
def test_a_certain_distribution_is_its_index(loss):
    torch.testing.assert_close(loss(LOGITS, functional.one_hot(INDEX, 4).float()), loss(LOGITS, INDEX))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_is_the_article_s_formula(gamma):
    probability = LOGITS.double().softmax(1)[torch.arange(6), INDEX]
    expected = (-((1 - probability) ** gamma) * probability.log()).mean()
    torch.testing.assert_close(Focal(gamma=gamma)(LOGITS, INDEX).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_certain_samples_have_finite_gradients(gamma):
    logits = torch.tensor([[200.0, 0.0, -50.0], [0.0, 200.0, 0.0]], requires_grad=True)
    loss = Focal(gamma=gamma)(logits, torch.tensor([0, 2]))
    loss.backward()
    assert loss.item() == pytest.approx(100)  # (0 + 200) / 2
    assert logits.grad.isfinite().all()
    assert logits.grad[1].abs().max() > 0


def test_weights_move_with_the_loss_and_are_not_in_checkpoints():
    loss = CrossEntropy(class_weights=WEIGHTS)
    assert loss.state_dict() == {}
    assert loss.double()(LOGITS.double(), INDEX).dtype == torch.float64


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (CrossEntropy, {"label_smoothing": 1.0}),
        (Focal, {"gamma": -1}),
        (CrossEntropy, {"class_weights": [1, -1]}),
        (Focal, {"class_weights": [0, 0]}),
        (CrossEntropy, {"prior": [0.5, 0.4]}),
        (CrossEntropy, {"prior": [1.0, 0.0]}),
        (CrossEntropy, {"prior": []}),
    ],
)
def test_bad_options_are_named(kind, options):
    ((name, _),) = options.items()
    with pytest.raises(FaceExprError, match=rf"^{name} is .*; expected "):
        kind(**options)


def test_a_prior_is_added_to_the_logits():
    logits, target = torch.randn(6, 7, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    prior = [0.05, 0.1, 0.1, 0.25, 0.1, 0.1, 0.3]
    expected = functional.cross_entropy(logits + torch.tensor(prior).log(), target)
    torch.testing.assert_close(CrossEntropy(prior=prior)(logits, target), expected)
    assert CrossEntropy(prior=prior).state_dict() == {}
