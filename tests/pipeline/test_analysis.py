"""Files of explained faces, and Ray's processes, which write what one process writes."""

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from analysis_runs import records, write
from PIL import Image
from red_finder import save_task, tiny_classifier
from stub_steps import WHOLE, Boxes, Pids, pipeline

from faceexpr.models.simple_cnn import SimpleCNN
from faceexpr.pipeline.analysis import analyze_with_ray, explain_faces
from faceexpr.pipeline.classifiers import TaskClassifier
from faceexpr.pipeline.inputs import Item
from faceexpr.pipeline.pipeline import Analysis, FacePipeline
from faceexpr.pipeline.records import FaceResult, ImageResult
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.tasks.knn import KNNClassifier
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES
from faceexpr.visualization.explain import class_maps


def test_each_face_is_beside_what_speaks_for_its_expression_and_the_other_files_stay_the_same(analyze):
    write("photos/a.png", (30, 20, 70, 70))
    write("photos/none.png", None)
    options = ["--crops=true", "--pictures=true", "--margin=0", "--shape=stretched"]
    assert analyze("photos", "--explain=true", *options) == 0
    assert [path.name for path in Path("out/explained").iterdir()] == ["a.png.1.png"]
    drawn = np.asarray(Image.open("out/explained/a.png.1.png")).astype(int)
    width = round(256 * 40 / 50)
    assert drawn.shape == (256 + 34, 2 * width + 8, 3)
    face, over = drawn[:256, :width], drawn[:256, width + 8 :]
    assert np.abs(face - np.asarray(Image.open("out/crops/a.png.1.png"))[0, 0]).max() <= 1
    grey = face[0, 0] @ (0.299, 0.587, 0.114)
    assert np.abs(over - grey).max() > 50  # somewhere something speaks for it
    assert np.abs(over - grey).min() < 3  # and elsewhere nothing
    assert drawn[256:].min() < 100  # its name is written below

    assert analyze("photos", *options, out="without") == 0
    for name in ("pictures/a.png", "faces.jsonl", "faces.csv"):
        assert Path("out", name).read_bytes() == Path("without", name).read_bytes()
    assert not Path("without/explained").exists()


def test_what_cannot_explain_is_refused_before_anything_is_read(analyze, models, monkeypatch):
    knn = KNNClassifier(k=1)
    knn.bank, knn.labels = torch.zeros(7, 2304, dtype=torch.uint8), torch.arange(7)
    save_task(knn, models / "knn.ckpt")
    write("photos/a.png")
    with pytest.raises(FaceExprError, match=r"explain: KNNClassifier has no gradients to explain it by"):
        analyze("photos", "--explain=true", classifier="knn.ckpt")
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(FaceExprError, match=r"explain needs Captum, .* pip install 'faceexpr\[explain\]'$"):
        analyze("photos", "--explain=true")
    assert not Path("out").exists()
    assert analyze("photos") == 0  # which needs none of it


def test_a_classifier_explains_any_of_its_expressions():
    torch.manual_seed(0)
    task = ExpressionClassifier(net=partial(SimpleCNN))
    classifier = TaskClassifier(task)
    faces = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    np.testing.assert_array_equal(
        classifier.explain(faces, ["Sad", "Happy"]),
        class_maps(task.net, faces, [FER_NAMES.index("Sad"), FER_NAMES.index("Happy")]),
    )
    top = [FER_NAMES[row.argmax()] for row in classifier(faces)]
    np.testing.assert_array_equal(classifier.explain(faces), classifier.explain(faces, top))
    with pytest.raises(FaceExprError, match="expressions has 'Bored'; expected names among Angry"):
        classifier.explain(faces, ["Sad", "Bored"])


def test_faces_without_an_expression_are_left_out_and_the_others_keep_their_numbers():
    crops = tuple(np.full((30, 30, 3), level, np.uint8) for level in (50, 100, 150))
    box = (0.0, 0.0, 30.0, 30.0)
    faces = tuple(
        FaceResult(box, 0.9, name, None if name is None else dict.fromkeys(FER_NAMES, 1 / 7))
        for name in ("Happy", None, "Sad")
    )
    analysis = Analysis(ImageResult("a", "error", "not finite", (30, 30), faces), crops[0], 1, crops)
    system = FacePipeline(Boxes(), TaskClassifier(tiny_classifier()), face_batch=1)
    drawn = dict(explain_faces(system, analysis))
    assert {number: int(image[128, 5].mean()) for number, image in drawn.items()} == {1: 50, 3: 150}


def test_ray_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    missing = r"engine is ray, which is not installed: pip install 'faceexpr\[ray\]'"
    for workers, message in ((2, missing), (0, "workers is 0; expected at least 1")):
        with pytest.raises(FaceExprError, match=message):
            next(analyze_with_ray(partial(pipeline, WHOLE), [], Pids(Path()), workers, 1, gpu=False))


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    pytest.importorskip("pyarrow")
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        data = pytest.importorskip("ray.data")
        data.DataContext.get_current().wait_for_min_actors_s = 300  # or one may be done before the other has started
        yield
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_two_actors_write_what_one_process_writes_and_go_on_where_it_stopped(analyze):
    for number in range(9):
        write(f"photos/{number}.png", (10 + number, 20, 60, 70) if number % 4 else None)
    Path("photos/3.png").write_bytes(b"no image")
    Path("photos/8.png").rename(Path(os.fsdecode(b"photos/\xff.png")))
    given = ["photos", "--pictures=true", "--crops=true", "--batch_size=1"]
    assert analyze(*given, out="one") == 3
    assert analyze("photos/0.png", "photos/1.png", *given[1:]) == 0
    first = records()
    assert analyze(*given, "--engine=ray", "--workers=2") == 3
    assert records()[:2] == first
    for name in ("faces.jsonl", "faces.csv"):
        assert Path("out", name).read_bytes() == Path("one", name).read_bytes()
    for folder in ("pictures", "crops"):
        names = [{path.name for path in Path(out, folder).iterdir()} for out in ("one", "out")]
        assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("images", [8, 40])
def test_each_of_two_actors_has_a_fair_share_of_the_images(workdir, images):
    write("a.png")
    items = [Item("a.png", str(number), None) for number in range(images)]
    found = list(analyze_with_ray(partial(pipeline, WHOLE), items, Pids(workdir / "pids"), 2, 1, gpu=False))
    assert [record["name"] for record in found] == [item.name for item in items]
    shares = [len(list(folder.iterdir())) for folder in (workdir / "pids").iterdir()]
    assert sum(shares) == images
    assert len(shares) == 2
    assert min(shares) >= images // 4
