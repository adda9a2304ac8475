"""Faces beyond the memory that is allowed: the same pixels, damage that shows late, and nothing that grows."""

import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN, exit_code
from image_files import damaged_inside, smooth_image
from PIL import Image
from processes import run_together, start

from faceexpr.cli.main import main
from faceexpr.data.face_files import FaceFiles
from faceexpr.data.face_folder import FaceFolder
from faceexpr.data.image_reading import FileNames, StreamedFaces
from faceexpr.data.loading import PADDING
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

pytestmark = pytest.mark.filterwarnings("ignore:.* turned out to be broken")  # as said again when a test is over


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three photographs of each class to train on, one to validate on, one to test on: large enough to be reduced."""
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        for index, name in enumerate(FER_NAMES):
            folder = tmp_path / "faces" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                smooth_image(230, 170, seed=10 * index + number).save(folder / f"{number}.jpg", quality=90)
    return tmp_path / "faces"


@pytest.fixture
def folder(root: Path, tmp_path: Path):
    """Build a FaceFolder that streams, or not: ``folder(memory_gib=4)``."""

    built = []

    def build(**options):
        options = {"memory_gib": 0, "num_workers": 0, "batch_size": 4, "image_size": 16, **options}
        built.append(FaceFolder(str(root), cache_dir=str(tmp_path / "cache"), **options))
        return built[-1]

    yield build
    for module in built:
        module.teardown("fit")


@pytest.mark.parametrize(("channels", "num_workers"), [(1, 2), (3, 0)])
def test_batches_are_those_of_the_split_in_memory_bit_for_bit(folder, channels, num_workers):
    modules = [folder(memory_gib=gib, channels=channels, num_workers=num_workers) for gib in (0, 4)]
    state = torch.get_rng_state()
    assert isinstance(modules[0].split("train").images, StreamedFaces)
    assert isinstance(modules[1].split("train").images, torch.Tensor)
    for stage in ("train", "val"):
        loaders = [getattr(module, f"{stage}_dataloader")() for module in modules]
        for epoch in (0, 1):  # the workers stay
            for loader in loaders:
                loader.sampler.set_epoch(epoch)
            for streamed, held in zip(*loaders, strict=True):
                assert streamed.keys() == held.keys()
                assert all(torch.equal(streamed[key], held[key]) for key in held)
    assert torch.equal(torch.get_rng_state(), state)


def test_streaming_begins_where_the_split_needs_more_than_is_allowed(folder):
    needed = 21 * 16 * 16 / 2**30
    assert isinstance(folder(memory_gib=needed).split("train").images, torch.Tensor)
    assert isinstance(folder(memory_gib=needed * 0.999).split("train").images, StreamedFaces)
    assert isinstance(folder(memory_gib=needed * 0.999).split("val").images, torch.Tensor)
    assert [folder(num_workers=2, memory_gib=gib).val_dataloader().num_workers for gib in (0, 4)] == [2, 0]
    with pytest.raises(FaceExprError, match=r"^num_workers is -1"):
        folder(num_workers=-1)


@pytest.mark.parametrize("memory_gib", [0, 4])
def test_all_broken_files_are_listed_before_training_or_left_out(root, folder, memory_gib):
    whole = (root / "train" / "Fear" / "0.jpg").read_bytes()
    # The end mark of this one is out of sight, so that it is decoded to find out.
    (root / "train" / "Fear" / "0.jpg").write_bytes(whole + bytes(5000))
    (root / "train" / "Fear" / "cut.jpg").write_bytes(whole[: len(whole) * 6 // 10])
    (root / "train" / "Sad" / "empty.jpg").write_bytes(b"")
    (root / "val" / "Sad" / "text.jpg").write_text("no picture")
    (root / "val" / "Sad" / "gone.jpg").symlink_to(root / "absent.jpg")
    with pytest.raises(FaceExprError) as caught:
        folder(memory_gib=memory_gib).setup("fit")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("4 of 32 images in ")
    assert [line.partition("/faces/")[2] for line in lines[1:]] == [
        "train/Fear/cut.jpg: truncated",
        "train/Sad/empty.jpg: empty file",
        "val/Sad/gone.jpg: no such file",
        "val/Sad/text.jpg: not an image",
    ]
    skipping = folder(on_bad_image="skip", memory_gib=memory_gib)
    with pytest.warns(UserWarning, match="4 of 32 images in .* are left out"):
        skipping.setup("fit")
    train = skipping.split("train")
    assert train.targets.tolist() == [index for index in range(7) for _ in range(3)]
    assert [Path(source).parent.name for source in train.sources] == [FER_NAMES[index] for index in train.targets]
    assert [failure.reason for failure in train.failures] == ["truncated", "empty file"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_turns_out_to_be_broken_is_named_or_left_out_of_its_batch(root, folder, num_workers):
    broken = damaged_inside(root / "train" / "Happy" / "1.png")
    with pytest.raises(FaceExprError, match=rf"^{broken} cannot be read: damaged.*with on_bad_image skip$"):
        list(folder(num_workers=num_workers).train_dataloader())
    data = folder(on_bad_image="skip", num_workers=num_workers)
    split = data.split("train")
    index = list(split.sources).index(str(broken))
    for _ in range(2):
        batches = list(data.train_dataloader())
        assert sorted(row for batch in batches for row in batch["index"].tolist() if row != PADDING) == [
            row for row in range(22) if row != index
        ]
    for batch in batches:
        for row, image, target in zip(batch["index"].tolist(), batch["image"], batch["target"], strict=True):
            assert image.any()  # what fills the gap is a face
            if row != PADDING:
                assert torch.equal(image, split.images[row])
                assert target == split.targets[row]
    assert list(split.broken) == [index]
    assert split.broken[index].startswith("damaged")


def test_notes_are_found_while_reading_and_a_batch_of_broken_images_only_is_padding(tmp_path):
    frames = [Image.new("L", (8, 8), grey) for grey in (40, 255)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    damaged_inside(tmp_path / "a.png")
    data = FaceFiles(str(tmp_path), memory_gib=0, num_workers=1, batch_size=1)
    broken, whole = data.predict_dataloader()
    data.teardown("predict")
    assert (broken["index"].tolist(), whole["index"].tolist()) == ([PADDING], [1])
    assert not broken["image"].any()
    assert data.split("predict").notes == {1: "first of 2 frames"}


def test_names_of_files_are_kept_exactly_and_small():
    names = ["a/b.jpg", "été/café 顔.jpg", "", os.fsdecode(b"\xff\xfe.png"), *(f"{n:050}" for n in range(1000))]
    packed = FileNames(names)
    assert list(packed) == names
    assert packed[-1] == names[-1]
    assert list(packed.pick([3, 0])) == [names[3], names[0]]
    assert len(pickle.dumps(packed)) < 51 * len(names)
    assert packed.digest != FileNames(["a/b", ".jpg"]).digest != FileNames(["a/b.", "jpg"]).digest


STREAM = ["--data.memory_gib=0", "--data.num_workers=1", "--data.batch_size=4", "--data.cache_dir=cache"]
NET = ["--model.net=MLP", "--model.net.hidden=[8]"]


def test_every_verb_works_on_a_folder_that_streams(root, workdir, capsys):
    """Trained, measured and predicted as in memory; what turns out to be broken is counted, named and has a row."""
    warnings.simplefilter("always")
    broken = {stage: damaged_inside(root / stage / "Happy" / "9.png") for stage in ("train", "test")}
    data = ["--data=FaceFolder", f"--data.path={root}", *STREAM, "--data.on_bad_image=skip"]
    main(["fit", *data, *NET, *TINY_RUN])
    told = capsys.readouterr().err
    assert told.count("warning: 1 of 22 images of the train split turned out to be broken") == 1
    assert f"{broken['train']}: damaged" in told
    checkpoint = "--ckpt_path=lightning_logs/version_0"
    main(["test", checkpoint, *TINY_RUN[1:]])
    assert "warning: 1 of 8 images of the test split turned out to be broken" in capsys.readouterr().err
    assert exit_code(lambda: main(["predict", checkpoint, "--predictions.path=s.csv", *TINY_RUN[1:3]])) == 3
    rows = Path("s.csv").read_text().splitlines()
    assert len(rows) == 9
    assert [row.partition(",")[0] for row in rows if ",error,damaged" in row] == [str(broken["test"])]
    assert sum(",ok," in row for row in rows) == 7
    assert "1 of 8 inputs could not be read" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_know_what_each_has_found(root, tmp_path):
    """Both look at half of the headers and read half of the images; results and messages are those of one process."""
    damaged_inside(root / "test" / "Angry" / "9.png")
    damaged_inside(root / "test" / "Sad" / "9.png")
    (root / "test" / "Happy" / "9.png").write_bytes(b"")
    stream = [option.replace("=cache", f"={tmp_path / 'cache'}") for option in STREAM]
    data = ["--data=FaceFolder", f"--data.path={root}", *stream, "--data.on_bad_image=skip"]
    one, two = (["--trainer.accelerator=cpu", f"--trainer.devices={number}"] for number in (1, 2))
    log = tmp_path / "fit.log"
    fitting = start(["fit", *data, *NET, *TINY_RUN], tmp_path, log)
    fitting.join(60)
    assert fitting.exitcode == 0, log.read_text()
    checkpoint = "--ckpt_path=lightning_logs/version_0"
    alone = start(["predict", checkpoint, "--predictions.path=1.csv", *one], tmp_path, tmp_path / "alone.log")
    codes = run_together(["predict", checkpoint, "--predictions.path=2.csv", *two], tmp_path, 2)
    alone.join(60)
    assert (alone.exitcode, codes) == (3, [3, 3]), (tmp_path / "process-0.log").read_text()
    rows = (tmp_path / "2.csv").read_text()
    assert rows.count(",error,damaged") == 2
    assert rows.count(",error,empty file") == 1
    assert rows == (tmp_path / "1.csv").read_text()
    assert run_together(["test", checkpoint, *two], tmp_path, 2) == [0, 0]
    told = (tmp_path / "process-0.log").read_text()
    assert told.count("2 of 9 images of the test split turned out to be broken and were left out") == 1
    assert "Angry/9.png: damaged" in told
    assert "Sad/9.png: damaged" in told
