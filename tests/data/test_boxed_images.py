"""Images with boxes beyond the memory that is allowed: damage at the start, damage that shows late, workers."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import damaged_inside
from lightning.pytorch import Trainer
from PIL import Image

from faceexpr.data.annotations.reading import ReadOptions
from faceexpr.data.box_augment import BoxAugmentation
from faceexpr.data.face_boxes import FaceBoxes
from faceexpr.data.loading import PADDING
from faceexpr.utils.errors import FaceExprError

pytestmark = pytest.mark.filterwarnings("ignore:.* turned out to be broken")  # as said again when a test is over


@pytest.fixture
def images(tmp_path: Path):
    """Six images of noise with a face each, the first to validate on: ``images(memory_gib=4)``."""
    (tmp_path / "images").mkdir()
    lines = []
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        lines += [f"{number}.png", "1", f"{5 + number} 8 20 24 0 0 0 0 0 0"]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "val.txt").write_text("0.png\n")

    files = {"train": "list.txt", "images": "images", "val_list": "val.txt"}
    files = {name: str(tmp_path / file) for name, file in files.items()}
    built = []

    def build(leave_out: bool = False, **options):
        options = {"memory_gib": 0, "num_workers": 0, "batch_size": 2, **options}
        built.append(FaceBoxes(**files, reading=ReadOptions(missing="leave_out") if leave_out else None, **options))
        return built[-1]

    yield build
    for module in built:
        module.teardown("fit")


def batches(module: FaceBoxes) -> list[dict]:
    loader = module.train_dataloader()
    loader.sampler.set_epoch(1)
    return list(loader)


@pytest.mark.parametrize(("augment", "num_workers"), [(None, 0), (BoxAugmentation(size=32, mosaic=0.5), 1)])
def test_batches_are_those_of_the_images_in_memory(images, augment, num_workers):
    modules = [images(memory_gib=gib, num_workers=num_workers, augment=augment) for gib in (0, 4)]
    found = [batches(module) for module in modules]
    assert [module.split("train").kept is None for module in modules] == [True, False]
    for streamed, kept in zip(*found, strict=True):
        assert torch.equal(streamed["index"], kept["index"])
        for key in ("image", "boxes", "ignored"):
            assert all(torch.equal(one, other) for one, other in zip(streamed[key], kept[key], strict=True))


def test_images_cut_short_are_listed_or_left_out_before_training(images, tmp_path):  # case C05
    for name in ("1.png", "4.png"):
        path = tmp_path / "images" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FaceExprError, match=r"2 of 5 images cannot be read: .*1\.png: .*, .*4\.png: .*leave_out"):
        images().train_dataloader()
    module = images(leave_out=True)
    with pytest.warns(UserWarning, match="2 of 5 images cannot be read"):
        module.train_dataloader()
    assert [record.path.name for record in module.split("train").records] == ["2.png", "3.png", "5.png"]


@pytest.mark.parametrize(("augment", "num_workers"), [(None, 0), (BoxAugmentation(size=32, mosaic=1.0), 1)])
def test_an_image_that_turns_out_to_be_broken_is_named_or_left_out(images, tmp_path, augment, num_workers):  # case C05
    damaged_inside(tmp_path / "images" / "4.png")
    with pytest.raises(FaceExprError, match=r"^/.*/images/4\.png cannot be read: damaged"):
        batches(images(num_workers=num_workers))
    module = images(leave_out=True, num_workers=num_workers, augment=augment)
    place = next(index for index in range(5) if module.source("train", index).endswith("4.png"))
    found = batches(module)
    seen = [index for batch in found for index in batch["index"].tolist()]
    assert sorted(index for index in seen if index != PADDING) == [index for index in range(5) if index != place]
    assert list(module.split("train").broken) == [place]
    assert {boxes.shape[1] for batch in found for boxes in batch["boxes"]} == {4}
    with pytest.warns(UserWarning, match=r"1 of 5 images of the train split turned out to be broken and was left"):
        module.teardown("fit")


def test_workers_are_there_where_images_are_not_in_memory(images):
    numbers = {
        (gib, asked): images(memory_gib=gib, num_workers=asked).train_dataloader().num_workers
        for gib in (0, 4)
        for asked in (None, 0, 3)
    }
    assert numbers.pop((0, None)) >= 1
    assert numbers == {(0, 0): 0, (0, 3): 3, (4, None): 0, (4, 0): 0, (4, 3): 3}


def test_a_worker_can_be_started_afresh(images):
    """Where processes are not forked, what they work on is sent to them."""
    module = images()
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.trainer.unsendable = lambda: None
    copied = pickle.loads(pickle.dumps(module.split("train")))
    assert torch.equal(copied.tensor(2), module.split("train").tensor(2))
