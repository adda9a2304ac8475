"""The audit of a data set: what is found in made-up data, the table, the page, and what a training makes of it."""

import csv
import json

import numpy as np
import pytest
import torch
from image_files import smooth_image, write_fer2013
from PIL import Image

from faceexpr.cli.audit import open_path
from faceexpr.cli.main import main
from faceexpr.data import FER2013, FaceBoxes, FaceFolder
from faceexpr.data.corrections import Corrections
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.pipeline.auditing import Album, count_copies, find_copies, find_no_faces, find_wrong_labels
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

ALONE = ["--labels=false", "--faces=false"]


def read(folder):
    with (folder / "audit.csv").open(newline="") as file:
        return json.loads((folder / "audit.json").read_text()), list(csv.DictReader(file))


def confirm(folder, **actions):
    """Fill in the column action of the rows of some issues."""
    _, rows = read(folder)
    for row in rows:
        row["action"] = actions.get(row["issue"], "")
    with (folder / "audit.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def face(seed):
    return np.asarray(smooth_image(48, 48, seed).convert("L"))


@pytest.fixture
def folder(tmp_path):
    """Faces in folders: copies, a mirrored one, a contradiction, and such that are blank, tiny or broken."""
    root = tmp_path / "faces"
    images = {f"train/happy/{n}.png": smooth_image(48, 48, n) for n in range(6)}
    images |= {f"train/sad/{n}.png": smooth_image(48, 48, 20 + n) for n in range(6)}
    images |= {f"val/happy/{n}.png": smooth_image(48, 48, 40 + n) for n in range(3)}
    images["val/happy/copy.png"] = images["train/happy/0.png"]
    images["val/happy/bright.png"] = images["train/happy/1.png"].point(lambda value: value * 0.9 + 10)
    images["val/happy/mirrored.png"] = images["train/happy/2.png"].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    images["train/sad/other.png"] = images["train/happy/3.png"]
    images["train/sad/blank.png"] = Image.new("RGB", (48, 48), "grey")
    images["train/sad/tiny.png"] = smooth_image(10, 12, 99)
    for name, image in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name)
    (root / "train/sad/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


def test_copies_and_bad_images_of_a_folder(folder, tmp_path, capsys):
    main(["audit", str(folder), "--out", str(tmp_path / "out"), *ALONE])
    facts, rows = read(tmp_path / "out")
    found = {(row["issue"], row["image"].split("faces/")[1]) for row in rows}
    assert found == {
        ("broken", "train/sad/broken.png"),
        ("blank", "train/sad/blank.png"),
        ("tiny", "train/sad/tiny.png"),
        ("contradiction", "train/happy/3.png"),
        ("contradiction", "train/sad/other.png"),
        ("duplicate", "train/happy/0.png"),
        ("duplicate", "val/happy/copy.png"),
        ("near_duplicate", "train/happy/1.png"),
        ("near_duplicate", "val/happy/bright.png"),
        ("near_duplicate", "train/happy/2.png"),
        ("near_duplicate", "val/happy/mirrored.png"),
    }
    assert facts["copies"] == {"groups": 2, "contradictions": 1, "leaks": {"val": {"equal": 1, "near": 2}}}
    assert facts["splits"]["train"]["Sad"] == 9
    assert facts["issues"]["near_duplicate"] == 4
    by_name = {row["image"].split("faces/")[1]: row for row in rows}
    # What is measured stays; the copy for training goes.
    assert by_name["train/happy/0.png"]["suggestion"] == "exclude"
    assert by_name["val/happy/copy.png"]["suggestion"] == ""
    assert by_name["train/happy/2.png"]["note"] == "mirrored"
    assert "test: " in capsys.readouterr().out  # there is no such split, which is said


def test_the_page_needs_no_other_file_and_trusts_no_name(tmp_path):
    root = tmp_path / "faces"
    root.mkdir()
    for name in ("<script>alert(1)<&.png", "b.png"):
        smooth_image(48, 48, 1).save(root / name)
    main(["audit", str(root), "--out", str(tmp_path / "out"), "--gallery=1", *ALONE])
    page = (tmp_path / "out/audit.html").read_text()
    assert "duplicate: 2" in page
    assert page.count("data:image/png;base64,") == 1
    assert "<script" not in page
    assert "http" not in page
    assert "src=" not in page.replace('src="data:', "")


def test_confirmed_rows_are_left_out_or_corrected(folder, tmp_path):
    out = tmp_path / "out"
    main(["audit", str(folder), "--out", str(out), *ALONE])
    confirm(out, near_duplicate="exclude", contradiction="happiness")
    data = FaceFolder(str(folder), on_bad_image="skip", exclude=str(out / "audit.csv"))
    plain = FaceFolder(str(folder), on_bad_image="skip")
    assert len(plain.split("train")) - len(data.split("train")) == 2
    assert len(plain.split("val")) - len(data.split("val")) == 2
    labels = dict(zip(data.split("train").sources, data.split("train").targets.tolist(), strict=True))
    assert labels[str(folder / "train/sad/other.png")] == FER_NAMES.index("Happy")
    assert plain.split("train").targets.bincount()[4] == 9  # nothing of the data itself has changed
    confirmed = (out / "audit.csv").read_bytes()
    main(["audit", str(folder), "--out", str(out), *ALONE])
    assert (out / "audit.1.csv").read_bytes() == confirmed


def test_what_is_left_out_of_training_leaks_no_more(tmp_path):
    faces = np.stack([face(seed) for seed in range(14)])
    write_fer2013(tmp_path / "fer2013.csv", faces)
    main(["audit", str(tmp_path / "fer2013.csv"), "--out", str(tmp_path / "out"), *ALONE])
    facts, rows = read(tmp_path / "out")
    leak = {"equal": 14, "near": 0}
    assert facts["copies"] == {"groups": 14, "contradictions": 0, "leaks": {"val": leak, "test": leak}}
    assert [row["split"] for row in rows if not row["suggestion"]] == ["test"] * 14
    table = tmp_path / "some.csv"
    table.write_text("action;issue;split;image;suggestion\n" + "yes;duplicate;train;fer2013.csv:2;exclude\n")
    data = FER2013(str(tmp_path / "fer2013.csv"), exclude=str(table))
    assert int(data.leaked("test").sum()) == 13
    assert len(data.split("train")) == 13
    assert len(data.split("predict")) == 14  # every image has its prediction


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("no,duplicate,train,fer2013.csv:2,", "line 2: the action is 'no'; expected exclude, Angry"),
        ("yes,contradiction,train,fer2013.csv:2,", "line 2: the action is 'yes'; expected exclude"),
        ("sad,a,train,fer2013.csv:2,\nexclude,b,train,fer2013.csv:2,", "line 3: the action for fer2013.csv:2 is exc"),
        ("exclude,duplicate,train,other.csv:2,", "is of other data: none of its 1 image of the train split"),
    ],
)
def test_a_wrong_table_is_refused_in_one_sentence(row, message, tmp_path):
    write_fer2013(tmp_path / "fer2013.csv", np.stack([face(seed) for seed in range(7)]))
    (tmp_path / "audit.csv").write_text(f"action,issue,split,image,suggestion\n{row}\n")
    with pytest.raises(FaceExprError, match=r"^exclude: ") as caught:
        FER2013(str(tmp_path / "fer2013.csv"), exclude=str(tmp_path / "audit.csv")).split("train")
    assert message in str(caught.value)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("emotion,pixels\n")
    with pytest.raises(FaceExprError, match="is no table of an audit"):
        Corrections(str(tmp_path / "a.csv"))
    with pytest.raises(FaceExprError, match="cannot be read"):
        Corrections(str(tmp_path / "b.csv"))


def album_of(images, labels=None, split="train"):
    album = Album(FER_NAMES)
    for place, image in enumerate(images):
        album.add(split, f"{place}.png", None if labels is None else labels[place], image)
    return album


def test_compression_shift_and_noise_are_near_and_other_faces_are_not():
    large = np.asarray(smooth_image(60, 60, 3).convert("L"))
    noise = np.random.default_rng(0).normal(0, 4, (48, 48))
    copies = [
        large[4:52, 4:52],
        large[5:53, 3:51],  # another crop
        np.clip(large[4:52, 4:52] + noise, 0, 255).astype(np.uint8),
        large[4:52, 4:52] // 2,  # darker
    ]
    album = album_of([*copies, *(face(seed) for seed in range(10, 40))])
    found, groups = find_copies(album, 0.9)
    assert {finding.place for finding in found} == {0, 1, 2, 3}
    assert len(set(groups[:4])) == 1
    assert len(set(groups)) == 31
    assert count_copies(album, groups)["groups"] == 0


def test_very_many_copies_hang_together():
    noise = np.random.default_rng(0)
    album = album_of([np.clip(face(1) + noise.normal(0, 1, (48, 48)), 0, 255).astype(np.uint8) for _ in range(90)])
    found, groups = find_copies(album, 0.9)
    assert len(found) == 90
    assert set(groups) == {groups[0]}


def test_wrong_labels_stand_first_and_copies_do_not_vouch():
    pytest.importorskip("cleanlab")
    random = np.random.default_rng(0)
    labels = [place % 3 for place in range(150)]
    features = random.normal(0, 1, (150, 5)) + 4 * np.eye(5)[labels]
    wrong = {0, 30, 61, 62}
    given = [(label + 1) % 3 if place in wrong else label for place, label in enumerate(labels)]
    album = album_of([face(place) for place in range(150)], [2 * label for label in given])
    album.features = list(features.astype(np.float32))
    found = find_wrong_labels(album, np.arange(150))
    assert {finding.place for finding in found[:4]} == wrong
    assert [finding.suggestion for finding in found[:4]] == [FER_NAMES[2 * labels[one.place]] for one in found[:4]]
    assert all(finding.score < 0.5 for finding in found[:4])
    # Ten copies of a wrong one would have a learner that sees nine of them believe the tenth.
    album.features[:10], groups = [album.features[0]] * 10, np.r_[[0] * 10, 10:150]
    album.labels[:10] = [album.labels[0]] * 10
    assert {finding.place for finding in find_wrong_labels(album, groups)} >= set(range(10))


def test_odd_images_are_shown_to_the_detector():
    album = album_of([face(place) for place in range(60)])
    album.features = list(np.random.default_rng(0).normal(3, 0.1, (60, 4)).astype(np.float32))
    album.features[7] = np.float32([-3, 3, 3, 3])
    seen = []

    def blind(images):
        seen.extend(images)
        return [torch.zeros(0)] * len(images)

    assert [finding.place for finding in find_no_faces(album, blind)] == [7]
    assert seen[0].shape == (240, 240, 3)


@pytest.fixture
def scenes(tmp_path):
    """Photographs as COCO: one stands twice, a face is marked twice, a box leaves its image, one is tiny."""
    images, boxes = [], []

    def add(number, box):
        boxes.append({"id": len(boxes), "image_id": number, "category_id": 1, "bbox": box})

    for number in range(4):
        pixels, found, _ = draw_scene(np.random.default_rng(0 if number == 3 else number), 160, 120, 1)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        left, top, right, bottom = found[0].tolist()
        add(number, [left, top, right - left, bottom - top])
    add(1, [boxes[1]["bbox"][0] + 1, *boxes[1]["bbox"][1:]])
    add(2, [150, 100, 30, 30])
    add(2, [3, 3, 5, 20])
    path = tmp_path / "faces.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "face"}]}))
    return path


def test_boxes(scenes, tmp_path):
    main(["audit", str(scenes), "--out", str(tmp_path / "out"), "--faces=false"])
    _, rows = read(tmp_path / "out")
    found = {(row["issue"], row["image"].split("/")[-1], row["box"]) for row in rows if row["issue"] != "doubled"}
    assert found == {
        ("duplicate", "0.png", ""),
        ("duplicate", "3.png", ""),
        ("outside", "2.png", "150.0 100.0 180.0 130.0"),
        ("tiny_box", "2.png", "3.0 3.0 8.0 23.0"),
    }
    assert [row["image"].split("/")[-1] for row in rows if row["issue"] == "doubled"] == ["1.png"]
    confirm(tmp_path / "out", doubled="exclude")
    [split] = {row["split"] for row in rows if row["issue"] == "doubled"}
    table = str(tmp_path / "out/audit.csv")
    plain, data = FaceBoxes(str(scenes)), FaceBoxes(str(scenes), exclude=table)
    names = [[record.path.name for record in one.split(split).records] for one in (plain, data)]
    assert {*names[0]} - {*names[1]} == {"1.png"}


def test_missing_and_broken_photographs_are_named(scenes, tmp_path):
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes(b"")
    main(["audit", str(scenes), "--out", str(tmp_path / "out"), "--faces=false"])
    facts, _ = read(tmp_path / "out")
    [note] = {note for note in facts["notes"] if "missing or unreadable" in note}
    assert "2 of 4 images" in note
    assert "1.png (no such file)" in note
    assert "2.png (empty file)" in note


def test_images_of_which_none_can_be_read(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces/a.png").write_bytes(b"")
    main(["audit", str(tmp_path / "faces"), "--out", str(tmp_path / "out"), *ALONE])
    _, rows = read(tmp_path / "out")
    assert [(row["issue"], row["note"]) for row in rows] == [("broken", "empty file")]


def test_faces_that_nobody_has_marked(scenes, tmp_path, monkeypatch):
    from faceexpr.boxes.detections import Detections

    def find(images):
        boxes = torch.tensor([[60.0, 30.0, 90.0, 60.0], [0.0, 0.0, 4.0, 4.0]])
        return [Detections(boxes, torch.tensor([0.9, 0.8])) for _ in images]

    monkeypatch.setattr("faceexpr.cli.audit.load_detector", lambda *_: find)
    text = json.loads(scenes.read_text())
    text["annotations"] = [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [62, 32, 30, 30]}]
    scenes.write_text(json.dumps(text))
    main(["audit", str(scenes), "--out", str(tmp_path / "out")])
    _, rows = read(tmp_path / "out")
    boxes = [(row["image"].split("/")[-1], row["box"]) for row in rows if row["issue"] == "unmarked"]
    assert ("0.png", "60.0 30.0 90.0 60.0") not in boxes
    assert len(boxes) == 7


def test_an_option_of_a_run_is_enough(workdir, capsys):
    main(["audit", "--data=SyntheticFaces", "--data.train_size=30", "--data.val_size=7", "--out=out", *ALONE])
    facts, _ = read(workdir / "out")
    assert facts["data"]["class_path"].endswith("SyntheticFaces")
    assert facts["splits"]["train"]["Happy"] in (4, 5)
    with pytest.raises(SystemExit):
        main(["audit", "--out=out"])
    assert "expected a path or --data, and not both" in capsys.readouterr().err


def test_the_whole_audit_of_drawn_faces(workdir):
    pytest.importorskip("cleanlab")
    main(["audit", "--data=SyntheticFaces", "--data.train_size=70", "--data.val_size=14", "--data.test_size=14",
          "--out=out"])  # fmt: skip
    facts, rows = read(workdir / "out")
    assert facts["splits"]["test"]["Sad"] == 2
    assert {row["issue"] for row in rows} <= {"no_face", "wrong_label", "near_duplicate"}


def test_a_path_stands_for_its_data_set(folder, scenes, tmp_path):
    kinds = {
        folder: "FaceFolder",
        folder / "train/sad": "FaceFiles",
        scenes: "FaceBoxes",
        tmp_path / "a.csv": "FER2013",
    }
    (tmp_path / "a.csv").write_text("emotion,pixels,Usage\n")
    assert {path: type(open_path(str(path))).__name__ for path in kinds} == kinds
