"""Maps of what speaks for a class: what they must be, and what they leave behind."""

import sys

import numpy as np
import pytest
import torch
from small_nets import Layers, sides, small_cnn
from torch import nn

from faceexpr.models.mlp import MLP
from faceexpr.models.simple_cnn import SimpleCNN
from faceexpr.tasks.knn import KNNClassifier
from faceexpr.utils.errors import FaceExprError
from faceexpr.visualization.explain import class_maps, explained_network


def alike(one, other):
    """Return the mean correlation of maps."""
    return np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one, other, strict=True)])


def marked(number, seed, size=24):
    """Return noisy images with a bar, lying or standing, at a random place; which of both; and the places."""
    rng = torch.Generator().manual_seed(seed)
    images = 0.4 + 0.1 * torch.randn(number, 1, size, size, generator=rng)
    kinds = torch.randint(2, (number,), generator=rng)
    middles = torch.randint(6, size - 6, (number, 2), generator=rng)
    for image, kind, (y, x) in zip(images, kinds.tolist(), middles.tolist(), strict=True):
        down, across = (1, 4) if kind == 0 else (4, 1)
        image[0, y - down : y + down, x - across : x + across] = 1.0
    return images.clamp(0, 1), kinds, middles


@pytest.fixture(scope="module")
def trained():
    """A network that tells lying from standing bars."""
    net = small_cnn()
    images, kinds, _ = marked(384, seed=1)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(8):
        for rows in torch.arange(384).split(32):
            loss = nn.functional.cross_entropy(net(images[rows]), kinds[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return net.eval()


def test_one_convolution_and_a_linear_head_give_the_analytic_map():
    torch.manual_seed(2)
    conv, head = nn.Conv2d(1, 5, 1), nn.Linear(5 * 64, 3)
    nn.init.uniform_(head.weight, -0.5, 1.0)
    net = Layers(3, conv, nn.ReLU(), nn.Flatten(), head).eval()
    faces = torch.rand(4, 1, 8, 8)
    for label in range(3):
        with torch.no_grad():
            values = conv(faces).relu()
            # The gradient of a linear head is its weight; a channel counts by the mean over its cells.
            importance = head.weight[label].view(5, 64).mean(1)
            wanted = (importance[None, :, None, None] * values).sum(1).relu()
        assert (wanted.amax((1, 2)) > 0).all()
        wanted /= wanted.amax((1, 2), keepdim=True)
        np.testing.assert_allclose(class_maps(net, faces, [label] * 4), wanted.numpy(), rtol=0, atol=1e-5)


def test_a_network_without_feature_maps_gives_the_gradient_at_the_pixels():
    weight = torch.zeros(2, 64)
    weight[0, 27], weight[1, 50] = -3.0, 1.0
    head = nn.Linear(64, 2)
    head.weight.data, head.bias.data = weight, torch.zeros(2)
    net = Layers(2, nn.Flatten(), head).eval()
    maps = class_maps(net, torch.rand(2, 1, 8, 8), [0, 1]).reshape(2, -1)
    assert maps.argmax(1).tolist() == [27, 50]
    assert class_maps(MLP(7).eval(), torch.rand(2, 1, 60, 50)).shape == (2, 60, 50)


def test_the_bright_cell_is_at_its_place_and_on_request_of_another_class():
    faces = torch.zeros(1, 1, 24, 24)
    faces[0, 0, 8:12, 4:8], faces[0, 0, 16:20, 16:20] = 0.9, 0.5
    net = sides()
    for classes, (y, x) in ((None, (9.5, 5.5)), ([0], (9.5, 5.5))):
        (found,) = class_maps(net, faces, classes)
        down, across = np.unravel_index(found.argmax(), found.shape)
        assert abs(down - y) <= 2
        assert abs(across - x) <= 2
    # Both classes weigh the one channel alike: what differs between them is not where they look.
    np.testing.assert_allclose(class_maps(net, faces, [1]), class_maps(net, faces, [0]), atol=1e-6)


def test_classes_have_maps_of_their_own(trained):
    faces, _, _ = marked(32, seed=3)
    default = class_maps(trained, faces)
    with torch.no_grad():
        predicted = trained(faces).argmax(1)
    np.testing.assert_array_equal(default, class_maps(trained, faces, predicted.tolist()))
    assert (
        alike(
            default + 1e-3 * np.random.default_rng(0).random(default.shape),
            class_maps(trained, faces, predicted.tolist()),
        )
        > 0.9
    )
    other = class_maps(trained, faces, (1 - predicted).tolist())
    assert np.abs(default - other).mean() > 0.1


def test_a_trained_network_looks_at_what_tells_the_classes_apart(trained):
    faces, kinds, middles = marked(64, seed=4)
    with torch.no_grad():
        assert (trained(faces).argmax(1) == kinds).float().mean() > 0.95

    def at_the_mark(net):
        """Return the share of maps whose largest value lies within 5 pixels of the middle of the mark."""
        maps = class_maps(net, faces, kinds.tolist()).reshape(64, -1)
        peaks = np.stack(np.unravel_index(maps.argmax(1), (24, 24)), 1)
        return np.mean(np.abs(peaks - middles.numpy()).max(1) <= 5)

    assert at_the_mark(trained) > 0.9
    untrained = [at_the_mark(small_cnn(seed=seed).eval()) for seed in range(5)]
    assert np.mean(untrained) < at_the_mark(trained) - 0.2


def test_other_weights_give_other_maps(trained):
    """The sanity check of Adebayo et al., "Sanity checks for saliency maps", 2018."""
    faces, kinds, _ = marked(32, seed=5)
    untrained = small_cnn(seed=11).eval()
    one, other = (class_maps(net, faces, kinds.tolist()) for net in (trained, untrained))
    assert np.abs(one - other).mean() > 0.1
    assert alike(one + 1e-9 * np.eye(24), other + 1e-9 * np.eye(24)) < 0.7


def test_nothing_speaks_for_a_class_that_nothing_reaches():
    net = SimpleCNN(7, final_relu=True).eval()
    net.head[-2].bias.data.fill_(-100.0)  # every logit is below 0, where the last ReLU stops all gradients
    assert class_maps(net, torch.rand(2, 1, 48, 48)).tolist() == np.zeros((2, 48, 48)).tolist()


def test_maps_are_of_the_size_of_the_faces_and_reach_one(trained):
    faces = torch.randint(0, 256, (3, 3, 90, 60), dtype=torch.uint8)
    maps = class_maps(trained, faces)
    assert maps.shape == (3, 90, 60)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert maps.max((1, 2)).tolist() == pytest.approx([1, 1, 1])
    np.testing.assert_allclose(maps, class_maps(trained, faces.float() / 255), atol=1e-4)
    assert class_maps(trained, faces[:0]).shape == (0, 90, 60)


def test_a_batch_is_its_faces_one_by_one(trained):
    faces, _, _ = marked(5, seed=6)
    single = np.concatenate([class_maps(trained, face[None]) for face in faces])
    np.testing.assert_allclose(class_maps(trained, faces), single, atol=1e-4)


def test_the_network_stays_as_it_was(trained):
    faces, _, _ = marked(4, seed=7)
    net = small_cnn()
    net.load_state_dict(trained.state_dict())
    net.train()
    net.layers[1].eval()
    net.requires_grad_(False)  # as a frozen network is
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.inference_mode():  # as evaluations run
        maps = class_maps(net, faces + 0)
        assert not torch.is_grad_enabled()
    # Dropout and batch normalisation were those of evaluation.
    np.testing.assert_allclose(maps, class_maps(trained, faces), atol=1e-6)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in (*net.parameters(), *trained.parameters()))
    assert not any(p.requires_grad for p in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_half_precision_gives_nearly_the_same(trained):
    faces, _, _ = marked(8, seed=8)
    net = small_cnn()
    net.load_state_dict(trained.state_dict())
    maps = class_maps(net.eval().bfloat16(), faces)
    assert maps.dtype == np.float32
    assert alike(maps, class_maps(trained, faces)) > 0.95


def test_what_cannot_be_explained_is_said(monkeypatch):
    with pytest.raises(FaceExprError, match=r"^--explain: KNNClassifier has no gradients .*; expected a network$"):
        explained_network(KNNClassifier(), "--explain")
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(FaceExprError, match=r"needs Captum, which is not installed; expected: pip install 'faceexpr\["):
        class_maps(MLP(7).eval(), torch.rand(1, 1, 48, 48))
