"""Stored runs of every experiment, with made-up numbers, as the experiments keep them."""

import json
from itertools import product

import numpy as np
import yaml
from torch.utils.tensorboard import SummaryWriter

from experiments.paper.dataset1 import METRICS
from experiments.paper.experiments import EXPERIMENTS, RUNS, experiment
from experiments.paper.figures import face_names
from experiments.paper.runs import Record
from faceexpr.callbacks.classification import make_record
from faceexpr.metrics.classification import score
from faceexpr.metrics.predictions import write_samples
from faceexpr.metrics.tables import SampleTable
from faceexpr.utils.labels import FER_NAMES

SAMPLES = 140
SYSTEM_STEPS = ["photographs", "photographs_before", "examples", "examples_before", "drawn"]
REPRESENTATIONS = "faceexpr.tasks.knn."
MODEL = {"class_path": "faceexpr.tasks.classify.ExpressionClassifier", "init_args": {}}


def samples(seed, share):
    """Return samples of which about this share is right."""
    rng = np.random.default_rng(seed)
    labels = np.arange(SAMPLES) % len(FER_NAMES)
    guesses = np.where(rng.random(SAMPLES) < share, labels, rng.integers(len(FER_NAMES), size=SAMPLES))
    shares = np.full((SAMPLES, len(FER_NAMES)), 0.05, dtype=np.float32)
    shares[np.arange(SAMPLES), guesses] = 0.7
    return SampleTable(np.arange(SAMPLES), shares, labels)


def classifier(folder, seed, share, config):
    """Write what training and test of a classifier leave; of the test images, the first ten are leaked."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": config}))
    table = samples(seed, share)
    entry = make_record(score(table, FER_NAMES), (share - 0.05, share + 0.05), epoch=1)
    (folder / "metrics.json").write_text(json.dumps({"val": entry}))
    (folder / "test").mkdir()
    (folder / "test/metrics.json").write_text(json.dumps({"test": entry}))
    write_samples(folder / "test", "test", table, FER_NAMES, np.arange(SAMPLES) < 10)
    with SummaryWriter(str(folder)) as writer:
        for epoch in range(3):
            values = {"train/loss": 2 - epoch / 2, "val/loss": 2 - epoch / 3, "val/accuracy": 0.3, "epoch": epoch}
            for tag, value in values.items():
                writer.add_scalar(tag, value, epoch)
        writer.add_image("val/faces", np.zeros((1, 8, 8), dtype=np.uint8), 2)


def detector(folder, ap50):
    """Write what training and test of a detector leave."""
    counts = {name: {"extra": extra} for name, extra in (("none", 90), ("nms", 2), ("soft_nms", 1), ("wbf", 0))}
    entry = {
        "ap50": ap50, "ap": ap50 / 2, "recall": 0.9, "images": 12, "faces": 40, "score": 0.5, "over_detection": counts
    }  # fmt: skip
    (folder / "test").mkdir(parents=True)
    (folder / "config.yaml").write_text("model: {}\n")
    (folder / "metrics.json").write_text(json.dumps({"val": entry}))
    (folder / "test/metrics.json").write_text(json.dumps({"test": entry}))


def grid(folder, configs, shares):
    """Write what a sweep leaves."""
    rows = ["trial,status,seconds"]
    for number, (config, share) in enumerate(zip(configs, shares, strict=True)):
        classifier(folder / f"trial_{number:03d}", number, share, config)
        rows.append(f"trial_{number:03d},done,12.0")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")


def nearest(representation, p, k):
    """Return the configuration of nearest neighbours."""
    options = {"k": k, "p": p, "representation": {"class_path": REPRESENTATIONS + representation}}
    return {"class_path": "faceexpr.tasks.knn.KNNClassifier", "init_args": options}


def connected(activation):
    """Return the configuration of the fully connected network."""
    net = {"class_path": "faceexpr.models.mlp.MLP", "init_args": {"activation": activation}}
    return {**MODEL, "init_args": {"net": net}}


def recorded(out, name, seed):
    """Write the record of a finished run and return its folder."""
    one = experiment(name)
    done = {"sweep": ["sweep"], "two_step": SYSTEM_STEPS}.get(one.kind, ["fit"])
    folder = out / RUNS / name / f"seed_{seed}"
    command = f"faceexpr fit --config {name}.yaml --seed_everything {seed}"
    Record(name, seed, command, "0", "A processor, 2 cores", "1.0", {"fit": 3.5, "test": 0.5}, done).write(folder)
    return folder


def store_runs(out):
    """Write finished runs of all experiments that a machine without a GPU can run."""
    for one in EXPERIMENTS:
        for seed in one.seeds:
            if one.gpu:
                continue
            folder = recorded(out, one.name, seed)
            if one.name == "knn":
                settings = [*product(("RawPixels", "Histogram"), (1, 2, 3), (1, 3, 5, 7, 9))]
                shares = [0.45 - 0.01 * number for number in range(len(settings))]
                grid(folder, [nearest(*setting) for setting in settings], shares)
            elif one.name == "mlp":
                grid(folder, [connected(name) for name in ("sigmoid", "relu", "tanh")], [0.2, 0.4 + seed / 50, 0.3])
            elif one.kind == "two_step":
                system(folder)
            elif one.data in ("wider", "dataset1"):
                detector(folder, 0.8)
            else:
                classifier(folder, seed, 0.6, MODEL)
    facts = {
        "fer2013": {
            "classes": {stage: [20] * 7 for stage in ("train", "val", "test")},
            "leaked": {"val": 3, "test": 4},
        },
        "ferplus": {"labels": (np.eye(7, dtype=int) * 9 + 1).tolist(), "without": 5},
        "wider": {"train": {"images": 60, "faces": 150}, "val": {"images": 12, "faces": 40}},
        "dataset1": {
            "images": 12,
            "faces": 40,
            "runs": {
                "dataset1_light": {
                    "test": {key: [0.8, 0.7, 0.9] for key in METRICS},
                    "start": {key: [0.5, 0.4, 0.6] for key in METRICS},
                    "test_folds": {key: [0.81, 0.78, 0.84] for key in METRICS},
                }
            },
        },
        "two_step": {"images": 12, "failed": 0, "faces": 38, "expressions": {"Happy": 30, "Sad": 8}},
    }
    (out / RUNS / "facts.json").write_text(json.dumps(facts))


def system(folder):
    """Write what the two-step system leaves of the example pictures."""
    shares = dict(zip(FER_NAMES, (0.05, 0.05, 0.05, 0.4, 0.05, 0.3, 0.1), strict=True))
    face = {"box": [200.0, 60.0, 330.0, 220.0], "score": 0.9, "expression": "Happy", "probabilities": shares}
    names = ("portrait.png", "group_1.png", "group_2.png")
    for part in SYSTEM_STEPS[:-1]:
        lines = [
            {
                "image": f"examples/pictures/{name}", "name": name, "status": "ok", "reason": None, "width": 512,
                "height": 600, "faces": [face] * (3 if part.endswith("_before") else 1), "notes": [],
            }
            for name in names
        ]  # fmt: skip
        (folder / part).mkdir()
        (folder / part / "faces.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [["source", "predicted", *FER_NAMES, "status", "note"]]
    for number, (name, what) in enumerate(face_names()):
        guess = what if number % 3 else "Neutral"
        values = ["0.7" if one == guess else "0.05" for one in FER_NAMES]
        rows.append([f"examples/faces/{name}", guess, *values, "ok", ""])
    (folder / "drawn").mkdir()
    (folder / "drawn/predictions.csv").write_text("".join(",".join(row) + "\n" for row in rows))
