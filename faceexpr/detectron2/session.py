"""What ``faceexpr detectron2 fit`` and ``test`` do, in every process."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch.multiprocessing.spawn import ProcessRaisedException

from faceexpr.data.annotations.records import AnnotatedImage
from faceexpr.detectron2.checkpoints import read_weights, require_network
from faceexpr.detectron2.config import TRAIN, VAL, build_config, device, read_config, set_options
from faceexpr.detectron2.console import logging_to
from faceexpr.detectron2.dataset import read_splits, register, validates
from faceexpr.detectron2.measuring import FaceEvaluator
from faceexpr.detectron2.options import Detectron2Options
from faceexpr.detectron2.report import report
from faceexpr.detectron2.runs import CONFIG, OPTIONS, checkpoint_file, next_folder, run_folder_of
from faceexpr.detectron2.trainer import FaceTrainer
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import keep_older, say, write_file

SENTENCE = re.compile(r"FaceExprError: (.+)")


def fit(options: Detectron2Options, text: str) -> Path:
    """Train, and return the run folder.

    Args:
        options: all of them.
        text: the options as YAML, for the run folder.

    Raises:
        FaceExprError: bad input, or a training that has diverged.
    """
    folder = _new_folder(options) if options.resume is None else run_folder_of(checkpoint_file(options.resume))
    cfg, notes = build_config(options, folder, validates(options.data))
    if options.devices * options.num_machines > 1 and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise FaceExprError(
            f"devices is {options.devices}, but Detectron2 trains in several processes on CUDA only and the device is "
            f"{cfg.MODEL.DEVICE}; expected devices: 1"
        )
    train, val = read_splits(options.data, "train", "val")
    if not val:
        notes.append("there are no validation pictures: nothing is measured, and no checkpoint is the best")
    faces = sum(int((~record.ignored).sum()) for record in train)
    say(f"{len(train):,} pictures with {faces:,} faces to train on, {len(val):,} to validate on; run folder {folder}")
    for note in notes:
        say(f"note: {note}")
    if options.machine_rank == 0:
        _write(folder, text, cfg)
    _launch(options, _train, (options, cfg, train, val))
    return folder


def test(options: Detectron2Options, text: str) -> Path:
    """Measure a checkpoint on the test pictures, or else on those of validation, and return the folder of the result.

    Args:
        options: all of them.
        text: the options as YAML, for the result's folder.

    Raises:
        FaceExprError: bad input.
    """
    if options.ckpt_path is None:
        raise FaceExprError("no weights to test: name a run folder or a .pth file in one with --ckpt_path")
    path = checkpoint_file(options.ckpt_path)
    cfg = read_config(run_folder_of(path) / CONFIG)
    stage: Literal["test", "val"] = "test" if options.data.test or options.data.test_list else "val"
    (records,) = read_splits(options.data, stage)
    if not records:
        raise FaceExprError("there is nothing to test on; expected data.test, an annotation file, or data.val")
    folder = _new_folder(options)
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = str(folder), device(options.device)
    cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = (VAL,), options.workers
    set_options(cfg, options)
    say(f"{path}: {len(records):,} pictures to {'test' if stage == 'test' else 'validate'} on")
    if options.machine_rank == 0:
        _write(folder, text, cfg)
    _launch(options, _test, (options, cfg, path, records, stage))
    return folder


def _new_folder(options: Detectron2Options) -> Path:
    return next_folder(options.save_dir, options.name, options.version, fresh=options.machine_rank == 0)


def _write(folder: Path, text: str, cfg: CfgNode) -> None:
    for name, content in ((OPTIONS, text), (CONFIG, cfg.dump())):
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            keep_older(path)
            write_file(path, content)


def _launch(options: Detectron2Options, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    if options.devices > 1 and torch.cuda.is_available() and options.devices > torch.cuda.device_count():
        raise FaceExprError(
            f"devices is {options.devices}; expected at most {torch.cuda.device_count()}, the GPUs here"
        )
    try:
        launch(function, options.devices, options.num_machines, options.machine_rank, options.dist_url, args)
    except (FaceExprError, ProcessRaisedException) as error:
        # From another process the sentence comes at the end of a traceback.
        sentences = SENTENCE.findall(str(error))
        if sentences:
            raise FaceExprError(sentences[-1]) from error
        raise


def _train(
    options: Detectron2Options, cfg: CfgNode, train: Sequence[AnnotatedImage], val: Sequence[AnnotatedImage]
) -> None:
    with logging_to(Path(cfg.OUTPUT_DIR), comm.get_rank()):
        register(TRAIN, train)
        register(VAL, val)
        seed_all_rng(options.seed + comm.get_rank())
        trainer = FaceTrainer(cfg, val, options.suppression)
        trainer.resume_or_load(resume=options.resume is not None)
        if trainer.start_iter >= trainer.max_iter:
            raise FaceExprError(
                f"max_iter is {trainer.max_iter} and {options.resume} has {trainer.start_iter} iterations behind it; "
                "expected more"
            )
        trainer.train()
    if comm.is_main_process() and trainer.best is not None:
        iteration, measured = trainer.best
        report(Path(cfg.OUTPUT_DIR), "val", measured, val, iteration)


def _test(options: Detectron2Options, cfg: CfgNode, path: Path, records: Sequence[AnnotatedImage], stage: str) -> None:
    folder = Path(cfg.OUTPUT_DIR)
    with logging_to(folder, comm.get_rank()):
        register(VAL, records)
        network = FaceTrainer.build_model(cfg)
        checkpoint = read_weights(path)
        require_network(checkpoint, network, path)
        evaluator = FaceEvaluator(records, options.suppression, over_detection=True)
        measured = inference_on_dataset(network, FaceTrainer.build_test_loader(cfg, VAL), evaluator)
    if comm.is_main_process():
        report(folder, stage, measured, records, checkpoint.get("iteration"))
