"""Rows of FER-2013 that cannot be read."""

import pytest

from faceexpr.data.fer2013 import FER2013
from faceexpr.utils.errors import FaceExprError


def grey(value, count=2304):
    return " ".join([str(value)] * count)


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def broken(tmp_path):
    return write(
        tmp_path / "broken.csv",
        "emotion,pixels,Usage",
        f"4,{grey(77)},Training",
        f"1,{grey(1, 2303)},Training",
        "2,,Training",
        f"3,{grey(3)},Training,5,6,7",
        "",
    )


def test_a03_bad_rows_stop_with_line_and_reason(tmp_path):
    with pytest.raises(FaceExprError) as caught:
        FER2013(broken(tmp_path)).split("train")
    message = str(caught.value)
    assert "3 of 4 rows" in message
    assert "line 3: 2303 of 2304 values; line 4: no pixels; line 5: 6 fields, expected 3)" in message
    assert "line 2" not in message
    assert "line 6" not in message


def test_a03_skipping_counts_and_keeps_image_and_label_together(tmp_path, recwarn):
    data = FER2013(broken(tmp_path), on_bad_row="skip")
    split = data.split("train")
    assert len(split) == 1
    assert split.targets.tolist() == [4]
    assert split.images.unique().tolist() == [77]
    assert list(split.sources) == ["broken.csv:2"]
    assert [(failure.position, failure.source) for failure in split.failures] == [
        (1, "broken.csv:3"),
        (2, "broken.csv:4"),
    ]  # line 5 does not say which split it belongs to
    told = [str(warning.message) for warning in recwarn if "cannot be read" in str(warning.message)]
    assert len(told) == 1
    assert "3 of 4 rows" in told[0]
    assert "skipped" in told[0]


def test_a03_policy_holds_when_the_rows_come_from_the_cache(tmp_path):
    path = broken(tmp_path)
    assert len(FER2013(path, on_bad_row="skip").split("train")) == 1
    with pytest.raises(FaceExprError, match="line 3: 2303 of 2304 values"):
        FER2013(path).split("train")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"7,{grey(1)},Training", "label '7', expected 0 to 6"),
        (f"-1,{grey(1)},Training", "label '-1', expected 0 to 6"),
        (f"3.0,{grey(1)},Training", "label '3.0', expected 0 to 6"),
        (f",{grey(1)},Training", "label '', expected 0 to 6"),
        (f"0,{grey(1, 2303)} 256,Training", "pixel '256'"),
        (f"0,{grey(1, 2303)} -1,Training", "pixel '-1'"),
        (f"0,{grey(1, 2303)} 1.5,Training", "pixel '1.5'"),
        (f"0,{grey(1, 2303)} 1e2,Training", "pixel '1e2'"),
        (f"0,{grey(1, 2303)} nan,Training", "pixel 'nan'"),
        (f"0,{grey(1, 2303)} {2**64 + 5},Training", f"pixel '{2**64 + 5}'"),
        (f"0,{grey(1, 2303)} {2**32 + 5},Training", f"pixel '{2**32 + 5}'"),
        (f"0,{grey(1, 2305)},Training", "2305 of 2304 values"),
        ("0,   ,Training", "no pixels"),
        (f"0,{grey(1)},Testing", "Usage 'Testing', expected Training, PublicTest, PrivateTest"),
        (f"0,{grey(1)},", "Usage '', expected Training"),
        (f"0,{grey(1)}", "2 fields, expected 3"),
        ("garbage", "1 field, expected 3"),
        (",,", "Usage ''"),
    ],
)
def test_a03_every_kind_of_bad_row_is_named_at_its_line(tmp_path, row, reason):
    path = write(tmp_path / "fer.csv", "emotion,pixels,Usage", f"0,{grey(1)},Training", "", "  ", row)
    with pytest.raises(FaceExprError) as caught:
        FER2013(path).split("train")
    assert f"1 of 2 rows cannot be read (line 5: {reason}" in str(caught.value)


def test_a03_long_lists_end_with_a_count(tmp_path):
    path = write(tmp_path / "fer.csv", "emotion,pixels,Usage", *["9"] * 1234)
    with pytest.raises(FaceExprError) as caught:
        FER2013(path).split("train")
    message = str(caught.value)
    assert "1,234 of 1,234 rows" in message
    assert message.count("line ") == 20
    assert "and 1,214 more" in message


def test_a03_nothing_left_after_skipping_is_an_error(tmp_path):
    path = write(tmp_path / "fer.csv", "emotion,pixels,Usage", "9,,Training")
    with pytest.raises(FaceExprError, match="no image is left"):
        FER2013(path, on_bad_row="skip").split("train")


def test_a03_unreadable_rows_keep_their_place_among_the_predictions(tmp_path):
    rows = [grey(1), "x", grey(2), grey(3), "y"]
    path = write(tmp_path / "test.csv", "pixels", *rows)
    split = FER2013(path, on_bad_row="skip").split("predict")
    assert split.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert [(failure.position, failure.source) for failure in split.failures] == [(1, "test.csv:3"), (4, "test.csv:6")]
    assert split.failures[0].reason == "pixel 'x', expected whole numbers from 0 to 255"
