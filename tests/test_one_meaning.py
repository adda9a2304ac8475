"""The same face and the same class mean the same on every path: CSV, folder, image file, exported file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_NET, TINY_RUN, exit_code, measured, read_table
from image_files import write_fer2013
from PIL import Image

from faceexpr.cli.main import main
from faceexpr.data.synthetic.drawing import draw_face
from faceexpr.pipeline.programs import load_exported
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.labels import FER_NAMES, FERPLUS_NAMES

FOLDER = ["--data=FaceFolder", "--data.path=faces"]
FIT = "lightning_logs/fit"

rng = np.random.default_rng(0)
FACES = [draw_face(FER_NAMES[number % 7], rng)[..., 0] for number in range(14)]
"""Grey 48-pixel faces, one class after the other."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A current folder with a CSV and folders of the same faces, and a network that was trained on the CSV."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        patch.setenv("PL_GLOBAL_SEED", "0")  # Lightning sets it, and it is to go with the rest
        write_fer2013(Path("fer.csv"), FACES)
        for split in ("train", "val", "test"):
            for number, face in enumerate(FACES):
                folder = Path("faces", split, FER_NAMES[number % 7].lower())
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(face).save(folder / f"{number:02d}.png")
        run("fit", "fit", "--data=FER2013", "--data.path=fer.csv", *TINY_NET, "--trainer.max_epochs=5")
        main(["export", f"--ckpt_path={FIT}", "--out=model.pt2"])
        yield


def run(verb, name, *args):
    """Run a verb, of the trained network unless it is to be trained, in a run folder of this name."""
    checkpoint = [] if verb == "fit" or any("ckpt_path" in arg for arg in args) else [f"--ckpt_path={FIT}"]
    main([verb, *checkpoint, *TINY_RUN, *args, f"--trainer.logger.version={name}"])


def predictions(name):
    return read_table(Path("lightning_logs", name, "predictions.csv"))


def probabilities(row):
    return torch.tensor([float(row[name]) for name in FER_NAMES])


def test_one_face_has_the_same_probabilities_on_every_path(trained):
    run("predict", "csv")
    Image.fromarray(FACES[3]).save("grey.png")
    Image.fromarray(np.repeat(FACES[3][..., None], 3, axis=2)).save("rgb.png")
    run("predict", "files", "--data=FaceFiles", "--data.paths=[grey.png,rgb.png]")
    program, metadata = load_exported(Path("model.pt2"))
    model = ExpressionClassifier.load_from_checkpoint(f"{FIT}/checkpoints/best.ckpt").eval()
    face = torch.from_numpy(FACES[3])[None, None]
    with torch.inference_mode():
        others = [program(face)[0], model(face)[0], *map(probabilities, predictions("files"))]
    for other in others:
        torch.testing.assert_close(other, probabilities(predictions("csv")[3]), atol=1e-4, rtol=0)
    assert metadata["class_names"] == list(FER_NAMES)
    assert metadata["preprocess"] == {"channels": 1, "size": 48, "mean": [0.5], "std": [0.5]}
    # An exported file shrinks as the model does: without anti-aliasing the stripes would stay near -1 and 1.
    stripes = ((torch.arange(480) // 3 % 2) * 255).to(torch.uint8).expand(1, 1, 480, 480).contiguous()
    with torch.inference_mode():
        torch.testing.assert_close(program(stripes), model(stripes), atol=1e-5, rtol=0)
        assert model.net.preprocess(stripes).abs().mean() < 0.2


def test_csv_and_folders_score_the_same(trained):
    run("test", "on_csv")
    run("test", "on_folder", *FOLDER)
    run("test", "alphabetical", *FOLDER, f"--data.class_names=[{','.join(sorted(FER_NAMES))}]")
    first, *others = (measured(f"lightning_logs/{name}", "test") for name in ("on_csv", "on_folder", "alphabetical"))
    for other in others:
        assert other["accuracy"] == first["accuracy"]
        assert other["class_names"] == list(FER_NAMES)
        assert other["per_class"] == first["per_class"]
    assert first["accuracy"] > 1 / 7


def test_eight_classes_on_seven_and_seven_on_eight(trained, capsys):
    eight = f"--data.class_names=[{','.join(FERPLUS_NAMES)}]"
    run("fit", "eight", *FOLDER, eight, *TINY_NET)
    checkpoint = "--ckpt_path=lightning_logs/eight"
    run("predict", "eight_classes", checkpoint, "--data=FaceFiles", "--data.paths=faces/test")
    assert tuple(predictions("eight_classes")[0])[2:10] == FERPLUS_NAMES
    # Every class of the data is known to the model: labels are matched by name.
    run("test", "seven_of_eight", checkpoint, *FOLDER, f"--data.class_names=[{','.join(FER_NAMES)}]")
    assert measured("lightning_logs/seven_of_eight", "test")["class_names"] == list(FERPLUS_NAMES)
    # A class that the model does not know cannot be measured (case F07: names are the model's, in its order).
    assert exit_code(lambda: run("test", "refused", *FOLDER, eight)) == 2
    assert "Contempt, which the model does not know" in capsys.readouterr().err
