"""What every expression data module does with its splits."""

import warnings
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn

from faceexpr.data.augment import Augmentation
from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.loading import PADDING, FaceSplit, Failure
from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

EVERYTHING = Augmentation(flip=0.5, rotation=10, scale=0.1, shift=0.1, brightness=0.2, contrast=0.2, erasing=0.5)


class GivenFaces(ExpressionDataModule):
    """Splits of the given sizes, labels in turn; each image has a number in its first pixel."""

    def __init__(self, sizes=None, batch_size=4, augment=None, drop_last=False, labels=FER_NAMES, labelled=True):
        super().__init__(batch_size=batch_size, augment=augment, drop_last=drop_last)
        self.sizes = sizes or {}
        self.labels = labels
        self.labelled = labelled
        self.loaded = []

    def load_split(self, stage):
        self.loaded.append(stage)
        size = self.sizes.get(stage, 14)
        images = torch.randint(0, 256, (size, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images[:, 0, 0, 0] = torch.arange(size)
        targets = torch.tensor([FER_NAMES.index(self.labels[i % len(self.labels)]) for i in range(size)])
        return FaceSplit(images, targets if self.labelled else None, sources=[str(i) for i in range(size)])


class Recorder(LightningModule):
    """Writes down what it is given."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 7))  # refuses a training batch of one
        self.seen = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch, batch_idx):
        self.seen[self.trainer.state.stage.dataloader_prefix].append({"epoch": self.current_epoch, **batch})
        return self.layer(batch["image"].flatten(1).float()).mean()

    validation_step = test_step = predict_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(data, seed=0, **options):
    seed_everything(seed)
    model = Recorder()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=2, **options,
    )  # fmt: skip
    trainer.fit(model, data)
    return model, trainer


def order(model, epoch):
    return [batch["index"].tolist() for batch in model.seen["train"] if batch["epoch"] == epoch]


def pixels(model, epoch):
    return torch.cat([batch["image"] for batch in model.seen["train"] if batch["epoch"] == epoch])


@pytest.fixture(scope="module")
def whole_run():
    """A run that trains for two epochs, tests and predicts: its model and its data."""
    data = GivenFaces(augment=EVERYTHING)
    model, trainer = fitted(data)
    trainer.test(model, data, verbose=False)
    trainer.predict(model, data, return_predictions=False)
    return model, data


def test_every_epoch_is_whole_and_has_an_order_of_its_own_that_repeats_with_the_seed(whole_run):
    model, _ = whole_run
    first, second = order(model, 0), order(model, 1)
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(14))
    assert first != second
    (same, _), (other, _) = (fitted(GivenFaces(augment=EVERYTHING), seed=seed) for seed in (0, 1))
    assert second == order(same, 1) != order(other, 1)
    assert torch.equal(pixels(model, 1), pixels(same, 1))


def test_a_split_is_read_once_and_only_training_images_are_augmented(whole_run):
    model, data = whole_run
    assert data.loaded == ["train", "val", "test", "predict"]
    assert pixels(model, 0).dtype == torch.float32
    for stage in ("val", "test", "predict"):
        split = data.split(stage)
        assert model.seen[stage]
        for batch in model.seen[stage]:
            assert torch.equal(batch["image"], split.images[batch["index"]])
            assert torch.equal(batch["target"], split.targets[batch["index"]])


def test_overfitting_batches_are_the_same_ones_in_every_epoch():
    model, _ = fitted(GivenFaces(), overfit_batches=2)
    assert order(model, 0) == order(model, 1) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_what_the_host_reads_stays_there():
    batch = {name: torch.zeros(6) for name in ("image", "target", "index", "share")}
    moved = GivenFaces().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert [(name, value.device.type) for name, value in moved.items()] == [
        ("image", "meta"), ("target", "meta"), ("index", "cpu"), ("share", "cpu"),
    ]  # fmt: skip


@pytest.mark.parametrize(("stage", "split"), [("fit", "train"), ("validate", "val"), ("test", "test")])
def test_unlabelled_images_are_for_prediction_alone(stage, split):
    data = GivenFaces(labelled=False)
    with pytest.raises(FaceExprError, match=rf"^GivenFaces: the {split} split has no labels"):
        data.setup(stage)
    data.setup("predict")
    assert set(next(iter(data.predict_dataloader()))) == {"image", "index", "source", "note"}


def test_too_few_images_are_an_error():
    with pytest.raises(FaceExprError, match=r"^GivenFaces: the val split holds no image$"):
        GivenFaces({"val": 0}).setup("fit")
    with pytest.raises(FaceExprError, match=r"^GivenFaces: the train split holds 1 image; training needs at least 2"):
        GivenFaces({"train": 1}).setup("fit")


def test_a_split_of_nothing_but_failures_is_kept():
    data = GivenFaces(labelled=False)
    empty = torch.zeros(0, 1, 8, 8, dtype=torch.uint8)
    data.load_split = lambda stage: FaceSplit(empty, None, [], failures=[Failure(0, "a.jpg", "empty file")])
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert (batch["source"], batch["note"], batch["index"].tolist()) == (["a.jpg"], ["empty file"], [PADDING])
    assert data.split("predict").failures[0].source == "a.jpg"


@pytest.mark.parametrize("soft", [False, True])
def test_absent_classes_are_named_once(soft):
    data = GivenFaces(labels=[name for name in FER_NAMES if name not in ("Disgust", "Sad")])
    if soft:
        split = data.load_split("train")
        split.targets = nn.functional.one_hot(split.targets, 7).float()
        data.load_split = lambda stage: split
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            data.split("train")
    assert [str(warning.message) for warning in caught] == ["the train split has no sample of Disgust, Sad"]


def test_a_global_batch_sets_the_length_of_an_epoch_and_not_the_batches_of_evaluation():
    data = SyntheticFaces(train_size=30, val_size=8, test_size=1, batch_size=4, global_batch_size=10)
    assert [len(batch["index"]) for batch in data.train_dataloader()] == [10, 10, 10]
    assert [len(batch["index"]) for batch in data.val_dataloader()] == [4, 4]
    data.trainer = SimpleNamespace(world_size=11)
    with pytest.raises(FaceExprError, match=r"^global_batch_size is 10, but there are 11 processes"):
        data.step_size  # noqa: B018
