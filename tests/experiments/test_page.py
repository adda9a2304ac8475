"""The page says what the stored runs say, and nothing else."""

import re
import shutil
from pathlib import Path
from statistics import mean, stdev

import pytest
from conftest import REPOSITORY
from stored_runs import store_runs

from experiments.paper import figures, page
from experiments.paper.experiments import EXPERIMENTS, RUNS
from experiments.paper.figures import stored_key
from experiments.paper.published import HARD
from experiments.paper.runs import read_results
from faceexpr.utils.errors import FaceExprError


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A clone with stored runs of everything that needs no GPU."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    store_runs(folder)
    return folder


def row_of(text, heading, name):
    """Return the cells of a row of the first table after a heading."""
    after = text[text.index(heading) :]
    line = next(line for line in after.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_in_the_repository_is_made_of_its_stored_runs():
    results = read_results(REPOSITORY / RUNS)
    drawn = figures.draw_all(results)
    assert (REPOSITORY / page.PAGE).read_text(encoding="utf-8") == page.render(REPOSITORY, results, drawn)
    stored = {path.name: stored_key(path) for path in (REPOSITORY / page.FIGURES).iterdir()}
    assert stored == {one.name: one.key for one in drawn.values()}


def test_every_figure_is_drawn_and_every_row_has_its_number(project, tmp_path):
    results = read_results(project / RUNS)
    drawn = figures.draw_all(results)
    assert list(drawn) == list(range(1, 20))
    # A figure knows what it was drawn from.
    first = drawn[7].write(tmp_path)
    content = first.read_bytes()
    assert stored_key(first) == drawn[7].key
    assert drawn[7].write(tmp_path).read_bytes() == content
    # Over-detection is shown before and after the suppression.
    titles = [axes.get_title() for axes in drawn[17].figure.axes]
    assert titles[:2] == ["before: 3 boxes", "after: 1 box"]
    assert set(page.TITLES) <= set(drawn)
    text = page.render(project, results, drawn)
    unrun = [line for line in text.splitlines() if "not run" in line]
    assert len(unrun) == sum(one.gpu for one in EXPERIMENTS)
    accuracies = [run.test["accuracy"] for run in results.of("mlp", {"net.activation": "relu"})]
    assert len(accuracies) == 3
    row = row_of(text, "### Table 3", "ReLU")
    assert row[1:3] == ["22.81", f"{100 * mean(accuracies):.2f} ± {100 * stdev(accuracies):.2f}"]
    assert row[-3:] == ["0, 1, 2", "A processor, 2 cores", "0.2"]
    assert f"ReLU has {100 * mean(accuracies):.2f}% (mean of 3 seeds)" in text
    knn = results.first("knn", {"representation": "RawPixels", "p": 1, "k": 3})
    assert knn.folder.name == "trial_001"
    assert row_of(text, "### Table 5", "KNN")[1:3] == ["31.50", f"{100 * knn.test['accuracy']:.2f}"]
    assert row_of(text, "#### all samples", "KNN")[1] == f"{knn.test['accuracy']:.2%}"
    assert "10 of 140 samples are pixel-equal" in text
    # Dataset 1 with its intervals, before the training and after it, and no other photographs in its place.
    row = row_of(text, "### Table 1: Detectron2", "Light detector")
    assert row[2:4] == ["80.0 (70.0 to 90.0)"] * 2
    assert row[8] == "81.0 (78.0 to 84.0), 5 folds, standard deviation 0.0"
    assert row_of(text, "### Table 1: Detectron2", "Light detector, WIDER FACE alone")[2] == "50.0 (40.0 to 60.0)"
    assert "The light detector has an AP50 of 80.0%, 10.00 points above the paper's 70%" in text
    assert "stands in for them" not in text


def test_what_has_not_run_says_so(tmp_path):
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    (tmp_path / "docs/paper").mkdir(parents=True)
    (tmp_path / "docs/paper/figure_16.png").write_bytes(b"of an earlier time")
    written = page.write_page(tmp_path)
    assert [path.name for path in written] == ["paper.md", "figure_02.png", "figure_03.png", "figure_04.png"]
    assert not (tmp_path / "docs/paper/figure_16.png").exists()
    text = written[0].read_text(encoding="utf-8")
    assert row_of(text, "### Table 5", "simple CNN")[1:3] == ["54.79", "not run"]
    for number in set(range(1, 20)) - {2, 3, 4}:
        assert f"**Figure {number}: {page.TITLES[number]}.** Not run." in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("simple_cnn/seed_0/config.yaml", "a: [1,", r"config\.yaml, line 2: .*expected YAML"),
        ("simple_cnn/seed_0/test/metrics.json", '{"test": [0.5', r"metrics\.json is damaged"),
        ("simple_cnn/seed_0/test/metrics.json", '["test"]', r"metrics\.json is damaged \(it has no table of values\)"),
        ("wider_light/seed_0/test/metrics.json", '{"test": {"ap50": 0.5}}', "test has no ap, recall; expected"),
        ("mlp/seed_0/table.csv", "trial,loss\ntrial_000,1\n", r"table\.csv is damaged .*faceexpr sweep"),
        ("simple_cnn/seed_0/experiment.json", "{}", r"experiment\.json is not the record of a run"),
    ],
)
def test_a_damaged_run_is_named(project, tmp_path, name, content, message):
    shutil.copytree(project / RUNS, tmp_path / RUNS)
    (tmp_path / RUNS / name).write_text(content)
    with pytest.raises(FaceExprError, match=message):
        read_results(tmp_path / RUNS)


def test_classes_without_errors_are_confused_with_none(project):
    run = read_results(project / RUNS).first("resnet18")
    share = page.confused_among(run, HARD)
    assert 0 < share < 1
    run.test["confusion_matrix"] = [[20 * (row == column) for column in range(7)] for row in range(7)]
    assert page.confused_among(run, HARD) is None


def test_the_sentences_have_no_number_of_their_own():
    source = Path(page.__file__).with_name(page.TEMPLATE).read_text(encoding="utf-8")
    sentences = re.sub(r"\{[{%].*?[}%]\}", "", source)  # what is put in
    assert re.findall(r"\d+\.\d+|\d+ ?%", sentences) == []
