"""Losses against torch's own and against each other."""

import pytest
import torch
from torch.nn import functional

from faceexpr.tasks.classify import CrossEntropy, Focal
from faceexpr.utils.errors import FaceExprError

WEIGHTS = [0.5, 1.0, 2.0, 3.0]


@pytest.fixture
def logits():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(1)) * 3


@pytest.fixture
def index():
    return torch.tensor([0, 1, 2, 3, 3, 1])


@pytest.fixture
def distribution():
    return torch.rand(6, 4, generator=torch.Generator().manual_seed(2)).softmax(1)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["index", "distribution"])
def test_cross_entropy_is_torch_s(kind, smoothing, weights, logits, request):
    target = request.getfixturevalue(kind)
    loss = CrossEntropy(label_smoothing=smoothing, class_weights=weights)(logits, target)
    expected = functional.cross_entropy(
        logits, target, weight=None if weights is None else torch.tensor(weights), label_smoothing=smoothing
    )
    assert torch.equal(loss, expected)


@pytest.mark.parametrize(("kind", "weights"), [("index", None), ("index", WEIGHTS), ("distribution", None)])
def test_focal_with_gamma_0_is_cross_entropy(kind, weights, logits, request):
    target = request.getfixturevalue(kind)
    focal, plain = Focal(gamma=0, class_weights=weights), CrossEntropy(class_weights=weights)
    torch.testing.assert_close(focal(logits, target), plain(logits, target))


@pytest.mark.parametrize("loss", [CrossEntropy(), Focal(), Focal(gamma=1, class_weights=WEIGHTS)])
def test_a_certain_distribution_is_its_index(loss, logits, index):
    torch.testing.assert_close(loss(logits, functional.one_hot(index, 4).float()), loss(logits, index))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_is_the_article_s_formula(gamma, logits, index):
    probability = logits.double().softmax(1)[torch.arange(6), index]
    expected = (-((1 - probability) ** gamma) * probability.log()).mean()
    torch.testing.assert_close(Focal(gamma=gamma)(logits, index).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_certain_samples_have_finite_gradients(gamma):
    logits = torch.tensor([[200.0, 0.0, -50.0], [0.0, 200.0, 0.0]], requires_grad=True)
    loss = Focal(gamma=gamma)(logits, torch.tensor([0, 2]))
    loss.backward()
    assert loss.item() == pytest.approx(100)  # (0 + 200) / 2
    assert logits.grad.isfinite().all()
    assert logits.grad[1].abs().max() > 0


@pytest.mark.parametrize("loss", [CrossEntropy(class_weights=WEIGHTS), Focal(class_weights=WEIGHTS)])
def test_weights_move_with_the_loss_and_are_not_in_checkpoints(loss, logits, index):
    assert loss.state_dict() == {}
    assert loss.double()(logits.double(), index).dtype == torch.float64
    loss.float()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: CrossEntropy(label_smoothing=-0.1), "label_smoothing is -0.1"),
        (lambda: CrossEntropy(label_smoothing=1.0), "label_smoothing is 1.0"),
        (lambda: Focal(gamma=-1), "gamma is -1"),
        (lambda: CrossEntropy(class_weights=[1, -1]), r"class_weights is \[1, -1\]"),
        (lambda: Focal(class_weights=[0, 0]), r"class_weights is \[0, 0\]"),
    ],
)
def test_bad_options_are_named(build, expected):
    with pytest.raises(FaceExprError, match=rf"^{expected}; expected "):
        build()
