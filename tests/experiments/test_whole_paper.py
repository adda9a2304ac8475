"""The whole of ``python -m experiments.paper``: one experiment that is really run, kept and written into the page."""

import json
import shutil

import pytest
from conftest import REPOSITORY

from experiments.paper.__main__ import main
from experiments.paper.experiments import RUNS, experiment
from experiments.paper.runs import read_record

CNN = experiment("simple_cnn")


@pytest.mark.slow
def test_one_experiment_from_the_command_to_the_page(tmp_path, capsys):
    project, data = tmp_path / "project", tmp_path / "sets"
    shutil.copytree(REPOSITORY / "configs", project / "configs")
    path = project / CNN.configs[0]
    path.write_text(path.read_text().replace("max_epochs: 24", "max_epochs: 2"))
    (data / "fer2013").mkdir(parents=True)
    (data / "fer2013/fer2013.csv").write_text(faces())
    (data / "fer2013/fer2013new.csv").write_text(votes())
    arguments = ["--data", str(data), "--out", str(tmp_path / "runs"), "--only", "simple_cnn"]
    main([*arguments, "--project", str(project)])
    kept = project / RUNS / "simple_cnn/seed_0"
    record = read_record(kept)
    assert record.done == ["fit", "test"]
    accuracy = json.loads((kept / "test/metrics.json").read_text())["test"]["accuracy"]
    text = (project / "docs/paper.md").read_text(encoding="utf-8")
    assert f"| simple CNN | 54.79 | {100 * accuracy:.2f} |" in text
    assert str(tmp_path) not in (kept / "config.yaml").read_text()
    assert (project / "docs/paper/figure_12.png").is_file()
    assert (tmp_path / "runs/figures/figure_03.png").is_file()
    # Votes that agree with FER-2013 on every face leave nothing to show.
    assert not (tmp_path / "runs/figures/figure_18.png").exists()
    assert "Figure 18 with images of the data is not drawn: the data have no face for it" in capsys.readouterr().out


PLACES = [(usage, index) for usage in ("Training", "PublicTest", "PrivateTest") for index in range(14)]


def faces():
    """Return a FER-2013 of fourteen grey faces in each split."""
    rows = [f"{index % 7},{' '.join([str(index * 9)] * 2304)},{usage}" for usage, index in PLACES]
    return "\n".join(["emotion,pixels,Usage", *rows]) + "\n"


def votes():
    """Return FER+'s votes for these faces: ten for FER-2013's label of each."""
    names = "anger,disgust,fear,happiness,sadness,surprise,neutral,contempt,unknown,NF"
    rows = [f"{usage},{index}.png{',0' * (index % 7)},10{',0' * (9 - index % 7)}" for usage, index in PLACES]
    return "\n".join([f"Usage,Image name,{names}", *rows]) + "\n"
