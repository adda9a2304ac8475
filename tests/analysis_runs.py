"""Tiny models on disk, the verb that uses them, and what it has written."""

import json
from copy import deepcopy
from functools import cache, partial
from pathlib import Path

import pytest
from conftest import exit_code, read_table
from PIL import Image
from red_finder import RedFinder, red_picture, save_task, tiny_classifier

from faceexpr.cli.analyze import run
from faceexpr.pipeline import classifiers, detectors
from faceexpr.tasks.detect import FaceDetector
from faceexpr.utils.labels import FERPLUS_NAMES

BOX = (30, 20, 70, 70)


def save_models(folder):
    """Write a detector, a classifier of seven classes and one of eight."""
    save_task(FaceDetector(net=RedFinder()), folder / "detector.ckpt")
    save_task(tiny_classifier(), folder / "classifier.ckpt")
    save_task(tiny_classifier(class_names=FERPLUS_NAMES), folder / "eight.ckpt")
    return folder


@cache
def _load_once(load_trained, path, _changed):
    return load_trained(path)


def load_copy(load_trained, path):
    """Load a model, each file once: to build it from what a checkpoint says takes most of the time of a tiny run."""
    return deepcopy(_load_once(load_trained, path, path.stat().st_mtime_ns))


def analyzer(models):
    """Return the verb: ``analyze("photos", "--pictures=true")`` gives its exit code."""

    def analyze(*args, classifier="classifier.ckpt", out="out"):
        given = ["--detector", str(models / "detector.ckpt"), "--classifier", str(models / classifier)]
        given += [] if out is None else ["--out", out]
        with pytest.MonkeyPatch.context() as patch:
            for module in (detectors, classifiers):
                patch.setattr(module, "load_trained", partial(load_copy, module.load_trained))
            return exit_code(lambda: run(["analyze", *given, "--device=cpu", *args]))

    return analyze


def write(path, box=BOX, **options):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(red_picture(box, **options)).save(path)
    return path


def strict(text):
    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def records(out="out"):
    return [strict(line) for line in Path(out, "faces.jsonl").read_bytes().decode().removesuffix("\n").split("\n")]


def rows(out="out"):
    return read_table(Path(out, "faces.csv"))
