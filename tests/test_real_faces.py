"""The benchmark of real faces writes its tables into a page, and asks for what it lacks."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceexpr.metrics.tables import SampleTable
from faceexpr.models.calibrator import Calibration
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module("real_faces")


def test_a_folder_is_measured_and_the_page_gets_the_tables(benchmark, tmp_path):
    rng = np.random.default_rng(0)
    for name in FER_NAMES:
        (tmp_path / "faces" / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(rng.integers(0, 256, (30, 30), dtype=np.uint8)).save(
                tmp_path / "faces" / name / f"{number}.png"
            )
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- faces -->\nprevious text\n<!-- faces -->\nafter\n")
    benchmark.main(str(tmp_path / "faces"), fer=False, page=str(page))
    text = page.read_text()
    assert text.startswith("before\n<!-- faces -->\n\n14 faces, 2 Angry, ")
    assert (
        text.count("| ferplus_compact_robust | as they are |") == text.count("| ferplus_compact_robust | found |") == 2
    )
    assert "previous text" not in text


def test_figures_are_those_of_a_known_table(benchmark):
    labels = np.repeat(np.arange(7), 20)
    probabilities = np.full((140, 7), 0.02, np.float32)
    probabilities[np.arange(140), np.where(np.arange(140) % 20 < 15, labels, 6)] = 0.88
    found = benchmark.measure(
        SampleTable(np.arange(140), probabilities, labels), Calibration(thresholds={"0.9": 0.89}), 0
    )
    assert found["accuracy"][0] == pytest.approx((6 * 15 + 20) / 140)
    assert found["Neutral"][0] == 1
    assert found["Angry"][1] < 0.75 < found["Angry"][2]
    assert found["their mean size"][0] == 2  # 0.88, and the first of the others
    assert found["at 50% or more"][0] == 1
    assert found["accuracy of these"] == found["accuracy"]


def test_fer_is_asked_for(benchmark, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(
        FaceExprError, match=r"the packages fer and ai-edge-litert are not installed; install them with"
    ):
        benchmark.load_fer()


def test_a_page_without_marks_is_refused(benchmark, tmp_path):
    (tmp_path / "page.md").write_text("nothing\n")
    with pytest.raises(FaceExprError, match=r"has not two lines <!-- faces -->; expected them around the tables"):
        benchmark.insert(tmp_path / "page.md", "faces", "text")
