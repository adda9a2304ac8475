"""The page that has every table and figure of the paper with ours beside it, made from the stored results alone."""

from __future__ import annotations

from pathlib import Path

from experiments.paper import curves, over_detecting, pictures, reading, tables
from experiments.paper.cells import NOT_RUN, plain_command
from experiments.paper.commands import RUNS
from experiments.paper.comparing import RESAMPLES, comparison
from experiments.paper.drawing import Drawn, file_name
from experiments.paper.experiments import experiment
from experiments.paper.results import Results, read_results
from faceexpr.utils.files import write_file

PAGE = Path("docs/paper.md")
FIGURES = Path("docs/paper")

INTRODUCTION = """\
# The paper, table by table and figure by figure

Every table and figure of "Image-based Face Detection and Facial Expression Recognition" (Yuan, Nguyen and Nguyen),
made by this code, with the paper's number beside ours. Nobody types a number here: `faceexpr paper` writes this page
from the runs in [lightning_logs/paper](../lightning_logs/paper), and a test compares the two.

```bash
faceexpr paper --data DATA --out RUNS                     # run what is missing, then write this page
faceexpr paper --data DATA --out RUNS --only simple_cnn   # one experiment
faceexpr paper --page_only true                           # write the page again from the stored runs
tensorboard --logdir lightning_logs                       # the curves of the stored runs
```

`DATA` holds `fer2013/` (`fer2013.csv`, and `fer2013new.csv` of FER+), `wider/` and `dataturks/`; where FER-2013's
rows are not in the order of the votes, `ferplus/` holds both files once more. The commands in the tables are given in
`RUNS`, where `data` and `configs` are links; `minutes` are those of one run with its test, and of one training of a
grid. Accuracies are in percent; where there are several seeds, mean ± standard deviation. PublicTest chooses the
epoch, PrivateTest is measured once. A training that was made elsewhere, put into
`RUNS/lightning_logs/paper/NAME/seed_0`, is not made again, only measured.

Figures that show pictures of the data sets are made here from drawn faces and a portrait in the public domain: the
data are for research and not ours to publish. The same figures with the data are written to `RUNS/figures`.
"""


def write_page(project: Path) -> list[Path]:
    """Write the page and its figures into a clone of the project, and return their paths.

    Args:
        project: the clone, with stored runs.

    Raises:
        FaceExprError: a stored run is damaged.
    """
    results = read_results(project / RUNS)
    drawn = figures(results)
    for stale in (project / FIGURES).glob("figure_*.png"):
        if stale.name not in {one.name for one in drawn.values()}:
            stale.unlink()
    written = [one.write(project / FIGURES) for one in drawn.values()]
    write_file(project / PAGE, text(project, results, drawn))
    return [project / PAGE, *written]


def figures(results: Results) -> dict[int, Drawn]:
    """Return the figures that can be drawn from the results, by number."""
    drawn = [
        *pictures.of_the_data(), *pictures.of_the_system(results), *pictures.of_the_classifier(results),
        *curves.nearest(results), *curves.losses(results), *curves.classes(results),
        *over_detecting.over_detection(results), *curves.relabelled(results),
    ]  # fmt: skip
    return {one.number: one for one in sorted(drawn, key=lambda one: one.number)}


def text(project: Path, results: Results, drawn: dict[int, Drawn]) -> str:
    """Return the page.

    Args:
        project: the clone, for the configurations.
        results: what was measured.
        drawn: the figures by number.
    """

    def show(*numbers: int) -> list[str]:
        return [line for number in numbers for line in _figure(number, drawn.get(number))]

    lines = [
        INTRODUCTION,
        "## The data", "", *_paragraphs(reading.data(results)), *show(2, 3),
        "## Face detection", "", "### Table 1: Detectron2 configuration", "", *tables.table_1(project),
        *tables.detection_table(results), *_paragraphs(reading.detection(results)), *show(1, 4, 5, 6),
        "## K nearest neighbours", "", _run_by("knn"), "", *tables.knn_table(results),
        *_paragraphs(reading.neighbours(results)), *show(7, 8),
        "## Multi-layer perceptron", "", "### Table 2: architecture", "", *tables.table_2(),
        "### Table 3: testing accuracies", "", *tables.table_3(results),
        *_paragraphs(reading.fully_connected(results)), *show(9, 10, 11),
        "## Convolutional networks", "", "### Table 4: architecture", "", *tables.table_4(),
        "### Table 5: model performance", "", *tables.table_5(results),
        *_paragraphs(reading.convolutional(results)), *show(12, 13, 14, 15, 16),
        *_paragraphs(reading.per_class(results)),
        "### Are the differences more than chance?", "",
        f"Each pair on the same test samples: McNemar's exact test, and {RESAMPLES:,} paired bootstrap resamples; of "
        "runs with several seeds, the first.", "", *comparison(results),
        "## Over-detection", "", *_paragraphs(reading.over_detection(results)), *show(17),
        "## FER+ (the paper's future work)", "", *tables.ferplus_table(results),
        *_paragraphs(reading.ferplus(results)), *show(18),
        "## Several expressions in one face (the paper's future work)", "", *show(19),
        "## The two steps together", "", _run_by("two_step"), "", *_paragraphs(reading.two_step(results)),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


TITLES = {
    1: "The detected human faces in an input image",
    5: "Sample images, result of the face detection model",
    6: "Human face detection in an image from elsewhere",
    7: "KNN accuracies with respect to L1, L2, L3 norm",
    8: "KNN accuracies with respect to K",
    9: "Training loss, sigmoid",
    10: "Training loss, ReLU",
    11: "Training loss, tanh",
    12: "Simple CNN loss curve",
    13: "ResNet-based CNN loss curve",
    14: "Example of predictions made by our model",
    15: "Per class accuracy",
    16: "Confusion matrix",
    17: "An example of over-detecting",
    18: "FER vs FER+ examples",
    19: "An example of potential multiple expressions in one face",
}
"""The paper's captions, for figures that cannot be drawn yet."""


def _figure(number: int, drawn: Drawn | None) -> list[str]:
    if drawn is None:
        return [f"**Figure {number}: {TITLES[number]}.** {NOT_RUN.capitalize()}.", ""]
    note = f" {drawn.note}" if drawn.note else ""
    return [
        f"**Figure {number}: {drawn.title}.**{note}", "",
        f"![Figure {number}]({FIGURES.name}/{file_name(number)})", "",
    ]  # fmt: skip


def _paragraphs(said: list[str]) -> list[str]:
    return [line for paragraph in said for line in (paragraph, "")]


def _run_by(name: str) -> str:
    return f"`{plain_command(experiment(name))}`"
