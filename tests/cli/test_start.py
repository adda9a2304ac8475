"""What a command imports: none pays, with seconds of its start, for what it does not use."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_compare import run_folder
from test_list_runs import config, write_run

from faceexpr.data.synthetic.drawing import draw_scene

TRAINING = ["lightning", "torchmetrics", "torchvision", "tensorboard", "optuna", "fsspec"]
COMPUTING = ["matplotlib", "sklearn", "scipy", "numba", "sympy", "pandas", "torch._dynamo", "torch.distributed.fsdp"]


def loaded_after(code, names):
    """Return which of the modules a new process has loaded when it has run the code."""
    ending = f"import json, sys\nprint(json.dumps([name for name in {names} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{ending}"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_help_and_verbs_without_a_network_load_neither_torch_nor_lightning(workdir):
    write_run("fit", {"faceexpr": "0.2", "verb": "fit"}, {"val": {"accuracy": 0.5}}, config({"class_path": "x.Net"}))
    first, second = run_folder("runs/first", range(10)), run_folder("runs/second", range(40))
    code = f"""
from contextlib import suppress
from faceexpr.cli.main import VERBS, main

for verb in VERBS:
    with suppress(SystemExit):
        main([verb, "--help"])
main(["runs", "logs"])
main(["compare", {first!r}, {second!r}, "--resamples=50"])
"""
    assert loaded_after(code, ["torch", "sklearn", "matplotlib", *TRAINING[:-3]]) == []


@pytest.mark.slow
def test_an_analysis_loads_torch_and_nothing_of_trainings_or_figures(workdir):
    Image.fromarray(draw_scene(np.random.default_rng(0), 320, 240, 2)[0]).save("photo.png")
    code = """
from faceexpr.cli.main import main
main(["analyze", "photo.png", "--out", "out", "--device=cpu"])
from faceexpr import FacePipeline
assert FacePipeline()("photo.png").faces
"""
    assert loaded_after(code, ["torch", *TRAINING, *COMPUTING]) == ["torch"]
    assert json.loads(Path("out/faces.jsonl").read_text())["faces"]
