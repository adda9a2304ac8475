"""One folder a class: indices never depend on the disk, nothing is lost in silence."""

import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from faceexpr.data import base
from faceexpr.data.face_folder import FaceFolder
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES


def save(path, grey=0, size=(48, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(path)
    return path


def seven(root, *splits, images=1):
    """Some images of each class; class k is flat grey 10 + 30 k, and a level more from one image to the next."""
    for split in splits:
        for index, name in enumerate(FER_NAMES):
            for number in range(images):
                save(root / split / name.lower() / f"{number:02}.png", 10 + 30 * index + number)
    return root


@pytest.fixture
def folder(tmp_path):
    """Build a FaceFolder on ``tmp_path / "faces"`` whose cache stays in ``tmp_path``."""

    def build(**options):
        return FaceFolder(str(tmp_path / "faces"), cache_dir=str(tmp_path / "cache"), **options)

    return build


@pytest.mark.parametrize("empty", [False, True])
def test_absent_or_empty_class_keeps_the_indices_and_warns(tmp_path, folder, empty):
    root = seven(tmp_path / "faces", "train", "val")
    shutil.rmtree(root / "val" / "disgust")
    if empty:
        (root / "val" / "disgust").mkdir()
    data = folder()
    with pytest.warns(UserWarning, match="^the val split has no sample of Disgust$"):
        data.setup("fit")
    split = data.split("val")
    assert split.targets.tolist() == [0, 2, 3, 4, 5, 6]
    assert split.images[:, 0, 0, 0].tolist() == [10, 70, 100, 130, 160, 190]


def test_names_and_aliases_are_matched_and_merged(tmp_path, folder):
    for name in ("Training/HAPPINESS", "Training/happy", "Training/Emotion_Anger", "Public_Test/joy", "testing/sad"):
        save(tmp_path / "faces" / name / "a.png")
    data = folder()
    assert [data.split(stage).targets.tolist() for stage in ("train", "val", "test")] == [[0, 3, 3], [3], [4]]
    assert list(data.split("predict").sources) == list(data.split("test").sources)


def test_class_names_of_ones_own(tmp_path, folder):
    for name, grey in (("calm", 100), ("tense", 200)):
        save(tmp_path / "faces" / "train" / name / "a.png", grey)
    split = folder(class_names=["Tense", "Calm"], val_fraction=0).split("train")
    assert split.targets.tolist() == [0, 1]
    assert split.images[:, 0, 0, 0].tolist() == [200, 100]
    with pytest.raises(FaceExprError, match="each once"):
        folder(class_names=["Calm", "calm"])


def test_what_belongs_nowhere_is_named(tmp_path, folder):
    root = seven(tmp_path / "faces", "train")
    save(root / "train" / "stray.png")
    save(root / ".thumbnails" / "happy" / "a.png")
    with pytest.warns(UserWarning, match="1 images that lie in .*train itself"):
        assert len(folder(val_fraction=0).split("train")) == 7
    save(root / "train" / "3" / "a.png")
    with pytest.raises(FaceExprError, match=r"train/3 means no class; expected Angry, .*Neutral"):
        folder().split("train")
    shutil.rmtree(root / "train" / "3")
    for name, message in (("vall", "vall means no split"), ("Training", "both mean the train split")):
        save(root / name / "happy" / "a.png")
        with pytest.raises(FaceExprError, match=message):
            folder().split("train")
        shutil.rmtree(root / name)


def flat(root, counts):
    for index, count in enumerate(counts):
        for number in range(count):
            save(root / FER_NAMES[index].lower() / f"{index}-{number:03}.png", size=(2, 2))
    return root


def names(data):
    return {stage: {Path(source).name for source in data.split(stage).sources} for stage in ("train", "val", "test")}


def test_a_flat_folder_is_divided_by_class_and_seed(tmp_path, folder):
    flat(tmp_path / "faces", [40, 20, 10, 40, 20, 10, 60])
    first = names(folder(image_size=2))
    assert [len(first[stage]) for stage in ("train", "val", "test")] == [160, 20, 20]
    assert len(first["train"] | first["val"] | first["test"]) == 200
    for stage in ("val", "test"):
        shares = Counter(name[0] for name in first[stage])
        assert all(abs(shares[str(index)] - size / 10) <= 1 for index, size in enumerate([40, 20, 10, 40, 20, 10, 60]))
    assert names(folder(image_size=2)) == first
    assert names(folder(image_size=2, split_seed=1))["test"] != first["test"]

    moved = shutil.move(tmp_path / "faces", tmp_path / "moved")
    assert names(FaceFolder(str(moved), image_size=2, cache_dir=str(tmp_path / "cache"))) == first
    # A new image hardly moves the others.
    save(moved / "happy" / "new.png", size=(2, 2))
    after = names(FaceFolder(str(moved), image_size=2, cache_dir=str(tmp_path / "cache")))
    assert len(first["test"] - after["test"]) <= 2
    assert len(first["train"] & after["test"]) <= 2


def test_a_missing_val_folder_is_held_out_of_train_and_test_is_left_alone(tmp_path, folder, caplog):
    root = flat(tmp_path / "faces" / "train", [10] * 7)
    flat(root.parent / "test", [2] * 7)
    data = folder(image_size=2)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        train, val, test = names(data).values()
    assert (len(train), len(val), len(test), train & val) == (63, 7, 14, set())
    assert Counter(data.split("val").targets.tolist()) == dict.fromkeys(range(7), 1)
    assert "63 to train, 7 to val" in caplog.text


@pytest.fixture
def copies(tmp_path):
    """Of three images of a class to train on, two are to test on under other names; one is in two classes."""
    root = tmp_path / "faces"
    for index, name in enumerate(FER_NAMES):
        for number in range(3):
            save(root / "train" / name.lower() / f"{number}.png", 30 * index + number)
            shutil.copy(
                root / "train" / name.lower() / f"{number}.png", save(root / "test" / name / f"copy{number}.png")
            )
        save(root / "test" / name / "copy2.png", 30 * index + 20)
    shutil.copy(root / "train/happy/0.png", root / "train/sad/happy.png")
    return root


@pytest.mark.parametrize("memory", [4, 0], ids=["in memory", "streamed"])
def test_copies_of_training_images_are_noted_and_left_out_where_asked(copies, folder, caplog, memory):  # case N25
    data = folder(val_fraction=0, memory_gib=memory)
    with pytest.warns(UserWarning, match="1 image in more than one class: .*happy/0.png and .*sad/happy.png$"):
        assert data.leaked("test").tolist() == [True, True, False] * 7
    assert data.leaked("train") is None
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        data.setup("test")
        dropping = folder(val_fraction=0, memory_gib=memory, drop_leaked=True)
        split = dropping.split("test")
    assert "14 of them equal to a training image" in caplog.text
    assert "14 of 21 images of the test split left out as equal to a training image" in caplog.text
    assert [Path(source).name for source in split.sources] == ["copy2.png"] * 7
    assert split.targets.tolist() == list(range(7))
    assert split.images[torch.arange(7)][:, 0, 0, 0].tolist() == [30 * index + 20 for index in range(7)]
    assert not dropping.leaked("test").any()
    assert len(dropping.split("predict")) == 21


def test_leaving_out_copies_takes_training_images(copies, folder):
    shutil.rmtree(copies / "train")
    assert folder().leaked("test") is None
    with pytest.raises(FaceExprError, match=r"^drop_leaked is true, which takes training images .* has no train split"):
        folder(drop_leaked=True).split("test")


def test_images_of_a_person_are_held_out_together(tmp_path, folder):  # case N25
    for person in range(20):
        for number, name in enumerate(FER_NAMES):
            save(tmp_path / "faces" / name / f"s{person:02}_{number}.png", person, size=(2, 2))
    parts = {
        stage: {name[:3] for name in found} for stage, found in names(folder(image_size=2, group=r"/(s\d+)_")).items()
    }
    assert {stage: len(part) for stage, part in parts.items()} == {"train": 16, "val": 2, "test": 2}
    assert len(set.union(*parts.values())) == 20
    divided = {stage: {name[:3] for name in found} for stage, found in names(folder(image_size=2)).items()}
    assert len(divided["train"] & divided["test"]) > 2
    for pattern, message in (("s0", r"is nowhere in Angry/s10_0\.png"), ("(", "expected a regular expression")):
        with pytest.raises(FaceExprError, match=rf"^group is '{pattern}'.*{message}".replace("'('", r"'\('")):
            folder(group=pattern).split("train")


def test_what_is_not_there_is_named(tmp_path, folder):
    with pytest.raises(FaceExprError, match="does not exist"):
        folder().setup("fit")
    (tmp_path / "faces").mkdir()
    with pytest.raises(FaceExprError, match="holds no folders"):
        folder().setup("fit")
    seven(tmp_path / "faces", "train")
    for stage, split in (("test", "test"), ("fit", "val")):
        with pytest.raises(FaceExprError, match=f"has no {split} split"):
            folder(val_fraction=0).setup(stage)
    with pytest.raises(FaceExprError, match="less than 1 together"):
        folder(val_fraction=0.5, test_fraction=0.5)


def test_the_cache_is_used_and_follows_the_files(tmp_path, folder, monkeypatch):
    root = seven(tmp_path / "faces", "train")
    frames = [Image.new("L", (48, 48), grey) for grey in (5, 250)]
    frames[0].save(root / "train" / "happy" / "z.gif", save_all=True, append_images=frames[1:])
    read = Mock(wraps=base.read_faces)
    monkeypatch.setattr(base, "read_faces", read)
    first, second = (folder(val_fraction=0).split("train") for _ in range(2))
    assert read.call_count == 1
    assert torch.equal(first.images, second.images)
    assert list(first.sources) == list(second.sources)
    assert first.notes == second.notes == {4: "first of 2 frames"}
    save(root / "train" / "sad" / "00.png", 99)
    assert folder(val_fraction=0).split("train").images[5, 0, 0, 0] == 99
    folder(val_fraction=0, channels=3).split("train")
    assert read.call_count == 3


def test_a_repaired_reader_is_not_hidden_by_the_cache(tmp_path, folder, monkeypatch):
    """What failed is tried anew at the next start, though the files have not changed."""
    root = seven(tmp_path / "faces", "train")
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (48, 48), "gray")).save(root / "train" / "fear" / "a.heic")
    with monkeypatch.context() as without:
        without.setitem(__import__("sys").modules, "pillow_heif", None)
        with pytest.raises(FaceExprError, match="HEIC; pip install"):
            folder(val_fraction=0).split("train")
    assert len(folder(val_fraction=0).split("train")) == 8


@pytest.mark.parametrize(("trained_on", "images"), [(None, 70), ("elsewhere", 70), ("faces", 7)])
def test_a_folder_without_splits_is_measured_whole_but_for_the_one_of_the_training(
    tmp_path, folder, trained_on, images
):
    seven(tmp_path / "faces", "", images=10)
    data = folder()
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.TESTING), lightning_module=None)
    data.trained_on = trained_on and str(tmp_path / trained_on)
    assert len(data.split("test")) == images


def test_a_training_holds_a_part_out(tmp_path, folder):
    seven(tmp_path / "faces", "", images=10)
    data = folder()
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING), lightning_module=None)
    assert (len(data.split("train")), len(data.split("val"))) == (56, 7)
