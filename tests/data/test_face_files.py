"""Unlabelled images for predict: order, failures, notes, the box, and one resize for all paths."""

import numpy as np
import pytest
import torch
from image_files import stripes, with_orientation
from PIL import Image

from faceexpr.data.face_files import FaceFiles
from faceexpr.data.face_folder import FaceFolder
from faceexpr.models.preprocess import Preprocess
from faceexpr.utils.errors import FaceExprError


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)
    return path


def test_failures_keep_their_place_and_the_rest_its_result_and_notes(tmp_path):
    ok = save(tmp_path / "ok.jpg", np.full((60, 60, 3), 90))
    (tmp_path / "cut.jpg").write_bytes(ok.read_bytes()[: ok.stat().st_size * 6 // 10])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    save(tmp_path / "large.jpg", np.zeros((90, 90)))
    frames = [Image.new("L", (8, 8), 40), Image.new("L", (8, 8), 255)]
    (tmp_path / "été").mkdir()
    frames[0].save(tmp_path / "été" / "café 顔.GIF", save_all=True, append_images=frames[1:])
    names = ("cut.jpg", "empty.jpg", "ok.jpg", "text.jpg", "absent.jpg", "large.jpg", "été")
    paths = [str(tmp_path / name) for name in names]
    data = FaceFiles(paths, max_pixels=5000)
    data.setup("predict")
    split = data.split("predict")
    assert list(split.sources) == [paths[2], f"{paths[6]}/café 顔.GIF"]
    assert (split.targets, split.notes) == (None, {1: "first of 2 frames"})
    failed = [(failure.position, failure.source) for failure in split.failures]
    assert failed == [(position, paths[position]) for position in (0, 1, 3, 4, 5)]
    *reasons, last = (failure.reason for failure in split.failures)
    assert reasons == ["truncated", "empty file", "not an image", "no such file"]
    assert last.startswith("too large: 90 x 90 pixels, the limit is 5,000")
    assert split.images.shape == (2, 3, 48, 48)
    assert (split.images[0].float() - 90).abs().max() <= 1


@pytest.mark.parametrize("name", ["a#xywh=1,2,3,4.png", "b#xywh=face.png"])
def test_a_sign_in_a_name_that_is_no_box_is_part_of_the_name(tmp_path, name):
    file = save(tmp_path / name, np.full((9, 9), 50))
    split = FaceFiles(str(tmp_path)).split("predict")
    assert ([*split.sources], split.images.unique().tolist()) == ([str(file)], [50])


def test_the_box_refers_to_the_upright_image(tmp_path):
    raw = np.zeros((20, 40, 3), np.uint8)
    raw[12:20, 0:8] = (255, 0, 0)  # lower left as stored: upper left of the upright 20 x 40 image
    turned = save(tmp_path / "turned.png", raw, exif=with_orientation(6))
    upright = save(tmp_path / "upright.png", np.rot90(raw, -1))
    images = FaceFiles([str(turned), str(upright)], box=(0, 0, 8, 8), image_size=8, margin=0).split("predict").images
    assert torch.equal(images[0], images[1])
    assert (images[0] == torch.tensor([255, 0, 0])[:, None, None]).all()


def test_the_box_is_clipped_and_noted_and_outside_is_a_failure(tmp_path):
    pixels = np.zeros((20, 20), np.uint8)
    pixels[10:, 10:] = 200
    path = str(save(tmp_path / "a.png", pixels))
    split = FaceFiles(path, box=(10, 10, 99, 99), image_size=10, margin=0).split("predict")
    assert (split.images == 200).all()
    assert split.notes == {0: "box clipped to the image"}
    (failure,) = FaceFiles(path, box=(20, 0, 30, 10)).split("predict").failures
    assert "outside the image of 20 x 20 pixels" in failure.reason
    with pytest.raises(FaceExprError, match="x0 < x1"):
        FaceFiles(path, box=(5, 5, 5, 9))


def test_what_makes_no_sense_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FaceExprError, match="holds no image"):
        FaceFiles([str(tmp_path)]).setup("predict")
    with pytest.raises(FaceExprError, match="no train split"):
        FaceFiles("a.png").split("train")
    for options in ({"image_size": 0}, {"max_pixels": 0}):
        with pytest.raises(FaceExprError, match=next(iter(options))):
            FaceFiles("a.png", **options)
    with pytest.raises(FaceExprError, match="paths is empty"):
        FaceFiles([])


def test_data_set_predict_and_network_reduce_alike(tmp_path):
    """Grey levels of a striped 480 x 480 picture at 48 x 48 along every path, and Pillow's as the reference."""
    pixels = stripes()
    file = save(tmp_path / "faces" / "happy" / "a.png", pixels)
    folder = FaceFolder(str(tmp_path / "faces"), val_fraction=0, test_fraction=0, cache_dir=str(tmp_path / "cache"))
    raw = torch.from_numpy(pixels)[None, None]
    network = Preprocess(channels=1, size=48, mean=(0.0,), std=(1.0,))
    rgb = FaceFiles(str(file), channels=3).split("predict").images
    pillow = Image.fromarray(pixels).resize((48, 48), Image.Resampling.BILINEAR)
    paths = {
        "data set": folder.split("train").images.float(),
        "predict, grey": FaceFiles(str(file), channels=1).split("predict").images.float(),
        "predict, RGB": network(rgb) * 255,
        "network": network(raw) * 255,
        "Pillow": torch.from_numpy(np.array(pillow))[None, None].float(),
    }
    for one, first in paths.items():
        for other, second in paths.items():
            assert (first - second).abs().mean() < 1, (one, other)
    aliased = raw[:, :, ::10, ::10].float()
    assert (aliased - paths["network"]).abs().mean() > 20  # the picture can tell the difference
