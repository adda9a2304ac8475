"""The predictions of each sample in the run folder: written, read again, and refused where they are damaged."""

import gzip
import re

import numpy as np
import pytest

from faceexpr.metrics.predictions import file_name, read_samples, write_samples
from faceexpr.metrics.tables import SampleTable
from faceexpr.utils.errors import FaceExprError

NAMES = ("no", "yes, perhaps", "là")


def table(count=5, seed=0):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(3), count).astype(np.float32)
    return SampleTable(np.arange(count) * 2, probabilities, rng.integers(0, 3, count))


def test_what_is_written_is_read(tmp_path):
    given = table()
    leaked = np.array([False, True] * 5)  # of the whole split; the samples are every other one
    leaked[8] = True
    path = write_samples(tmp_path, "test", given, NAMES, leaked)
    assert path == tmp_path / file_name("test")
    found = read_samples(path)
    assert found.class_names == NAMES
    assert found.indices.tolist() == [0, 2, 4, 6, 8]
    assert found.labels.tolist() == [NAMES[label] for label in given.labels]
    assert found.predicted.tolist() == [NAMES[guess] for guess in given.predicted]
    assert found.leaked.tolist() == [False, False, False, False, True]
    np.testing.assert_allclose(found.probabilities, given.probabilities, atol=5.01e-4)


@pytest.mark.parametrize("column", ["true", "probability_true"])
def test_a_class_with_the_name_of_a_column_is_read_from_new_files_and_old_ones(tmp_path, column):  # N23
    path = tmp_path / "predictions_test.csv.gz"
    text = f"index,true,predicted,leaked,{column},false\n0,true,false,,0.3,0.7\n"
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    found = read_samples(path)
    assert (found.class_names, found.labels.tolist(), found.predicted.tolist()) == (
        ("true", "false"),
        ["true"],
        ["false"],
    )
    assert found.probabilities.tolist() == [[0.3, 0.7]]
    written = SampleTable(np.arange(1), np.array([[0.3, 0.7]], dtype=np.float32), np.array([0]))
    again = write_samples(tmp_path / "new", "test", written, found.class_names, None)
    header = gzip.decompress(again.read_bytes()).decode().partition("\n")[0]
    assert header == "index,true,predicted,leaked,probability_true,false"


def test_the_prediction_is_not_read_from_rounded_probabilities(tmp_path):
    close = SampleTable(np.arange(1), np.array([[0.4, 0.40001, 0.19999]], dtype=np.float32), np.array([1]))
    found = read_samples(write_samples(tmp_path, "test", close, NAMES, None))
    assert found.predicted.tolist() == ["yes, perhaps"]
    assert found.leaked is None  # nobody has looked
    assert found.probabilities[0].tolist() == [0.4, 0.4, 0.2]


def test_the_same_predictions_are_the_same_bytes_and_few(tmp_path):
    large = table(3589)
    first = write_samples(tmp_path / "a", "test", large, NAMES, None).read_bytes()
    assert write_samples(tmp_path / "b", "test", large, NAMES, None).read_bytes() == first
    assert len(first) < 60_000


GOOD = ["index,true,predicted,leaked,a,b", "0,a,b,,0.3,0.7"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "line 1 reads ''; expected index, true"),
        (["index,true,predicted,leaked,a,a,b", "0,a,b,,1,0,0"], "two classes or more, each once"),
        (GOOD[:1], "holds 0 rows"),
        ([*GOOD, "1,a,b,,0.3"], "line 3 reads '1,a,b,,0.3'"),
        ([*GOOD, "1,a,c,,0.3,0.7"], "line 3 reads"),
        ([*GOOD, "1,a,b,,nan,0.7"], "line 3 reads"),
        ([*GOOD, f"{10**30},a,b,,0.3,0.7"], "line 3 reads"),
        ([*GOOD, "0,a,b,,0.3,0.7"], "holds 2 rows; expected one or more, each index once and ascending"),
    ],
)
def test_another_file_is_refused_by_line(tmp_path, lines, reason):
    path = tmp_path / "predictions_test.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(FaceExprError, match=f"^{re.escape(str(path))}.*{re.escape(reason)}"):
        read_samples(path)


@pytest.mark.parametrize("content", [b"", b"index,true", gzip.compress(b"\xff\xfe", mtime=0), "cut", "spoilt"])
def test_damaged_files_are_refused(tmp_path, content):
    path = write_samples(tmp_path, "test", table(200), NAMES, None)
    whole = bytearray(path.read_bytes())
    if content == "spoilt":
        whole[len(whole) // 2 : len(whole) // 2 + 20] = bytes(20)
    path.write_bytes({"cut": bytes(whole[:-40]), "spoilt": bytes(whole)}.get(content, content))
    with pytest.raises(FaceExprError, match=r"predictions_test\.csv\.gz"):
        read_samples(path)
