"""Print what was measured, as Markdown tables: one row for each training run that has been tested.

    python docs/results_table.py lightning_logs

Classifiers and detectors have a table each. Every figure comes from the ``metrics.json`` of a run: those of the
validation split (PublicTest) from the training run's best epoch, those of the test split (PrivateTest) from the test
run whose ``config.yaml`` names that run's checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import auto_cli

CLASSIFIERS = (
    "| run | seed | best epoch / epochs | PublicTest | PrivateTest (95% interval) | balanced | macro F1 | ECE |"
)
DETECTORS = "| run | seed | best epoch / epochs | validation AP50 | test AP50 | AP | AP75 | recall | best F1 (score) |"


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a run's configuration and its measurements by stage."""
    config: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    measured: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return config, measured


def named(config: dict[str, Any], trained: Path, epoch: int) -> list[str]:
    """Return the cells that say which run it is."""
    return [
        f"`{trained.parent.name}`",
        str(config["seed_everything"]),
        f"{epoch + 1} / {config['trainer']['max_epochs']}",
    ]


def classifier(trained: Path, test: dict[str, Any]) -> list[str]:
    """Return the cells of a classifier's training run and its test."""
    config, measured = read(trained)
    val = measured["val"]
    low, high = test["accuracy_interval"]
    return [
        *named(config, trained, val["epoch"]),
        f"{val['accuracy']:.2%}",
        f"{test['accuracy']:.2%} ({low:.2%} to {high:.2%})",
        f"{test['balanced_accuracy']:.2%}",
        f"{test['macro_f1']:.3f}",
        f"{test['ece']:.3f}",
    ]


def detector(trained: Path, test: dict[str, Any]) -> list[str]:
    """Return the cells of a detector's training run and its test."""
    config, measured = read(trained)
    val = measured["val"]
    return [
        *named(config, trained, val["epoch"]),
        *(f"{value:.4f}" for value in (val["ap50"], test["ap50"], test["ap"], test["ap75"], test["recall"])),
        f"{test['best_f1']:.4f} ({test['best_f1_threshold']:.2f})",
    ]


def main(runs: Path) -> None:
    """Print the tables.

    Args:
        runs: folder of the runs.
    """
    tables: dict[str, list[list[str]]] = {CLASSIFIERS: [], DETECTORS: []}
    for metrics in sorted(runs.rglob("metrics.json")):
        config, measured = read(metrics.parent)
        if "test" in measured and config.get("ckpt_path"):
            trained, test = Path(config["ckpt_path"]).parents[1], measured["test"]
            if not (trained / "metrics.json").exists():
                continue  # a model file, whose training is elsewhere: `model_card.py` tells of it
            if "ap50" in test:
                tables[DETECTORS].append(detector(trained, test))
            else:
                tables[CLASSIFIERS].append(classifier(trained, test))
    for head, rows in tables.items():
        if rows:
            print(head, "|---" * (head.count("|") - 1) + "|", *(f"| {' | '.join(row)} |" for row in rows), "", sep="\n")


if __name__ == "__main__":
    auto_cli(main)
