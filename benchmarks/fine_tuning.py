r"""How many labelled faces does it take to train the network that ships further, for classes of one's own?

    python benchmarks/fine_tuning.py --fer2013 fer2013.csv --votes fer2013new.csv --page docs/real_faces.md

The classes are Pleasant (Happy), Unpleasant (Angry, Disgust, Fear, Sad, Contempt) and Other (Neutral, Surprise), by the
majority of FER+'s votes. The faces to train on are drawn from PublicTest and laid out as a user's are, one folder a
class; 1,000 of PrivateTest test. Trainings are ``faceexpr fit --config configs/expression/folder_compact.yaml``, from
the weights that ship and from scratch; the last epoch counts.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from PIL import Image
from real_faces import insert, tabulate

from faceexpr.cli.main import main as faceexpr
from faceexpr.data.ferplus import FERPlus
from faceexpr.pipeline.classifiers import load_classifier

CONFIG = Path(__file__).parents[1] / "configs" / "expression" / "folder_compact.yaml"
CLASSES = ("Pleasant", "Unpleasant", "Other")
MEANING = torch.tensor([1, 1, 1, 0, 1, 2, 2, 1])
"""The class of each of FER+'s eight."""

NUMBERS = (50, 100, 200, 500)
TESTED = 1000


def main(
    fer2013: str | None = None,
    votes: str | None = None,
    weights: str = "ferplus_compact_robust",
    epochs: int = 20,
    page: str | None = None,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Measure trainings on a few faces.

    Args:
        fer2013: FER-2013's CSV file in the original order; without it nothing is measured.
        votes: FER+'s label file.
        weights: that trainings start from, beside none.
        epochs: of each training.
        page: a Markdown file that gets the table, between the lines that have the name ``fine_tuning``.
        seed: of the draws and the trainings.
        threads: of torch.
    """
    if fer2013 is None or votes is None:
        print("nothing is measured: name FER-2013 and FER+ with --fer2013 and --votes")
        return
    torch.set_num_threads(threads)
    data = FERPlus(fer2013, votes, classes=8)
    images, labels = draw(data, "test", TESTED, seed)
    rows = []
    for number in NUMBERS:
        row = [str(number)]
        for start in (weights, "null"):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                lay_out(*draw(data, "val", number, seed), folder / "faces" / "train")
                train(folder, start, epochs, seed)
                classifier = load_classifier(folder / "runs" / "checkpoints" / "last.ckpt")
            given = classifier(images.expand(-1, 3, -1, -1)).argmax(1)
            row.append(f"{np.mean(np.array(classifier.class_names)[given] == np.array(CLASSES)[labels]):.1%}")
        rows.append(row)
        print(*row, flush=True)
    text = tabulate(["faces", f"from `{weights}`", "from scratch"], rows)
    print(text)
    if page is not None:
        insert(Path(page), "fine_tuning", text)


def draw(data: FERPlus, stage: str, number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and classes of so many faces of a split."""
    split = data.split(stage)  # type: ignore[arg-type]
    chosen = torch.from_numpy(np.random.default_rng(seed).permutation(len(split))[:number])
    assert split.targets is not None
    return split.tensor[chosen], MEANING[split.targets[chosen].argmax(1)]


def lay_out(images: torch.Tensor, labels: torch.Tensor, folder: Path) -> None:
    """Write faces into one folder a class."""
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place / f"{number:05}.png")


def train(folder: Path, weights: str, epochs: int, seed: int) -> None:
    """Train on a folder; its last checkpoint lies in ``runs/checkpoints``."""
    # From scratch, rates are those of the configuration for it.
    rate = "0.01" if weights != "null" else "0.05"
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    faceexpr(
        [
            "fit", f"--config={CONFIG}", f"--data.path={folder / 'faces'}", f"--data.class_names=[{','.join(CLASSES)}]",
            f"--model.weights={weights}", f"--model.optimizer.lr={rate}", f"--model.scheduler.max_lr={rate}",
            f"--trainer.max_epochs={epochs}", "--trainer.accelerator=cpu", "--trainer.logger=false",
            f"--last_checkpoint.dirpath={folder / 'runs' / 'checkpoints'}", f"--seed_everything={seed}",
            f"--trainer.default_root_dir={folder}", "--evaluation.figures=false",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    auto_cli(main)
