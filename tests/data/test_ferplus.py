"""FER+: votes matched to images, and labels from votes."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_RUN

from faceexpr.cli.main import main
from faceexpr.data.augment import Augmentation
from faceexpr.data.fer2013 import FerTable
from faceexpr.data.ferplus import COLUMNS, FERPlus, Votes, check_match, majority_labels, read_votes, soft_labels
from faceexpr.data.loading import Selection
from faceexpr.models.calibrator import fit_temperature
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES, FERPLUS_NAMES

REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "fer2013"
FILE_ORDER = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
HEADER = f"Usage,Image name,{','.join(FILE_ORDER)}"


def images(path, greys, usages=()):
    """Write a file of FER-2013: grey levels of images, and None for a row without pixels."""
    rows = [
        f"0,{' '.join([str(grey)] * 2304) if grey is not None else ''},{usage}"
        for grey, usage in zip(greys, usages or ["Training"] * len(greys), strict=True)
    ]
    path.write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    return str(path)


def vote_line(usage="Training", **votes):
    return ",".join([usage, "" if "NF" in votes else "fer.png", *(str(votes.get(name, 0)) for name in FILE_ORDER)])


def votes_file(path, *lines):
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return str(path)


def five(tmp_path):
    lines = [vote_line(**{name: 10}) for name in ("neutral", "happiness", "NF", "sadness", "anger")]
    return images(tmp_path / "fer.csv", [10, 20, 30, 40, 50]), votes_file(tmp_path / "ferplus.csv", *lines)


def named(data, stage="train"):
    split = data.split(stage)
    labels = split.targets.argmax(1) if split.targets.ndim == 2 else split.targets
    return {
        int(image[0, 0, 0]): data.class_names[target]
        for image, target in zip(split.images, labels.tolist(), strict=True)
    }


def test_rows_are_matched_by_order(tmp_path, caplog):
    data = FERPlus(*five(tmp_path))
    with caplog.at_level(logging.INFO):
        assert named(data) == {10: "Neutral", 20: "Happy", 40: "Sad", 50: "Angry"}
    assert "4 of 5 images of the train split" in caplog.text
    assert "dropped: 1 not a face" in caplog.text
    assert list(data.split("train").sources) == [f"fer.csv:{line}" for line in (2, 3, 5, 6)]


def test_its_own_label_takes_a_share_of_each_training_target(tmp_path):
    fer = images(tmp_path / "fer.csv", [5, 6], ["Training", "PublicTest"])  # both labelled Angry, index 0
    votes = votes_file(
        tmp_path / "ferplus.csv", *(vote_line(usage, fear=6, sadness=4) for usage in ("Training", "PublicTest"))
    )
    data = FERPlus(fer, votes, labels="soft", own_share=0.25)
    assert data.split("train").targets.tolist() == [pytest.approx([0.25, 0, 0.45, 0, 0.3, 0, 0])]
    assert data.split("val").targets.tolist() == [pytest.approx([0, 0, 0.6, 0, 0.4, 0, 0])]
    for options in ({"own_share": 0.25}, {"own_share": 1.5, "labels": "drawn"}):
        with pytest.raises(FaceExprError, match=r"own_share is .*; expected 0 to 1, and 0 with majority labels"):
            FERPlus(fer, votes, **options)


def test_other_column_order_and_blank_lines_change_nothing(tmp_path):
    fer, votes = five(tmp_path)
    lines = [line.split(",") for line in Path(votes).read_text().splitlines()]
    mixed = [",".join(f" {field} " for field in reversed(line)) for line in lines]
    mixed.insert(3, "")
    other = tmp_path / "mixed.csv"
    other.write_text("\ufeff" + "\r\n".join(mixed) + "\r\n\r\n")
    assert named(FERPlus(fer, str(other))) == named(FERPlus(fer, votes))


def test_a_skipped_image_does_not_shift_the_others(tmp_path):
    fer, votes = five(tmp_path)
    images(Path(fer), [10, None, 30, 40, 50])
    assert named(FERPlus(fer, votes, on_bad_row="skip")) == {10: "Neutral", 40: "Sad", 50: "Angry"}
    with pytest.raises(FaceExprError, match="line 3: no pixels"):
        FERPlus(fer, votes).split("train")


def test_files_that_do_not_belong_together_are_an_error(tmp_path):
    fer, votes = five(tmp_path)
    usages = ["Training"] * 3 + ["PublicTest"]
    for rows, message in (
        (usages, r"fer\.csv has 4 rows and .*ferplus\.csv has 5"),
        ([*usages, "Training"], r"line 5 of .*fer\.csv belongs to PublicTest .* Training \(1 of 5 rows differ\)"),
    ):
        images(Path(fer), range(len(rows)), rows)
        with pytest.raises(FaceExprError, match=message):
            FERPlus(fer, votes).split("train")
    Path(fer).write_text("emotion,pixels\n0," + " ".join(["7"] * 2304) + "\n")
    with pytest.raises(FaceExprError, match="has no column Usage"):
        FERPlus(fer, votes).split("train")


def test_votes_that_are_about_other_images_are_refused_unless_they_are_meant(monkeypatch):  # case N06
    labels = np.random.default_rng(0).integers(0, 7, size=1200)
    usages, lines = np.zeros(1200, dtype=np.uint8), np.arange(1200) + 2
    faces = np.zeros((1200, 48, 48), dtype=np.uint8)
    table = FerTable(Path("fer.csv"), faces, labels, usages, lines, reasons=np.full(1200, ""))
    votes = [
        Votes(Path("votes.csv"), 10 * np.eye(10, dtype=np.int64)[np.roll(labels, n)], usages, lines) for n in (0, 1)
    ]
    check_match(votes[0], table)
    monkeypatch.setattr("faceexpr.data.ferplus.find_file", lambda *_: None)
    monkeypatch.setattr("faceexpr.data.ferplus.read_table", lambda *_: table)
    monkeypatch.setattr("faceexpr.data.ferplus.read_votes", lambda _: votes[1])
    with pytest.raises(FaceExprError, match=r"agree on 1\d% of the images, .*; expected .* on_mismatch warn"):
        FERPlus("fer.csv", "votes.csv").prepare_data()
    with pytest.warns(UserWarning, match="votes are given to the wrong images$"):
        assert len(FERPlus("fer.csv", "votes.csv", on_mismatch="warn").split("train")) == 1200


def test_images_that_are_trained_on_too_are_left_out_and_counted(tmp_path):
    fer = images(tmp_path / "fer.csv", [5, 5, 6], ["Training", "PublicTest", "PublicTest"])
    votes = votes_file(
        tmp_path / "ferplus.csv", *(vote_line(usage, fear=9) for usage in ("Training", *["PublicTest"] * 2))
    )
    data = FERPlus(fer, votes, drop_leaked=True)
    assert named(data, "val") == {6: "Fear"}
    assert data.split("val").selection.left_out == {"equal to a training image": 1}


def test_what_is_kept_and_why_the_rest_is_not_is_said(tmp_path, caplog):
    tie, doubtful = {"neutral": 5, "sadness": 5}, {"unknown": 6, "neutral": 4}
    cases = ({"happiness": 10}, tie, doubtful, {"contempt": 7, "neutral": 3}, dict.fromkeys(FILE_ORDER, 1))
    fer = images(tmp_path / "fer.csv", list(range(len(cases))))
    votes = votes_file(tmp_path / "ferplus.csv", *(vote_line(**case) for case in cases))
    for classes, names, kept, dropped in (
        (7, FER_NAMES, {0: "Happy"}, "1 unknown, 1 contempt, 1 no majority, 1 no two votes agree"),
        (8, FERPLUS_NAMES, {0: "Happy", 3: "Contempt"}, "1 unknown, 1 no majority, 1 no two votes agree"),
    ):
        data = FERPlus(fer, votes, classes=classes)
        assert data.class_names == names
        with caplog.at_level(logging.INFO):
            assert named(data) == kept
        assert f"{len(kept)} of 5 images of the train split have a majority label of {classes} classes" in caplog.text
        assert f"dropped: {dropped}\n" in caplog.text


def three_splits(tmp_path, mode, **options):
    """In each split an image whose votes are clear, and one whose votes are tied."""
    usages = ["Training", "Training", "PublicTest", "PublicTest", "PrivateTest", "PrivateTest"]
    fer = images(tmp_path / "fer.csv", range(6), usages)
    votes = [{"fear": 9}, {"neutral": 5, "sadness": 5}] * 3
    lines = [vote_line(usage, **counts) for usage, counts in zip(usages, votes, strict=True)]
    return FERPlus(fer, votes_file(tmp_path / "ferplus.csv", *lines), labels=mode, augment=Augmentation(), **options)


@pytest.mark.parametrize(("mode", "trained"), [("majority", 1), ("soft", 2), ("drawn", 2)])
def test_evaluation_uses_majority_labels_whatever_training_uses(tmp_path, mode, trained):
    data = three_splits(tmp_path, mode)
    assert len(data.split("train")) == trained
    assert (data.leaked("train"), data.leaked("test").tolist()) == (None, [False])
    for stage, grey in (("val", 2), ("test", 4), ("predict", 4)):
        assert named(data, stage) == {grey: "Fear"}
        assert data.split(stage).targets.shape == (1, 7)
        assert data.split(stage).selection == Selection("more than half of the votes", {"no majority": 1})
    assert data.split("train").selection is None


def test_divided_votes_are_measured_where_that_is_asked_for(tmp_path):
    data = three_splits(tmp_path, "majority", evaluate="soft")
    assert len(data.split("train")) == 1
    assert data.split("val").images[:, 0, 0, 0].tolist() == [2, 3]
    assert data.split("val").targets[1].tolist() == [0, 0, 0, 0, 0.5, 0, 0.5]  # Sad and Neutral
    assert data.split("val").selection.left_out == {}
    assert "most votes" in data.split("val").selection.rule


def test_drawn_labels_change_with_the_epoch_and_follow_the_votes(tmp_path):
    data = three_splits(tmp_path, "drawn")
    train = data.split("train")
    batch = {"image": train.images, "target": train.targets, "index": torch.arange(2)}
    drawn_labels = torch.stack([data.augmented(batch, epoch)["target"] for epoch in range(400)])
    assert drawn_labels.dtype == torch.int64
    fear, sad, neutral = (FER_NAMES.index(name) for name in ("Fear", "Sad", "Neutral"))
    assert (drawn_labels[:, 0] == fear).all()
    assert set(drawn_labels[:, 1].tolist()) == {sad, neutral}
    assert 150 < (drawn_labels[:, 1] == sad).sum() < 250
    assert torch.equal(data.augmented(batch, 7)["target"], drawn_labels[7])
    assert batch["target"].shape == (2, 7)  # what was given stays as it was


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Training,x.png,1,2,3", "line 3: 5 fields, expected 12"),
        (vote_line(neutral="2.5"), "line 3: '2.5' votes"),
        (vote_line("Test", neutral=10), "line 3: Usage 'Test'"),
    ],
)
def test_unreadable_votes_are_named(tmp_path, line, reason):
    fer = images(tmp_path / "fer.csv", [1, 2])
    votes = votes_file(tmp_path / "ferplus.csv", vote_line(neutral=10), line)
    with pytest.raises(FaceExprError, match=rf"ferplus\.csv: 1 of 2 rows cannot be read .*{reason}"):
        FERPlus(fer, votes, on_bad_row="skip").split("train")


def test_files_in_each_others_place_are_told(tmp_path):
    fer, _ = five(tmp_path)
    with pytest.raises(FaceExprError, match="is not FER\\+'s label file: line 1 reads 'emotion, pixels, Usage'"):
        FERPlus(fer, fer).split("train")
    with pytest.raises(FaceExprError, match=r"^votes: .*fer2013new\.csv does not exist"):
        FERPlus(fer, str(tmp_path)).split("train")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="FER+ is not here")
def test_real_splits_hold_the_rows_with_a_label(tmp_path):
    data = FERPlus(str(REAL), str(REAL), labels="soft", classes=8, cache_dir=str(tmp_path), on_mismatch="warn")
    assert [len(data.split(stage)) for stage in ("val", "test")] == [3199, 3153]
    data.evaluate = "soft"
    assert len(data.load_split("test")) == 3521
    train = data.split("train")
    assert len(train) == 28153  # votes on emotions only, ties and all
    torch.testing.assert_close(train.targets.sum(1), torch.ones(28153))


FILE_NAMES = {"Happy": "happiness", "Sad": "sadness", "Angry": "anger", "NF": "NF"}


def counts(**votes):
    return np.array([[votes.get(FILE_NAMES.get(name, name.lower()), 0) for name in COLUMNS]])


@pytest.mark.parametrize(
    ("votes", "classes", "majority", "soft"),
    [
        # Exactly half is no majority; single votes count for nothing, neither as an emotion nor in the sum.
        ({"fear": 5, "surprise": 3, "neutral": 2}, 7, "no majority", {"Fear": 0.5, "Surprise": 0.3, "Neutral": 0.2}),
        ({"fear": 4, "surprise": 3, "neutral": 1, "anger": 1, "NF": 1}, 7, "Fear", {"Fear": 4 / 7, "Surprise": 3 / 7}),
        # Contempt below the best emotion: with 7 classes left out of the fractions, never moved to another class.
        ({"neutral": 6, "contempt": 4}, 7, "Neutral", {"Neutral": 1.0}),
        ({"neutral": 6, "contempt": 4}, 8, "Neutral", {"Neutral": 0.6, "Contempt": 0.4}),
        ({"neutral": 4, "contempt": 4, "sadness": 2}, 7, "no majority", "contempt"),
        ({"neutral": 4, "unknown": 4, "sadness": 2}, 8, "no majority", "unknown"),
        ({"neutral": 4, "unknown": 3, "sadness": 3}, 8, "no majority", {"Neutral": 4 / 7, "Sad": 3 / 7}),
        ({"NF": 10}, 8, "not a face", "not a face"),
        ({"unknown": 5, "NF": 5}, 8, "no majority", "not a face"),
        ({"contempt": 9, "unknown": 1}, 8, "Contempt", {"Contempt": 1.0}),
        ({"contempt": 9, "unknown": 1}, 7, "contempt", "contempt"),
        ({}, 8, "no two votes agree", "no two votes agree"),
    ],
)
def test_rule(votes, classes, majority, soft):
    hard, fractions = majority_labels(counts(**votes), classes), soft_labels(counts(**votes), classes)
    found = next(iter(hard.counts()), FERPLUS_NAMES[int(hard.targets[0])])
    assert found == majority
    if isinstance(soft, str):
        assert fractions.counts() == {soft: 1}
        assert fractions.targets.sum() == 0
    else:
        expected = [soft.get(name, 0) for name in FERPLUS_NAMES[:classes]]
        np.testing.assert_allclose(fractions.targets[0], expected, rtol=1e-6)


@pytest.mark.parametrize("classes", [7, 8])
def test_soft_labels_are_distributions_whose_highest_share_is_the_majority_label(classes):
    rng = np.random.default_rng(0)
    votes = np.stack([rng.multinomial(10, shares) for shares in rng.dirichlet(np.full(10, 0.3), 5000)])
    majority, soft = majority_labels(votes, classes), soft_labels(votes, classes)
    assert 1000 < majority.kept.sum() < 4500
    assert soft.kept[majority.kept].all()
    np.testing.assert_array_equal(soft.targets.argmax(1)[majority.kept], majority.targets[majority.kept])
    np.testing.assert_allclose(soft.targets[soft.kept].sum(1), 1, rtol=1e-6)
    assert (soft.targets[~soft.kept] == 0).all()
    assert sum(soft.counts().values()) == (~soft.kept).sum() > 0


@pytest.mark.skipif(not REAL.exists(), reason="FER+ is not here")
def test_real_votes_give_the_counts_of_the_reference_code():
    votes = read_votes(str(REAL))
    kept = {classes: majority_labels(votes.counts, classes).kept for classes in (7, 8)}
    assert [int((kept[8] & (votes.usages == code)).sum()) for code in range(3)] == [25060, 3199, 3153]
    assert [int((kept[7] & (votes.usages == code)).sum()) for code in range(3)] == [24941, 3186, 3137]
    test = majority_labels(votes.counts, 8).targets[kept[8] & (votes.usages == 2)]
    assert dict(zip(FERPLUS_NAMES, np.bincount(test).tolist(), strict=True)) == {
        "Angry": 273, "Disgust": 18, "Fear": 83, "Happy": 893, "Sad": 384, "Surprise": 396, "Neutral": 1090,
        "Contempt": 16,
    }  # fmt: skip


@pytest.mark.usefixtures("fitted")
def test_a_calibration_is_to_the_most_frequent_vote(tmp_path):
    run = Path("lightning_logs/version_0/checkpoints")
    greys = list(range(20, 220, 10))
    faces = torch.tensor(greys, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 48, 48)
    with torch.inference_mode():
        plain = ExpressionClassifier.load_from_checkpoint(run / "best.ckpt").eval()(faces).numpy()
    fer = images(tmp_path / "fer.csv", greys, ["PublicTest"] * 20)
    # Two of three people see what the network does, so that it is always right, and no surer than they are.
    names = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    seen = [names[place] for place in plain.argmax(1)]
    lines = [vote_line("PublicTest", **{name: 6, "sadness" if name == "neutral" else "neutral": 3}) for name in seen]
    votes = votes_file(tmp_path / "ferplus.csv", *lines)
    data = ["--data=FERPlus", f"--data.path={fer}", f"--data.votes={votes}", "--data.labels=soft"]
    main(["validate", f"--ckpt_path={run}/best.ckpt", *data, "--calibration.enabled=true", *TINY_RUN[1:]])
    found = ExpressionClassifier.load_from_checkpoint(run / "calibrated.ckpt").calibration
    shares = FERPlus(fer, votes, labels="soft").split("val").targets.numpy()
    assert found.temperature == pytest.approx(fit_temperature(plain, shares.argmax(1)), rel=1e-3)
    assert found.temperature < fit_temperature(plain, shares) / 2
