"""The models that come with the package: small, explained, used where no other is named, and right about a portrait."""

import json
import re

import pytest
from analysis_runs import records
from conftest import exit_code
from matplotlib.cbook import get_sample_data
from safetensors import safe_open

from faceexpr import FacePipeline
from faceexpr.cli.analyze import run
from faceexpr.pipeline.records import OPTIONS
from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.model_file import CLASSIFIER, DETECTOR, FOLDER, KEY, shipped_models

PORTRAIT = get_sample_data("grace_hopper.jpg", asfileobj=False)
EYES_AND_MOUTH = [(222, 190), (305, 190), (270, 278)]
"""Places in the portrait, in pixels."""


def read_header(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[KEY])


@pytest.mark.parametrize("name", [CLASSIFIER, DETECTOR])
def test_each_is_small_and_says_where_it_comes_from(name):
    path = shipped_models()[name]
    header = read_header(path)
    assert path.stat().st_size < 2e6
    assert [field for field in ("data", "licence", "command") if not header.get(field)] == []
    assert re.search(rf"--config (configs/\w+/)?{name}(\.yaml)? ", header["command"])
    assert "research" in header["licence"]
    assert header["preprocess"]["channels"] == (1 if name == CLASSIFIER else 3)
    assert not any(place in json.dumps(header) for place in ("/work", "/home"))
    assert {path.suffix for path in FOLDER.iterdir() if path.is_file()} <= {".safetensors", ".py"}


def test_both_steps_use_them_where_no_other_is_named():
    system = FacePipeline()
    (face,) = system(PORTRAIT).faces
    left, top, right, bottom = face.box
    assert all(left < x < right and top < y < bottom for x, y in EYES_AND_MOUTH)
    assert (right - left) * (bottom - top) < 0.25 * 512 * 600
    assert face.score > 0.5
    assert face.expression in ("Neutral", "Happy")
    assert system.classifier.class_names == tuple(read_header(shipped_models()[CLASSIFIER])["class_names"])


def test_the_verb_uses_them_too_and_passes_over_files_of_their_names(workdir):
    (workdir / CLASSIFIER).write_text("my notes")
    (workdir / DETECTOR).mkdir()
    assert exit_code(lambda: run(["analyze", PORTRAIT, "--out=out", "--device=cpu"])) == 0
    assert [face["expression"] in ("Neutral", "Happy") for face in records()[0]["faces"]] == [True]
    options = json.loads((workdir / "out" / OPTIONS).read_text())
    assert options["detector"]["path"].endswith("wider_light.safetensors")
    with pytest.raises(FaceExprError, match=f"{CLASSIFIER} cannot be loaded as a checkpoint"):
        run(["analyze", PORTRAIT, "--out=two", "--device=cpu", f"--classifier=./{CLASSIFIER}"])
