"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI in subclass mode, extended at its documented seams."""

from __future__ import annotations

import logging
import pkgutil
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

import faceexpr.data
import faceexpr.models
import faceexpr.tasks
from faceexpr import __version__
from faceexpr.callbacks.checkpoint import BestCheckpoint, LastCheckpoint
from faceexpr.callbacks.checks import RunChecks
from faceexpr.callbacks.learning_rate import RateMonitor
from faceexpr.callbacks.progress import LineProgress, on_terminal
from faceexpr.callbacks.run_config import SaveRunConfig
from faceexpr.checkpoints import find_checkpoint, remembered, require_checkpoint
from faceexpr.data.module import FaceDataModule
from faceexpr.described import class_path
from faceexpr.emotions import FER_NAMES
from faceexpr.errors import SOME_FAILED, FaceExprError
from faceexpr.evaluation.base import Evaluation, can_judge
from faceexpr.evaluation.classification import ClassificationEvaluation
from faceexpr.evaluation.detection import DetectionEvaluation
from faceexpr.evaluation.predictions import PredictionWriter
from faceexpr.options import Parser, bad_input, class_change_logger, is_written
from faceexpr.written import first_class, written_path

ADVERTISEMENT = "\N{ELECTRIC LIGHT BULB} Tip"

MODEL_CLASS = "faceexpr.tasks.classify.ExpressionClassifier"
DETECTOR_CLASS = "faceexpr.tasks.detect.FaceDetector"
DATA_CLASS = "faceexpr.data.synthetic.SyntheticFaces"
# The defaults of these classes, written out: a flag such as --model.optimizer.lr needs a class to be an option of.
WRITTEN_OUT: dict[str, dict[str, Any]] = {
    MODEL_CLASS: {
        "net": {"class_path": "faceexpr.models.simple_cnn.SimpleCNN"},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}},
    },
    DETECTOR_CLASS: {
        "net": {"class_path": "faceexpr.models.light_detector.LightDetector"},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
    },
}
LOGGER_CLASS = "lightning.pytorch.loggers.TensorBoardLogger"
RUNS = "lightning_logs"
"""Folder of the runs, in ``trainer.default_root_dir`` where that is given."""
DEFAULT_LOGGER_OPTIONS = {"save_dir": RUNS, "name": "", "default_hp_metric": False}


class FaceExprCLI(LightningCLI):
    """Lightning's command line with this project's defaults.

    Args:
        args: the arguments, verb included.
        remembered: hyper-parameters of the checkpoint that the arguments name. They are defaults: what the user
            writes, in a file or a flag, comes before them.
        checkpoint: that checkpoint's file.
        callbacks: further callbacks that no configuration names.
    """

    def __init__(
        self,
        args: ArgsType,
        remembered: dict[str, Any] | None = None,
        checkpoint: Path | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.remembered = remembered or {}
        self.defaults = default_classes([*args] if isinstance(args, list) else []) | {
            option: self.remembered[option] for option in ("model", "data") if option in self.remembered
        }
        self.checkpoint = checkpoint
        self.notes = class_change_logger(
            silent=self.remembered.get("data", {}).get("class_path"),
            unwritten={LOGGER_CLASS: DEFAULT_LOGGER_OPTIONS, **WRITTEN_OUT},
        )
        super().__init__(
            LightningModule,
            FaceDataModule,
            save_config_callback=SaveRunConfig,
            seed_everything_default=0,
            trainer_defaults={
                "callbacks": [RunChecks(), *callbacks],
                "logger": {"class_path": LOGGER_CLASS, "init_args": DEFAULT_LOGGER_OPTIONS},
            },
            parser_class=Parser,
            parser_kwargs={"prog": "faceexpr", "version": __version__},
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=args,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        return super().init_parser(logger=self.notes, **kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = {name: set(names) for name, names in LightningCLI.subcommands().items()}
        for names in skipped.values():
            names.add("weights_only")  # checkpoints are never unpickled, so there is nothing to choose
        # With these, a configuration that one verb has saved would not be understood by the others.
        skipped["validate"].add("verbose")
        skipped["test"].add("verbose")
        skipped["predict"].add("return_predictions")
        return skipped

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_lightning_class_args(RateMonitor, "lr_monitor")
        parser.add_lightning_class_args(ClassificationEvaluation, "evaluation")
        parser.add_lightning_class_args(DetectionEvaluation, "detection_evaluation")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_lightning_class_args(LineProgress, "progress")
        parser.link_arguments("checkpoint.monitor", "evaluation.monitor")
        parser.link_arguments("checkpoint.monitor", "detection_evaluation.monitor")
        parser.link_arguments(
            "data.class_names", "model.init_args.class_names", self._model_class_names, apply_on="instantiate"
        )
        parser.set_defaults(self.defaults)

    def _model_class_names(self, data_class_names: Sequence[str]) -> list[str]:
        # A trained model's outputs keep their meaning, whatever the order of the classes in the data.
        return list(self.remembered.get("class_names", data_class_names))

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = parser.parse_args(args)  # type: ignore[arg-type]  # a list, from `run`
        # Lightning merges a checkpoint's hyper-parameters over the user's; here they came in as defaults, and the
        # path is put back below.
        self.config[self.config.subcommand].ckpt_path = None

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        config.ckpt_path = None if self.checkpoint is None else str(self.checkpoint)
        if self.subcommand != "fit":
            if self.checkpoint is None:
                raise require_checkpoint(str(self.subcommand), runs_folder(config.trainer))
            # Weights are measured as they are: whatever else went into their training need not be there again.
            warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`")
            warnings.filterwarnings("ignore", message=r"You're using the WeightAveraging callback, but loading")
        if is_written(config.model, "class_names", FER_NAMES):
            raise FaceExprError("model.class_names is taken from data.class_names and cannot be given itself")
        logger = config.trainer.logger
        if getattr(logger, "class_path", "").endswith(".TensorBoardLogger"):
            # Lightning would write a placeholder of -1 in the place of the final metrics.
            logger.init_args.default_hp_metric = False
            if config.trainer.default_root_dir and logger.init_args.save_dir == RUNS:
                logger.init_args.save_dir = str(Path(config.trainer.default_root_dir) / RUNS)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        check_match(self.model, self.datamodule, str(self.subcommand))
        trainer = self.config_init[self.subcommand].trainer
        if trainer.max_epochs is None and getattr(self.model, "remembers", False):
            trainer.max_epochs = 1  # a second look at the same samples changes nothing
        callbacks = [*(trainer.callbacks or [])]
        if not on_terminal():
            # Bars redraw themselves with control characters, which flood a file; LineProgress stands in.
            callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
            kwargs["enable_progress_bar"] = False
        if trainer.enable_model_summary is not False:
            # The plain table; Lightning's default draws boxes where rich happens to be installed.
            kwargs["enable_model_summary"] = False
            if not any(isinstance(callback, ModelSummary) for callback in callbacks):
                callbacks.append(ModelSummary())
        trainer.callbacks = callbacks
        if trainer.enable_checkpointing is False:
            # The product's callbacks are always there; these are told to keep nothing.
            config = self.config_init[self.subcommand]
            config.checkpoint.save_top_k = config.last_checkpoint.save_top_k = 0
            kwargs["enable_checkpointing"] = True
            rank_zero_info("trainer.enable_checkpointing is false: no checkpoint is kept")
        built = super().instantiate_trainer(**kwargs)
        for callback in [*built.callbacks]:  # type: ignore[attr-defined]  # set at run time
            if isinstance(callback, Evaluation) and not can_judge(callback, self.model):
                built.callbacks.remove(callback)  # type: ignore[attr-defined]
        return built

    def validate(self, **kwargs: Any) -> None:
        self.trainer.validate(verbose=False, **kwargs)

    def test(self, **kwargs: Any) -> None:
        self.trainer.test(verbose=False, **kwargs)

    def predict(self, **kwargs: Any) -> None:
        self.trainer.predict(return_predictions=False, **kwargs)

    def after_fit(self) -> None:
        checkpoint = self.trainer.checkpoint_callback
        if self.trainer.interrupted or not isinstance(checkpoint, BestCheckpoint) or not checkpoint.best_model_path:
            return
        score = checkpoint.best_model_score
        best = f"best {checkpoint.monitor} {float(score):.4f}: " if score is not None and checkpoint.monitor else ""
        rank_zero_info(f"{best}{checkpoint.best_model_path}")
        rank_zero_info(f"measure it with: faceexpr test --ckpt_path {checkpoint.best_model_path}")

    def after_predict(self) -> None:
        writers = [callback for callback in self.trainer.callbacks if isinstance(callback, PredictionWriter)]  # type: ignore[attr-defined]
        if any(writer.failed for writer in writers):
            raise SystemExit(SOME_FAILED)


def default_classes(args: Sequence[str]) -> dict[str, Any]:
    """Return the defaults of ``model`` and ``data``: the class that the arguments name first, or else the program's."""
    defaults = {}
    for option, base, default in (("model", LightningModule, MODEL_CLASS), ("data", FaceDataModule, DATA_CLASS)):
        # What is no class is refused with its option's name where it is parsed.
        path = known_classes(base).get(first_class(args, option) or default, default)
        defaults[option] = {"class_path": path, "init_args": WRITTEN_OUT.get(path, {})}
    return defaults


def known_classes(base: type) -> dict[str, str]:
    """Return the import paths of the known classes derived from ``base``, by their names and by the paths."""
    found: dict[str, str] = {}
    derived: type
    for derived in base.__subclasses__():
        path = class_path(derived)
        found |= {derived.__name__: path, path: path, **known_classes(derived)}
    return found


def check_match(model: LightningModule, data: FaceDataModule, verb: str) -> None:
    """Refuse data for another kind of model.

    Raises:
        FaceExprError: faces for a detector, pictures for a classifier, or ``predict`` with a detector.
    """
    detects = getattr(model, "gives", data.suits) == "detections"
    if detects and verb == "predict":
        raise FaceExprError(
            f"{type(model).__name__} finds faces, which `faceexpr predict` does not write; expected `faceexpr analyze` "
            "or a classifier"
        )
    if detects != (data.suits == "detections"):
        wanted = (
            "pictures with boxes, such as FaceBoxes or SyntheticScenes"
            if detects
            else "faces with expressions, such as FER2013"
        )
        raise FaceExprError(f"--data is {type(data).__name__}, but {type(model).__name__} needs {wanted}")


def run(args: list[str], callbacks: Sequence[Callback] = ()) -> None:
    """Run one of Lightning's verbs.

    Args:
        args: the arguments, verb included.
        callbacks: further callbacks that no configuration names, and that the record of the run does not show.

    Raises:
        FaceExprError: bad input.
        SystemExit: bad options, or inputs of ``predict`` that could not be read.
    """
    import_short_names()
    _quiet()
    written = written_path(args)
    checkpoint = find_checkpoint(written, Path(RUNS)) if written else None
    try:
        FaceExprCLI(args, remembered(checkpoint) if checkpoint else None, checkpoint, callbacks)
    except Exception as error:
        known = bad_input(error)
        if known is None:
            raise
        raise known from None


def _as_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning as a user reads it, without the place in the source where it was raised."""
    return f"warning: {' '.join(str(message).split())}\n"


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    # A function of its own, which is added once however often `run` is called in a process.
    return not record.getMessage().startswith(ADVERTISEMENT)


def _quiet() -> None:
    """Show warnings as lines, and leave out what Lightning says to everybody and nobody here can act on."""
    warnings.formatwarning = _as_line
    warnings.filterwarnings("ignore", message=r"Total length of `BatchLoader` across ranks is zero")
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.utilities\._pytree", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"`LightningModule.configure_optimizers` returned `None`")
    # The best checkpoint of another run is no concern of this one.
    warnings.filterwarnings("ignore", message=r"The dirpath has changed from ")
    warnings.filterwarnings("ignore", message=r".*number of training batches .* smaller than the logging interval")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)


def import_short_names() -> None:
    """Import every module of data, models and tasks, so that the names of their classes are understood alone."""
    for package in (faceexpr.data, faceexpr.models, faceexpr.tasks):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)


def runs_folder(trainer: Any) -> Path:
    """Return the folder that the configured logger puts its runs into."""
    init_args = getattr(trainer.logger, "init_args", None)
    if init_args is None:
        return Path(trainer.default_root_dir or ".") / "lightning_logs"
    return Path(init_args.get("save_dir") or ".") / (init_args.get("name") or "")
