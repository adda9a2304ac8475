"""Images with boxes as data modules give them: batches, splits, augmentation, and what is left out."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from faceexpr.data.annotations.parsing import fetched_name
from faceexpr.data.annotations.reading import ReadOptions
from faceexpr.data.box_augment import BoxAugmentation
from faceexpr.data.face_boxes import FaceBoxes
from faceexpr.data.synthetic import SyntheticScenes
from faceexpr.utils.errors import FaceExprError


def wider(folder: Path, images: dict[str, list[str]], size: tuple[int, int] = (100, 80)) -> Path:
    """Write images and a WIDER FACE list of them; each box is a line of the list."""
    target = folder / "images"
    target.mkdir(parents=True)
    lines = []
    for number, (name, boxes) in enumerate(images.items()):
        Image.new("RGB", size, (number, 100, 200)).save(target / name)
        lines += [name, str(len(boxes)), *(boxes or ["0 0 0 0 0 0 0 0 0 0"])]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return folder / "list.txt"


def face(left: int, top: int, width: int, height: int, invalid: int = 0) -> str:
    return f"{left} {top} {width} {height} 0 0 0 {invalid} 0 0"


@pytest.fixture
def boxes(tmp_path: Path) -> FaceBoxes:
    images = {f"{number}.png": [face(10 + number, 20, 30, 40)] for number in range(9)}
    file = wider(tmp_path, {**images, "9.png": []})
    return FaceBoxes(train=str(file), images=str(tmp_path / "images"), val_fraction=0.2, batch_size=4)


def test_a_seeded_part_is_set_aside_and_stays_the_same(boxes: FaceBoxes) -> None:
    names = {stage: [record.path.name for record in boxes.split(stage).records] for stage in ("train", "val")}
    with pytest.raises(FaceExprError, match="no test split; expected test"):
        boxes.split("test")
    assert len(names["val"]) == 2
    assert sorted(names["train"] + names["val"]) == [f"{number}.png" for number in range(10)]
    for seed in (0, 1):
        again = FaceBoxes(**{**boxes.init_args, "split_seed": seed}).split("val").records
        assert ([record.path.name for record in again] == names["val"]) == (seed == 0)


def test_lists_say_which_images_are_set_aside(boxes: FaceBoxes, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("3.png\n\n5.png\n")
    (tmp_path / "test.txt").write_text("images/7.png\n")
    lists = {"val_list": str(tmp_path / "val.txt"), "test_list": str(tmp_path / "test.txt")}
    module = FaceBoxes(**{**boxes.init_args, **lists})
    assert [record.path.name for record in module.split("val").records] == ["3.png", "5.png"]
    assert [record.path.name for record in module.split("test").records] == ["7.png"]
    assert len(module.split("train")) == 7
    for wrong in ("33.png", "3.png\n3.jpg"):
        (tmp_path / "val.txt").write_text(wrong)
        with pytest.raises(FaceExprError, match=r"val_list: .*val.txt, line \d: no image has the name"):
            FaceBoxes(**{**boxes.init_args, **lists}).split("val")


def test_training_images_may_be_of_several_files(tmp_path: Path) -> None:
    one, other = (
        wider(tmp_path / folder, {f"{number}.png": [face(number, 5, 20, 20)] for number in range(5)}, size)
        for folder, size in (("one", (100, 80)), ("other", (90, 80)))
    )
    module = FaceBoxes(train=[str(one), str(other)], val_fraction=0.2)
    found = {stage: [str(record.path) for record in module.split(stage).records] for stage in ("train", "val")}
    assert len(found["val"]) == 2
    files = {str(tmp_path / folder / f"images/{number}.png") for folder in ("one", "other") for number in range(5)}
    assert {*found["train"], *found["val"]} == files
    (tmp_path / "val.txt").write_text("one/images/3.png\nother/images/1.png\n")
    options: dict[str, Any] = {"train": [str(one), str(other)], "val_list": str(tmp_path / "val.txt")}
    folders = [str(one.parent / "images"), str(other.parent / "images")]
    listed = FaceBoxes(**options, images=folders)
    assert [record.boxes[0, 0] for record in listed.split("val").records] == [3, 1]
    assert len(listed.split("train")) == 8
    for wrong, message in (
        ({"images": [*folders, folders[0]]}, "images has 3 folders; expected 1 or one for each of 2"),
        ({"train": [str(one), str(one)]}, r"list.txt: .*0.png is in a file before too"),
        ({"images": folders[0]}, r"other/list.txt: .*one/images/0.png is in a file before too"),
    ):
        with pytest.raises(FaceExprError, match=message):
            FaceBoxes(**{**options, **wrong}).split("train")


def test_a_list_that_comes_with_the_package_is_found_in_any_folder(boxes: FaceBoxes, workdir: Path) -> None:
    module = FaceBoxes(**{**boxes.init_args, "test_list": "configs/paper/dataset1/test_0.txt"})
    with pytest.raises(FaceExprError, match=r"dataset1/test_0.txt, line 1: no image has the name"):
        module.setup("test")


def test_lists_may_name_images_by_their_links(tmp_path: Path) -> None:  # case N10
    links = [f"http://host/{number}/a b.jpg?x=1" for number in range(4)]
    for number, link in enumerate(links):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / fetched_name(link))
    lines = [json.dumps({"content": link, "annotation": []}) for link in links]
    (tmp_path / "faces.json").write_text("\n".join(lines))
    (tmp_path / "val.txt").write_text(f"{links[2]}\n")
    (tmp_path / "test.txt").write_text(f"{links[1]}\n{fetched_name(links[3])}\n")
    lists = {name: str(tmp_path / f"{name.partition('_')[0]}.txt") for name in ("val_list", "test_list")}
    module = FaceBoxes(train=str(tmp_path / "faces.json"), **lists)
    found = {stage: [record.url for record in module.split(stage).records] for stage in ("train", "val", "test")}
    assert found == {"train": links[:1], "val": links[2:3], "test": [links[1], links[3]]}
    (tmp_path / "val.txt").write_text("http://other/2/a b.jpg?x=1\n")
    with pytest.raises(FaceExprError, match=r"no image has the name http://other/2/a b\.jpg\?x=1"):
        FaceBoxes(train=str(tmp_path / "faces.json"), **lists).split("val")


def test_lists_may_name_images_that_are_missing_where_those_are_left_out(tmp_path: Path) -> None:
    links = [f"http://host/{number}.jpg" for number in range(4)]
    for number in range(3):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / f"{number}.jpg")
    (tmp_path / "faces.json").write_text("\n".join(json.dumps({"content": link, "annotation": []}) for link in links))
    (tmp_path / "test.txt").write_text(f"{links[1]}\n{links[3]}\n")
    module = FaceBoxes(
        train=str(tmp_path / "faces.json"),
        test_list=str(tmp_path / "test.txt"),
        reading=ReadOptions(missing="leave_out"),
    )
    with pytest.warns(UserWarning, match=r"test_list: 1 name of .*test.txt left out, not there: http://host/3.jpg"):
        assert [record.url for record in module.split("test").records] == links[1:2]


def test_measured_images_that_are_trained_on_too_are_said(tmp_path: Path) -> None:  # case N08
    train = wider(tmp_path / "train", {f"{number}.png": [face(5, 5, 20, 20)] for number in range(4)})
    other = wider(tmp_path / "other", {f"{number}.png": [face(5, 5, 20, 20)] for number in range(7, 9)}, size=(90, 80))
    shutil.copy(tmp_path / "train/images/2.png", tmp_path / "other/images/8.png")
    files = {"train": str(train), "val": str(train), "test": str(other)}
    with pytest.warns(
        UserWarning, match=r"4 of 4 images of the val split are among the training images .*train/images/0"
    ):
        FaceBoxes(**files).setup("fit")
    with pytest.warns(UserWarning, match=r"1 of 2 images of the test split .*other/images/8\.png$"):
        FaceBoxes(**files).load_records("test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FaceBoxes(train=str(train), val_fraction=0.5).setup("fit")
        FaceBoxes(test=str(train)).load_records("test")
        FaceBoxes(train="not here", test=str(train)).load_records("test")


def test_batches_hold_every_image_once_with_its_own_boxes(boxes: FaceBoxes) -> None:
    batches = list(boxes.val_dataloader()) + list(boxes.train_dataloader())
    left = {}
    for stage, batch in zip(("val", "train", "train"), batches, strict=True):
        for index, image, box in zip(batch["index"].tolist(), batch["image"], batch["boxes"], strict=True):
            name = Path(boxes.source(stage, index)).name
            assert image[0, 0, 0] == int(Path(name).stem)  # the image is the one that the record names
            assert image.is_contiguous()
            assert (box.shape[1:], box.dtype) == ((4,), torch.float32)
            left[name] = box[:, 0].tolist()
    assert left == {**{f"{number}.png": [10.0 + number] for number in range(9)}, "9.png": []}


def test_images_without_a_face_are_trained_on_or_left_out(boxes: FaceBoxes, tmp_path: Path) -> None:  # case B13
    found = []
    for val, face_free in (("3.png", True), ("3.png", False), ("3.png\n9.png", False)):
        (tmp_path / "val.txt").write_text(val)
        module = FaceBoxes(**{**boxes.init_args, "val_list": str(tmp_path / "val.txt"), "face_free": face_free})
        found.append((len(module.split("train")), len(module.split("val"))))
    assert found == [(9, 1), (8, 1), (8, 2)]


def test_ignored_and_small_faces_are_painted_over_in_training_and_kept_in_validation(tmp_path: Path) -> None:
    faces = [face(10, 10, 20, 20), face(50, 50, 20, 20, invalid=1), face(80, 10, 20, 8)]
    file = wider(tmp_path, {f"{n}.png": faces for n in range(2)})
    options: dict[str, Any] = {"train": str(file), "images": str(tmp_path / "images"), "val_fraction": 0.5}
    module = FaceBoxes(**options, batch_size=1, reading=ReadOptions(min_size=9))
    (train,), (val,) = module.train_dataloader(), module.val_dataloader()
    assert train["boxes"][0].tolist() == [[10, 10, 30, 30]]
    assert train["image"][0][:, 60, 60].tolist() == train["image"][0][:, 14, 90].tolist() == [128, 128, 128]
    assert train["image"][0][2, 20, 20] == 200
    assert val["ignored"][0].tolist() == [False, True, True]
    assert val["image"][0][2, 60, 60] == val["image"][0][2, 14, 90] == 200
    small = FaceBoxes(**options, face_free=False, reading=ReadOptions(min_size=30))
    assert not small.has_faces("val")
    assert small.load_records("train") == []


def draws(module: SyntheticScenes, epoch: int) -> dict[int, torch.Tensor]:
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return {
        index: image for batch in loader for index, image in zip(batch["index"].tolist(), batch["image"], strict=True)
    }


def test_draws_depend_on_seed_epoch_and_image_only() -> None:
    torch.manual_seed(5)
    options: dict[str, Any] = {"train_size": 6, "val_size": 1, "width": 96, "height": 80}
    options["augment"] = BoxAugmentation(size=64, mosaic=0.5)
    by_two = SyntheticScenes(batch_size=2, **options)
    state = torch.get_rng_state()
    expected = draws(by_two, 3)
    for other in (SyntheticScenes(batch_size=5, **options), SyntheticScenes(batch_size=2, num_workers=2, **options)):
        seen = draws(other, 3)
        assert all(torch.equal(expected[index], seen[index]) for index in range(6))
    assert torch.equal(torch.get_rng_state(), state)
    later = draws(by_two, 4)
    assert not any(torch.equal(expected[index], later[index]) for index in range(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "^batch_size is 0"),
        ({"memory_gib": float("nan")}, "^memory_gib is nan; expected 0 or more"),
        ({"num_workers": -1}, "^num_workers is -1"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0"),
        ({"val": "a", "val_list": "b"}, "val and val_list are both given"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(FaceExprError, match=message):
        FaceBoxes(train="x", **options)
