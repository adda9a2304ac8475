"""The true boxes, drawn."""

import json

import numpy as np
import pytest
from PIL import Image

from faceexpr.cli.annotate import run
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import read_image
from faceexpr.visualization.boxes import CELL, FACE, IGNORED


@pytest.fixture
def annotations(tmp_path):
    """Three images with 0, 1 and 2 faces, the last face being a crowd, as COCO JSON beside them."""
    images, boxes = [], []
    for number in range(3):
        pixels, found, _ = draw_scene(np.random.default_rng(number), 160, 120, number)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        for left, top, right, bottom in found.tolist():
            bbox = [left, top, right - left, bottom - top]
            boxes.append({"id": len(boxes), "image_id": number, "category_id": 1, "bbox": bbox})
    boxes[-1]["iscrowd"] = 1
    path = tmp_path / "faces.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "face"}]}))
    return path


def near(pixels, colour):
    """Count the pixels that have nearly this colour."""
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    return int((np.abs(pixels.astype(int) - wanted).max(-1) < 60).sum())


def test_every_image_and_a_contact_sheet(annotations, tmp_path, capsys):
    out = tmp_path / "out"
    run(["annotate", str(annotations), "--out", str(out)])
    text = capsys.readouterr().out
    assert "2 images with faces, 1 without, 3 faces (1 marked as not to be counted)" in text
    assert "3 images and contact_sheet.png" in text
    names = sorted(path.name for path in out.iterdir())
    assert names == ["00001-0.jpg", "00002-1.jpg", "00003-2.jpg", "contact_sheet.png"]
    drawn = [read_image(out / name).pixels for name in names]
    plain = [read_image(tmp_path / f"{number}.png").pixels for number in range(3)]
    marked = [near(new, FACE) > near(old, FACE) + 40 for new, old in zip(drawn, plain, strict=False)]
    assert marked == [False, True, True]
    assert near(drawn[2], IGNORED) > near(plain[2], IGNORED) + 40
    assert drawn[3].shape[0] > 2 * CELL


def test_a_limit_takes_a_seeded_choice(annotations, tmp_path):
    chosen = set()
    for seed in range(6):
        out = tmp_path / f"out{seed}"
        run(["annotate", str(annotations), "--out", str(out), "--limit", "1", "--seed", str(seed)])
        [image] = out.glob("*.jpg")
        chosen.add(image.name)
    assert len(chosen) > 1
    with pytest.raises(FaceExprError, match="--limit is 0; expected 1 or more"):
        run(["annotate", str(annotations), "--out", str(tmp_path), "--limit", "0"])


def test_an_image_that_breaks_off_is_named_and_the_others_are_drawn(annotations, tmp_path, capsys):
    broken = tmp_path / "1.png"
    broken.write_bytes(broken.read_bytes()[:2000])
    with pytest.raises(SystemExit) as end:
        run(["annotate", str(annotations), "--out", str(tmp_path / "out")])
    assert end.value.code == 3
    assert f"{broken}: truncated" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 2


def test_the_options_of_reading_are_options_of_the_verb(annotations, tmp_path):
    command = ["annotate", str(annotations), "--out", str(tmp_path / "out")]
    (tmp_path / "1.png").unlink()
    with pytest.raises(FaceExprError, match=r"1 of 3 images missing or unreadable: .*1\.png \(no such file\)"):
        run(command)
    run([*command, "--missing", "leave_out", "--format", "coco", "--images", str(tmp_path)])
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 2
    with pytest.raises(FaceExprError, match="none of its categories means a face"):
        run([*command, "--face_labels", "[head]", "--missing", "leave_out"])
