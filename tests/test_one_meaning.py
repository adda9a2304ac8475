"""The same face and the same class mean the same on every path: CSV, folder, image file, exported file."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_RUN, Run, exit_code
from PIL import Image

from faceexpr.cli.export import load_exported
from faceexpr.cli.main import main
from faceexpr.data.synthetic.drawing import draw_face
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.labels import FER_NAMES, FERPLUS_NAMES

NET = ["--model.net=MLP", "--model.net.hidden=[8]"]
USAGES = ("Training", "PublicTest", "PrivateTest")


def faces(count: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Return grey 48-pixel faces, one class after the other."""
    rng = np.random.default_rng(0)
    return [draw_face(FER_NAMES[number % 7], rng)[..., 0] for number in range(count)]


def write_csv(path: Path, images: list[Any]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for usage in USAGES:
            for number, image in enumerate(images):
                writer.writerow([number % 7, " ".join(map(str, image.flatten())), usage])


def write_folders(root: Path, images: list[Any], names: tuple[str, ...] = FER_NAMES) -> None:
    for split in ("train", "val", "test"):
        for number, image in enumerate(images):
            folder = root / split / names[number % 7].lower()
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:02d}.png")


def predictions(run_folder: Path) -> list[dict[str, str]]:
    with (run_folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def probabilities(row: dict[str, str], names: tuple[str, ...] = FER_NAMES) -> torch.Tensor:
    return torch.tensor([float(row[name]) for name in names])


def measured(version: int, stage: str = "test") -> dict[str, Any]:
    result: dict[str, Any] = json.loads(Path(f"lightning_logs/version_{version}/metrics.json").read_text())[stage]
    return result


def test_one_face_has_the_same_probabilities_on_every_path(workdir: Path) -> None:
    images = faces(14)
    write_csv(workdir / "fer.csv", images)
    fer = ["--data=FER2013", "--data.path=fer.csv"]
    main(["fit", *fer, *NET, *TINY_RUN, "--data.batch_size=7"])
    main(["predict", "--ckpt_path=lightning_logs/version_0", *TINY_RUN[1:]])
    Image.fromarray(images[3]).save("grey.png")
    Image.fromarray(np.repeat(images[3][..., None], 3, axis=2)).save("rgb.png")
    main(["predict", "--ckpt_path=lightning_logs/version_0", "--data=FaceFiles", "--data.paths=[grey.png,rgb.png]",
          *TINY_RUN[1:]])  # fmt: skip
    main(["export", "--ckpt_path=lightning_logs/version_0", "--out=model.pt2"])
    program, metadata = load_exported(Path("model.pt2"))

    from_csv = probabilities(predictions(Path("lightning_logs/version_1"))[3])
    from_grey, from_rgb = (probabilities(row) for row in predictions(Path("lightning_logs/version_2")))
    with torch.inference_mode():
        from_export = program(torch.from_numpy(images[3])[None, None])[0]
        model = ExpressionClassifier.load_from_checkpoint("lightning_logs/version_0/checkpoints/best.ckpt").eval()
        from_model = model(torch.from_numpy(images[3])[None, None])[0]
    for other in (from_grey, from_rgb, from_export, from_model):
        torch.testing.assert_close(other, from_csv, atol=1e-4, rtol=0)
    assert metadata["class_names"] == list(FER_NAMES)
    assert metadata["preprocess"] == {"channels": 1, "size": 48, "mean": [0.5], "std": [0.5]}


def test_an_exported_file_shrinks_like_every_other_path(run: Run, workdir: Path) -> None:
    run("fit")
    main(["export", "--ckpt_path=lightning_logs/version_0", "--out=model.pt2"])
    program, _ = load_exported(Path("model.pt2"))
    model = ExpressionClassifier.load_from_checkpoint("lightning_logs/version_0/checkpoints/best.ckpt").eval()
    stripes = ((torch.arange(480) // 3 % 2) * 255).to(torch.uint8).expand(1, 1, 480, 480).contiguous()
    with torch.inference_mode():
        torch.testing.assert_close(program(stripes), model(stripes), atol=1e-5, rtol=0)
        seen = model.net.preprocess(stripes)
    assert seen.abs().mean() < 0.2  # without anti-aliasing the stripes would stay near -1 and 1


def test_csv_and_folders_score_the_same(workdir: Path) -> None:
    images = faces(21)
    write_csv(workdir / "fer.csv", images)
    write_folders(workdir / "faces", images)
    main(["fit", "--data=FER2013", "--data.path=fer.csv", *NET, *TINY_RUN, "--trainer.max_epochs=5"])
    ckpt = "--ckpt_path=lightning_logs/version_0"
    main(["test", ckpt, *TINY_RUN[1:]])
    main(["test", ckpt, "--data=FaceFolder", "--data.path=faces", *TINY_RUN[1:]])
    alphabetical = f"--data.class_names=[{','.join(sorted(FER_NAMES))}]"
    main(["test", ckpt, "--data=FaceFolder", "--data.path=faces", alphabetical, *TINY_RUN[1:]])
    first, second, third = (measured(version) for version in (1, 2, 3))
    for other in (second, third):
        assert other["accuracy"] == first["accuracy"]
        assert other["class_names"] == list(FER_NAMES)
        assert other["per_class"] == first["per_class"]
    assert first["accuracy"] > 1 / 7


def test_eight_classes_on_seven_and_seven_on_eight(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folders(workdir / "faces", faces(14))
    eight = f"--data.class_names=[{','.join(FERPLUS_NAMES)}]"
    folder = ["--data=FaceFolder", "--data.path=faces"]
    main(["fit", *folder, eight, *NET, *TINY_RUN])
    ckpt = "--ckpt_path=lightning_logs/version_0"
    main(["predict", ckpt, "--data=FaceFiles", "--data.paths=faces/test", *TINY_RUN[1:]])
    assert tuple(predictions(Path("lightning_logs/version_1"))[0])[2:10] == FERPLUS_NAMES
    # Every class of the data is known to the model: labels are matched by name.
    seven = f"--data.class_names=[{','.join(FER_NAMES)}]"
    main(["test", ckpt, *folder, seven, *TINY_RUN[1:]])
    assert measured(2)["class_names"] == list(FERPLUS_NAMES)
    # A class that the model does not know cannot be measured.
    main(["fit", *folder, seven, *NET, *TINY_RUN])
    capsys.readouterr()
    assert exit_code(lambda: main(["test", "--ckpt_path=lightning_logs/version_3", *folder, eight, *TINY_RUN[1:]])) == 2
    assert "Contempt, which the model does not know" in capsys.readouterr().err


def test_unreadable_files_have_their_rows_and_the_exit_code_tells(run: Run, workdir: Path) -> None:
    run("fit")
    face = Image.fromarray(faces(1)[0])
    face.save("ok.jpg")
    Path("cut.jpg").write_bytes(Path("ok.jpg").read_bytes()[: int(Path("ok.jpg").stat().st_size * 0.6)])
    Path("empty.jpg").touch()
    Path("text.jpg").write_text("no image")
    paths = "--data.paths=[cut.jpg,ok.jpg,empty.jpg,text.jpg,absent.jpg]"
    code = exit_code(lambda: main(["predict", "--ckpt_path=lightning_logs/version_0", "--data=FaceFiles", paths,
                                   *TINY_RUN[1:]]))  # fmt: skip
    rows = predictions(Path("lightning_logs/version_1"))
    assert code == 3
    assert [row["status"] for row in rows] == ["error", "ok", "error", "error", "error"]
    assert [row["source"] for row in rows] == ["cut.jpg", "ok.jpg", "empty.jpg", "text.jpg", "absent.jpg"]
    assert all(row["note"] for row in rows if row["status"] == "error")
    assert float(probabilities(rows[1]).sum()) == pytest.approx(1, abs=1e-5)
