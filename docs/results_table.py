"""Print what was measured, as a Markdown table: one row for each training run that has been tested.

    python docs/results_table.py lightning_logs

Every figure comes from the ``metrics.json`` of a run: PublicTest from the training run's best epoch, PrivateTest from
the test run whose ``config.yaml`` names that run's checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import auto_cli

HEAD = "| run | seed | best epoch / epochs | PublicTest | PrivateTest (95% interval) | balanced | macro F1 | ECE |"


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a run's configuration and its measurements by stage."""
    config: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    measured: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return config, measured


def row(trained: Path, tested: Path) -> str:
    """Return the table's row for a training run and its test."""
    config, val = read(trained)
    test = read(tested)[1]["test"]
    low, high = test["accuracy_interval"]
    cells = [
        f"`{trained.parent.name}`",
        config["seed_everything"],
        f"{val['val']['epoch'] + 1} / {config['trainer']['max_epochs']}",
        f"{val['val']['accuracy']:.2%}",
        f"{test['accuracy']:.2%} ({low:.2%} to {high:.2%})",
        f"{test['balanced_accuracy']:.2%}",
        f"{test['macro_f1']:.3f}",
        f"{test['ece']:.3f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main(runs: Path) -> None:
    """Print the table.

    Args:
        runs: folder of the runs.
    """
    print(HEAD)
    print("|---" * (HEAD.count("|") - 1) + "|")
    for metrics in sorted(runs.rglob("metrics.json")):
        config, measured = read(metrics.parent)
        if "test" in measured and config.get("ckpt_path"):
            print(row(Path(config["ckpt_path"]).parents[1], metrics.parent))


if __name__ == "__main__":
    auto_cli(main)
