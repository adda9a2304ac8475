"""Published data sets are read in their own layouts, each made up here with a few flat images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceexpr.data.published import PublishedFaces
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FERPLUS_NAMES


def save(path, grey=100, size=(10, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(path)


def rafdb(root):
    for name in ("train_00001", "train_00002", "test_0001", "test_0002"):
        save(root / "basic" / "Image" / "aligned" / f"{name}_aligned.jpg")
    labels = root / "basic" / "EmoLabel" / "list_patition_label.txt"
    labels.parent.mkdir()
    labels.write_text("train_00001.jpg 4\ntrain_00002.jpg 1\ntest_0001.jpg 7\ntest_0002.jpg 6\n")
    return labels


def affectnet(root):
    table = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
    wide = Image.new("L", (30, 20), 0)
    wide.paste(200, (10, 5, 20, 15))
    (root / "Manually_Annotated_Images" / "1").mkdir(parents=True)
    for name in "abcd":
        wide.save(root / "Manually_Annotated_Images" / "1" / f"{name}.png")
    rows = [f"1/{name}.png,10,5,10,10,0;0,{label},0,0\n" for name, label in zip("abcd", (0, 7, 3, 10), strict=True)]
    (root / "training.csv").write_text(table + "".join(rows[:2]))
    (root / "validation.csv").write_text(table + "".join(rows[2:]))


def affectnet_2021(root):
    for part, label in (("train_set", "1"), ("val_set", "6")):
        save(root / part / "images" / "5.jpg")
        (root / part / "annotations").mkdir()
        np.save(root / part / "annotations" / "5_exp.npy", label)


def expw(root):
    image = Image.new("L", (40, 20), 0)
    image.paste(90, (0, 0, 10, 10))
    image.paste(180, (20, 10, 30, 20))
    (root / "image" / "origin").mkdir(parents=True)
    image.save(root / "image" / "origin" / "two.png")
    (root / "label").mkdir()
    (root / "label" / "label.lst").write_text("two.png 0 0 0 10 10 50.1 3\ntwo.png 1 10 20 30 20 60.0 6\n")


def ckplus(root):
    for person, label in (("S001", 2), ("S002", 7)):
        for frame in range(1, 6):
            save(root / "cohn-kanade-images" / person / "001" / f"{person}_001_{frame:08}.png", 10 * frame)
        folder = root / "Emotion" / person / "001"
        folder.mkdir(parents=True)
        (folder / f"{person}_001_00000005_emotion.txt").write_text(f"   {label}.0000000e+00\n")


def read(root, layout, **options):
    return PublishedFaces(str(root), layout, cache_dir=str(root.parent / "cache"), image_size=8, **options)


def labels(data, stage):
    return [data.class_names[label] for label in data.split(stage).targets.tolist()]


def test_rafdb(tmp_path):
    rafdb(tmp_path / "faces")
    data = read(tmp_path / "faces", "rafdb", val_fraction=0)
    assert labels(data, "test") == ["Angry", "Neutral"]
    assert labels(data, "train") == ["Happy", "Surprise"]


def test_affectnet_cuts_faces_out_and_takes_contempt_where_it_is_a_class(tmp_path):
    affectnet(tmp_path / "faces")
    data = read(tmp_path / "faces", "affectnet", class_names=list(FERPLUS_NAMES), margin=0)
    assert labels(data, "train") == ["Neutral", "Contempt"]
    assert labels(data, "val") == labels(data, "test") == ["Surprise"]  # and no face is left out
    assert data.split("val").images.unique().tolist() == [200]
    assert labels(read(tmp_path / "faces", "affectnet"), "train") == ["Neutral"]


def test_a_face_that_is_cut_out_of_a_training_image_is_no_test(tmp_path):  # case N25
    affectnet(tmp_path / "faces")  # whose images are copies of one
    assert read(tmp_path / "faces", "affectnet").leaked("val").tolist() == [True]
    table = tmp_path / "faces" / "validation.csv"
    table.write_text(table.read_text() + "1/a.png,12,5,10,10,0;0,3,0,0\n")  # another face of it
    data = read(tmp_path / "faces", "affectnet", drop_leaked=True)
    assert [source.rpartition("#")[2] for source in data.split("val").sources] == ["xywh=12,5,10,10"]


def test_affectnet_of_2021(tmp_path):
    affectnet_2021(tmp_path / "faces")
    data = read(tmp_path / "faces", "affectnet")
    assert (labels(data, "train"), labels(data, "test")) == (["Happy"], ["Angry"])


def test_expw_gives_each_face_of_an_image(tmp_path):
    expw(tmp_path / "faces")
    data = read(tmp_path / "faces", "expw", val_fraction=0, test_fraction=0, margin=0)
    split = data.split("train")
    assert labels(data, "train") == ["Happy", "Neutral"]
    assert [int(image.float().mean()) for image in split.images] == [90, 180]
    assert split.sources[1].endswith("two.png#xywh=20,10,10,10")


def test_ckplus_holds_out_persons(tmp_path):
    ckplus(tmp_path / "faces")
    data = read(tmp_path / "faces", "ckplus", class_names=list(FERPLUS_NAMES), val_fraction=0, test_fraction=0.5)
    found = {stage: labels(data, stage) for stage in data.list_splits()}
    persons = [{Path(source).parts[-3] for source in data.split(stage).sources} for stage in found]
    assert sum(map(len, persons)) == len(set.union(*persons)) == 2
    assert sum(map(len, found.values())) == 8
    assert (
        sorted(name for names in found.values() for name in names)
        == ["Contempt"] * 3 + ["Neutral"] * 2 + ["Surprise"] * 3
    )


def test_what_a_pattern_names_is_held_out_together(tmp_path):
    labels = rafdb(tmp_path / "faces")
    for number in range(3, 40):
        save(labels.parents[1] / "Image" / "aligned" / f"train_{number:05}_aligned.jpg")
        labels.write_text(f"{labels.read_text()}train_{number:05}.jpg 4\n")
    data = read(tmp_path / "faces", "rafdb", val_fraction=0.5, group=r"train_\d+(\d)_")
    ends = [{Path(source).name[10] for source in data.split(stage).sources} for stage in ("train", "val")]
    assert sorted([*ends[0], *ends[1]]) == [*"0123456789"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("train_00001.jpg 8\n", ":1: the label is '8'; expected 1 to 7"), ("a\n", ":1 has 1 fields; expected 2")],
)
def test_a_broken_line_is_named(tmp_path, text, message):
    rafdb(tmp_path / "faces").write_text(text)
    with pytest.raises(FaceExprError, match=message):
        read(tmp_path / "faces", "rafdb").split("train")


def test_another_layout_is_refused(tmp_path):
    rafdb(tmp_path / "faces")
    with pytest.raises(FaceExprError, match=r"has no label[.]lst; expected the layout expw"):
        read(tmp_path / "faces", "expw").split("test")
