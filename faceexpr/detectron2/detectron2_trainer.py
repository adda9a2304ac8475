"""Train and measure faces with Detectron2's own trainer, checkpointer and launcher."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, detection_utils, transforms
from detectron2.data import build_detection_test_loader as build_test_loader
from detectron2.data import build_detection_train_loader as build_train_loader
from detectron2.engine import DefaultTrainer, HookBase, hooks, launch
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger
from lightning.pytorch.loggers import TensorBoardLogger
from torch.multiprocessing.spawn import ProcessRaisedException

from faceexpr.boxes.matching import Truth
from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.callbacks.detection import list_boxes, make_record, summarise
from faceexpr.callbacks.reports import write_figure, write_metrics
from faceexpr.data.annotations.reading import AnnotatedImage
from faceexpr.data.base import Stage
from faceexpr.data.face_boxes import FaceBoxes
from faceexpr.detectron2.detectron2_config import TRAIN, VAL, build_config, read_config, set_options
from faceexpr.detectron2.detectron2_detector import candidates, load_trained
from faceexpr.detectron2.detectron2_options import CONFIG, OPTIONS, Detectron2Options, find_weights
from faceexpr.metrics.detection import DetectionScores, DetectionTable, count_by_method, score_detections
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import keep_older, replacing, say, write_file
from faceexpr.utils.images import read_image
from faceexpr.visualization.detection import draw_evaluation
from faceexpr.weights.pretrained import read_detectron2_weights, without

GREY = 128
"""What faces to be ignored are painted over with in training, so that nothing learns that they are no faces."""

SCORE, IOU, GALLERY_SIZE = 0.5, 0.5, 9
"""The chosen score, the overlap from which on a face is found, and the images in a figure, as for other detectors."""

Measured: TypeAlias = tuple[DetectionTable, DetectionScores]
Records: TypeAlias = Sequence[AnnotatedImage]


def fit(options: Detectron2Options, text: str) -> None:
    """Train in a run folder, which gets the options as the YAML of ``text``; bad input and divergence are errors."""
    folder = _new_folder(options) if options.resume is None else find_weights(options.resume)[1]
    if options.resume is not None:
        last = folder / "checkpoints/last.pth"
        if not last.is_file():
            way = "expected a run that has one, or a new one whose weights are this one's best.pth"
            raise FaceExprError(f"resume is {options.resume}, but there is no {last} to go on from; {way}")
        done = read_detectron2_weights(last).get("iteration")
        if done is not None and done >= options.max_iter:
            say(f"nothing is left to train: {last} has {done:,} iterations behind it; a larger max_iter goes on")
            return
    cfg = build_config(options, folder)
    train, val = _read_splits(options, "train", "val")
    faces = sum(int((~record.ignored).sum()) for record in train)
    say(f"{len(train):,} images with {faces:,} faces to train on, {len(val):,} to validate on; run folder {folder}")
    if not val:
        say("note: there are no validation images: nothing is measured, and no checkpoint is the best")
    _launch(_train, options, text, cfg, train, val)


def test(options: Detectron2Options, text: str) -> None:
    """Measure a checkpoint on the test images, or else on those of validation, and report it in a new folder."""
    if options.ckpt_path is None:
        raise FaceExprError("ckpt_path is not given; expected a run folder or a .pth file in one")
    path, run = find_weights(options.ckpt_path)
    cfg = read_config(run / CONFIG)
    stage: Stage = "test" if options.data.get("test") or options.data.get("test_list") else "val"
    (records,) = _read_splits(options, stage)
    if not records:
        raise FaceExprError("test is not given, and nothing to validate on either; expected an annotation file")
    set_options(cfg, options, {"OUTPUT_DIR": str(_new_folder(options)), "DATALOADER.NUM_WORKERS": options.workers})
    say(f"{path}: {len(records):,} images to {'test' if stage == 'test' else 'validate'} on")
    _launch(_test, options, text, cfg, path, records, stage)


def _new_folder(options: Detectron2Options) -> Path:
    folder = Path(TensorBoardLogger(options.save_dir, options.name, options.version).log_dir)
    # On further machines the first one may have begun in it.
    if options.machine_rank == 0 and folder.exists() and any(folder.iterdir()):
        raise FaceExprError(f"version: {folder} holds a run already; expected another number, none, or to resume it")
    return folder


def _read_splits(options: Detectron2Options, *stages: Stage) -> list[list[AnnotatedImage]]:
    data = {**options.data, "val_fraction": options.data.get("val_fraction", 0.1) or 0.5}
    # Validation images of its own, which nobody asks for, leave all others for training.
    reader = FaceBoxes(**data if options.validates else {**data, "val": data.get("train")})
    return [reader.load_records(stage) if stage != "val" or options.validates else [] for stage in stages]


def _launch(function: Callable[..., None], options: Detectron2Options, text: str, cfg: CfgNode, *args: Any) -> None:
    if options.machine_rank == 0:
        for name, content in ((OPTIONS, text), (CONFIG, cfg.dump())):
            path = Path(cfg.OUTPUT_DIR, name)
            if not path.is_file() or path.read_text(encoding="utf-8") != content:
                keep_older(path)
                write_file(path, content)
    machines = options.num_machines, options.machine_rank, options.dist_url
    try:
        launch(function, options.devices, *machines, (options, cfg, *args))
    except (FaceExprError, ProcessRaisedException) as error:
        # Of an error in another process there is only text: its traceback, with our sentence at the end.
        _, ours, sentence = str(error).rstrip().rpartition("FaceExprError: ")
        if not ours:
            raise
        raise FaceExprError(sentence) from error


def _log_to(folder: str) -> None:
    for name in ("detectron2", "fvcore", "faceexpr.detectron2"):
        setup_logger(str(Path(folder).resolve()), comm.get_rank(), name=name, color=sys.stdout.isatty())
    # Detectron2 logs every exception with its traceback before it raises it.
    logging.getLogger("detectron2.engine.train_loop").addFilter(lambda record: not record.exc_info)


def _train(options: Detectron2Options, cfg: CfgNode, train: Records, val: Records) -> None:
    _log_to(cfg.OUTPUT_DIR)
    register(TRAIN, train)
    register(VAL, val)
    seed_all_rng(options.seed + comm.get_rank())
    trainer = FaceTrainer(cfg, FaceEvaluator(val, options.suppression))
    if options.resume is None:
        trainer.resume_or_load(resume=False)
    else:
        trainer.resume()
    trainer.train()


def _test(options: Detectron2Options, cfg: CfgNode, path: Path, records: Records, stage: str) -> None:
    _log_to(cfg.OUTPUT_DIR)
    register(VAL, records)
    network = FaceTrainer.build_model(cfg)
    iteration = load_trained(network, path).get("iteration")
    evaluator = FaceEvaluator(records, options.suppression)
    measured = inference_on_dataset(network, FaceTrainer.build_test_loader(cfg, VAL), evaluator)
    if measured:  # the first process has it
        _report(Path(cfg.OUTPUT_DIR), stage, measured, records, iteration)


def _report(folder: Path, stage: str, measured: Measured, records: Records, iteration: int | None) -> None:
    """Write metrics, figures and one row a box to the run folder, and print the metrics."""
    title, record = stage, make_record(*measured)
    if iteration is not None:
        title, record = f"{stage} after {iteration:,} iterations", {"iteration": iteration, **record}
    say(summarise(title, *measured))
    write_metrics(folder, stage, record)
    write_file(folder / f"detections_{stage}.csv", list_boxes(*measured, lambda index: str(records[index].path)))
    figures = draw_evaluation(title, *measured, lambda index: read_image(records[index].path).pixels, GALLERY_SIZE)
    for name, figure in figures.items():
        write_figure(folder, f"{stage}_{name}", figure)
    say(f"{stage}: metrics and figures are in {folder}")


def register(name: str, records: Records) -> None:
    """Put records into Detectron2's catalogue, in the place of what has had this name."""
    dicts = []
    for index, record in enumerate(records):
        faces = [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": int(ignored)}
            for box, ignored in zip(record.boxes.tolist(), record.ignored.tolist(), strict=True)
        ]
        image = {"file_name": str(record.path), "image_id": index, "width": record.size[0], "height": record.size[1]}
        dicts.append({**image, "annotations": faces})
    DatasetCatalog.pop(name, None)
    DatasetCatalog.register(name, lambda: dicts)


class FaceMapper(DatasetMapper):  # type: ignore[misc]  # Detectron2 has no types
    """Read an image upright and from any format by our own reader, and augment it as Detectron2's mapper does.

    Faces to be ignored are painted over in training.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        sample = dict(dataset_dict)
        faces = sample.pop("annotations")
        try:
            pixels = read_image(sample["file_name"]).pixels.copy()
            detection_utils.check_image_size(sample, pixels)
        except (FaceExprError, detection_utils.SizeMismatchError) as error:
            raise FaceExprError(str(error)) from None  # an error with more arguments would not leave a worker process
        if self.is_train:
            for left, top, right, bottom in (map(round, face["bbox"]) for face in faces if face["iscrowd"]):
                pixels[top:bottom, left:right] = GREY
        given = transforms.AugInput(pixels[:, :, ::-1] if self.image_format == "BGR" else pixels)
        changes, size = self.augmentations(given), given.image.shape[:2]
        sample["image"] = torch.from_numpy(np.ascontiguousarray(given.image.transpose(2, 0, 1)))
        if self.is_train:
            seen = [{**face} for face in faces if not face["iscrowd"]]
            changed = [detection_utils.transform_instance_annotations(face, changes, size) for face in seen]
            instances = detection_utils.annotations_to_instances(changed, size)
            sample["instances"] = detection_utils.filter_empty_instances(instances)
        return sample


class FaceEvaluator(DatasetEvaluator):  # type: ignore[misc]  # Detectron2 has no types
    """Gather the detections of all processes, each image once, and measure them as those of any detector.

    Args:
        records: of the split, in the order in which they were registered.
        suppression: how candidates become detections.
    """

    def __init__(self, records: Records, suppression: Suppression) -> None:
        self.records = records
        self.truths = [Truth(record.boxes, record.ignored) for record in records]
        self.suppression = suppression

    def reset(self) -> None:
        self.found: dict[int, Any] = {}  # by image: its detections, and how many boxes each suppression leaves

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for given, output in zip(inputs, outputs, strict=True):
            index, found = given["image_id"], candidates(output)
            counts = count_by_method(*found, self.truths[index], self.suppression, SCORE, IOU)
            self.found[index] = suppress(*found, self.suppression), counts

    def evaluate(self) -> Measured | None:
        """Return the images and their metrics in the first process; None in the others."""
        together = {index: found for part in comm.gather(self.found) for index, found in part.items()}
        if not comm.is_main_process():
            return None
        found, counts = zip(*(together[index] for index in range(len(self.truths))), strict=True)
        table = DetectionTable(np.arange(len(found)), list(found), self.truths, np.stack(counts))
        return table, score_detections(self.truths, found, SCORE, IOU, self.suppression.max_faces)


class FaceCheckpointer(DetectionCheckpointer):  # type: ignore[misc]  # Detectron2 has no types
    """Detectron2's checkpointer, which replaces a file when its successor is whole, and never unpickles one."""

    def save(self, name: str, **kwargs: Any) -> None:
        if not self.save_to_disk:
            return
        broken = [key for key, value in self.model.state_dict().items() if not value.isfinite().all()]
        if broken:
            raise FaceExprError(
                f"training has diverged: {broken[0]} and {len(broken) - 1} further weights are not finite, and "
                f"{name}.pth is not written; expected a lower base_lr or a longer warm-up"
            )
        state = {key: value.state_dict() for key, value in self.checkpointables.items()}
        with replacing(Path(self.save_dir, f"{name}.pth")) as file:
            torch.save({"model": self.model.state_dict(), **state, **kwargs}, file)

    def load(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """Load a file, or an address of the model zoo, as Detectron2 does, and return what else it holds.

        Weights of another number of classes are left out, and those of a backbone may have the names of Caffe2 or
        torchvision, which Detectron2 translates; a file of another network is refused.
        """
        try:
            return super().load(path, *args, **kwargs)
        except OSError as error:
            raise FaceExprError(
                f"weights: {path} cannot be had ({error}); download it where there is a network and give the file, "
                "or start from scratch with none"
            ) from error

    def _load_file(self, filename: str) -> dict[str, Any]:  # for subclasses, says fvcore's `Checkpointer`
        found, own = read_detectron2_weights(Path(filename)), without(self.model.state_dict())
        weights = found["model"]
        # Where the number of classes shows; weights of other classes are started anew there.
        heads = {name for name in weights if name.startswith(("roi_heads.box_predictor.", "head.cls_score."))}
        fitting = {name for name, value in own.items() if name in weights and weights[name].shape == value.shape}
        wrong = [name for name in own if name not in fitting | heads]
        if wrong and not found.get("matching_heuristics"):
            raise FaceExprError(
                f"{filename} does not fit the model: {len(wrong)} weights are missing or have another shape, such as "
                f"{wrong[0]}; expected weights of the same configuration"
            )
        return found


class FaceTrainer(DefaultTrainer):  # type: ignore[misc]  # Detectron2 has no types
    """Detectron2's `DefaultTrainer` for faces, which keeps the newest state and the weights with the best AP50.

    Args:
        cfg: of Detectron2; its data are registered.
        evaluator: of the validation images.
    """

    def __init__(self, cfg: CfgNode, evaluator: FaceEvaluator) -> None:
        self.evaluator = evaluator
        self.best = -1.0
        self.files: list[str] = []
        self.folder = Path(cfg.OUTPUT_DIR, "checkpoints")
        super().__init__(cfg)
        self.model.register_forward_pre_hook(self._remember_files)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> Any:
        try:
            return build_model(cfg)
        except (AssertionError, KeyError, ValueError, RuntimeError) as error:  # how Detectron2 checks its keys
            raise FaceExprError(f"model and opts make no network: {error}; expected keys that go together") from error

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return build_train_loader(cfg, mapper=FaceMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return build_test_loader(cfg, dataset_name, mapper=FaceMapper(cfg, is_train=False))

    def build_hooks(self) -> list[HookBase]:
        self.checkpointer = FaceCheckpointer(self.model, str(self.folder), trainer=weakref.proxy(self))
        replaced = (hooks.PeriodicCheckpointer, hooks.EvalHook, hooks.PeriodicWriter)
        found = [hook for hook in super().build_hooks() if not isinstance(hook, replaced)]
        period = self.cfg.TEST.EVAL_PERIOD
        if self.evaluator.records:
            found.append(hooks.EvalHook(period, self.measure))
        if comm.is_main_process():
            # Of each metric the newest value is written, so that every measurement needs a writing of its own.
            found.append(hooks.PeriodicWriter(self.build_writers(), min(20, period or 20)))
        return found

    def build_writers(self) -> list[EventWriter]:
        return [CommonMetricPrinter(self.max_iter), TensorboardXWriter(self.cfg.OUTPUT_DIR)]

    def resume(self) -> None:
        """Load the newest state of the run, and the AP50 that is to be exceeded."""
        self.checkpointer.load(str(self.folder / "last.pth"))
        self.start_iter = self.iter + 1
        if (self.folder / "best.pth").is_file():
            self.best = read_detectron2_weights(self.folder / "best.pth")["metrics"]["ap50"]

    def after_step(self) -> None:
        super().after_step()
        done = self.iter + 1
        if done % self.cfg.SOLVER.CHECKPOINT_PERIOD == 0 or done == self.max_iter:
            self.checkpointer.save("last", iteration=done)

    def run_step(self) -> None:
        try:
            super().run_step()
        except FloatingPointError as error:  # from Detectron2's checks of proposals and losses
            raise FaceExprError(
                f"training has diverged at iteration {self.iter} (counted from 0): {' '.join(str(error).split())}; "
                f"images of the first process: {', '.join(self.files)}; expected a lower base_lr, a longer warm-up or "
                "other boxes"
            ) from error

    def measure(self) -> dict[str, float]:
        """Measure the validation images; weights with the highest AP50 so far are kept, with a report on them."""
        measured = inference_on_dataset(self.model, self.build_test_loader(self.cfg, VAL), self.evaluator)
        if not measured:  # the first process has it
            return {}
        iterations = min(self.iter + 1, self.max_iter)
        values = {name: value for name, value in measured[1].values.items() if value is not None}
        ap50 = values.get("ap50", -1)
        logging.getLogger(__name__).info("iteration %d: AP50 %s", iterations, measured[1].undefined.get("ap50", ap50))
        if ap50 > self.best:
            self.best = ap50
            FaceCheckpointer(self.model, str(self.folder)).save("best", iteration=iterations, metrics=values)
            _report(Path(self.cfg.OUTPUT_DIR), "val", measured, self.evaluator.records, iterations)
        return {f"val/{name}": value for name, value in values.items()}

    def _remember_files(self, network: Any, args: tuple[list[dict[str, Any]]]) -> None:
        self.files = [sample["file_name"] for sample in args[0]]
