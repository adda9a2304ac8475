"""Columns of classes in tables: told from all others, and read again."""

import pytest

from faceexpr.utils.text import class_columns, column_classes

OTHERS = ("index", "score", "left", "notes")


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["Happy", "Sad"], ["Happy", "Sad"]),
        (["left", "Score", "right"], ["probability_left", "probability_Score", "right"]),  # N23
        (["left", "probability_left"], ["probability_left", "probability_probability_left"]),
        (["Probability_x", "x"], ["probability_Probability_x", "x"]),
    ],
)
def test_columns_of_classes_are_told_from_all_others(names, columns):
    assert class_columns(names, OTHERS) == columns
    assert len({*columns, *OTHERS}) == len(columns) + len(OTHERS)
    assert column_classes(columns, OTHERS) == tuple(names)


def test_columns_as_version_0_1_wrote_them_are_read():
    assert column_classes(["left", "right", "probability_of_rain"], OTHERS) == ("left", "right", "probability_of_rain")
