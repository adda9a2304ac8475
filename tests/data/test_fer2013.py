"""FER-2013 from its CSV files."""

import gzip
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from faceexpr.data.fer2013 import FER2013, stratified_holdout
from faceexpr.utils.errors import FaceExprError

REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "fer2013" / "fer2013.csv.gz"
RAMP = " ".join(str(value % 256) for value in range(2304))


def grey(value, count=2304):
    return " ".join([str(value)] * count)


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def canonical(path, rows):
    """Write (label, pixels, usage) rows in the original layout."""
    return write(path, "emotion,pixels,Usage", *(f"{label},{pixels},{usage}" for label, pixels, usage in rows))


THREE = [(0, grey(0), "Training"), (3, grey(128), "PublicTest"), (6, RAMP, "PrivateTest")]


@pytest.mark.parametrize(
    "text",
    [
        "emotion,pixels,Usage\n3,{p},Training\n",
        "emotion, Usage, pixels\n3, Training ,{p}\n",
        "\ufeffemotion,pixels,Usage\r\n3,{p},Training\r\n",
        '"emotion","pixels","Usage"\n"3","{p}","Training"\n',
        "Emotion,Pixels,usage\n 3 , {p} ,training",
        "id,Usage,pixels,emotion\n7,Training,{p},3\n",
    ],
)
def test_spellings_of_the_same_file(tmp_path, text):
    path = tmp_path / "fer.csv"
    path.write_bytes(text.format(p=RAMP).encode())
    split = FER2013(str(path)).split("train")
    assert (split.targets.dtype, split.targets.tolist()) == (torch.int64, [3])
    assert (split.images.dtype, split.images.shape) == (torch.uint8, (1, 1, 48, 48))
    assert split.images.flatten().tolist() == [int(value) for value in RAMP.split()]


def test_usage_gives_the_splits(tmp_path):
    data = FER2013(canonical(tmp_path / "fer.csv", THREE[::-1]))
    found = [(stage, data.split(stage).targets.tolist()) for stage in ("train", "val", "test", "predict")]
    assert found == [("train", [0]), ("val", [3]), ("test", [6]), ("predict", [6])]
    assert data.split("predict").sources == ["fer.csv:2"]
    with pytest.raises(FaceExprError, match="no row with Usage PublicTest, so there is no val split"):
        FER2013(canonical(tmp_path / "fer.csv", THREE[:1])).split("val")


def test_images_that_are_trained_on_too_are_left_out_where_asked(tmp_path):
    path = canonical(tmp_path / "fer.csv", [*THREE, (3, grey(0), "PublicTest")])
    assert FER2013(path).leaked("val").tolist() == [False, True]
    assert FER2013(path, drop_leaked=True).split("val").sources == ["fer.csv:3"]


def kaggle(tmp_path, test_header="pixels"):
    labels = (0, 3, 4, 6)
    write(tmp_path / "train.csv", "emotion,pixels", *(f"{label},{grey(10 * label)}" for label in labels))
    label = "2," if test_header != "pixels" else ""
    write(tmp_path / "test.csv", test_header, *(f"{label}{grey(value)}" for value in (200, 201)))
    return str(tmp_path)


@pytest.mark.parametrize("name", ["", "train.csv"])
def test_kaggle_folder_fits_on_an_announced_holdout_and_predicts(tmp_path, caplog, name):
    data = FER2013(str(Path(kaggle(tmp_path)) / name))
    with caplog.at_level(logging.INFO):
        data.setup("fit")
        data.setup("predict")
    assert caplog.text.count("1 of 4 rows are held out") == 1
    train, val, predict = (data.split(stage) for stage in ("train", "val", "predict"))
    assert (len(train), len(val), predict.targets) == (3, 1, None)
    assert sorted([*train.targets.tolist(), *val.targets.tolist()]) == [0, 3, 4, 6]
    for split in (train, val):
        assert (split.images[:, 0, 0, 0] == 10 * split.targets).all()
    assert predict.images[:, 0, 0, 0].tolist() == [200, 201]
    assert list(predict.sources) == ["test.csv:2", "test.csv:3"]


def test_what_a_kaggle_folder_has_not_is_said(tmp_path):
    assert FER2013(kaggle(tmp_path, test_header="emotion,pixels")).split("test").targets.tolist() == [2, 2]
    with pytest.raises(FaceExprError, match=r"test\.csv has no labels"):
        FER2013(kaggle(tmp_path)).setup("test")
    data = FER2013(str(tmp_path / "test.csv"))
    assert len(data.split("predict")) == 2
    with pytest.raises(FaceExprError, match=r"test\.csv is for test and predict only"):
        data.setup("fit")
    (tmp_path / "test.csv").unlink()
    data = FER2013(str(tmp_path))
    with pytest.raises(FaceExprError, match="no test split"):
        data.setup("test")
    assert len(data.split("predict")) == 4


def test_predict_does_not_read_train_csv(tmp_path):
    kaggle(tmp_path)
    write(tmp_path / "train.csv", "emotion,pixels", "broken")
    data = FER2013(str(tmp_path))
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="predict"))
    data.prepare_data()
    assert len(data.split("predict")) == 2
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    with pytest.raises(FaceExprError, match=r"train\.csv: 1 of 1 rows"):
        data.prepare_data()


def test_compressed_files_are_told_by_content(tmp_path):
    plain = canonical(tmp_path / "plain" / "fer2013.csv", THREE)
    for name in ("fer2013.csv.gz", "fer2013.csv"):
        path = tmp_path / "zipped" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(Path(plain).read_bytes()))
        for place in (path, path.parent):
            assert torch.equal(FER2013(str(place)).split("test").images, FER2013(plain).split("test").images)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "cut" / "fer2013.csv.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(Path(canonical(tmp_path / "fer.csv", THREE * 20)).read_bytes())[:-200])
    with pytest.raises(FaceExprError, match=r"fer2013\.csv\.gz is a damaged or incomplete gzip file"):
        FER2013(str(path)).split("train")
    with pytest.raises(FaceExprError, match=r"none\.csv does not exist"):
        FER2013(str(tmp_path / "none.csv")).split("train")
    with pytest.raises(FaceExprError, match="holds no file of FER-2013"):
        FER2013(str(tmp_path)).split("train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"name,age\nx,1\n", "line 1 reads 'name, age'; expected the columns emotion, pixels and Usage"),
        (b"emotion,pixels,pixels\n", "line 1 reads 'emotion, pixels, pixels'"),
        (b"PK\x03\x04\0\0", "an archive has to be unpacked first"),
        (b"emotion,pixels,Usage\n", "a header and no rows"),
        ("emotion,pixels,Usage".encode("utf-16"), "is not a text file"),
    ],
)
def test_a_file_that_is_not_fer_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(FaceExprError, match=rf"^[^\n]*{path}[^\n]*{message}[^\n]*$"):
        FER2013(str(path)).split("train")


def test_options_are_checked_before_anything_is_read():
    for option, value in (("holdout", 0.0), ("holdout", 1.0), ("holdout", float("nan")), ("holdout_seed", -1)):
        with pytest.raises(FaceExprError, match=rf"^{option} is"):
            FER2013("none.csv", **{option: value})


def test_holdout_is_stratified_seeded_and_exact():
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(4), [500, 300, 150, 50]))
    chosen = stratified_holdout(labels, 0.1, seed=0)
    assert chosen.sum() == 100
    assert np.bincount(labels[chosen]).tolist() == [50, 30, 15, 5]
    np.testing.assert_array_equal(chosen, stratified_holdout(labels, 0.1, seed=0))
    assert (chosen != stratified_holdout(labels, 0.1, seed=1)).any()
    for size, fraction, expected in ((2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 2), (10, 0.99, 9)):
        assert stratified_holdout(np.zeros(size, dtype=np.int64), fraction, seed=0).sum() == expected


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="FER-2013 is not here")
def test_real_file_has_the_published_counts(tmp_path, monkeypatch):
    data = FER2013(str(REAL), cache_dir=str(tmp_path))
    assert [len(data.split(stage)) for stage in ("train", "val", "test")] == [28709, 3589, 3589]
    published = torch.tensor([3995, 436, 4097, 7215, 4830, 3171, 4965])
    counts = torch.bincount(data.split("train").targets)
    assert (counts - published).abs().max() <= 30  # labels recovered by matching images
    assert data.split("test").sources[-1] == "fer2013.csv.gz:35888"
    # The splits are parts of one array, which is read from the cache the next time.
    monkeypatch.setattr("faceexpr.data.fer2013.parse_csv", lambda path: pytest.fail("parsed again"))
    again = FER2013(str(REAL), cache_dir=str(tmp_path))
    train, test = again.split("train").images, again.split("test").images
    assert test.data_ptr() - train.data_ptr() == (28709 + 3589) * 2304


def test_skipping_counts_and_keeps_image_and_label_together(tmp_path, recwarn):
    rows = (f"4,{grey(77)},Training", f"1,{grey(1, 2303)},Training", "2,,Training", f"3,{grey(3)},Training,5,6,7", "")
    path = write(tmp_path / "broken.csv", "emotion,pixels,Usage", *rows)
    split = FER2013(path, on_bad_row="skip").split("train")
    assert (split.targets.tolist(), split.images.unique().tolist()) == ([4], [77])
    assert list(split.sources) == ["broken.csv:2"]
    # Line 5 does not say which split it belongs to.
    assert [(one.position, one.source) for one in split.failures] == [(1, "broken.csv:3"), (2, "broken.csv:4")]
    assert sum("3 of 4 rows cannot be read" in str(warning.message) for warning in recwarn) == 1
    # From the cache too, all are named.
    message = r"3 of 4 rows .*\(line 3: 2303 of 2304 values; line 4: no pixels; line 5: 6 fields, expected 3\)"
    with pytest.raises(FaceExprError, match=message):
        FER2013(path).split("train")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"9,{grey(1)},Training", "label '9', expected 0 to 6"),
        (f"0,{grey(1, 2303)} 256,Training", "pixel '256'"),
        (f"0,{grey(1, 2303)} -1,Training", "pixel '-1'"),
        (f"0,{grey(1, 2303)} {2**64 + 5},Training", f"pixel '{2**64 + 5}'"),
        (f"0,{grey(1, 2305)},Training", "2305 of 2304 values"),
        (f"0,{grey(1)},Testing", "Usage 'Testing', expected Training, PublicTest, PrivateTest"),
        ("garbage", "1 field, expected 3"),
        (",,", "Usage ''"),
    ],
)
def test_every_kind_of_bad_row_is_named_at_its_line(tmp_path, row, reason):
    path = write(tmp_path / "fer.csv", "emotion,pixels,Usage", f"0,{grey(1)},Training", "", "  ", row)
    with pytest.raises(FaceExprError) as caught:
        FER2013(path).split("train")
    assert f"1 of 2 rows cannot be read (line 5: {reason}" in str(caught.value)


def test_each_wrong_value_is_named_with_its_count(tmp_path):  # case N15
    rows = [(0, grey(1), "Training"), *[(0, grey(2), "Validation")] * 300, (0, grey(3), "Private")]
    wrong = (
        r"300 rows, lines 3, 4, 5, 6, 7 and 295 more: Usage 'Validation', expected .*; line 303: Usage 'Private', exp"
    )
    with pytest.raises(FaceExprError, match=f"301 of 302 rows cannot be read .{wrong}"):
        FER2013(canonical(tmp_path / "fer.csv", rows)).split("train")


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_labels_in_the_numbering_of_ferplus_are_refused(tmp_path, policy):  # case N05
    rows = [(label, grey(label), "Training") for label in (7, 0, 3, 7)]
    with pytest.raises(
        FaceExprError, match=r"fer\.csv, line 2: label 7, which 2 rows have, is in FER\+'s numb"
    ) as caught:
        FER2013(canonical(tmp_path / "fer.csv", rows), on_bad_row=policy).split("train")
    assert "0 to 6 mean neutral, happiness" in str(caught.value)
    assert "skip" not in str(caught.value)


def leaking(tmp_path, *usages):
    """The second and third images are that of the first."""
    return canonical(tmp_path / "fer.csv", [(0, grey(min(n, 3) // 3 * n), usage) for n, usage in enumerate(usages)])


def test_images_that_are_trained_on_too_are_noted_and_left_out_where_asked(tmp_path, caplog):
    path = leaking(tmp_path, "Training", "PublicTest", "PrivateTest", "PublicTest", "PrivateTest")
    data, dropping = FER2013(path), FER2013(path, drop_leaked=True)
    assert [data.leaked(stage).tolist() for stage in ("val", "test")] == [[True, False], [True, False]]
    assert [len(dropping.split(stage)) for stage in ("train", "val", "test", "predict")] == [1, 1, 1, 2]
    assert dropping.leaked("test").tolist() == [False]
    with caplog.at_level(logging.INFO):
        data.setup("test")
    assert "1 of them equal to a training image" in caplog.text


def test_leaving_out_compares_with_the_training_file_and_takes_one(tmp_path):
    folder = kaggle(tmp_path, test_header="emotion,pixels")
    write(tmp_path / "test.csv", "emotion,pixels", f"2,{grey(200)}", f"2,{grey(30)}", f"2,{grey(40)}")
    data = FER2013(folder, drop_leaked=True)
    held_out = data.split("val").images[0, 0, 0, 0]
    assert data.split("test").images[:, 0, 0, 0].tolist() == [
        value for value in (200, 30, 40) if value in (200, held_out)
    ]
    for path in (str(tmp_path / "test.csv"), leaking(tmp_path, "PrivateTest")):
        with pytest.raises(FaceExprError, match=r"^drop_leaked is true, which takes training images .* test split"):
            FER2013(path, drop_leaked=True).split("test")
        assert FER2013(path).leaked("test") is None


def test_long_lists_end_with_a_count(tmp_path):
    path = write(
        tmp_path / "fer.csv",
        "emotion,pixels,Usage",
        *["9"] * 1200,
        *(f"{number},,Training" for number in range(10, 44)),
    )
    with pytest.raises(
        FaceExprError, match=r"1,234 of 1,234 rows .*1,200 rows, lines 2, 3, .* and 15 more reasons\);"
    ) as caught:
        FER2013(path).split("train")
    assert str(caught.value).count("; ") == 21
    with pytest.raises(FaceExprError, match="no image is left"):
        FER2013(path, on_bad_row="skip").split("train")
