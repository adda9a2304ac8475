r"""Write the card of a model: what it is for, how it was trained, how well it does, what it must not be used for.

    python docs/model_card.py NAME
    python docs/model_card.py NAME --train RUN --test RUN [--robustness RUN] [--benchmark FILE]

The first writes ``docs/models/NAME.md`` from the prose in ``NAME.prose.md`` and the numbers in ``NAME.json``. The
second collects these numbers and the figures from the folders of runs before, so that none is typed. A training that
was interrupted has several folders: ``--train '[RUN, RUN]'``. Run it where the test was run, as that names its
checkpoint from there.

The sections are those of Mitchell et al., "Model cards for model reporting" (2019).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cards.collect import FIGURES, collect, figures
from cards.page import page
from jsonargparse import auto_cli

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import write_file

REPOSITORY = Path(__file__).resolve().parents[1]


def main(
    name: str,
    train: list[Path] | None = None,
    test: Path | None = None,
    validation: Path | None = None,
    robustness: Path | None = None,
    ferplus: Path | None = None,
    benchmark: Path | None = None,
    config_name: str | None = None,
    folder: Path = REPOSITORY / "docs" / "models",
) -> None:
    """Write a card.

    Args:
        name: of the model.
        train: folders of its training, in stages where it had some; the last one has the result.
        test: folder of its test.
        validation: folder of ``faceexpr validate`` of the model as it ships; without it PublicTest is that of training.
        robustness: folder of a test under corruptions, where that is another.
        ferplus: folder of a test of the same network with FER+.
        benchmark: what ``benchmarks/detection.py`` has printed.
        config_name: name of the configuration that the training was given, where its runs are not called so.
        folder: of the cards.
    """
    stored = folder / f"{name}.json"
    if train and test:
        runs = (train, test, validation, robustness, ferplus, benchmark)
        found = collect(name, REPOSITORY / "configs", *runs, config_name)
        write_file(stored, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        drawn = figures(test, robustness)
        for figure in FIGURES:
            path = folder / f"{name}_{figure}.png"
            if figure in drawn:
                write_file(path, drawn[figure])
            else:
                path.unlink(missing_ok=True)
    elif any((train, test, validation, robustness, ferplus, benchmark)):
        raise FaceExprError("runs are named, but not both --train and --test; expected both, or no run at all")
    write_file(folder / f"{name}.md", written(folder, name))


def written(folder: Path, name: str) -> str:
    """Return the card of a model from the files in a folder."""
    there = {figure for figure in FIGURES if (folder / f"{name}_{figure}.png").exists()}
    stored = folder / f"{name}.json"
    if not stored.is_file():
        raise FaceExprError(f"{stored} does not exist; expected the name of a model that was collected before")
    found = json.loads(stored.read_text(encoding="utf-8"))
    return page(found, (folder / f"{name}.prose.md").read_text(encoding="utf-8"), there)


if __name__ == "__main__":
    try:
        auto_cli(main)
    except FaceExprError as error:
        sys.exit(f"model_card.py: error: {error}")
