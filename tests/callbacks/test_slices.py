"""Metrics by group: of models whose predictions are known, with groups from files and from annotations."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_runs import KnowsTheBoxes, ReadsThePixel, Scenes, make_split, pixel_faces, read_metrics, texts_inside
from scipy.stats import binomtest, permutation_test

from faceexpr.callbacks.classification import ClassificationEvaluation
from faceexpr.callbacks.detection import DetectionEvaluation
from faceexpr.callbacks.slices import Slices, as_groups, compare_groups
from faceexpr.utils.errors import FaceExprError
from faceexpr.visualization.base import draw_groups

CLEAR = [(label % 7, label % 7) for label in range(21)]
"""Images that are predicted right."""

MIXED = [(0, label % 2) for label in range(20)]
"""Images that are predicted right if they are even."""


def write(text, path="groups.csv"):
    Path(path).write_text(text, encoding="utf-8")
    return path


def stored(folder, stage="test"):
    (path,) = folder.rglob(f"slices_{stage}.json")
    return json.loads(path.read_text(encoding="utf-8"))


def classify(make_trainer, path, verb="test", split=CLEAR + MIXED, **options):
    slices = Slices(path, figures=options.pop("figures", False), **options)
    trainer = make_trainer(ClassificationEvaluation(figures=False, resamples=50))
    trainer.callbacks.append(slices)
    getattr(trainer, verb)(ReadsThePixel(), datamodule=pixel_faces({"test": split, "val": split}), verbose=False)


def test_every_metric_of_each_group_has_an_interval_and_the_difference_a_p(make_trainer, workdir, capsys):
    rows = [f"{index},{'day' if index < 21 else 'night'},{'few' if index < 3 else ''}" for index in range(41)]
    classify(make_trainer, write("\n".join(["index,light,rare", *rows])), resamples=500, figures=True)
    found = stored(workdir)
    light = found["columns"]["light"]
    assert (light["unit"], light["main"], light["without"], found["resamples"]) == ("image", "accuracy", 0, 500)
    day, night = light["groups"]["day"], light["groups"]["night"]
    assert (day["n"], night["n"]) == (21, 20)
    assert set(day["metrics"]) == {
        "accuracy", "top2_accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece", "nll"
    }  # fmt: skip
    exact = binomtest(21, 21).proportion_ci(0.95, method="exact")
    assert day["metrics"]["accuracy"] == {"value": 1, "low": pytest.approx(exact.low), "high": 1}
    accuracy = night["metrics"]["accuracy"]
    assert accuracy["value"] == 0.5
    assert accuracy["low"] == pytest.approx(0.28, abs=0.06)  # 0.5 - 1.96 sqrt(0.25 / 20)
    assert accuracy["high"] == pytest.approx(0.72, abs=0.06)
    assert night["metrics"]["balanced_accuracy"]["value"] == 0.5
    test = light["differences"]["accuracy"]
    assert (test["difference"], test["highest"], test["lowest"]) == (0.5, "day", "night")
    assert test["p"] < 0.01
    assert test["p_holm"] == pytest.approx(min(1, 7 * test["p"]), rel=1)  # one of seven
    rare = found["columns"]["rare"]
    assert (rare["groups"], rare["differences"], rare["without"]) == ({"few": {"n": 3, "metrics": {}}}, {}, 38)
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.split()[:1] == ["night"])
    assert line.split()[1:6] == ["20", "0.5000", f"{accuracy['low']:.4f}", "to", f"{accuracy['high']:.4f}"]
    assert next(line for line in printed.splitlines() if "largest difference" in line).split()[2] == "0.5000"
    assert "38 images without a group" in printed
    assert {path.name for path in workdir.rglob("*.png")} == {"test_slices.png"}
    assert read_metrics(workdir, "test")["accuracy"] == pytest.approx(31 / 41)


def test_images_are_found_by_the_end_of_their_path_and_validated_too(make_trainer, workdir):
    names = [f"data/{kind}/{number}.png" for kind in "ab" for number in range(12)]
    split = make_split([0] * 24, [0] * 12 + [1] * 12, sources=names)
    rows = [f"{name.removeprefix('data/')},{name[5]},{place * 10}" for place, name in enumerate(names[:-1])]
    path = write("\n".join(["File,kind,age", *rows, "b/99.png,a,7"]))
    classify(make_trainer, path, "validate", split=split, resamples=20)
    kind, age = (stored(workdir, "val")["columns"][name] for name in ("kind", "age"))
    assert {name: one["n"] for name, one in kind["groups"].items()} == {"a": 12, "b": 11}
    assert kind["without"] == 1
    assert kind["groups"]["b"]["metrics"]["accuracy"]["value"] == 0
    # Of one class only.
    assert "auroc" not in kind["groups"]["b"]["metrics"]
    # 23 values, of which each quarter is fewer than ten.
    assert {name: one["n"] for name, one in age["groups"].items()} == {
        "below 55": 6, "55 to 110": 5, "110 to 165": 6, "from 165": 6
    }  # fmt: skip


def test_p_is_that_of_scipys_permutation_test():
    rng = np.random.default_rng(0)
    codes, right = np.repeat([0, 1, 2], 20), rng.random(60) < np.repeat([0.9, 0.8, 0.5], 20)

    def spread(permuted):
        means = [right[permuted == code].mean() for code in range(3)]
        return max(means) - min(means)

    options = {"permutation_type": "pairings", "alternative": "greater", "n_resamples": 4000}
    expected = permutation_test((codes,), spread, vectorized=False, rng=np.random.default_rng(1), **options)
    found = compare_groups(
        codes, "abc", ["right"], lambda rows: right[rows].mean(keepdims=True), np.arange(60), 4000, 0
    )
    test = found["differences"]["right"]
    assert test["difference"] == pytest.approx(expected.statistic)
    assert test["p"] == pytest.approx(expected.pvalue, abs=0.012)


def test_faces_of_one_image_are_no_independent_witnesses():
    """Ten images of 20 faces: all faces of an image are of one group, and found or missed together."""
    images, by_image = np.repeat(np.arange(10), 20), np.repeat([0, 1], 5)
    found = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 1])[images] == 1
    tested = compare_groups(
        by_image[images], "ab", ["recall"], lambda rows: found[rows].mean(keepdims=True), images, 1000, 0
    )
    # Of 252 ways to choose 5 of 10 images, 52 part the 5 that are found by 4 to 1 or by 5 to 0.
    assert tested["differences"]["recall"]["p"] == pytest.approx(52 / 252, abs=0.04)
    one = tested["groups"]["a"]["metrics"]["recall"]
    assert one["value"] == 0.8
    assert (one["low"], one["high"]) == (pytest.approx(0.4), 1)  # 20 of 100 faces, but one of five images


class Flagged(Scenes):
    """In each image a face of 20 x 12 pixels that is clear and one of 20 x 40 that is blurred."""

    def load_records(self, stage):
        flags = {"blur": np.array([0, 2]), "pose": np.array([0, 0])}
        return [
            dataclasses.replace(one, path=Path("some/images/0--Parade") / one.path, flags=flags)
            for one in super().load_records(stage)
        ]


def detect(make_trainer, path, ignored=(), **options):
    small, large = (5, 5, 25, 17), (30, 10, 50, 50)
    data = Flagged(batch_size=4)
    data.faces, data.ignored = [[small, large]] * 12, set(ignored)
    # The small face surely; in each third image the large one too, half of them doubtfully; in one a false one.
    found = [[(*small, 0.9)] + [(*large, 0.8 if place % 6 else 0.3)] * (place % 3 == 0) for place in range(12)]
    found[11].append((0, 30, 20, 50, 0.95))
    trainer = make_trainer(DetectionEvaluation(figures=False))
    trainer.callbacks.append(Slices(path, resamples=options.pop("resamples", 200), figures=False))
    trainer.test(KnowsTheBoxes(found), datamodule=data, verbose=False)


def test_recall_by_what_the_annotations_say_of_each_face(make_trainer, workdir, capsys):
    detect(make_trainer, "annotations", ignored=[(11, 1)])
    columns = stored(workdir)["columns"]
    assert set(columns) == {"height in pixels", "blur", "pose"}
    clear, heavy = (columns["blur"]["groups"][name] for name in ("clear", "heavy"))
    assert (clear["n"], heavy["n"], columns["blur"]["without"]) == (12, 11, 0)  # one of the large is ignored
    assert clear["metrics"]["recall"]["value"] == 1
    values = [heavy["metrics"][metric]["value"] for metric in ("recall", "recall_at_score")]
    assert values == pytest.approx([4 / 11, 2 / 11])
    heights = columns["height in pixels"]["groups"]
    assert {name: one["n"] for name, one in heights.items()} == {"10 to 30": 12, "30 to 50": 11}
    assert heights["30 to 50"]["metrics"] == heavy["metrics"]
    assert columns["pose"]["differences"] == {}
    assert columns["blur"]["differences"]["recall"]["p"] < 0.02
    assert "heavy" in capsys.readouterr().out


@pytest.mark.parametrize("box", ["x_min,y_min,width,height", "left,top,right,bottom", "face"])
def test_faces_are_found_by_their_box_or_their_place(box, make_trainer, workdir):
    boxes = {
        "x_min,y_min,width,height": ("5,6,20,11", "31,10,20,40", "0,0,3,3"),
        "left,top,right,bottom": ("5,6,25,17", "31,10,51,50", "0,0,3,3"),
        "face": ("0", "1", "2"),
    }[box]
    rows = [
        f"{place},images/0--Parade/image {place}.png,{each},{skin}"
        for place in range(12)
        for each, skin in zip(boxes, ("I", "VI", "none"), strict=True)
    ]
    detect(make_trainer, write("\n".join([f",file,{box},perceived_skin", *rows])))
    column = stored(workdir)["columns"]["perceived_skin"]
    found = {name: (one["n"], one["metrics"]["recall"]["value"]) for name, one in column["groups"].items()}
    assert found == {"I": (12, 1), "VI": (12, pytest.approx(1 / 3))}
    assert column["unit"] == "face"


def test_by_image_a_detector_has_every_metric(make_trainer, workdir):
    rows = [f"image {place}.png,{'far' if place < 10 else 'near'}" for place in range(12)]
    detect(make_trainer, [write("\n".join(["image,camera", *rows])), "annotations"], resamples=50)
    columns = stored(workdir)["columns"]
    assert (columns["camera"]["unit"], columns["camera"]["main"]) == ("image", "ap50")
    far = columns["camera"]["groups"]["far"]["metrics"]
    # Ten small faces are found of 20 at 0.9 to 0.8, and four large ones.
    assert far["recall"]["value"] == pytest.approx(14 / 20)
    assert far["recall_at_score"]["value"] == pytest.approx(12 / 20)
    assert far["precision_at_score"]["value"] == 1
    assert far["recall"]["low"] < 14 / 20 < far["recall"]["high"]
    assert columns["camera"]["groups"]["near"] == {"n": 2, "metrics": {}}
    figure = draw_groups({name: columns[name] for name in ("blur", "camera")}, "By group, test")
    assert {"clear (12)", "heavy (12)", "far (10)"} <= {*texts_inside(figure)}


def test_values_become_groups():
    codes, names = as_groups(["10", "9", "", "10"], "age")
    assert (codes.tolist(), names) == ([1, 0, -1, 1], ["9", "10"])
    codes, names = as_groups([str(value) for value in range(40)] + [""], "age")
    assert names == ["below 9.75", "9.75 to 19.5", "19.5 to 29.25", "from 29.25"]
    assert np.bincount(codes + 1).tolist() == [1, 10, 10, 10, 10]
    with pytest.raises(FaceExprError, match="path: age has 21 values; expected at most 20, or numbers"):
        as_groups([f"v{value}" for value in range(21)], "age")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, r"path: groups\.csv cannot be read as a table .*No such file"),
        ("", r"path: groups\.csv cannot be read as a table"),
        ("index,light\n0,day\n1\n", r"path: groups\.csv cannot be read as a table .*expected a CSV file"),
        ("name,light\n0,day\n", r"path: groups\.csv has the columns name, light; expected file or index, and groups"),
        ("index\n0\n", r"has the columns index; expected file or index, and groups"),
        ("index,light\n0,day\n0,night\n", r"has an image twice; expected a row for each"),
        ("index,x,y,w,h,light\n0,0,0,1,1,day\n", r"has rows for boxes, which a classifier does not see"),
        ("file,light\nelsewhere.png,day\n", r"has no image of the split, but elsewhere\.png; expected such as image 0"),
        ("annotations", "path is annotations, which faces without boxes do not have"),
    ],
)
def test_wrong_files_are_refused_before_anything_is_measured(text, reason, make_trainer, workdir, capsys):
    if text is not None and text != "annotations":
        write(text)
    with pytest.raises(FaceExprError, match=reason):
        classify(make_trainer, "annotations" if text == "annotations" else "groups.csv")
    assert "samples" not in capsys.readouterr().out


def test_a_name_of_several_images_and_a_box_of_none_are_refused(make_trainer, workdir):
    split = make_split([0, 0], [0, 0], sources=["a/1.png", "b/1.png"])
    with pytest.raises(FaceExprError, match=r"has 1\.png, which several images are called; expected more of"):
        classify(make_trainer, write("file,light\n1.png,day\n"), split=split)
    with pytest.raises(FaceExprError, match=r"has a box that is none .*; expected numbers"):
        detect(make_trainer, write("index,x,y,w,h,light\n0,0,0,wide,1,day\n"))
    with pytest.raises(FaceExprError, match=r"has no face of the split, but 0; expected such as some/images"):
        detect(make_trainer, write("index,x,y,w,h,light\n0,0,0,1,1,day\n"))
    with pytest.raises(FaceExprError, match="resamples is 1; expected 2"):
        Slices("groups.csv", resamples=1)
