"""A trained network on drawn faces, whose brows, eyes and mouth carry the expression."""

import numpy as np
import pytest
import torch
from torch import nn

from faceexpr.data.synthetic.drawing import draw_face
from faceexpr.models.simple_cnn import SimpleCNN
from faceexpr.visualization.explain import class_maps

EXPRESSIONS = ("Happy", "Surprise", "Angry")


def drawn(number, seed):
    rng = np.random.default_rng(seed)
    labels = torch.arange(number) % len(EXPRESSIONS)
    faces = [draw_face(EXPRESSIONS[label], rng).mean(2).astype(np.uint8) for label in labels.tolist()]
    return torch.from_numpy(np.stack(faces))[:, None], labels


def confidence(net, faces, labels):
    with torch.no_grad():
        return net(faces).softmax(1)[torch.arange(len(labels)), labels]


def without(faces, rows, columns):
    """Return the faces with a square of 12 pixels around these places in the mean grey of each."""
    hidden = faces.clone()
    for face, row, column in zip(hidden, rows, columns, strict=True):
        face[:, row - 6 : row + 6, column - 6 : column + 6] = int(face.float().mean())
    return hidden


@pytest.mark.slow
def test_hiding_what_the_map_shows_hurts_most():
    torch.manual_seed(0)
    faces, labels = drawn(150, seed=0)
    net = SimpleCNN(len(EXPRESSIONS))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(8):
        for rows in torch.randperm(150).split(15):
            loss = nn.functional.cross_entropy(net(faces[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
    faces, labels = drawn(60, seed=1)
    before = confidence(net, faces, labels)
    assert before.mean() > 0.5

    def loss_without(rows, columns):
        return float((before - confidence(net, without(faces, rows, columns), labels)).mean())

    grid = [loss_without([row] * 60, [column] * 60) for row in (12, 20, 28, 36) for column in (12, 20, 28, 36)]
    maps = class_maps(net, faces, labels.tolist()).reshape(60, -1)
    assert loss_without(*np.stack(np.unravel_index(maps.argmax(1), (48, 48))).clip(6, 42)) > 2 * np.mean(grid)
