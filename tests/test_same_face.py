"""The same face gets the same probabilities from every verb and in Python, whatever it was trained on and stored as."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_RUN, build_trainer, exit_code
from image_files import write_fer2013
from lightning.pytorch import Callback
from PIL import Image
from stub_steps import Boxes

from faceexpr.cli.main import main
from faceexpr.data.face_files import FaceFiles
from faceexpr.metrics.predictions import read_samples
from faceexpr.models.base import ExpressionNet
from faceexpr.models.preprocess import Preprocess
from faceexpr.pipeline.classifiers import load_classifier
from faceexpr.pipeline.pipeline import FacePipeline
from faceexpr.pipeline.programs import load_exported
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.tasks.knn import KNNClassifier
from faceexpr.utils.crop import Crop
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import read_image
from faceexpr.utils.labels import FER_NAMES
from faceexpr.weights.checkpoints import crop_of

RUN = "lightning_logs/fit"
CPU = ["--trainer.accelerator=cpu", "--trainer.devices=1"]
NAMES = ["left", "score"]
"""Classes whose names are those of columns in every table of results."""


class ColourNet(ExpressionNet):
    """A linear network that tells colours apart: it knows red and blue, and hardly green."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, Preprocess(channels=3, size=24))
        torch.manual_seed(3)
        self.layer = torch.nn.Linear(3 * 24 * 24, num_classes)
        with torch.no_grad():
            self.layer.weight[0, : 24 * 24] += 0.01
            self.layer.weight[1, 2 * 24 * 24 :] += 0.01

    def classify(self, image):
        return self.layer(image.flatten(1))


def colours(height: int, width: int, seed: int) -> Image.Image:
    """Smooth colours, in which a resize or a crop changes something everywhere."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def save_kinds(folder: Path, seed: int) -> None:
    """Write faces of every kind of file: grey, colour, see-through, with a palette, turned, wide and high."""
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = colours(60, 60, seed)
    clear.putalpha(colours(60, 60, seed + 1).convert("L"))
    clear.save(folder / "clear.png")
    colours(60, 60, seed + 2).convert("L").save(folder / "grey.png")
    colours(100, 40, seed + 3).save(folder / "high.png")
    colours(60, 60, seed + 4).quantize(16).save(folder / "palette.png")
    colours(48, 48, seed + 5).save(folder / "rgb.tif")
    colours(40, 70, seed + 6).save(folder / "turned.png", exif=exif)
    colours(40, 100, seed + 7).save(folder / "wide.webp", lossless=True)


def save_folder() -> list[str]:
    """Write a folder of faces, and return the images of its test split in their order."""
    for place, split in enumerate(("train", "val", "test")):
        for label, name in enumerate(NAMES):
            save_kinds(Path("faces", split, name), 100 * place + 10 * label)
    return [str(path) for name in NAMES for path in sorted(Path("faces/test", name).iterdir())]


def save_csv() -> list[str]:
    """Write FER-2013's table, and return image files of its test split."""
    faces = [np.asarray(colours(48, 48, seed).convert("L")) for seed in range(14)]
    write_fer2013(Path("fer.csv"), faces)
    for number, face in enumerate(faces):
        Image.fromarray(face).save(f"{number:02d}.png")
    return [f"{number:02d}.png" for number in range(14)]


FOLDER = ["--data=FaceFolder", "--data.path=faces", f"--data.class_names=[{','.join(NAMES)}]"]
COLOUR = ["--model.net=test_same_face.ColourNet"]
GREY = ["--model.net=MLP", "--model.net.hidden=[8]"]
NEIGHBOURS = ["--model=KNNClassifier", "--model.representation=Histogram", "--model.representation.channels=3"]
TRAININGS = {
    "a grey network on a folder": [*FOLDER, *GREY],
    "a colour network on a grey folder": [*FOLDER, *COLOUR],  # N17
    "a colour network on a colour folder": [*FOLDER, "--data.channels=3", *COLOUR],
    "a grey network on a colour folder, proportions changed": [
        *FOLDER, "--data.channels=3", "--data.shape=stretched", "--data.margin=0.2", *GREY
    ],
    "a colour network on small grey images": [*FOLDER, "--data.image_size=12", *COLOUR],
    "a colour network on FER-2013": ["--data=FER2013", "--data.path=fer.csv", *COLOUR],  # N17
    "neighbours by their colours in a grey folder": [*FOLDER, *NEIGHBOURS],
}  # fmt: skip
QUICK = ("a colour network on a grey folder", "neighbours by their colours in a grey folder")


def table(path: str) -> list[dict[str, str]]:
    """Return the rows of a table whose columns all have names of their own."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        assert len(set(reader.fieldnames or ())) == len(reader.fieldnames or "?")
    return rows


def probabilities(rows, names):
    """Return those of rows of a table, (N, C)."""
    return np.array([[float(row.get(f"probability_{name}") or row[name]) for name in names] for row in rows])


def annotate(files: list[str], boxes=None) -> None:
    """Write COCO annotations with a box in each image, all of it by default."""
    sizes = [read_image(file).size for file in files]
    boxes = boxes or [(0, 0, *size) for size in sizes]
    numbered = range(1, len(files) + 1)
    images = [
        {"id": number, "file_name": file, "width": size[0], "height": size[1]}
        for number, file, size in zip(numbered, files, sizes, strict=True)
    ]
    faces = [
        {"id": number, "image_id": number, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for number, (x0, y0, x1, y1) in zip(numbered, boxes, strict=True)
    ]
    found = {"images": images, "annotations": faces, "categories": [{"id": 1, "name": "face"}]}
    Path("boxes.json").write_text(json.dumps(found))


def analyze(out: str, classifier: str, files: list[str], *args: str):
    """Return the rows of ``faces.csv`` for annotated images."""
    given = [f"--classifier={classifier}", f"--out={out}", "--device=cpu", "--min_face=1"]
    main(["analyze", *files, "--detector=boxes.json", *given, *args])
    return table(f"{out}/faces.csv")


@pytest.mark.parametrize(
    "training", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TRAININGS]
)
def test_a_face_has_the_same_probabilities_on_every_way(training, workdir, tmp_path):
    files = save_csv() if "FER" in training else save_folder()
    names = list(FER_NAMES) if "FER" in training else NAMES
    main(["fit", *TRAININGS[training], *TINY_RUN, "--data.batch_size=4", "--trainer.logger.version=fit"])
    main(["test", f"--ckpt_path={RUN}", *TINY_RUN, "--trainer.logger.version=test"])
    tested = read_samples(Path("lightning_logs/test/predictions_test.csv.gz"))
    assert tested.class_names == tuple(names)

    predict = ["predict", f"--ckpt_path={RUN}", *CPU]
    main([*predict, "--predictions.path=stored.csv"])
    main([*predict, "--data=FaceFiles", f"--data.paths=[{','.join(files)}]", "--predictions.path=files.csv"])
    annotate(files)
    found = {
        "predict, its own data": probabilities(table("stored.csv"), names),
        "predict, files": probabilities(table("files.csv"), names),
        "analyze": probabilities(analyze("out", RUN, files), names),
    }
    pipeline = FacePipeline(Boxes((0, 0, 1000, 1000)), load_classifier(RUN))
    found["Python, the pipeline"] = np.array([[*pipeline(file).faces[0].probabilities.values()] for file in files])

    kind = KNNClassifier if "neighbours" in training else ExpressionClassifier
    model = kind.load_from_checkpoint(next(Path(RUN).rglob("best.ckpt"))).eval()
    batches = build_trainer(tmp_path, Callback(), logger=False).predict(model, FaceFiles(files, batch_size=4))
    assert [source for batch in batches for source in batch["source"]] == files
    found["Python, Trainer.predict"] = torch.cat([batch["probabilities"] for batch in batches]).numpy()

    grey = model.crop.channels == 1
    rgb = [torch.from_numpy(read_image(file).pixels).permute(2, 0, 1)[None] for file in files]
    own = [torch.from_numpy(read_image(file, "L").pixels)[None, None] for file in files] if grey else rgb
    ways = {"Python, the model": (model, rgb), "Python, the model, its own channels": (model, own)}
    if kind is ExpressionClassifier:
        main(["export", f"--ckpt_path={RUN}", "--out=own.pt2"])
        main(["export", f"--ckpt_path={RUN}", "--out=rgb.pt2", "--channels=3"])
        (program, metadata), (coloured, _) = load_exported(Path("own.pt2")), load_exported(Path("rgb.pt2"))
        assert metadata["crop"]["channels"] == metadata["channels"] == model.crop.channels
        ways |= {"the program": (program, own), "the program for RGB": (coloured, rgb)}
    with torch.inference_mode():
        found |= {way: np.concatenate([call(face).numpy() for face in faces]) for way, (call, faces) in ways.items()}

    expected = found["predict, its own data"]
    np.testing.assert_allclose(tested.probabilities, expected, atol=5e-4 + 1e-6)  # which are rounded
    for way, values in found.items():
        np.testing.assert_allclose(values, expected, atol=2e-5, err_msg=way)
    if grey and kind is ExpressionClassifier and model.net.preprocess.channels == 3 and "FER" not in training:
        # The faces can tell the difference: in their colours they would get other probabilities.
        model.net.preprocess.crop = None
        with torch.inference_mode():
            assert np.abs(np.concatenate([model(face).numpy() for face in rgb]) - expected).max() > 0.05


@pytest.mark.parametrize("shape", ["square", "stretched"])
def test_a_box_that_is_not_square_is_the_same_face_to_predict_and_analyze(shape, workdir):  # N02
    save_folder()
    main(["fit", *FOLDER, *GREY, f"--data.shape={shape}", *TINY_RUN, "--trainer.logger.version=fit"])
    colours(150, 200, 5).save("scene.png")
    box = (30, 20, 70, 120)
    predict = ["predict", f"--ckpt_path={RUN}", *CPU, "--data=FaceFiles", "--data.paths=scene.png"]
    main([*predict, f"--data.box={list(box)}", "--predictions.path=p.csv"])
    annotate(["scene.png"], [box])
    rows = analyze("out", RUN, ["scene.png"])
    assert [float(rows[0][side]) for side in ("left", "top", "right", "bottom")] == [*box]
    expected = probabilities(table("p.csv"), NAMES)
    np.testing.assert_allclose(probabilities(rows, NAMES), expected, atol=2e-5)
    assert json.loads(Path("out/analysis.json").read_text())["shape"] == shape
    other = {"square": "stretched", "stretched": "square"}[shape]
    changed = probabilities(analyze("other", RUN, ["scene.png"], f"--shape={other}"), NAMES)
    main([*predict, f"--data.box={list(box)}", "--predictions.path=q.csv", f"--data.shape={other}"])
    np.testing.assert_allclose(probabilities(table("q.csv"), NAMES), changed, atol=2e-5)
    assert np.abs(changed - expected).max() > 1e-3


def test_a_circle_stays_a_circle(workdir):  # N02
    y, x = np.mgrid[:60, :120]
    Image.fromarray((((x - 60) ** 2 + (y - 30) ** 2 < 25**2) * 255).astype(np.uint8)).save("circle.png")
    for options in ({}, {"box": (0, 0, 120, 60)}):
        face = (
            FaceFiles("circle.png", image_size=120, channels=1, **options).split("predict").images[0, 0].numpy() > 127
        )
        assert abs(int(face.any(0).sum()) - int(face.any(1).sum())) <= 1
    face = FaceFiles("circle.png", image_size=120, channels=1, shape="stretched").split("predict").images[0, 0].numpy()
    assert (face > 127).any(1).sum() > 1.8 * (face > 127).any(0).sum()


def test_a_resumed_training_and_a_copy_keep_what_the_first_was_trained_on(workdir):
    save_folder()
    main(["fit", *FOLDER, *COLOUR, "--data.shape=stretched", *TINY_RUN, "--trainer.logger.version=fit"])
    last = f"{RUN}/checkpoints/last.ckpt"
    again = ["--trainer.max_epochs=2", "--trainer.logger.version=again"]
    main(["fit", f"--ckpt_path={last}", *TINY_RUN, *again])
    stored = torch.load("lightning_logs/again/checkpoints/last.ckpt", weights_only=True)["crop"]
    assert (stored["channels"], stored["shape"], stored["margin"], stored["size"]) == (1, "stretched", 0.05, None)
    main(["export", "--ckpt_path=lightning_logs/again", "--out=m.safetensors"])
    assert load_classifier("m.safetensors").crop == load_classifier("lightning_logs/again").crop
    main(["validate", "--ckpt_path=m.safetensors", "--calibration.enabled=true", *TINY_RUN])
    assert load_classifier(next(Path("lightning_logs").rglob("calibrated.ckpt"))).crop.shape == "stretched"


def test_a_model_that_gets_its_weights_later_reads_its_data_as_it_was_trained(workdir, tmp_path):
    """In Python: a checkpoint is loaded by the trainer after the data were set up."""
    files = save_folder()
    main(["fit", *FOLDER, *COLOUR, "--data.shape=stretched", *TINY_RUN, "--trainer.logger.version=fit"])
    path = str(next(Path(RUN).rglob("best.ckpt")))
    trained = ExpressionClassifier.load_from_checkpoint(path)
    fresh = ExpressionClassifier(net=ColourNet, class_names=NAMES)
    trainer = build_trainer(tmp_path, Callback(), logger=False)
    expected, found = (
        trainer.predict(model, FaceFiles(files), ckpt_path=ckpt) for model, ckpt in ((trained, None), (fresh, path))
    )
    torch.testing.assert_close(found[0]["probabilities"], expected[0]["probabilities"])


@pytest.mark.parametrize(
    ("data", "inputs", "expected"),
    [
        ({"_class_path": "faceexpr.data.fer2013.FER2013"}, 3, Crop(channels=1, size=48)),
        # Such a model has always made faces grey itself, after they were resized.
        ({"_class_path": "faceexpr.data.ferplus.FERPlus"}, 1, Crop(size=48)),
        (
            {"_class_path": "faceexpr.data.face_folder.FaceFolder", "channels": 1},
            3,
            Crop(0.05, "stretched", channels=1),
        ),
        ({"_class_path": "a.FaceFolder", "channels": 3, "image_size": 64}, 1, Crop(0.05, "stretched", 8, 3, 64)),
        ({}, 3, Crop()),
    ],
)
def test_a_checkpoint_of_0_1_is_used_as_its_data_say(data, inputs, expected):
    weights = {"net.preprocess.mean": torch.zeros(1, inputs, 1, 1)}
    assert crop_of({"state_dict": weights, "datamodule_hyper_parameters": data}) == expected
    with pytest.raises(FaceExprError, match=r"has \{'form': 1\} for its crop"):
        crop_of({"crop": {"form": 1}})


def test_every_input_has_its_row_in_python(workdir, tmp_path):  # N26
    files = [f"{number}.png" for number in range(4)]
    for file in files:
        colours(48, 48, int(file[0])).save(file)
    Path("1.png").write_bytes(b"no image")
    whole = Path("2.png").read_bytes()
    middle = whole.index(b"IDAT") + 40
    Path("2.png").write_bytes(whole[:middle] + bytes(40) + whole[middle + 40 :])  # which its header does not show
    trainer = build_trainer(tmp_path, Callback(), logger=False)
    model = ExpressionClassifier(net=ColourNet, class_names=NAMES)
    for memory in (4, 0):
        data = FaceFiles([*files, "absent.png"], batch_size=2, memory_gib=memory, num_workers=0)
        batches = trainer.predict(model, data)
        rows = [
            row for batch in batches for row in zip(batch["source"], batch["note"], batch["probabilities"], strict=True)
        ]
        assert [source for source, _, _ in rows] == [*files, "absent.png"]
        assert [bool(note) for _, note, _ in rows] == [False, True, True, False, True]
        assert [bool(values.isfinite().all()) for _, _, values in rows] == [True, False, False, True, False]
        assert (rows[1][1], rows[4][1]) == ("not an image", "no such file")
    (only,) = trainer.predict(model, FaceFiles("absent.png"))
    assert (only["source"], only["note"], only["index"].tolist()) == (["absent.png"], ["no such file"], [-1])


def test_predict_writes_what_the_trainer_gives(workdir):
    save_folder()
    main(["fit", *FOLDER, *GREY, *TINY_RUN, "--trainer.logger.version=fit"])
    Path("broken.png").write_bytes(b"no image")
    predict = ["predict", f"--ckpt_path={RUN}", *CPU, "--data=FaceFiles", "--predictions.path=p.csv"]
    assert exit_code(lambda: main([*predict, "--data.paths=[broken.png]"])) == 3
    assert [(row["source"], row["status"]) for row in table("p.csv")] == [("broken.png", "error")]


def annotated(boxes: dict[str, list[tuple[int, int, int, int]]]) -> dict[str, str]:
    """Return the text of annotations in each format that is read; the sizes are those of upright images."""
    wider, lines = "", []
    for file, own in boxes.items():
        width, height = read_image(file).size
        rows = [f"{x0} {y0} {x1 - x0} {y1 - y0} 0 0 0 0 0 0" for x0, y0, x1, y1 in own]
        wider += "\n".join([file, str(len(own)), *rows, ""])
        faces = [
            {
                "label": ["Face"],
                "points": [{"x": x0 / width, "y": y0 / height}, {"x": x1 / width, "y": y1 / height}],
                "imageWidth": width,
                "imageHeight": height,
            }
            for x0, y0, x1, y1 in own
        ]
        lines.append(json.dumps({"content": f"https://example.org/{file}", "annotation": faces}))
    images = [{"id": 7 * number, "file_name": file} for number, file in enumerate(boxes)]
    corners = [(image["id"], *box) for image in images for box in boxes[image["file_name"]]]
    found = [
        {"id": number, "image_id": image, "category_id": 4, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for number, (image, x0, y0, x1, y1) in enumerate(corners)
    ]
    coco = {"images": images, "annotations": found, "categories": [{"id": 4, "name": "face"}]}
    return {"wider.txt": wider, "turks.json": "\n".join(lines), "coco.json": json.dumps(coco)}


def test_boxes_are_the_same_through_every_format_and_back(workdir):
    exif = Image.Exif()
    exif[0x0112] = 6
    colours(90, 160, 1).save("turned.jpg", exif=exif)
    colours(120, 200, 2).save("plain.png")
    colours(50, 50, 3).save("empty.png")
    boxes = {"turned.jpg": [(10, 20, 60, 110), (30, 100, 89, 159)], "plain.png": [(0, 0, 33, 47)], "empty.png": []}
    texts = annotated(boxes)
    for name, text in texts.items():
        Path(name).write_text(text)
    for name in texts:
        coco = ["--coco=true", "--annotations=coco.json"]
        given = [f"--detector={name}", f"--out=out_{name}", "--device=cpu", *coco]
        main(["analyze", *boxes, *given])
        rows = [json.loads(line) for line in Path(f"out_{name}/faces.jsonl").read_text().splitlines()]
        assert {row["image"]: [tuple(face["box"]) for face in row["faces"]] for row in rows} == boxes
    first, *others = (Path(f"out_{name}") for name in texts)
    for other in others:
        for name in ("faces.jsonl", "faces.csv", "detections.json"):
            assert (other / name).read_bytes() == (first / name).read_bytes()
    # What was written is read again: the same boxes, and so the same faces.
    found = json.loads((first / "detections.json").read_text())
    again = {**json.loads(texts["coco.json"]), "annotations": [{**one, "id": n} for n, one in enumerate(found)]}
    Path("again.json").write_text(json.dumps(again))
    main(["analyze", *boxes, "--detector=again.json", "--out=again", "--device=cpu"])
    assert Path("again/faces.jsonl").read_bytes() == (first / "faces.jsonl").read_bytes()
