"""Maps laid over faces."""

import numpy as np

from faceexpr.visualization.overlay import overlay, side_by_side


def test_where_nothing_is_the_face_stays_as_it_is_in_grey():
    face = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    drawn = overlay(face, np.zeros((20, 30), np.float32), 20, 30)
    np.testing.assert_array_equal(drawn, np.stack([face] * 3, 2))
    red = np.zeros((4, 4, 3), np.uint8)
    red[:, :, 0] = 200
    assert np.unique(overlay(red, np.zeros((4, 4), np.float32), 4, 4)).tolist() == [60]  # 0.299 of 200


def test_the_larger_the_value_the_brighter_and_the_less_of_the_face():
    values = np.linspace(0, 1, 32, dtype=np.float32)[None].repeat(8, 0)
    on_black, on_white = (overlay(np.full((8, 32), level, np.uint8), values, 8, 32).astype(float) for level in (0, 255))
    brightness = on_black[0] @ (0.299, 0.587, 0.114)
    assert (np.diff(brightness) >= 0).all()
    assert brightness[-1] > 180
    seen = (on_white - on_black).mean(2)[0] / 255
    assert (np.diff(seen) <= 0).all()
    assert abs(seen[-1] - 0.25) < 0.01


def test_edges_of_an_enlarged_face_do_not_wrap_round():
    face = np.zeros((8, 8), np.uint8)
    face[:, 4:] = 255
    drawn = side_by_side(face, np.zeros((8, 8), np.float32), 80, 3)
    assert drawn.shape == (80, 163, 3)
    for half in (drawn[:, :80], drawn[:, 83:]):
        assert half[:, :30].max() == 0  # a smooth enlargement overshoots beside an edge
        assert half[:, 50:].min() == 255
    assert (drawn[:, 80:83] == 255).all()


def test_the_proportions_of_a_face_are_kept():
    drawn = side_by_side(np.zeros((40, 20, 3), np.uint8), np.zeros((48, 48), np.float32), 100, 4)
    assert drawn.shape == (100, 104, 3)
